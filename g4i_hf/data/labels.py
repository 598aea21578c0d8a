"""Labels of a split as an array, and back."""

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
