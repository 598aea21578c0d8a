"""The script with inline dependencies, run by uv against the test Hub: images in, captions out."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import hub_client
import pytest
from test_caption_kills import ROOT, caption_server, picture_of

SCRIPT = ROOT / "recipes" / "scale" / "g4i_caption.py"
PUSH = """
import sys
from datasets import load_dataset
load_dataset("imagefolder", data_dir=sys.argv[1], split="train").push_to_hub("me/photos")
"""
READ = """
import json
from datasets import load_dataset
rows = load_dataset("me/photos-captions", split="train")
print(json.dumps(dict(zip(rows["image_id"], rows["caption"]))))
"""
IMAGES = 12


def test_its_inline_dependencies_are_a_script_block():
    block = re.search(r"(?m)^# /// script$\n((?:^# ?.*$\n)+?)^# ///$", SCRIPT.read_text())
    lines = [line.removeprefix("# ") for line in block[1].splitlines()]
    assert lines == ['requires-python = ">=3.11"', 'dependencies = ["g4i_hf"]']


@pytest.mark.slow
def test_one_line_captions_a_dataset_of_the_hub(tmp_path):
    for number in range(IMAGES):
        place = tmp_path / "photos" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        picture_of(number).save(place / f"{number}.png")
    with hub_client.serving() as hub, caption_server() as server:
        hub.run(PUSH, tmp_path / "pusher", tmp_path / "photos")
        # in the environment of the tests, which has the dependencies: --no-sync installs nothing
        uv = [str(Path(sysconfig.get_path("scripts")) / "uv"), "run", "--active", "--no-sync", "--offline"]
        words = ["--base_url", f"{server}/v1", "--captioner_model", "tiny", "--report", "false"]
        environment = hub.environment(tmp_path / "home", VIRTUAL_ENV=sys.prefix)
        done = subprocess.run(
            [*uv, str(SCRIPT), "me/photos", "me/photos-captions", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        found = hub.run(READ, tmp_path / "reader")
    assert found == {f"{number}.png": f"number {number}" for number in range(IMAGES)}
