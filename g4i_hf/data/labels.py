"""Training with few labels: a share of them is kept, the other rows stay as unlabelled images or are left out."""

import hashlib
import logging

import numpy as np
from datasets import Dataset

from .. import columns
from .values import values_of

logger = logging.getLogger(__name__)

UNLABELLED = -100


def labels_of(split: Dataset) -> np.ndarray:
    """(rows,) int64, -100 where a row has no label: null or negative, or no column at all."""
    if columns.LABEL not in split.column_names:
        return np.full(len(split), UNLABELLED)
    labels = values_of(split, columns.LABEL)
    return np.fromiter((UNLABELLED if label is None or label < 0 else label for label in labels), dtype=np.int64)


def with_labels(split: Dataset, labels: np.ndarray) -> Dataset:
    """The split with other labels (rows,) of the same feature; null where they are negative."""
    values = [label if label >= 0 else None for label in labels.tolist()]
    feature = split.features[columns.LABEL]
    return split.remove_columns(columns.LABEL).add_column(columns.LABEL, values, feature=feature)


def keep_label_fraction(split: Dataset, fraction: float, seed: int) -> Dataset:
    """
    Keeps the labels of a share of each class, rounded, of at least one row; the labels of the others become null.

    Rows are ranked by a hash of the seed and their `image_id`. So which are kept depends neither on the order of the
    rows nor on the other classes, and those of a smaller fraction are among those of a larger one.

    Args:
        split: rows with `image_id` and, where there are any, `label`. Unlabelled ones stay so and are not counted.
        fraction: in (0, 1].
        seed: another one keeps other labels.
    """
    labels = labels_of(split)
    if fraction >= 1 or not (labels >= 0).any():
        return split
    ranks = np.asarray([_rank(seed, image_id) for image_id in split[columns.IMAGE_ID][:]], dtype=np.uint64)
    kept = np.full(len(split), UNLABELLED)
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        count = max(1, int(fraction * len(rows) + 0.5))
        kept[rows[np.argsort(ranks[rows])[:count]]] = label
    logger.info(
        "label_fraction is %g: %d of %d labels of training are kept, the other rows are unlabelled.",
        *(fraction, (kept >= 0).sum(), (labels >= 0).sum()),
    )
    return with_labels(split, kept)


def labelled_rows(split: Dataset) -> Dataset:
    """
    The rows that have a label.

    Raises:
        ValueError: when none has.
    """
    rows = np.flatnonzero(labels_of(split) >= 0)
    if len(rows) == len(split):
        return split
    if not len(rows):
        raise ValueError("unlabelled is 'drop', but no row of the training split has a label. Set it to keep.")
    logger.info(
        "unlabelled is drop: %d of %d training rows are left, so that an epoch has fewer steps. max_steps sets their "
        "number, as for a run with all rows.",
        *(len(rows), len(split)),
    )
    return split.select(rows)


def _rank(seed: int, image_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {image_id}".encode(), digest_size=8).digest(), "little")
