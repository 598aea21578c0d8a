"""Accuracy over all rows, estimated from labelled rows that were held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from .calibration import Calibration

# Overconfidence for classes without a label, and for classes with one label where others have more; each with its
# standard deviation (three datasets)
NONE_TOO_HIGH, ONE_TOO_HIGH = (0.33, 0.2), (0.17, 0.15)


@dataclass
class Estimate:
    """A share in [0, 1], or a difference of two, and its 95% interval; None where it is unknown."""

    share: float
    interval: tuple[float, float] | None = None


@dataclass
class HeldOut:
    """Labelled rows, with probabilities by models that were not fitted on their label, to measure calibration."""

    probabilities: np.ndarray  # (m, C)
    labels: np.ndarray  # (m,) class indices
    reviewed: np.ndarray  # (m,) whether a label is known to be right
    # (m,), whose sum is 1. Each row counts in proportion to the frequency of its class in all rows, since k labels of
    # each class are not a random sample
    weights: np.ndarray
    single: float  # share of all rows whose class has a single label, which cannot be held out
    unknown: float  # share of all rows whose class has no label
    calibration: Calibration  # how labels are wrong
    shares: tuple[float, float, float]  # of wrong labels: the estimate and the ends of its interval

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        posterior: np.ndarray,
        labels: np.ndarray,
        reviewed: np.ndarray,
        counts: np.ndarray,
        everywhere: np.ndarray,
        calibration: Calibration,
    ) -> HeldOut:
        """
        Args:
            posterior: (m, C) probabilities given the label too, which decide the class that a row counts for.
            counts: (C,) labels of each class, including those that cannot be held out.
            everywhere: (n, C) probabilities of all rows.
        """
        frequency, of_class = everywhere.mean(0, dtype=np.float64), posterior.sum(0, dtype=np.float64)
        weights = posterior @ (frequency / np.maximum(of_class, 1e-9))
        missing = np.bincount(labels, minlength=len(frequency)) == 0
        # Views with few examples of a class underestimate its frequency
        by_labels = (counts + 2) / (counts.sum() + 2 * len(counts))
        single, unknown = (
            float(max(frequency[classes].sum(), by_labels[classes].sum()))
            for classes in (missing & (counts > 0), missing & (counts == 0))
        )
        return cls(
            probabilities,
            labels,
            reviewed,
            weights / weights.sum(),
            single,
            unknown * (1 - single),
            calibration,
            (calibration.share, *calibration.interval),
        )

    @property
    def judged(self) -> float:
        """Share of all rows whose class has a row here."""
        return max(1 - self.single - self.unknown, 0.0)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a weighted mean."""
        return max(1 / (self.weights**2).sum() - 1, 1)

    def residuals(self, predicted: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(m,) how much more often a predicted class is right than its probability says; and its probability."""
        expected, slope = self.calibration.agreement(self.probabilities, predicted, share, self.reviewed)
        return ((predicted == self.labels) - expected) / slope, expected

    def error_of(self, residuals: np.ndarray, least: np.ndarray) -> float:
        """
        Standard error of the weighted mean of (m,) residuals. The variance is at least the one (m,) that the
        probabilities imply, plus half a row, as few rows may all agree by chance.
        """
        variance = (self.weights * (residuals - (self.weights * residuals).sum()) ** 2).sum()
        variance = max(variance, (self.weights * least).sum()) + 0.5 / (self.freedom + 1)
        return float(np.sqrt(variance / self.freedom))


def accuracy_of(everywhere: np.ndarray, held_out: HeldOut) -> Estimate | None:
    """
    The accuracy over all rows (n, C): the mean probability of the most probable class, plus the mean residual of
    held-out rows (prediction-powered inference: Angelopoulos et al., arXiv 2301.09633).
    """
    if not len(held_out.labels):
        return None
    predicted = held_out.probabilities.argmax(1)
    judged, single, unknown = held_out.judged, held_out.single, held_out.unknown
    too_high = ONE_TOO_HIGH[0] * single * judged + NONE_TOO_HIGH[0] * unknown
    ends = []
    for share in held_out.shares:
        residuals, expected = held_out.residuals(predicted, share)
        errors = (
            held_out.error_of(residuals, expected * (1 - expected)),
            ONE_TOO_HIGH[1] * single,
            NONE_TOO_HIGH[1] * unknown,
        )
        accuracy = everywhere.max(1).mean(dtype=np.float64) + judged * (held_out.weights * residuals).sum() - too_high
        half = student_t.ppf(0.975, held_out.freedom) * np.linalg.norm(errors)
        ends.append((accuracy, accuracy - half, accuracy + half))
    accuracies, lows, highs = np.clip(np.array(ends).T, 0, 1)
    return Estimate(float(accuracies[0]), (float(lows.min()), float(highs.max())))
