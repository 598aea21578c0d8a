"""The same image twice, byte for byte: on one side of a hold-out, and said where splits share it or labels differ."""

import random
import shutil
from pathlib import Path

import pytest
from datasets import DatasetDict
from drawings import CLASSES, draw_folder, drawing

from g4i_hf import load_images
from g4i_hf.data.checks import labels_of
from g4i_hf.data.images import content_of
from g4i_hf.running import main


def images_of(splits: DatasetDict, name: str) -> list[bytes]:
    return [content_of(image) for image in splits[name]["image"]]


def copied(folder: Path, number: int, times: int) -> Path:
    """Drawings of three classes, each so many times under names that tell nothing."""
    rng = random.Random(0)
    for each in range(number):
        for _ in range(times):
            path = folder / "train" / CLASSES[each % 3] / f"{rng.randrange(10**9)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing(each).save(path)
    return folder


@pytest.mark.parametrize(("number", "times", "held_out"), [(36, 4, 8), (36, 1, 2), (9, 2, 2), (18, 3, 3)])
def test_equal_images_are_held_out_together(tmp_path, number, times, held_out):
    splits = load_images(copied(tmp_path, number, times), validation_fraction=0.15)
    assert not set(images_of(splits, "train")) & set(images_of(splits, "validation"))
    assert [(labels_of(splits["validation"]) == label).sum() for label in range(3)] == [held_out] * 3
    assert len(splits["train"]) + len(splits["validation"]) == number * times


def test_unlabelled_copies_go_along_and_images_of_several_classes_stay(tmp_path):
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=36)
    files = sorted((pictures / "train").rglob("*.png"))
    for number, path in enumerate(files):
        (pictures / "train" / "unlabelled").mkdir(exist_ok=True)
        shutil.copy(path, pictures / "train" / "unlabelled" / f"copy {number}.png")
    for number, path in enumerate((pictures / "train" / "circle").glob("*.png")):
        shutil.copy(path, pictures / "train" / "square" / f"copy {number}.png")
    splits = load_images(pictures, validation_fraction=0.15)
    assert not set(images_of(splits, "train")) & set(images_of(splits, "validation"))
    labels = labels_of(splits["validation"])
    assert (labels >= 0).sum() == (labels < 0).sum() > 0  # each with its unlabelled copy
    circles = {path.read_bytes() for path in (pictures / "train" / "circle").glob("*.png")}
    assert not circles & set(images_of(splits, "validation"))


def test_images_of_validation_that_are_in_train_are_counted_with_an_example_and_a_remedy(fitted, tmp_path, capsys):
    """By `fit` for its two splits and by `check` for all; equal images with different labels are counted too."""
    pictures = draw_folder(tmp_path / "pictures", train=36, validation=9, test=9)

    def copy(source: str, target: str) -> None:
        shutil.copy(pictures / source, pictures / target)

    def said_by_fit() -> list[str]:
        fitted(pictures, tmp_path / "out", dry_run=True)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("Equal images")]

    assert said_by_fit() == []
    copy("train/circle/0.png", "validation/circle/again.png")
    copy("train/cross/1.png", "validation/cross/again.png")
    copy("train/cross/1.png", "validation/cross/once more.png")
    (line,) = said_by_fit()
    assert "3 of 12 images of 'validation' are in 'train' too" in line
    assert "'circle/again.png' ('circle/0.png' there)" in line and "Remove them from 'validation'" in line
    copy("train/circle/0.png", "train/square/0 again.png")
    copy("train/circle/3.png", "validation/cross/3 again.png")
    said = "\n".join(said_by_fit())
    assert "2 images have several labels, such as " in said and "Correct them" in said
    assert "'circle/0.png' ('circle') and 'square/0 again.png' ('square')" in said
    copy("validation/circle/36.png", "test/circle/again.png")
    main(["check", str(pictures), "--check_dir", str(tmp_path / "check")])
    assert "1 of 10 images of 'test' are in 'validation' too" in capsys.readouterr().out
