"""Controls of studies, `benchmarks/controls.py`: few and wrong labels; something else in place of captions."""

import sys
from pathlib import Path

import make
import numpy as np
import pytest
from datasets import Dataset

from g4i_hf import load_images
from g4i_hf.data.checks import labels_of

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import controls
from controls import with_label_noise

pytestmark = pytest.mark.slow  # of benchmarks/
UNEVEN, EVEN = (40, 10, 3, 1), (20, 20, 20, 20)
NAMES = ["animal-bird", "hot_dog", "sky", "elk"]


def sorted_rows(sizes: tuple[int, ...]) -> Dataset:
    """So many rows of each class, one class after the other, with two captions a class in turn."""
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    captions = [f"{label}, {row % 2}" for row, label in enumerate(labels)]
    vectors = {text: make.unit(np.random.default_rng(list(text.encode())).normal(size=5)) for text in captions}
    return make.rows(
        len(labels), NAMES, label=labels, caption=captions, text_embeds=[vectors[text] for text in captions]
    )


def counts(labels: np.ndarray) -> list[int]:
    return np.bincount(labels[labels >= 0], minlength=4).tolist()


def turned(split: Dataset) -> Dataset:
    return split.select(range(len(split))[::-1]).flatten_indices()


@pytest.mark.parametrize("kind", ["symmetric", "confusable"])
@pytest.mark.parametrize(("rate", "expected"), [(0.05, 1), (0.24, 5), (0.95, 19)])
def test_of_each_class_that_share_of_labels_is_wrong(rate, expected, kind):
    split = sorted_rows(EVEN)
    truth, found = labels_of(split), labels_of(with_label_noise(split, rate, 0, 4, kind))
    assert counts(truth[found != truth]) == [expected] * 4 and found.min() >= 0 and found.max() < 4


def test_other_orders_of_the_rows_change_no_wrong_label():
    """They are known by their ids."""
    even = sorted_rows(EVEN)
    for kind in ("symmetric", "confusable"):
        one, other = (with_label_noise(split, 0.4, 1, 4, kind) for split in (even, turned(even)))
        of_ids = [dict(zip(split["image_id"][:], labels_of(split).tolist(), strict=True)) for split in (one, other)]
        assert of_ids[0] == of_ids[1]


@pytest.mark.parametrize("control", ["class_name", "shuffle"])
def test_the_copy_has_another_training_split_labels_first_and_its_images(tmp_path, monkeypatch, control):
    (tmp_path / "data").mkdir()
    sorted_rows(UNEVEN).to_parquet(tmp_path / "data" / "train.parquet")
    sorted_rows(EVEN).to_parquet(tmp_path / "data" / "validation.parquet")
    words = [tmp_path / "data", tmp_path / "copy", "--label_noise_rate", 0.5]
    words += ["--label_fraction", 0.5, "--seed", 3, "--captions", control]
    monkeypatch.setattr(sys, "argv", ["controls.py", *map(str, words)])
    controls.main()
    splits = load_images(tmp_path / "copy")
    training, given = splits["train"], sorted_rows(UNEVEN)
    truth = dict(zip(given["image_id"], given["label"], strict=True))
    found, own = labels_of(training), np.asarray([truth[image_id] for image_id in training["image_id"][:]])
    # The labels that are kept, of which some are made wrong
    assert counts(own) == list(UNEVEN) and counts(own[found >= 0]) == [20, 5, 2, 1]
    assert ((found >= 0) & (found != own)).sum() == 10 + 3 + 1 + 1
    captioned = np.asarray([caption is not None for caption in training["caption"][:]])
    assert (captioned == ((found >= 0) | (control == "shuffle"))).all()
    assert all(image["bytes"] for image in training["image"][:])
    assert labels_of(splits["validation"]).tolist() == labels_of(sorted_rows(EVEN)).tolist()
    assert splits["validation"]["caption"][:] == sorted_rows(EVEN)["caption"][:]
