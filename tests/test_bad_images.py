"""One corrupt image in a million: an error that names it, or a row that is left out and reported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from students import aligned_model
from test_checkpoint import split_of
from tiny_training import ONE_STEP, train

from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.images import BadImageError, readable_rows
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments

CORRUPT = b"\x89PNG\r\n\x1a\n and no picture"


def exact(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((48, 48)), dtype=np.float64)).permute(2, 0, 1) / 255


def corrupted(folder: Path, corrupt: list[int]) -> Dataset:
    """12 rows with images in files, some of them corrupt."""
    split = split_of(folder)
    for number in corrupt:
        (folder / f"{number}.png").write_bytes(CORRUPT)
    return split


def test_rows_that_cannot_be_read_are_left_out_and_named_and_too_many_are_an_error(tmp_path, caplog):
    readable, bad = readable_rows(corrupted(tmp_path, [0, 5]), "validation")
    assert readable["image_id"][:] == [str(row) for row in range(12) if row not in (0, 5)]
    assert [each["image_id"] for each in bad] == ["0", "5"]
    assert "Split 'validation': 2 of 12 images cannot be read and are left out: '0'" in caplog.text
    assert readable_rows(readable, "validation") == (readable, [])
    with pytest.raises(BadImageError, match="11 of 12 images cannot be read, too many.*Is the folder"):
        readable_rows(corrupted(tmp_path, list(range(11))), "validation")


def test_a_corrupt_image_is_an_error_that_names_it(tmp_path):
    """Also where a process of its own reads images."""
    options = ONE_STEP | {"per_device_train_batch_size": 12, "dataloader_num_workers": 1}
    data = CaptionedImages(corrupted(tmp_path, [3]), exact)
    with pytest.raises(BadImageError) as error:
        train(tmp_path, aligned_model("vit").double(), data, **options)
    assert str(error.value) == (
        f"The image '3' ({tmp_path}/3.png) cannot be decoded (no known image format). Replace the file or "
        "remove the row, or leave such images out with --on_bad_images skip."
    )


def test_a_jpeg_that_ends_early_is_noticed_when_it_is_decoded(tmp_path):
    split, path = split_of(tmp_path), tmp_path / "3.png"
    PILImage.open(path).resize((400, 400)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImageError, match="The image '3' .*truncated"):
        CaptionedImages(split, train_transform(AugmentationArguments(image_size=48)))[3]
