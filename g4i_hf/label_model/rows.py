"""The rows that a label model is fitted on: their order, folds, and which labels can be held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .views import View

FOLDS = 5
MOST_CALIBRATED = 10_000  # held-out rows that the calibration is fitted on
WHOLE = -1  # in place of a fold: the model that is fitted on all rows
KEPT = -3  # fold of an unlabelled row that no view learns from
ALONE = -2  # fold of the only labelled row of a class, which is never held out


@dataclass
class Rows:
    """N rows, in an order that depends on their ids alone."""

    order: np.ndarray  # (N,) number of each row in the caller's order
    labels: np.ndarray  # (N,) class indices; negative without a label
    folds: np.ndarray  # (N,) stratified by class, or `ALONE`. Unlabelled rows have other folds, from `FOLDS` on
    judged: np.ndarray  # numbers of the rows whose label is held out for calibration
    reviewed: np.ndarray  # (N,) whether the label is known to be right
    groups: np.ndarray  # (N,) equal for rows that are held out together

    @classmethod
    def of(
        cls,
        views: Mapping[str, View],
        labels: np.ndarray,
        seed: int,
        ids: Sequence | None,
        groups: Sequence | None,
        reviewed: np.ndarray | None,
        kept: np.ndarray | None = None,
    ) -> Rows:
        keys = _keys(ids if ids is not None else _contents(views), seed)
        order = np.lexsort((labels, keys))
        folds = _folds(labels[order], keys[order])
        group = np.arange(len(labels))
        if groups is not None:
            group, known = np.asarray(groups)[order], np.flatnonzero(labels[order] >= 0)
            _, first, inverse = np.unique(group[known], return_index=True, return_inverse=True)
            folds[known] = folds[known[first]][inverse]
        if kept is not None:
            folds[np.asarray(kept, dtype=bool)[order] & (labels[order] < 0)] = KEPT
        sure = np.zeros(len(labels), dtype=bool) if reviewed is None else np.asarray(reviewed, dtype=bool)
        return cls(order, labels[order], folds, np.zeros(0, dtype=np.int64), sure[order], group)

    @property
    def known(self) -> np.ndarray:
        return np.flatnonzero(self.labels >= 0)

    @property
    def unlabelled(self) -> np.ndarray:
        """Numbers of the rows without a label, except those that are kept."""
        return np.flatnonzero((self.labels < 0) & (self.folds != KEPT))

    def hold_out(self, is_named: np.ndarray, has_value: np.ndarray) -> None:
        """
        Args:
            is_named: (C,) whether every view has a name of the class, so that its only label can be held out.
            has_value: (N,) whether any view has a value of the row.
        """
        known = self.known
        with_value = known[has_value[known]]
        _, first = np.unique(np.stack([self.labels[with_value], self.groups[with_value]]), axis=1, return_index=True)
        can_be_held_out = is_named | (np.bincount(self.labels[with_value[first]], minlength=len(is_named)) > 1)
        alone = ~can_be_held_out[self.labels[known]]
        self.folds[known[alone]] = ALONE
        self.judged = np.sort(known[~alone & has_value[known]][:MOST_CALIBRATED])

    def in_order_of_caller(self, values: np.ndarray) -> np.ndarray:
        ordered = np.empty_like(values)
        ordered[self.order] = values
        return ordered


def _contents(views: Mapping[str, View]) -> list[bytes]:
    """A digest of the values of each row."""
    digests = [hashlib.blake2b(digest_size=8) for _ in next(iter(views.values())).values]
    for name in sorted(views):
        for digest, value in zip(digests, views[name].values, strict=True):
            digest.update(np.asarray(value, dtype=np.float32).tobytes())
    return [digest.digest() for digest in digests]


def _keys(ids: Sequence, seed: int) -> np.ndarray:
    """(N,) pseudo-random numbers that depend on the id and the seed alone."""
    salt = int(seed).to_bytes(8, "little", signed=True)
    keys = np.empty(len(ids), dtype=np.uint64)
    for row, name in enumerate(ids):
        content = name if isinstance(name, bytes) else str(name).encode()
        keys[row] = int.from_bytes(hashlib.blake2b(content, digest_size=8, salt=salt).digest(), "little")
    return keys


def _folds(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(N,) in turn along the rows of each class, from a fold that the first row decides."""
    folds = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label) if label >= 0 else np.flatnonzero(labels < 0)
        folds[rows] = (np.arange(len(rows)) + int(keys[rows[0]] % FOLDS)) % FOLDS + (0 if label >= 0 else FOLDS)
    return folds
