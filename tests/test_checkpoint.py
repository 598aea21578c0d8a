"""A checkpoint is whole or is not gone on from, knows its data, and survives a full disk."""

import contextlib
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from students import aligned_model
from test_optimization import StopAfter
from test_trainer import arguments
from transformers import TrainerCallback

from g4i_hf.data import CaptionedImages, train_transform
from g4i_hf.data.fingerprint import fingerprint
from g4i_hf.options import AugmentationArguments
from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.checkpoint import (
    CheckpointError,
    OtherDataError,
    missing_of,
    newest_checkpoint,
    settle,
    telling_what_remains,
)

FEATURES = Features(
    {
        "image": Image(decode=False),
        "label": ClassLabel(names=["a", "b", "c", "d", "e"]),
        "image_id": Value("string"),
        "caption": Value("string"),
        "caption_weight": Value("float32"),
        "text_embeds": List(Value("float16"), length=12),
    }
)
SAVED = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "per_device_train_batch_size": 4}


def split_of(folder: Path, change=lambda rows: rows) -> Dataset:
    """12 rows with their images in files."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True, parents=True)
    rows = []
    for number in range(12):
        path = folder / f"{number}.png"
        PILImage.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(path)
        embed = rng.normal(size=12)
        embed = (embed / np.linalg.norm(embed)).astype(np.float16)
        row = {"label": number % 5, "image_id": str(number), "caption": f"caption {number}", "caption_weight": 1.0}
        rows.append(row | {"image": {"bytes": None, "path": str(path)}, "text_embeds": embed})
    return Dataset.from_list(change(rows), features=FEATURES)


def images(folder: Path, change=lambda rows: rows) -> CaptionedImages:
    return CaptionedImages(
        split_of(folder, change), train_transform(AugmentationArguments(image_size=48, train_crop="pad"))
    )


def trainer_of(folder: Path, data: CaptionedImages, callbacks=None, **options) -> AlignmentTrainer:
    return AlignmentTrainer(aligned_model("vit"), arguments(folder, **SAVED | options), data, callbacks=callbacks)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run with checkpoint-2, and the images that it was trained on."""
    folder = tmp_path_factory.mktemp("stopped")
    trainer_of(folder / "run", images(folder / "images"), [StopAfter(2)]).train()
    return folder


# --- The data of a checkpoint ---------------------------------------------------------------------------------------


def changed(rows: list[dict], row: int, **values) -> list[dict]:
    return [{**each, **values} if number == row else each for number, each in enumerate(rows)]


CHANGES = {
    "labels": lambda rows: changed(rows, 3, label=0),
    "image ids or their order": lambda rows: changed(rows, 11, image_id="new"),
    "text embeddings": lambda rows: changed(rows, 0, text_embeds=rows[1]["text_embeds"]),
    "caption weights": lambda rows: changed(rows, 5, caption_weight=0.5),
    "which captions are equal": lambda rows: changed(rows, 7, caption="caption 8"),
    "bytes of the images": lambda rows: changed(rows, 2, image=rows[4]["image"]),
    "image ids or their order, labels": lambda rows: rows[::-1],
    "number of rows.*12 there, 11 here": lambda rows: rows[:-1],
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_data_is_refused_by_what_changed(stopped, tmp_path, what):
    trainer = trainer_of(tmp_path, images(tmp_path / "images", CHANGES[what]))
    message = f"not what .*checkpoint-2 was trained on. What differs: {what}.*Bring back that data, or train afresh"
    with pytest.raises(OtherDataError, match=message):
        trainer.train(resume_from_checkpoint=str(stopped / "run" / "checkpoint-2"))


def test_data_that_only_moved_is_the_same(stopped, tmp_path):
    ours, theirs = fingerprint(images(stopped / "images")), fingerprint(images(tmp_path / "moved"))
    assert ours == theirs and len(ours) == 7
    table = images(tmp_path / "moved", lambda rows: [row | {"image": bytes_of(row)} for row in rows])
    assert fingerprint(table) == ours  # nor does it matter where the bytes lie


def bytes_of(row: dict) -> dict:
    return {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 7}, r"seed \(42 there, 7 here\)"),
        ({"per_device_train_batch_size": 6}, r"per_device_train_batch_size x processes \(4 there, 6 here\)"),
        ({"repeated_augmentation": 3}, r"repeated_augmentation \(1 there, 3 here\)"),
        ({"train_sampling_strategy": "sequential"}, r"train_sampling_strategy \(random there, sequential here\)"),
    ],
)
def test_another_order_of_the_data_is_refused(stopped, tmp_path, options, message):
    trainer = trainer_of(tmp_path, images(stopped / "images"), **options)
    with pytest.raises(OtherDataError, match=f"in another order: {message}"):
        trainer.train(resume_from_checkpoint=str(stopped / "run" / "checkpoint-2"))


