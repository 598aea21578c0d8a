"""
Controls of studies: fewer, wrong or rare labels, or something else in place of captions. Writes a copy of a dataset
with its images, as Parquet files, whose split `train` is changed. The other splits stay as they are.

    python benchmarks/controls.py recipes/emoji_styles runs/few-labels --label_fraction 0.1
    python benchmarks/controls.py runs/captioned runs/shuffled --captions shuffle_class --seed 1
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, List, Value
from datasets.table import embed_table_storage

from g4i_hf import columns, load_images
from g4i_hf.data.checks import UNLABELLED, labels_of, with_labels
from g4i_hf.data.joining import NO_ROW, side_by_side
from g4i_hf.data.texts import Texts, caption_lists, numbered
from g4i_hf.embedding.embed import name_as_text

CAPTIONS = ("as they are", "class_name", "random", "shuffle_class", "shuffle")
KINDS = ("symmetric", "confusable")


def controlled(
    split: Dataset,
    seed: int,
    *,
    label_fraction: float = 1.0,
    label_noise_rate: float = 0.0,
    label_noise_kind: str = "symmetric",
    long_tail_factor: float = 1.0,
    captions: str = "as they are",
) -> Dataset:
    """A training split, whose `label` is a ClassLabel, after its controls: those of labels before that of captions."""
    split = with_long_tail(split, long_tail_factor, seed)
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


def with_long_tail(split: Dataset, factor: float, seed: int) -> Dataset:
    """
    Keeps of class k of C the share factor ** (-k / (C - 1)), of at least one row: the long tail of Cao et al. (2019,
    arXiv 1906.07413). Rows without a label stay.

    Args:
        split: rows with `image_id` and `label`.
        factor: images of the first class over those of the last, of classes of equal size.
    """
    labels = labels_of(split)
    classes = np.unique(labels[labels >= 0])
    if factor <= 1 or len(classes) < 2:
        return split
    kept = [np.flatnonzero(labels < 0)]
    for label, rows, _ in _ranked(split, labels, seed):
        share = factor ** (-label / max(classes.max(), 1))
        kept.append(rows[: max(1, int(share * len(rows) + 0.5))])
    return split.select(np.sort(np.concatenate(kept)))


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
    - `random`: a random unit vector for every distinct caption, which keeps its identity and loses its meaning.
    - `shuffle_class`: captions permuted among the rows of a class. Rows without a label get none.
    - `shuffle`: captions permuted among all rows.

    Args:
        split: with `caption` or `text_embeds`; with the latter for `random`.
        control: one of these, or `as they are`.
    """
    if control == CAPTIONS[0]:
        return split
    texts, labels = Texts.of(split), labels_of(split)
    if control == "random":
        return _with_random_vectors(split, texts, seed)
    is_there = texts.counts > 0 if texts else np.array(list(map(bool, caption_lists(split))))
    if control == "class_name":
        named = [name_as_text(class_names[label]) if label >= 0 else None for label in np.where(is_there, labels, -1)]
        gone = [name for name in (columns.CAPTION, *columns.OF_CAPTION) if name in split.column_names]
        return split.remove_columns(gone).add_column(columns.CAPTION, named, feature=Value("string"))
    groups = labels if control == "shuffle_class" else np.zeros_like(labels)
    return _shuffled(split, np.where(is_there, groups, NO_ROW), seed)


def _with_random_vectors(split: Dataset, texts: Texts | None, seed: int) -> Dataset:
    if texts is None:
        raise ValueError("captions is 'random', which needs captions that are embedded.")
    keys = numbered(texts.text_keys)
    generator, dim = np.random.default_rng(seed), texts.embeds.shape[1]
    vectors = np.empty((keys.max(initial=-1) + 1, dim), dtype=np.float16)
    for vector in vectors:
        drawn = generator.standard_normal(dim)
        vector[:] = drawn / np.linalg.norm(drawn)
    feature, is_there = split.features[columns.TEXT_EMBEDS], texts.counts > 0
    if isinstance(feature.feature, List):
        starts = pa.array(texts.starts, pa.int32())
        column = pa.ListArray.from_arrays(starts, _taken(vectors, keys), mask=pa.array(~is_there))
    else:
        of_rows = np.full(len(split), NO_ROW)
        of_rows[is_there] = keys
        column = _taken(vectors, of_rows)
    return split.remove_columns(columns.TEXT_EMBEDS).add_column(columns.TEXT_EMBEDS, column, feature=feature)


def _shuffled(split: Dataset, groups: np.ndarray, seed: int) -> Dataset:
    """Captions and the columns that belong to them, permuted within `groups` (rows,); none for a negative group."""
    generator = np.random.default_rng(seed)
    positions = np.full(len(split), NO_ROW)
    for group in np.unique(groups[groups >= 0]):
        rows = np.flatnonzero(groups == group)
        positions[rows] = generator.permutation(rows)
    of_texts = [name for name in (columns.CAPTION, *columns.OF_CAPTION) if name in split.column_names]
    return side_by_side(split, split.select_columns([columns.IMAGE_ID, *of_texts]), positions)


def _taken(vectors: np.ndarray, rows: np.ndarray) -> pa.Array:
    """Vectors (n, D) by row numbers (m,), as a column; null for a negative one."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return column.take(pa.array(rows, mask=rows < 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label_fraction", type=float, default=1.0, help="share of labels to keep in each class")
    parser.add_argument("--label_noise_rate", type=float, default=0.0, help="share of labels to make wrong")
    parser.add_argument("--label_noise_kind", default=KINDS[0], choices=KINDS)
    parser.add_argument("--long_tail_factor", type=float, default=1.0, help="size of the first class over the last")
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
