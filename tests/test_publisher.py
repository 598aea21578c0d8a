"""What is pushed while a student trains, and that nothing of it ends the training."""

import logging
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hub_client import serving
from huggingface_hub import ModelCard
from students import ID2LABEL, aligned_model
from test_trainer import arguments, rows
from transformers import AutoImageProcessor, AutoModelForImageClassification

from g4i_hf.hub import StudentPublisher
from g4i_hf.hub.push import PushError
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.training import AlignmentTrainer

ROOT = Path(__file__).parent.parent
MODULE = "g4i_hf.hub.publisher"
PUSHING = {"push_to_hub": True, "hub_always_push": True, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture
def pushed(tmp_path, monkeypatch):
    """Copies of the folders that were pushed, by the message of their commit; the Hub is not asked for anything."""
    found = {}

    def push(folder, repo_id, *, message, **_):
        found[message] = Path(shutil.copytree(folder, tmp_path / f"pushed-{len(found)}"))
        return f"https://hub/{repo_id}"

    monkeypatch.setattr(f"{MODULE}.push_folder", push)
    monkeypatch.setattr(f"{MODULE}.check_repository", lambda *_, **__: (None, []))
    monkeypatch.setattr(f"{MODULE}.create_repository", lambda _, repo_id, **__: repo_id)
    return found


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def trainer_of(folder: Path, name: str = "timm-resnet", more: dict | None = None, **options) -> AlignmentTrainer:
    """As from Python: no processing_class, no train.yaml."""
    args = arguments(folder / "run", hub_model_id="me/student", **PUSHING | options)
    publisher = StudentPublisher(args)
    return AlignmentTrainer(aligned_model(name), args, train_dataset=rows(4), publisher=publisher, **more or {})


@pytest.mark.parametrize("name", ["timm-resnet", "vit"])
@pytest.mark.parametrize("weight", [0.3, 0.0])
def test_a_run_from_python_is_pushed_with_all_that_a_student_needs(tmp_path, pushed, name, weight):
    trainer = trainer_of(tmp_path, name, align_weight=weight, seed=7)
    trainer.train()
    assert list(pushed) == ["Step 1 of 2", "Step 2 of 2"]
    assert trainer.push_to_hub() == "https://hub/me/student"
    for message, folder in pushed.items():
        AutoModelForImageClassification.from_pretrained(folder)
        assert AutoImageProcessor.from_pretrained(folder) is not None
        assert ("In training" in (folder / "README.md").read_text()) == message.startswith("Step")
    release = pushed["End of training"]
    assert (release / "aligned" / "preprocessor_config.json").is_file() == (weight > 0)
    card = ModelCard.load(release / "README.md")
    assert ("as the baseline of an aligned student" in card.text) == (weight == 0)
    assert f"| align_weight | `{weight:g}` |" in card.text and "| seed | `7` |" in card.text
    assert "48 x 48 pixels" in card.text


def test_the_image_processor_of_the_data_is_the_one_that_is_pushed(tmp_path, pushed):
    own = generic_processor(ImageSettings(32, mean=(0.1, 0.2, 0.3)))
    trainer_of(tmp_path, "vit", {"processing_class": own}).train()
    assert AutoImageProcessor.from_pretrained(pushed["Step 2 of 2"]).image_mean == (0.1, 0.2, 0.3)


def test_what_cannot_be_known_of_the_images_is_asked_for_before_training(tmp_path, pushed, caplog):
    with pytest.raises(ValueError, match=r"\(resnet\) does not say how large.*processing_class"):
        trainer_of(tmp_path, "resnet")
    trainer_of(tmp_path, "vit")
    assert "no processing_class" in caplog.text and "48 pixels" in caplog.text


def disk_is_full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def is_broken(*args, **kwargs):
    raise RuntimeError("no such operator")


FAILURES = {
    "temporary folder": ("tempfile.TemporaryDirectory", disk_is_full, "OSError: .*No space left"),
    "student": ("releasing", is_broken, "RuntimeError: no such operator"),
    "card": ("in_progress_card", disk_is_full, "OSError: .*No space left"),
    "push": ("push_folder", is_broken, "RuntimeError: no such operator"),
    "refusal": ("push_folder", lambda *_, **__: (_ for _ in ()).throw(PushError("it is closed")), "it is closed"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_checkpoint_that_cannot_be_pushed_does_not_end_training(tmp_path, pushed, places, monkeypatch, caplog, what):
    trainer = trainer_of(tmp_path)
    name, fails, said = FAILURES[what]
    with monkeypatch.context() as broken:
        broken.setattr(f"{MODULE}.{name}", fails)
        trainer.train()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message[:11] for message in messages if re.search(f"of 2 was not pushed: {said}", message)] == [
        "Step 1 of 2",
        "Step 2 of 2",
    ]
    assert trainer.state.global_step == 2 and not any(places.iterdir())
    assert "End of training" not in pushed and trainer.push_to_hub() and list(pushed) == ["End of training"]


def test_the_push_of_the_end_says_what_went_wrong(tmp_path, pushed, monkeypatch):
    trainer = trainer_of(tmp_path, hub_strategy="end")
    trainer.train()
    assert not pushed
    monkeypatch.setattr(f"{MODULE}.release_with_card", is_broken)
    with pytest.raises(PushError, match="me/student: RuntimeError: no such operator. Nothing was pushed"):
        trainer.push_to_hub()


def test_a_repository_of_something_else_is_refused_before_training(tmp_path, pushed, monkeypatch):
    asked = []

    def refuses(api, repo_id, *, revision):
        asked.append((repo_id, revision))
        raise PushError("it holds files that no release has left there")

    monkeypatch.setattr(f"{MODULE}.check_repository", refuses)
    monkeypatch.setattr(f"{MODULE}.create_repository", lambda *_, **__: pytest.fail("it was made all the same"))
    with pytest.raises(PushError, match="no release has left there"):
        trainer_of(tmp_path, hub_revision="tried")
    assert asked == [("me/student", "tried")]


# --- The page --------------------------------------------------------------------------------------------------------
BEFORE = """
import json, os, sys
os.chdir(sys.argv[1])
import torch
from students import aligned_model
from test_trainer import rows

torch.set_num_threads(1)
model, images = aligned_model("timm-resnet"), rows(4)
"""
AFTER = """
from dataclasses import replace
from huggingface_hub import HfApi, list_repo_files
from transformers import pipeline
from PIL import Image

answers = pipeline("image-classification", model="me/pictures-student")(Image.new("RGB", (60, 50)))
HfApi().create_repo("me/notes")
HfApi().upload_file(repo_id="me/notes", path_in_repo="notes.txt", path_or_fileobj=b"mine")
try:
    StudentPublisher(replace(args, hub_model_id="me/notes")).start()
except OSError as error:
    refused = str(error)
titles = [commit.title for commit in HfApi().list_repo_commits("me/pictures-student")]
files = list_repo_files("me/pictures-student")
print(json.dumps({"titles": titles, "files": files, "answers": len(answers), "refused": refused}))
"""


@pytest.mark.slow
def test_the_code_of_the_page_trains_and_pushes(tmp_path):
    page = (ROOT / "docs" / "hub.md").read_text()
    code = re.search(r"<!-- test: publisher -->\n```python\n(.*?)```", page, re.S)[1]
    with serving(tmp_path / "hub") as hub:
        found = hub.run(BEFORE + code + AFTER, tmp_path / "home", tmp_path)
        assert hub.state()["models/me/pictures-student"]["private"]
    assert found["titles"][0] == "End of training" and found["titles"][1].startswith("Step ")
    assert {"README.md", "config.json", "model.safetensors", "aligned/model.safetensors"} <= set(found["files"])
    assert found["answers"] == len(ID2LABEL)
    assert "notes.txt" in found["refused"] and "--hub_model_id" in found["refused"]
