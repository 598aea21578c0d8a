"""
Controls of studies: fewer or wrong labels, or something else in place of captions. Writes a copy of a dataset
with its images, as Parquet files, whose split `train` is changed. The other splits stay as they are.

    python benchmarks/controls.py recipes/emoji_styles runs/few-labels --label_fraction 0.1
    python benchmarks/controls.py runs/captioned runs/shuffled --captions shuffle --seed 1
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Value
from datasets.table import embed_table_storage

from g4i_hf import columns, load_images
from g4i_hf.data.checks import UNLABELLED, labels_of, with_labels
from g4i_hf.data.joining import NO_ROW, side_by_side
from g4i_hf.data.texts import Texts, caption_lists
from g4i_hf.embedding.embed import name_as_text

CAPTIONS = ("as they are", "class_name", "shuffle")
KINDS = ("symmetric", "confusable")


def controlled(
    split: Dataset,
    seed: int,
    *,
    label_fraction: float = 1.0,
    label_noise_rate: float = 0.0,
    label_noise_kind: str = "symmetric",
    captions: str = "as they are",
) -> Dataset:
    """A training split, whose `label` is a ClassLabel, after its controls: those of labels before that of captions."""
    split = keep_label_fraction(split, label_fraction, seed)
    names = split.features[columns.LABEL].names
    split = with_label_noise(split, label_noise_rate, seed, len(names), label_noise_kind)
    return with_captions(split, captions, seed, names)


def save(splits: DatasetDict, folder: str | Path) -> None:
    Path(folder).mkdir(parents=True)
    for name, split in splits.items():
        split = split.with_format("arrow").map(embed_table_storage, batched=True, batch_size=100)
        split.to_parquet(Path(folder) / f"{name}.parquet")


# --- Labels ----------------------------------------------------------------------------------------------------------


def keep_label_fraction(split: Dataset, fraction: float, seed: int) -> Dataset:
    """
    Keeps the labels of a share of each class, rounded, of at least one row; the others become null. Of a share of 0,
    all become null.

    Rows are ranked by a hash of the seed and their `image_id`: the choice depends neither on the order of the rows nor
    on other classes, and labels of a smaller fraction are among those of a larger one.

    Args:
        split: rows with `image_id`, and perhaps `label`. Unlabelled ones are not counted.
        fraction: in [0, 1].
    """
    labels = labels_of(split)
    if fraction >= 1 or not (labels >= 0).any():
        return split
    kept = np.full(len(split), UNLABELLED)
    for label, rows, _ in _ranked(split, labels, seed):
        kept[rows[: max(1, int(fraction * len(rows) + 0.5)) if fraction else 0]] = label
    return with_labels(split, kept)


def with_label_noise(split: Dataset, rate: float, seed: int, num_labels: int, kind: str = "symmetric") -> Dataset:
    """
    Makes a share of the labels of each class wrong, drawn as in [`keep_label_fraction`]: the wrong labels of a lower
    rate are among those of a higher one.

    Args:
        split: rows with `image_id` and `label`; with `text_embeds` for `confusable`.
        rate: share of the labels, in [0, 1).
        kind: `symmetric`, any other class with equal probability; or `confusable`, the class with the nearest mean of
            text embeddings.
    """
    labels = labels_of(split)
    if rate <= 0 or not (labels >= 0).any():
        return split
    likely = _most_alike(split, labels, num_labels) if kind == "confusable" else None
    found = labels.copy()
    for label, rows, ranks in _ranked(split, labels, seed):
        wrong = int(rate * len(rows) + 0.5)
        shift = 1 + (ranks[:wrong] >> np.uint64(8)) % np.uint64(num_labels - 1)  # 1 to C - 1
        found[rows[:wrong]] = (label + shift.astype(np.int64)) % num_labels if likely is None else likely[label]
    return with_labels(split, found)


def _ranked(split: Dataset, labels: np.ndarray, seed: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Label, rows in the order of their ranks, and ranks of each class: uint64 of the seed and `image_id` alone."""
    texts = [f"{seed} {image_id}".encode() for image_id in split[columns.IMAGE_ID][:]]
    hashes = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    ranks = np.frombuffer(b"".join(hashes), dtype="<u8")
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(ranks[rows])]
        yield label, rows, ranks[rows]


def _most_alike(split: Dataset, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(C,) for each class the other one with the nearest mean of text embeddings, by cosine."""
    texts = Texts.of(split, "mean")
    if texts is None:
        raise ValueError("label_noise_kind is 'confusable', which needs captions that are embedded.")
    rows = np.flatnonzero((texts.counts > 0) & (labels >= 0))
    means = np.zeros((num_labels, texts.embeds.shape[1]), dtype=np.float32)
    for label in np.unique(labels[rows]):
        means[label] = texts.embeds[texts.starts[rows[labels[rows] == label]]].astype(np.float32).mean(0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    alike = means @ means.T
    np.fill_diagonal(alike, -np.inf)
    alike[:, ~np.isin(np.arange(num_labels), labels[rows])] = -np.inf  # classes without captions
    return alike.argmax(1)


# --- Captions --------------------------------------------------------------------------------------------------------


def with_captions(split: Dataset, control: str, seed: int, class_names: list[str]) -> Dataset:
    """
    Replaces captions, to separate what they say from other effects. Rows without a caption stay without.

    - `class_name`: the name of the row's class, still to be embedded. Rows without a label get none.
    - `shuffle`: captions permuted among all rows.

    Args:
        split: with `caption` or `text_embeds`.
        control: one of these, or `as they are`.
    """
    if control == CAPTIONS[0]:
        return split
    texts = Texts.of(split)
    is_there = texts.counts > 0 if texts else np.array(list(map(bool, caption_lists(split))))
    of_captions = [name for name in (columns.CAPTION, *columns.OF_CAPTION) if name in split.column_names]
    if control == "class_name":
        labels = np.where(is_there, labels_of(split), UNLABELLED)
        named = [name_as_text(class_names[label]) if label >= 0 else None for label in labels]
        return split.remove_columns(of_captions).add_column(columns.CAPTION, named, feature=Value("string"))
    positions, rows = np.full(len(split), NO_ROW), np.flatnonzero(is_there)
    positions[rows] = np.random.default_rng(seed).permutation(rows)
    return side_by_side(split, split.select_columns([columns.IMAGE_ID, *of_captions]), positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label_fraction", type=float, default=1.0, help="share of labels to keep in each class")
    parser.add_argument("--label_noise_rate", type=float, default=0.0, help="share of labels to make wrong")
    parser.add_argument("--label_noise_kind", default=KINDS[0], choices=KINDS)
    parser.add_argument("--captions", default=CAPTIONS[0], choices=CAPTIONS)
    controls = vars(parser.parse_args())
    splits, folder = load_images(controls.pop("dataset_name")), controls.pop("folder")
    training = controlled(splits["train"], **controls)
    for name, split in splits.items():  # names of classes are not embedded, and Parquet files have the same columns
        splits[name] = split.select_columns([each for each in split.column_names if each in training.column_names])
    splits["train"] = training
    save(splits, folder)


if __name__ == "__main__":
    main()