# --- Whole checkpoints ----------------------------------------------------------------------------------------------


def test_the_newest_whole_checkpoint_is_found(stopped, tmp_path, caplog):
    for step in (2, 10, 9):
        shutil.copytree(stopped / "run" / "checkpoint-2", tmp_path / f"checkpoint-{step}")
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "checkpoint.json").unlink()  # as a copy that was interrupted leaves it
    with (tmp_path / "checkpoint-9" / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    named = "is not whole and is left out"
    assert f"checkpoint-10 {named}: its checkpoint.json, which is written last, is missing" in caplog.text
    assert f"checkpoint-9 {named}: optimizer.pt has 100 bytes of" in caplog.text
    (tmp_path / "checkpoint-2" / "rng_state.pth").unlink()
    assert newest_checkpoint(tmp_path) is None


def test_files_in_folders_of_a_checkpoint_count(stopped, tmp_path):
    """FSDP and DeepSpeed write their part of a checkpoint into folders of it."""
    checkpoint, written = tmp_path / "checkpoint-2", tmp_path / "aside" / "checkpoint-2"
    shutil.copytree(stopped / "run" / "checkpoint-2", written)
    (written / "checkpoint.json").unlink()
    (written / "global_step2").mkdir()
    (written / "global_step2" / "states.pt").write_bytes(bytes(2**20))
    settle(written, tmp_path, data={}, order={})
    assert missing_of(checkpoint) is None and not written.parent.exists()
    with pytest.raises(CheckpointError) as error, telling_what_remains("checkpoint-4", tmp_path, tmp_path / "aside"):
        raise OSError("no room")
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert f"{checkpoint} ({size / 2**20:,.1f} MiB) is whole" in str(error.value)
    shutil.rmtree(checkpoint / "global_step2")
    assert missing_of(checkpoint) == "global_step2/states.pt is missing"


DAMAGED = [b'{"files": "\xff"}', b"[1]", b"null", b'{"data": {}, "order": {}}']
DAMAGED += [b'{"files": {"a": "b"}, "data": {}, "order": {}}']


@pytest.mark.parametrize("content", DAMAGED)
def test_one_with_a_damaged_record_is_left_out(stopped, tmp_path, caplog, content):
    for step in (2, 4):
        shutil.copytree(stopped / "run" / "checkpoint-2", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-4" / "checkpoint.json").write_bytes(content)
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert "checkpoint-4 is not whole and is left out: its checkpoint.json, which is written last, is " in caplog.text


def test_a_record_without_the_number_of_rows_is_of_other_data(stopped, tmp_path):
    shutil.copytree(stopped / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    path = tmp_path / "checkpoint-2" / "checkpoint.json"
    path.write_text(path.read_text().replace('"rows"', '"roms"'))
    with pytest.raises(OtherDataError, match="number of rows"):
        trainer_of(tmp_path, images(stopped / "images")).check_resumable(tmp_path / "checkpoint-2")


def test_one_that_is_named_and_not_whole_is_refused(stopped, tmp_path):
    shutil.copytree(stopped / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "scheduler.pt").unlink()  # Trainer would go on with a fresh one
    with pytest.raises(FileNotFoundError, match="checkpoint-2 is not whole: scheduler.pt is missing"):
        trainer_of(tmp_path, images(stopped / "images")).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


# --- A full disk ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_file_larger_than(size: int):
    """The kernel refuses to write on, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FillDisk(TrainerCallback):
    def __init__(self, size: int):
        self.size = size

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, hard))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(stopped, tmp_path, file):
    size = (stopped / "run" / "checkpoint-2" / file).stat().st_size - 1
    data = images(stopped / "images")
    unlimited = no_file_larger_than(resource.RLIM_INFINITY)  # restores the limit
    with unlimited, pytest.raises(CheckpointError) as error:
        trainer_of(tmp_path, data, [FillDisk(size)]).train()
    message = str(error.value)
    assert message.startswith("checkpoint-4 could not be written: ") and "MiB are free" in message
    assert f"{tmp_path}/checkpoint-2 (" in message and "is whole: the same command goes on from it" in message
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]  # nothing half written takes room
    assert missing_of(tmp_path / "checkpoint-2") is None
    trainer = trainer_of(tmp_path, data)
    trainer.train(resume_from_checkpoint=newest_checkpoint(tmp_path))
    assert trainer.state.global_step == 6
    assert json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["global_step"] == 6


def test_a_full_disk_at_the_very_end_says_what_to_go_on_from(stopped, tmp_path):
    data = images(stopped / "images")
    trainer = trainer_of(tmp_path, data)
    trainer.train()
    with (
        no_file_larger_than(1000),
        pytest.raises(CheckpointError, match="The weights could not.*checkpoint-6 .*whole"),
    ):
        trainer.save_run()
