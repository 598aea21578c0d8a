"""The script with inline dependencies, run by uv against the test Hub: images in, captions out."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import caption_doors
import hub_client
import pytest
from caption_doors import ROOT, draw_numbers

serve = caption_doors.serve
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


@pytest.mark.slow
def test_one_line_captions_a_dataset_of_the_hub(tmp_path, serve):
    block = re.search(r"(?m)^# /// script$\n((?:^# ?.*$\n)+?)^# ///$", SCRIPT.read_text())
    assert block[1] == '# requires-python = ">=3.11"\n# dependencies = ["g4i_hf"]\n', "what uv reads"
    draw_numbers(tmp_path / "photos", 12)
    with hub_client.serving() as hub:
        hub.run(PUSH, tmp_path / "pusher", tmp_path / "photos" / "train")
        # in the environment of the tests, which has the dependencies: --no-sync installs nothing
        uv = [str(Path(sysconfig.get_path("scripts")) / "uv"), "run", "--active", "--no-sync", "--offline"]
        words = ["--base_url", f"{serve().url}/v1", "--captioner_model", "tiny", "--report", "false"]
        environment = hub.environment(tmp_path / "home", VIRTUAL_ENV=sys.prefix)
        done = subprocess.run(
            [*uv, str(SCRIPT), "me/photos", "me/photos-captions", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        found = hub.run(READ, tmp_path / "reader")
    assert found == {f"{number}.png": f"number {number}" for number in range(12)}
