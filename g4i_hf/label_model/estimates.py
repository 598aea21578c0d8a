"""How many rows are told right, estimated from labelled ones that were held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from .calibration import Calibration

UNKNOWN = 0.15  # standard deviation of how far probabilities are off for classes of which no label is held out


@dataclass
class Estimate:
    """A share in [0, 1] and its 95% interval; None where it is unknown."""

    share: float
    interval: tuple[float, float] | None = None


def accuracy_of(
    everywhere: np.ndarray,
    held_out: np.ndarray,
    posterior: np.ndarray,
    labels: np.ndarray,
    found: Calibration,
    shares: tuple[float, float, float],
    reviewed: np.ndarray,
) -> Estimate | None:
    """
    The accuracy over all rows: the mean probability of the most probable class, corrected by how far the agreement
    with held-out labels is from what these probabilities and wrong labels let expect (prediction-powered inference:
    Angelopoulos et al., arXiv 2301.09633). Each row counts as much as its class is frequent in all rows, since k
    labels of each class are no random sample.

    Args:
        everywhere: (n, C) probabilities of all rows.
        held_out: (m, C) of rows by models that were not fitted on their label.
        posterior: (m, C) the same when the label is known too, which tell the class that a row counts for.
        labels: (m,) class indices.
        found: how labels are wrong.
        shares: of wrong labels: the estimate and the ends of its interval.
        reviewed: (m,) whether a label is known to be right.
    """
    if not len(labels):
        return None
    frequency, counts = everywhere.mean(0, dtype=np.float64), posterior.sum(0, dtype=np.float64)
    weights = posterior @ (frequency / np.maximum(counts, 1e-9))
    weights /= weights.sum()
    not_judged = frequency[np.bincount(labels, minlength=len(frequency)) == 0].sum()
    agree = (held_out.argmax(1) == labels).astype(np.float64)
    freedom = max(1 / (weights**2).sum() - 1, 1)
    ends = []
    for share in shares:
        expected = found.agreement(held_out, share, reviewed)
        differences = (agree - expected) / (1 - share)
        off = (weights * differences).sum()
        # At least the variance that the probabilities claim, and half a row: few rows may all agree by chance
        variance = max((weights * (differences - off) ** 2).sum(), (weights * expected * (1 - expected)).sum())
        error = np.sqrt((variance + 0.5 / (freedom + 1)) / freedom + (UNKNOWN * not_judged) ** 2)
        accuracy = everywhere.max(1).mean(dtype=np.float64) + off
        half = student_t.ppf(0.975, freedom) * error
        ends.append((accuracy, accuracy - half, accuracy + half))
    accuracies, lows, highs = np.clip(np.array(ends).T, 0, 1)
    return Estimate(float(accuracies[0]), (float(lows.min()), float(highs.max())))
