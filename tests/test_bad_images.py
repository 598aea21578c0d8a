"""One corrupt image in a million: an error that names it, or a row that counts for nothing and is reported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from caption_doors import ROOT
from datasets import Dataset
from PIL import Image as PILImage
from students import aligned_model
from test_caption_kills import ACCELERATE, TWO_PROCESSES
from test_checkpoint import split_of
from tiny_training import ONE_STEP, StopAfter, arguments, one_step, train

from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.images import BadImageError, readable_rows
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments
from g4i_hf.training import AlignmentTrainer

CORRUPT = b"\x89PNG\r\n\x1a\n and no picture"


def exact(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((48, 48)), dtype=np.float64)).permute(2, 0, 1) / 255


def corrupted(folder: Path, corrupt: list[int], left_out: tuple[int, ...] = ()) -> Dataset:
    """12 rows with images in files, some of them corrupt."""
    split = split_of(folder)
    for number in corrupt:
        (folder / f"{number}.png").write_bytes(CORRUPT)
    return split.select([row for row in range(12) if row not in left_out])


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return aligned_model("vit").double()


# --- Left out --------------------------------------------------------------------------------------------------------


def test_a_corrupt_row_counts_for_nothing(tmp_path, vit):
    """The step is the one that is taken without the row, but for what the batch statistics of a BatchNorm see."""
    changes = []
    for name, left_out in (("with", ()), ("without", (3,))):
        data = CaptionedImages(corrupted(tmp_path, [3], left_out), exact, on_bad_images="skip")
        changes.append(one_step(tmp_path / name, vit, data, per_device_train_batch_size=12)[1])
    assert changes[0].norm() > 1e-3
    torch.testing.assert_close(changes[0], changes[1], rtol=1e-10, atol=1e-14)


def test_what_was_left_out_is_reported_once_and_across_an_interruption(tmp_path, caplog):
    split = corrupted(tmp_path / "images", [3, 7])
    saved = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4, "dataloader_num_workers": 1}

    def made(*callbacks, max_steps: int) -> AlignmentTrainer:
        data = CaptionedImages(split, lambda image: exact(image).float(), on_bad_images="skip")
        args = arguments(tmp_path / "run", **saved, max_steps=max_steps)
        return AlignmentTrainer(aligned_model("vit"), args, data, callbacks=list(callbacks))

    first = made(StopAfter(4), max_steps=6)
    first.train()
    assert first.left_out() == {"train_bad_images": 2}
    assert all(np.isfinite(entry["loss"]) for entry in first.state.log_history if "loss" in entry)
    # The first as soon as it was met, both at the end
    assert sum(record.name == "g4i_hf.data.images" for record in caplog.records) == 2
    assert "2 of 12 images cannot be read and are left out" in caplog.text
    assert f"'3' ({tmp_path}/images/3.png): no known image format" in caplog.text
    found = json.loads((tmp_path / "run" / "bad_images.json").read_text())
    assert [bad["image_id"] for bad in found] == ["3", "7"] and found[0]["file"] == f"{tmp_path}/images/3.png"
    second = made(max_steps=5)  # one batch of four is left
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert second.left_out() == {"train_bad_images": 2}


def test_an_evaluated_split_loses_the_row(tmp_path, caplog):
    readable, bad = readable_rows(corrupted(tmp_path, [0, 5]), "validation")
    assert readable["image_id"][:] == [str(row) for row in range(12) if row not in (0, 5)]
    assert [each["image_id"] for each in bad] == ["0", "5"]
    assert "Split 'validation': 2 of 12 images cannot be read and are left out: '0'" in caplog.text
    assert readable_rows(readable, "validation") == (readable, [])


# --- An error --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_an_error_that_names_it_and_too_many_are_one_in_any_case(tmp_path, vit, workers):
    options = ONE_STEP | {"per_device_train_batch_size": 12, "dataloader_num_workers": workers}
    data = CaptionedImages(corrupted(tmp_path, [3]), exact)
    with pytest.raises(BadImageError) as error:
        train(tmp_path, vit, data, **options)
    assert str(error.value) == (
        f"The image '3' ({tmp_path}/3.png) cannot be decoded (no known image format). Replace the file or "
        "remove the row, or leave such images out with --on_bad_images skip."
    )
    data = CaptionedImages(corrupted(tmp_path, list(range(11))), exact, on_bad_images="skip")
    with pytest.raises(BadImageError, match="11 of 12 images cannot be read, too many.*Is the folder"):
        train(tmp_path, vit, data, **options)


def test_a_jpeg_that_ends_early_is_noticed_when_it_is_decoded(tmp_path):
    split, path = split_of(tmp_path), tmp_path / "3.png"
    PILImage.open(path).resize((400, 400)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    transform = train_transform(AugmentationArguments(image_size=48))
    with pytest.raises(BadImageError, match="The image '3' .*truncated"):
        CaptionedImages(split, transform)[3]
    item = CaptionedImages(split, transform, on_bad_images="skip")[3]
    assert (item["labels"], float(item["caption_weight"].sum())) == (-100, 0) and "truncated" in item["bad_image"]
    assert item["pixel_values"].shape == (3, 48, 48)


@pytest.mark.slow
def test_training_on_two_processes_and_evaluation_of_a_folder_with_corrupt_images(tmp_path):
    for name, corrupt in (("train", [4]), ("validation", [2]), ("test", [1])):
        corrupted(tmp_path / "images" / name, corrupt)
        for row in range(12):
            place = tmp_path / "data" / name / "abcde"[row % 5]
            place.mkdir(exist_ok=True, parents=True)
            (tmp_path / "images" / name / f"{row}.png").rename(place / f"{row}.png")

    def run(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True)

    train = [ACCELERATE, "launch", *TWO_PROCESSES, "recipes/train.py", "--dataset_name", tmp_path / "data"]
    train += ["--output_dir", tmp_path / "run", "--align_weight", 0, "--use_cpu", "true", "--num_train_epochs", 2]
    train += ["--student", "vit_tiny_patch16_224", "--image_size", 32, "--per_device_train_batch_size", 4]
    train += ["--student_args", '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}']
    done = run(*train, "--on_bad_images", "skip")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 of 12 images cannot be read and are left out (" in done.stderr
    done = run(sys.executable, "recipes/evaluate.py", "--run", tmp_path / "run")  # the option is the run's
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert [results[f"{name}_bad_images"] for name in ("train", "validation", "test")] == [1, 1, 1]
    assert [results[f"{name}_samples"] for name in ("validation", "test")] == [11, 11]
