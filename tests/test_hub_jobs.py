"""The scripts of recipes/jobs, run by uv against the test Hub: images in, captions out; captions in, a student out."""

import io
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from caption_doors import ROOT, Worker, draw_numbers
from hub import Hub, serving
from loaded import PYTHON

from g4i_hf.modeling.packaged import packaged_student

JOBS = ROOT / "recipes" / "jobs"
SCRIPTS = sorted(JOBS.glob("*.py"))
pytestmark = pytest.mark.slow  # scripts of a recipe, outside of the package
PUSH = """
import sys
from datasets import load_dataset
load_dataset("imagefolder", data_dir=sys.argv[1], split="train").push_to_hub("me/photos")
"""


def inline_metadata(script: Path) -> dict:
    """What uv reads of a script (PEP 723)."""
    block = re.search(r"(?m)^# /// script$\n((?:^# ?.*$\n)+?)^# ///$", script.read_text())[1]
    return tomllib.loads(re.sub(r"^# ?", "", block, flags=re.M))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_dependencies_come_from_the_repository(script):
    """No package index has the package: whoever registers its name there would be installed in its place."""
    metadata = inline_metadata(script)
    assert metadata["requires-python"] == ">=3.11"
    (dependency,) = metadata["dependencies"]
    assert re.fullmatch(r"g4i_hf\[[a-z,]+\] @ git\+REPOSITORY_URL", dependency)
    assert "`REPOSITORY_URL`" in (JOBS / "README.md").read_text(), "the page says what to replace"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("place", "said"), [("captions", "without its user or organisation"), ("me/captions", "[Tt]oken is required")]
)
def test_what_cannot_be_pushed_is_said_before_the_work(script, place, said, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script.name, "me/photos", "--push_to", place])
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(script), run_name="__main__")
    assert not capsys.readouterr().out


# --active: in the environment of the tests, which has the dependencies, so that nothing is installed
UV = (str(Path(sysconfig.get_path("scripts")) / "uv"), "run", "--active", "--offline")


@pytest.fixture
def hub(tmp_path):
    """With me/photos."""
    draw_numbers(tmp_path / "photos", 12)
    with serving() as hub:
        hub.run(PUSH, tmp_path / "pusher", tmp_path / "photos" / "train")
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


def test_a_dataset_is_captioned_and_a_student_trained_on_it_and_pushed_only_if_asked(hub, tmp_path):
    server = Worker()
    words = ["me/photos", "--base_url", f"{server.url}/v1", "--captioner_model", "tiny", "--report", "false"]
    try:
        said = run(hub, tmp_path, "caption.py", *words, "--push_to", "me/photos-captions", "--dry_run", 2, start=UV)
        assert "number" in said and server.stats()["distinct"] == 2
        run(hub, tmp_path, "caption.py", *words)
        assert set(hub.state()) == {"datasets/me/photos"} and (tmp_path / "captions" / "train.parquet").is_file()
        run(hub, tmp_path, "caption.py", *words, "--push_to", "me/photos-captions")
    finally:
        server.stop()
    captions = hub.repositories["datasets/me/photos-captions"]
    (table,) = [file for name, file in captions.at("main").files.items() if name.endswith(".parquet")]
    found = {row["image_id"]: row["caption"] for row in pq.read_table(io.BytesIO(table.content)).to_pylist()}
    assert captions.private and found == {f"{number}.png": [f"number {number}"] for number in range(12)}

    words = ["me/photos-captions", "--student", str(packaged_student()), "--push_to", "me/photos-student"]
    assert "Nothing was written" in run(hub, tmp_path, "fit.py", *words, "--dry_run")
    assert "models/me/photos-student" not in hub.state() and not (tmp_path / "fitted").exists()
    run(hub, tmp_path, "fit.py", *words, "--license", "apache-2.0")
    student = hub.state()["models/me/photos-student"]
    assert student["private"] and {"config.json", "model.safetensors"} <= set(student["files"])
