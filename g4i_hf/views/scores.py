"""Views of a column of scores: class probabilities, percentages, votes or logits of another model."""

import json
import logging

import numpy as np
from datasets import Dataset
from scipy.special import softmax

from .. import columns
from ..data.checks import labels_of
from ..data.record import content_digest
from ..data.texts import values_of
from ..label_model import View
from .stages import Inputs, Maker, NewView

logger = logging.getLogger(__name__)

NOT_WHOLE = 0.01  # part by which the sum of a row may differ from that of the others: judgement, for rounded shares
ALMOST_ALL = 0.9  # of the rows show what the numbers are: judgement; of logits of real encoders, 12% have one sum
MOST_LOGITS = 100  # between the classes of an image: judgement; CLIP and SigLIP stay below 30
MANY_LAST = 4, 10  # labels with the lowest number, in times of those with the highest, and more: judgement
TINY = 1e-6  # below 0 or above 1 by rounding: about ten times the precision of float32


class Scores(Maker):
    """
    `scores:COLUMN`, (C,) probabilities, percentages, votes or other shares, or logits; null, NaN or zeros alone:
    unknown. ValueError for others.
    """

    def digests(self, images: Dataset) -> dict[str, str]:
        there = self.what in images.column_names
        return {f"the scores {self.what}": content_digest(json.dumps(images[self.what][:]).encode())} if there else {}

    def make(self, inputs: Inputs) -> NewView:
        split, num_labels, what = inputs.images, len(inputs.id2label), f"View {self.view!r} (views)"
        if self.what not in split.column_names:
            raise ValueError(f"{what}: the data has no such column. Its columns: {', '.join(split.column_names)}.")
        rows = [[np.nan] * num_labels if row is None else row for row in values_of(split, self.what)]
        for number, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != num_labels:
                given = f"{len(row)} numbers" if isinstance(row, list) else repr(row)[:40]
                wanted = (
                    f"a list of {num_labels} numbers is wanted, one a class in their order, those of labels.jsonl last"
                )
                raise ValueError(f"{what}, row {number}: {given}; {wanted}.")
        scores = np.array(rows, dtype=np.float64)
        has = np.isfinite(scores).all(1)
        if not np.isnan(scores[~has]).all():
            raise ValueError(
                f"{what}, row {np.flatnonzero(~has)[0]}: some numbers are NaN or infinite. Give null there."
            )

        def named(row: int) -> str:
            name = f" ({split[columns.IMAGE_ID][row]!r})" if columns.IMAGE_ID in split.column_names else ""
            return f"row {row}{name}"

        zeros = np.flatnonzero((scores == 0).all(1))
        if len(zeros):
            are = f"{len(zeros):,} of {len(scores):,} rows are all zeros and count as unknown"
            logger.warning("%s: %s, the first is %s.", what, are, named(int(zeros[0])))
            scores[zeros], has[zeros] = np.nan, False
        known, labels = np.flatnonzero(has), labels_of(split)[has]
        if fault := _fault_of_scores(scores[known], labels):
            row, why = fault
            numbers = ", ".join(f"{number:.4g}" for number in rows[known[row]][:5]) + ", ..." * (num_labels > 5)
            raise ValueError(f"{what}, {named(int(known[row]))}: {numbers}; {why}")
        scores[known] = _probabilities(scores[known])
        values = scores.astype(np.float32), np.eye(num_labels, dtype=np.float32)
        return NewView.of(self.view, View(*values, self_trains=False))


def _whole_of(scores: np.ndarray) -> float | None:
    """What almost all rows (n, C) sum to, be it 1, 100 or a number of votes; None where they are no shares."""
    whole = float(np.median(scores.sum(1))) if len(scores) else 0.0
    is_rounded = (scores == scores.round()).all()
    off = max(NOT_WHOLE * whole, np.sqrt(scores.shape[1]) if is_rounded else 0.0)
    are_shares = (scores.min(1) > -TINY) & (np.abs(scores.sum(1) - whole) <= off)
    return whole if len(scores) and are_shares.mean() >= ALMOST_ALL else None


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """(n, C). A row of shares counts by its own sum; numbers from 0 to 1 are shares too, as few logits would be."""
    if _whole_of(scores) is None and (scores.min(initial=0) < -TINY or scores.max(initial=0) > 1 + TINY):
        return softmax(scores, axis=1)
    shares = scores.clip(0)
    return shares / shares.sum(1, keepdims=True)


def _fault_of_scores(scores: np.ndarray, labels: np.ndarray) -> tuple[int, str] | None:
    """The row and the fault of numbers (n, C) that are no scores, with labels (n,), negative where unknown."""
    whole, lowest, highest = _whole_of(scores), scores.min(1), scores.max(1)
    if whole is not None:
        if len(odd := np.flatnonzero((lowest < -TINY) | (highest > whole * (1 + NOT_WHOLE) + 1))):
            return int(odd[0]), f"the other rows are shares that sum to {whole:.4g}. Correct it, or give null."
    elif len(scores) and lowest.min() >= 0 and np.median(highest - lowest) > MOST_LOGITS:
        why = "neither shares of a whole nor logits, which would be sure of every image. Give probabilities."
        return int(np.argmax(highest - lowest > MOST_LOGITS)), why
    given = np.flatnonzero(labels >= 0)
    of_label, ordered = scores[given, labels[given]], np.sort(scores[given], axis=1)
    is_last = (of_label == ordered[:, 0]) & (of_label < ordered[:, 1])
    times, more = MANY_LAST
    if is_last.sum() > times * (of_label == ordered[:, -1]).sum() + more:  # no honest scores, however bad
        where = f"the given label has the lowest number in {is_last.sum():,} of {len(given):,} labelled rows"
        return int(given[is_last.argmax()]), f"{where}. Higher must be likelier: negate distances."
    return None
