"""The builder of photographs: images of their makers, in the form in which these publish them, become datasets."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from loaded import PYTHON
from PIL import Image as PILImage
from scipy.io import savemat

from g4i_hf import load_images

RECIPE = Path(__file__).parent.parent / "recipes" / "photos"
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.slow  # scripts of a recipe, outside of the package


def picture(width: int, height: int) -> PILImage.Image:
    return PILImage.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def build(name: str, images: Path, output: Path, *words: str) -> subprocess.CompletedProcess:
    command = [PYTHON, str(RECIPE / "build.py"), name, "--images", str(images), "--output_dir", str(output)]
    return subprocess.run([*command, *words], capture_output=True, text=True)


def test_flowers_have_their_splits_and_captions(tmp_path):
    known = json.loads((RECIPE / "flowers102_splits.json").read_text())
    assert [len(known[split]) for split in ("class_names", "validation", "test", "left_out")] == [102, 1020, 923, 1020]
    images = tmp_path / "flowers"
    (images / "jpg").mkdir(parents=True)
    numbers = range(1, 41)
    for number in numbers:
        picture(100, 80).save(images / "jpg" / f"image_{number:05d}.jpg")
    savemat(images / "imagelabels.mat", {"labels": np.array([[number % 102 + 1 for number in numbers]])})
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": "image_00004", "caption": "a pink flower"}\n\n')
    done = build("flowers102", images, tmp_path / "out", "--captions", str(captions))
    assert done.returncode == 0, done.stderr
    found = load_images(tmp_path / "out")
    for split in ("validation", "test"):
        assert found[split]["image_id"][:] == [f"image_{number:05d}" for number in known[split] if number in numbers]
    assert sum(len(rows) for rows in found.values()) == 40 - sum(number in numbers for number in known["left_out"])
    first = found["train"].cast_column("image", Image())[0]
    assert (first["image_id"], first["label"], first["caption"]) == ("image_00004", 4, ["a pink flower"])
    assert first["image"].size == (80, 64) and found["train"].features["label"].names == known["class_names"]


def test_the_first_files_of_a_class_of_caltech_are_for_training(tmp_path):
    for name, number in (("Faces", 10), ("yin_yang", 5), ("BACKGROUND_Google", 3)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for file in range(number):
            picture(150, 200).save(tmp_path / "images" / name / f"image_{file + 1:04d}.jpg")
    done = build("caltech101", tmp_path / "images", tmp_path / "out")
    assert done.returncode == 0 and "train.parquet: 10 images" in done.stdout, done.stderr
    found = load_images(tmp_path / "out")
    assert found["train"]["image_id"][-1] == "yin_yang/image_0003" and len(found["test"]) == 5
    assert found["train"].features["label"].names == ["Faces", "yin yang"]
    assert found["train"].cast_column("image", Image())[0]["image"].size == (128, 171)


@pytest.mark.parametrize("column", ["img", "image"])
def test_official_splits_of_cifar_change_places(column, tmp_path):
    features = Features({column: Image(), "label": ClassLabel(num_classes=10)})
    columns = {column: [picture(32, 32) for _ in range(30)], "label": [row % 10 for row in range(30)]}
    split = Dataset.from_dict(columns, features=features)
    for name in ("train", "test"):
        (tmp_path / "images").mkdir(exist_ok=True)
        split.to_parquet(tmp_path / "images" / f"{name}.parquet")
    done = build("cifar10", tmp_path / "images", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = load_images(tmp_path / "out")
    assert {name: len(rows) for name, rows in found.items()} == {"train": 27, "validation": 3, "test": 30}
    assert found["validation"]["image_id"][:] == ["test/00009", "test/00019", "test/00029"]
    assert found["test"]["image_id"][:2] == ["train/airplane/0000", "train/airplane/0001"]
