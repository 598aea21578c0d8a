"""Scripts of recipes: jobs, run by uv against the test Hub; the app of a Space; the captioner of Shapes."""

import contextlib
import io
import os
import re
import runpy
import socket
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from caption_doors import CAPTIONER, ROOT, draw_numbers
from datasets import load_dataset
from hub import Hub, serving
from loaded import PYTHON
from PIL import Image
from processes import happens
from released_runs import a_run
from transformers import pipeline

from g4i_hf import ZeroShotImageClassifier
from g4i_hf.captioning.answers import Answer, Captioner, Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.captioning.local import LocalCaptioner
from g4i_hf.captioning.questions import CLASS, PLAIN
from g4i_hf.hub import release_student
from g4i_hf.modeling.packaged import packaged_student
from g4i_hf.options import Decoding

JOBS, SPACE = ROOT / "recipes" / "jobs", ROOT / "recipes" / "space"
SCRIPTS = sorted(JOBS.glob("*.py"))
pytestmark = pytest.mark.slow  # scripts of a recipe, outside of the package


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_dependencies_come_from_the_repository(script):
    """No package index has the package: whoever registers its name there would be installed in its place."""
    block = re.search(r"(?m)^# /// script$\n((?:^# ?.*$\n)+?)^# ///$", script.read_text())[1]  # by PEP 723
    metadata = tomllib.loads(re.sub(r"^# ?", "", block, flags=re.M))
    assert metadata["requires-python"] == ">=3.11"
    (dependency,) = metadata["dependencies"]
    assert re.fullmatch(r"g4i_hf\[[a-z,]+\] @ git\+REPOSITORY_URL", dependency)
    assert (SPACE / "requirements.txt").read_text() == "g4i_hf @ git+REPOSITORY_URL\n"
    assert all("`REPOSITORY_URL`" in (folder / "README.md").read_text() for folder in (JOBS, SPACE))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_cannot_be_pushed_is_said_before_the_work(script, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(sys, "argv", [script.name, "me/photos", "--push_to", "me/captions"])
    with pytest.raises(SystemExit, match="[Tt]oken is required"):
        runpy.run_path(str(script), run_name="__main__")


# --active: in the environment of the tests, which has the dependencies, so that nothing is installed
UV = (str(Path(sysconfig.get_path("scripts")) / "uv"), "run", "--active", "--offline")


@pytest.fixture
def hub(tmp_path):
    """With me/photos."""
    draw_numbers(tmp_path / "photos", 12)
    with serving() as hub:
        with hub.here():
            photos = load_dataset("imagefolder", data_dir=str(tmp_path / "photos" / "train"), split="train")
            photos.push_to_hub("me/photos")
        yield hub


def run(hub: Hub, folder: Path, script: str, *words: object, start: tuple = (PYTHON,)) -> str:
    """The script, with the package at hand in place of that of the repository."""
    text = (JOBS / script).read_text()
    (folder / script).write_text(re.sub(r'"g4i_hf\[.*REPOSITORY_URL"', '"g4i_hf"', text))
    environment = hub.environment(folder / "home", VIRTUAL_ENV=sys.prefix)
    command, more = [*start, script, *map(str, words)], {"capture_output": True, "text": True, "timeout": 1800}
    done = subprocess.run(command, cwd=folder, env=environment, **more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def test_a_dataset_is_captioned_and_a_student_trained_on_it_and_pushed_only_if_asked(hub, serve, tmp_path):
    server = serve()
    words = ["me/photos", "--base_url", f"{server.url}/v1", "--captioner_model", "tiny"]
    said = run(hub, tmp_path, "caption.py", *words, "--push_to", "me/photos-captions", "--dry_run", 2, start=UV)
    assert "number" in said and server.stats()["distinct"] == 2
    run(hub, tmp_path, "caption.py", *words)
    assert set(hub.state()) == {"datasets/me/photos"} and (tmp_path / "captions" / "train.parquet").is_file()
    run(hub, tmp_path, "caption.py", *words, "--push_to", "me/photos-captions")
    captions = hub.repositories["datasets/me/photos-captions"]
    (table,) = [file for name, file in captions.at("main").files.items() if name.endswith(".parquet")]
    found = {row["image_id"]: row["caption"] for row in pq.read_table(io.BytesIO(table)).to_pylist()}
    assert captions.private and found == {f"{number}.png": [f"number {number}"] for number in range(12)}

    words = ["me/photos-captions", "--student", str(packaged_student()), "--push_to", "me/photos-student"]
    assert "Nothing was written" in run(hub, tmp_path, "fit.py", *words, "--dry_run")
    assert "models/me/photos-student" not in hub.state() and not (tmp_path / "fitted").exists()
    run(hub, tmp_path, "fit.py", *words, "--license", "apache-2.0")
    student = hub.state()["models/me/photos-student"]
    assert student["private"] and {"config.json", "model.safetensors"} <= set(student["files"])


def test_the_app_predicts_what_the_student_and_the_aligned_model_do(tmp_path, monkeypatch):
    student = release_student(a_run(tmp_path / "run", results=None))
    monkeypatch.setenv("MODEL", str(student))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored afterwards
    predict = runpy.run_path(str(SPACE / "app.py"))["predict"]
    image = Image.linear_gradient("L").resize((60, 40))
    classes, named = predict(image, "cat\n tench, Tinca tinca \n\ncat")
    expected = pipeline("image-classification", model=str(student), device="cpu")(image.convert("RGB"))
    assert classes == pytest.approx({each["label"]: each["score"] for each in expected}, abs=1e-5)
    expected = ZeroShotImageClassifier(student, device="cpu")(image, ["cat", "tench, Tinca tinca"])
    assert named == pytest.approx({each["label"]: each["score"] for each in expected}, abs=1e-5)
    assert predict(image, None) == (classes, None)
    for mistake in ((None, "cat"), (image, "\n".join(map(str, range(201)))), (image, "x" * 201)):
        with pytest.raises(ValueError, match="image first|at most 200 (names|characters)"):
            predict(*mistake)


@pytest.fixture
def transformers_serve(tmp_path):
    """The real server with the captioner of recipes/shapes: its address, and its log."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    command = [Path(sys.executable).with_name("transformers"), "serve", CAPTIONER, "--host", "127.0.0.1"]
    words = [*map(str, command), "--port", url.rpartition(":")[2], "--device", "cpu"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    log = tmp_path / "log.txt"

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
        return False

    with log.open("w") as output, subprocess.Popen(words, env=env, stdout=output, stderr=output) as process:
        assert happens(answers, process), log.read_text()[-3000:]
        yield url, log
        process.terminate()


def described(captioner: Captioner, pictures: list, prompt: str = PLAIN) -> list[str]:
    pairs: list[tuple[Question, Answer]] = []
    rows = [({"bytes": each.png(), "path": None}, prompt.format(label=each.shape)) for each in pictures]
    captioner.run((Question(str(n), *row, f"key {n}") for n, row in enumerate(rows)), pairs.extend, lambda: True)
    assert {answer.status for _, answer in pairs} == {"ok"} and len(pairs) == len(pictures)
    return [answer.text for _, answer in sorted(pairs, key=lambda pair: int(pair[0].image_id))]


def test_the_captioner_of_shapes_says_what_its_page_claims_and_behind_a_server_the_same(transformers_serve):
    draw, (url, log) = runpy.run_path(str(ROOT / "recipes" / "shapes" / "build.py"))["draw"], transformers_serve
    pictures, decoding = [draw(f"unseen-{number}") for number in range(100)], Decoding(max_new_tokens=24)
    local = LocalCaptioner(str(CAPTIONER), decoding)
    texts, named = described(local, pictures), described(local, pictures, CLASS)
    for what, said in (("colour", texts), ("background", texts), ("shape", named)):
        told = [getattr(each, what) in text.split() for each, text in zip(pictures, said, strict=True)]
        assert sum(told) >= 95, what
    served = described(EndpointCaptioner(str(CAPTIONER), f"{url}/v1", decoding), pictures)
    assert sum(one == other for one, other in zip(texts, served, strict=True)) >= 90, "not all: as JPEG"
    assert log.read_text().count("POST /v1/chat/completions") >= 100
