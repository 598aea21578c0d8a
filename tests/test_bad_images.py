"""One corrupt image in a million: an error that names it, or a row that counts for nothing and is reported."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from students import aligned_model
from test_checkpoint import SAVED
from test_checkpoint import split_of as whole_split
from test_optimization import StopAfter
from test_recipes import ACCELERATE, ROOT, TWO_PROCESSES
from test_trainer import ONE_STEP, arguments, change

from g4i_hf.data import CaptionedImages, train_transform
from g4i_hf.data.dataset import AlignmentCollator, DrawnRows, GlobalBatchSampler
from g4i_hf.data.images import BadImageError, readable_rows
from g4i_hf.options import AugmentationArguments
from g4i_hf.training import AlignmentTrainer

CORRUPT = b"\x89PNG\r\n\x1a\n and no picture"


def exact(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((48, 48)), dtype=np.float64)).permute(2, 0, 1) / 255


def split_of(folder: Path, corrupt: list[int], left_out: tuple[int, ...] = ()):
    """12 rows with images in files, some of them corrupt."""

    def corrupted(rows: list[dict]) -> list[dict]:
        for row in corrupt:
            Path(rows[row]["image"]["path"]).write_bytes(CORRUPT)
        return [each for row, each in enumerate(rows) if row not in left_out]

    return whole_split(folder, corrupted)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return aligned_model("vit").double()


# --- Left out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["clip", "siglip", "cosine"])
def test_a_corrupt_row_counts_for_nothing(tmp_path, vit, objective):
    """The step is the one that is taken without the row, but for what the batch statistics of a BatchNorm see."""
    changes = []
    for name, left_out in (("with", ()), ("without", (3,))):
        data = CaptionedImages(split_of(tmp_path, [3], left_out), exact, on_bad_images="skip")
        options = ONE_STEP | {"per_device_train_batch_size": 12, "align_loss": objective}
        model = copy.deepcopy(vit)
        AlignmentTrainer(model, arguments(tmp_path / name, **options), data).train()
        changes.append(change(vit, model))
    assert changes[0].norm() > 1e-3
    torch.testing.assert_close(changes[0], changes[1], rtol=1e-10, atol=1e-14)


def test_what_was_left_out_is_reported_once_and_across_an_interruption(tmp_path, caplog):
    split = split_of(tmp_path / "images", [3, 7])

    def trainer_of(*callbacks, **options) -> AlignmentTrainer:
        data = CaptionedImages(split, lambda image: exact(image).float(), on_bad_images="skip")
        args = arguments(tmp_path / "run", **SAVED | {"dataloader_num_workers": 1} | options)
        return AlignmentTrainer(aligned_model("vit"), args, data, callbacks=list(callbacks))

    first = trainer_of(StopAfter(4))
    first.train()
    assert first.left_out() == {"train_bad_images": 2}
    assert all(np.isfinite(entry["loss"]) for entry in first.state.log_history if "loss" in entry)
    # The first as soon as it was met, both at the end
    assert sum(record.name == "g4i_hf.data.images" for record in caplog.records) == 2
    assert "2 of 12 images cannot be read and are left out" in caplog.text
    assert f"'3' ({tmp_path}/images/3.png): no known image format" in caplog.text
    found = json.loads((tmp_path / "run" / "bad_images.json").read_text())
    assert [bad["image_id"] for bad in found] == ["3", "7"] and found[0]["file"] == f"{tmp_path}/images/3.png"
    second = trainer_of(max_steps=5)  # one batch of four is left
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert second.left_out() == {"train_bad_images": 2}


def test_a_row_that_only_pads_a_process_is_reported_by_the_one_that_trains_on_it(tmp_path):
    """Nine rows for two processes of four: the last row trains on the first process and pads the second."""
    batches = [list(GlobalBatchSampler(9, 4, num_processes=2, process_index=process)) for process in (0, 1)]
    ((row, *_),), ((padded, _, is_padding, _),) = (batch[-1] for batch in batches)
    assert row == padded and is_padding
    data = DrawnRows(CaptionedImages(split_of(tmp_path, [row], (9, 10, 11)), exact, on_bad_images="skip"))
    found = [AlignmentCollator()(data.__getitems__(batch[-1])).get("bad_images") for batch in batches]
    assert found == [{row: "no known image format"}, None]


def test_too_many_are_an_error_all_the_same(tmp_path, vit):
    data = CaptionedImages(split_of(tmp_path, list(range(11))), exact, on_bad_images="skip")
    trainer = AlignmentTrainer(vit, arguments(tmp_path, **ONE_STEP, per_device_train_batch_size=12), data)
    with pytest.raises(BadImageError, match="11 of 12 images cannot be read, too many.*Is the folder"):
        trainer.train()


def test_an_evaluated_split_loses_the_row(tmp_path, caplog):
    split = split_of(tmp_path, [0, 5])
    readable, bad = readable_rows(split, "validation")
    assert readable["image_id"][:] == [str(row) for row in range(12) if row not in (0, 5)]
    assert [each["image_id"] for each in bad] == ["0", "5"]
    assert "Split 'validation': 2 of 12 images cannot be read and are left out: '0'" in caplog.text
    assert readable_rows(readable, "validation") == (readable, [])


# --- An error -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_an_error_that_names_it(tmp_path, vit, workers):
    data = CaptionedImages(split_of(tmp_path, [3]), exact)
    options = ONE_STEP | {"per_device_train_batch_size": 12, "dataloader_num_workers": workers}
    with pytest.raises(BadImageError) as error:
        AlignmentTrainer(vit, arguments(tmp_path, **options), data).train()
    assert str(error.value) == (
        f"The image '3' ({tmp_path}/3.png): no known image format. Replace the file or remove the row, or leave such "
        "images out with --on_bad_images skip (not of a stream)."
    )


def test_a_jpeg_that_ends_early_is_noticed_when_it_is_decoded(tmp_path):
    split, path = split_of(tmp_path, []), tmp_path / "3.png"
    PILImage.open(path).resize((400, 400)).save(path, format="JPEG")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    transform = train_transform(AugmentationArguments(image_size=48))
    with pytest.raises(BadImageError, match="The image '3' .*truncated"):
        CaptionedImages(split, transform)[3]
    item = CaptionedImages(split, transform, on_bad_images="skip")[3]
    assert (item["labels"], float(item["caption_weight"].sum())) == (-100, 0) and "truncated" in item["bad_image"]
    assert item["pixel_values"].shape == (3, 48, 48)


# --- The stages ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_training_and_evaluation_of_a_folder_with_corrupt_images(tmp_path, processes):
    for name, corrupt in (("train", [4]), ("validation", [2]), ("test", [1])):
        split_of(tmp_path / "images" / name, corrupt)
        (tmp_path / "data" / name).mkdir(parents=True)
        for row in range(12):
            image = tmp_path / "images" / name / f"{row}.png"
            place = tmp_path / "data" / name / "abcde"[row % 5]
            place.mkdir(exist_ok=True)
            image.rename(place / f"{row}.png")
    launch = [ACCELERATE, "launch", *TWO_PROCESSES] if processes == 2 else [sys.executable]
    options = ["--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run", "--align_weight", "0"]
    options += ["--student", "vit_tiny_patch16_224", "--image_size", "32", "--num_train_epochs", "2"]
    options += ["--student_args", '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}']
    options = [str(word) for word in [*options, "--per_device_train_batch_size", "4"]]

    def run(script: str, *words: str) -> subprocess.CompletedProcess:
        command = [*launch, f"recipes/{script}.py", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    config = tmp_path / "train.yaml"
    config.write_text("use_cpu: true\n")
    refused = run("train", "--config", str(config), *options)
    assert refused.returncode != 0 and "leave such images out with --on_bad_images skip" in refused.stderr
    done = run("train", "--config", str(config), *options, "--on_bad_images", "skip")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 images left out, which could not be read: bad_images.json" in done.stdout
    done = run("evaluate", "--run", str(tmp_path / "run"))  # the option is the run's
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert [results[f"{name}_bad_images"] for name in ("train", "validation", "test")] == [1, 1, 1]
    assert [results[f"{name}_samples"] for name in ("validation", "test")] == [11, 11]
