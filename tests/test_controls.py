"""Controls of studies, `benchmarks/controls.py`: few, wrong and rare labels; something else in place of captions."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf import load_images
from g4i_hf.data.checks import labels_of

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import controls
from controls import keep_label_fraction, with_captions, with_label_noise, with_long_tail

pytestmark = pytest.mark.slow  # of benchmarks/
DIM, UNEVEN, EVEN = 5, (40, 10, 3, 1), (20, 20, 20, 20)
NAMES = ["animal-bird", "hot_dog", "sky", "elk"]
CONTROLS = ["class_name", "random", "shuffle_class", "shuffle"]


def vector_of(text: str) -> np.ndarray:
    vector = np.random.default_rng(list(text.encode())).standard_normal(DIM)
    return vector / np.linalg.norm(vector)


def rows_of(labels: list, captions: list) -> Dataset:
    """Rows with ids id-0, ...; each caption has a vector of its own."""
    features = Features(
        image=Image(decode=False),
        label=ClassLabel(names=NAMES),
        image_id=Value("string"),
        caption=Value("string"),
        text_embeds=List(Value("float16"), length=DIM),
    )
    white = Image().encode_example(PILImage.new("RGB", (8, 8), "white"))
    columns = {"image": [white] * len(labels), "label": labels, "caption": captions}
    columns |= {"text_embeds": [caption and vector_of(caption) for caption in captions]}
    columns |= {"image_id": [f"id-{row}" for row in range(len(labels))]}
    return Dataset.from_dict(columns, features=features)


def sorted_rows(sizes: tuple[int, ...]) -> Dataset:
    """So many rows of each class, one class after the other, with two captions a class in turn."""
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    return rows_of(labels, [f"{label}, {row % 2}" for row, label in enumerate(labels)])


@pytest.fixture(scope="module")
def uneven() -> Dataset:
    return sorted_rows(UNEVEN)


@pytest.fixture(scope="module")
def even() -> Dataset:
    return sorted_rows(EVEN)


def counts(labels: np.ndarray) -> list[int]:
    return np.bincount(labels[labels >= 0], minlength=4).tolist()


def turned(split: Dataset) -> Dataset:
    return split.select(range(len(split))[::-1]).flatten_indices()


# --- Few labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0, [0, 0, 0, 0]), (0.01, [1, 1, 1, 1]), (0.1, [4, 1, 1, 1]), (0.5, [20, 5, 2, 1]), (1, list(UNEVEN))],
)
def test_each_class_keeps_its_share_of_labels_and_one_at_least(uneven, fraction, expected):
    labels, truth = labels_of(keep_label_fraction(uneven, fraction, seed=0)), labels_of(uneven)
    assert counts(labels) == expected and (labels[labels >= 0] == truth[labels >= 0]).all()


# --- Wrong labels ----------------------------------------------------------------------------------------------------


def noisy(split: Dataset, rate: float, seed: int = 0, kind: str = "symmetric") -> np.ndarray:
    found = with_label_noise(split, rate, seed, 4, kind)
    assert found.features == split.features and found["image_id"][:] == split["image_id"][:]
    return labels_of(found)


@pytest.mark.parametrize("kind", ["symmetric", "confusable"])
@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.05, 1), (0.24, 5), (0.5, 10), (0.95, 19)])
def test_of_each_class_that_share_of_labels_is_wrong(even, rate, expected, kind):
    truth, found = labels_of(even), noisy(even, rate, kind=kind)
    assert counts(truth[found != truth]) == [expected] * 4 and found.min() >= 0 and found.max() < 4
    rates = [noisy(even, each, kind=kind) for each in (0.1, 0.3, 0.8)]
    for fewer, more in zip(rates, rates[1:], strict=False):  # of a lower rate among those of a higher one
        assert (more == fewer)[fewer != truth].all()


def test_other_orders_of_the_rows_change_no_wrong_label_and_no_tail(even):
    """They are known by their ids."""
    for kind in ("symmetric", "confusable"):
        one, other = (with_label_noise(split, 0.4, 1, 4, kind) for split in (even, turned(even)))
        of_ids = [dict(zip(split["image_id"][:], labels_of(split).tolist(), strict=True)) for split in (one, other)]
        assert of_ids[0] == of_ids[1]
    assert set(with_long_tail(even, 8, 1)["image_id"]) == set(with_long_tail(turned(even), 8, 1)["image_id"])


# --- Rare classes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "expected"), [(1, [20] * 4), (8, [20, 10, 5, 3]), (20, [20, 7, 3, 1]), (1000, [20, 2, 1, 1])]
)
def test_classes_fall_off_exponentially(even, factor, expected):
    found = with_long_tail(even, factor, seed=0)
    assert counts(labels_of(found)) == expected and found.features == even.features
    assert found["image_id"][:] == sorted(found["image_id"][:], key=even["image_id"][:].index)


# --- Captions --------------------------------------------------------------------------------------------------------


def captioned(rows: int = 36) -> Dataset:
    """Three classes in turn, each with three captions of several rows. Row 0 has no caption, row 1 no label."""
    labels = [row % 3 for row in range(rows)]
    captions = [f"{label}, {row // 3 % 3}" for row, label in enumerate(labels)]
    captions[0], labels[1] = None, None
    return rows_of(labels, captions)


def controlled(split: Dataset, control: str, seed: int = 0) -> Dataset:
    after = with_captions(split, control, seed, NAMES)
    for name in ("image", "image_id", "label"):
        assert after[name][:] == split[name][:]
    return after


def same(values: list) -> np.ndarray:
    """(n, n) which are equal."""
    return np.asarray(values)[:, None] == np.asarray(values)


def assert_vectors_belong_to_captions(split: Dataset, vector=vector_of) -> None:
    for caption, found in zip(split["caption"][:], split["text_embeds"][:], strict=True):
        assert (caption is None) == (found is None)
        if caption is not None:
            np.testing.assert_allclose(found, vector(caption), atol=1e-3)


def test_captions_are_shuffled_within_their_class():
    split = captioned()
    after = controlled(split, "shuffle_class")
    for label in range(3):
        before, now = (Counter(row["caption"] for row in rows if row["label"] == label) for rows in (split, after))
        assert before == now
    assert_vectors_belong_to_captions(after)
    assert after["caption"][:] != split["caption"][:] and after["caption"][1] is None  # whose class is not known


# --- As a copy of a dataset ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS)
def test_the_copy_has_another_training_split_labels_first_and_its_images(tmp_path, monkeypatch, control):
    (tmp_path / "data").mkdir()
    sorted_rows(UNEVEN).to_parquet(tmp_path / "data" / "train.parquet")
    sorted_rows(EVEN).to_parquet(tmp_path / "data" / "validation.parquet")
    words = [tmp_path / "data", tmp_path / "copy", "--label_noise_rate", 0.5, "--long_tail_factor", 5]
    words += ["--label_fraction", 0.5, "--seed", 3, "--captions", control]
    monkeypatch.setattr(sys, "argv", ["controls.py", *map(str, words)])
    controls.main()
    splits = load_images(tmp_path / "copy")
    training, given = splits["train"], sorted_rows(UNEVEN)
    truth = dict(zip(given["image_id"], given["label"], strict=True))
    found, own = labels_of(training), np.asarray([truth[image_id] for image_id in training["image_id"][:]])
    # The tail of 40, 10, 3 and 1, then the labels that are kept, then those made wrong
    assert counts(own) == [40, 6, 1, 1] and counts(own[found >= 0]) == [20, 3, 1, 1]
    assert ((found >= 0) & (found != own)).sum() == 10 + 2 + 1 + 1
    captioned = np.asarray([caption is not None for caption in training["caption"][:]])
    assert (captioned == ((found >= 0) | (control in ("random", "shuffle")))).all()
    assert all(image["bytes"] for image in training["image"][:])
    assert labels_of(splits["validation"]).tolist() == labels_of(sorted_rows(EVEN)).tolist()
    assert splits["validation"]["caption"][:] == sorted_rows(EVEN)["caption"][:]
