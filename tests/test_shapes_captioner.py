"""The captioner of recipes/shapes, in process and behind the real `transformers serve`."""

import contextlib
import os
import runpy
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from caption_doors import CAPTIONER, ROOT
from processes import happens

from g4i_hf.captioning.answers import Answer, Captioner, Decoding, Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.captioning.local import LocalCaptioner
from g4i_hf.captioning.questions import PLAIN

SHAPES = ROOT / "recipes" / "shapes"
pytestmark = pytest.mark.slow  # scripts of a recipe, outside of the package

build = SimpleNamespace(**runpy.run_path(str(SHAPES / "build.py")))
NEW = {f"unseen-{number}": build.draw(f"unseen-{number}") for number in range(100)}


def described(captioner: Captioner) -> dict[str, str]:
    questions = [
        Question(name, {"bytes": picture.png(), "path": None}, PLAIN, f"key {name}") for name, picture in NEW.items()
    ]
    pairs: list[tuple[Question, Answer]] = []
    captioner.run(iter(questions), pairs.extend, lambda: True)
    assert {answer.status for _, answer in pairs} == {"ok"} and len(pairs) == len(NEW)
    return {asked.image_id: answer.text for asked, answer in pairs}


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False


def test_in_process_it_names_colours_of_new_images_and_behind_a_server_it_says_the_same(tmp_path):
    in_process = described(LocalCaptioner(str(CAPTIONER), Decoding(24)))
    for what in ("colour", "background"):
        assert sum(getattr(NEW[name], what) in text.split() for name, text in in_process.items()) >= 95
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", CAPTIONER, "--host", "127.0.0.1"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [str(word) for word in [*command, "--port", port, "--device", "cpu"]]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        assert happens(lambda: answers(port), process), log.read_text()[-3000:]
        served = described(EndpointCaptioner(str(CAPTIONER), f"http://127.0.0.1:{port}/v1", Decoding(24)))
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert sum(text == in_process[name] for name, text in served.items()) >= 90  # not all: the endpoint sends JPEG
    assert log.read_text().count("POST /v1/chat/completions") >= 100
