"""How many rows are told right, estimated from labelled ones that were held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from .calibration import Calibration

# How far probabilities are too high for classes of which no label can be held out, and its standard deviation (three
# data sets)
TOO_HIGH, UNKNOWN = 0.25, 0.2


@dataclass
class Estimate:
    """A share in [0, 1], or a difference of two, and its 95% interval; None where it is unknown."""

    share: float
    interval: tuple[float, float] | None = None


@dataclass
class HeldOut:
    """
    Labelled rows, by models that were not fitted on their label: they tell how far probabilities are off.

    Attributes:
        probabilities: (m, C).
        labels: (m,) class indices.
        reviewed: (m,) whether a label is known to be right.
        weights: (m,), whose sum is 1. Each row counts as much as its class is frequent in all rows, since k labels of
            each class are no random sample.
        not_judged: share of all rows whose class has no row here.
        calibration: how labels are wrong.
        shares: of wrong labels: the estimate and the ends of its interval.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    reviewed: np.ndarray
    weights: np.ndarray
    not_judged: float
    calibration: Calibration
    shares: tuple[float, float, float]

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        posterior: np.ndarray,
        labels: np.ndarray,
        reviewed: np.ndarray,
        everywhere: np.ndarray,
        calibration: Calibration,
    ) -> HeldOut:
        """
        Args:
            posterior: (m, C) probabilities when the label is known too, which tell the class that a row counts for.
            everywhere: (n, C) probabilities of all rows.
        """
        frequency, counts = everywhere.mean(0, dtype=np.float64), posterior.sum(0, dtype=np.float64)
        weights = posterior @ (frequency / np.maximum(counts, 1e-9))
        missing = np.bincount(labels, minlength=len(frequency)) == 0
        # Views that have no example of a class think it rarer than it is; labels, of which it has few, may know better
        not_judged = max(frequency[missing].sum(), np.exp(calibration.log_prior[missing]).sum())
        shares = calibration.share, *calibration.interval
        return cls(probabilities, labels, reviewed, weights / weights.sum(), float(not_judged), calibration, shares)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a weighted mean."""
        return max(1 / (self.weights**2).sum() - 1, 1)

    def expected(self, predicted: np.ndarray, share: float) -> np.ndarray:
        """(m,) probability that the label is the predicted class (m,), where this share of labels is wrong."""
        return self.calibration.agreement(self.probabilities, predicted, share, self.reviewed)

    def error_of(self, residuals: np.ndarray, least: np.ndarray) -> float:
        """
        Standard error of the weighted mean of (m,) residuals: of at least the variance (m,) that the probabilities
        claim, and half a row, as few rows may all agree by chance.
        """
        variance = (self.weights * (residuals - (self.weights * residuals).sum()) ** 2).sum()
        variance = max(variance, (self.weights * least).sum()) + 0.5 / (self.freedom + 1)
        return float(np.sqrt(variance / self.freedom))


def accuracy_of(everywhere: np.ndarray, held_out: HeldOut) -> Estimate | None:
    """
    The accuracy over all rows (n, C): the mean probability of the most probable class, corrected by how far the
    agreement with held-out labels is from what these probabilities and wrong labels let expect (prediction-powered
    inference: Angelopoulos et al., arXiv 2301.09633).
    """
    if not len(held_out.labels):
        return None
    predicted = held_out.probabilities.argmax(1)
    agree = predicted == held_out.labels
    ends = []
    for share in held_out.shares:
        expected = held_out.expected(predicted, share)
        residuals = (agree - expected) / (1 - share)
        error = np.hypot(held_out.error_of(residuals, expected * (1 - expected)), UNKNOWN * held_out.not_judged)
        accuracy = (
            everywhere.max(1).mean(dtype=np.float64) + (1 - held_out.not_judged) * (held_out.weights * residuals).sum()
        )
        accuracy -= TOO_HIGH * held_out.not_judged
        half = student_t.ppf(0.975, held_out.freedom) * error
        ends.append((accuracy, accuracy - half, accuracy + half))
    accuracies, lows, highs = np.clip(np.array(ends).T, 0, 1)
    return Estimate(float(accuracies[0]), (float(lows.min()), float(highs.max())))
