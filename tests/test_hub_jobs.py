"""The scripts of recipes/jobs, run by uv against the test Hub: images in, captions out; captions in, a student out."""

import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

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
READ = """
import json
from datasets import load_dataset
rows = load_dataset("me/photos-captions", split="train")
print(json.dumps(dict(zip(rows["image_id"], rows["caption"]))))
"""
CLASSIFY = """
import json, sys
from transformers import pipeline
sys.modules["g4i_hf"] = None
print(json.dumps(pipeline("image-classification", "me/photos-student")(sys.argv[1])))
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


class Jobs:
    """The scripts, with the package at hand in place of that of the repository; a Hub that holds me/photos."""

    def __init__(self, folder: Path, hub: Hub):
        self.folder, self.hub = folder, hub
        for script in SCRIPTS:
            text = re.sub(r'"g4i_hf\[.*REPOSITORY_URL"', '"g4i_hf"', script.read_text())
            (folder / script.name).write_text(text)
        draw_numbers(folder / "photos", 12)
        hub.run(PUSH, folder / "pusher", folder / "photos" / "train")

    def run(self, script: str, *words: object, start: tuple = (PYTHON,)) -> str:
        environment = self.hub.environment(self.folder / "home", VIRTUAL_ENV=sys.prefix)
        command, more = [*start, script, *map(str, words)], {"capture_output": True, "text": True, "timeout": 1800}
        done = subprocess.run(command, cwd=self.folder, env=environment, **more)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        return done.stdout

    def repositories(self) -> dict[str, bool]:
        """Whether each is private."""
        return {name: repository["private"] for name, repository in self.hub.state().items()}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    with serving() as hub:
        yield Jobs(tmp_path_factory.mktemp("jobs"), hub)


@pytest.fixture(scope="module")
def captioned(jobs) -> Jobs:
    """After the captions of me/photos were pushed; before, the same command without a push and a dry run."""
    server = Worker("caption_server.py")
    words = ["me/photos", "--base_url", f"{server.url}/v1", "--captioner_model", "tiny", "--report", "false"]
    try:
        before = jobs.repositories()
        said = jobs.run("caption.py", *words, "--push_to", "me/photos-captions", "--dry_run", 2, start=UV)
        assert "number" in said and server.stats()["distinct"] == 2
        jobs.run("caption.py", *words)
        assert jobs.repositories() == before and (jobs.folder / "captions" / "train.parquet").is_file()
        jobs.run("caption.py", *words, "--push_to", "me/photos-captions")
    finally:
        server.stop()
    return jobs


def test_a_dataset_of_the_hub_is_captioned(captioned):
    assert captioned.repositories()["datasets/me/photos-captions"] is True
    found = captioned.hub.run(READ, captioned.folder / "reader")
    assert found == {f"{number}.png": [f"number {number}"] for number in range(12)}


def test_a_student_is_trained_on_captions_of_the_hub(captioned):
    words = ["me/photos-captions", "--student", str(packaged_student()), "--push_to", "me/photos-student"]
    before = captioned.repositories()
    assert "Nothing was written" in captioned.run("fit.py", *words, "--dry_run")
    assert captioned.repositories() == before and not (captioned.folder / "fitted").exists()

    captioned.run("fit.py", *words, "--license", "apache-2.0")
    assert captioned.repositories()["models/me/photos-student"] is True
    picture = captioned.folder / "photos" / "train" / "class0" / "0.png"
    (best, *_) = captioned.hub.run(CLASSIFY, captioned.folder / "reader", picture)
    assert best["label"].startswith("class")
