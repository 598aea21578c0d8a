"""Intervals over images, the spread over seeds, and the paired comparison of runs with their baselines."""

from dataclasses import asdict, dataclass

import numpy as np


@dataclass
class Spread:
    """Of one measure over n seeds, as fractions: mean and standard deviation (n - 1)."""

    seeds: int
    mean: float
    sd: float


def spread(values: list[float]) -> Spread:
    """
    Raises:
        ValueError: with fewer than two seeds.
    """
    if len(values) < 2:
        raise ValueError(f"Two or more seeds are needed for a spread, but there is {len(values)}.")
    return Spread(len(values), float(np.mean(values)), float(np.std(values, ddof=1)))


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95% interval of an accuracy over images (Wilson, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@dataclass
class PairedSummary:
    """
    Of one measure over n seeds, as fractions: means and standard deviations (n - 1) of both, their mean paired
    difference with its 95% interval (Student's t over seeds), and how many seeds improved.
    """

    seeds: int
    baseline_mean: float
    baseline_sd: float
    aligned_mean: float
    aligned_sd: float
    difference: float
    low: float
    high: float
    improved: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def paired_summary(baseline: list[float], aligned: list[float]) -> PairedSummary:
    """
    Args:
        baseline, aligned: the measure for each seed, in the same order.

    Raises:
        ValueError: with fewer than two seeds, or lists of unequal length.
    """
    from scipy import stats

    if len(baseline) != len(aligned) or len(baseline) < 2:
        raise ValueError(f"Two or more pairs are needed, but there are {len(baseline)} and {len(aligned)} values.")
    first, second, paired = spread(baseline), spread(aligned), np.subtract(aligned, baseline)
    mean, half = float(paired.mean()), stats.t.ppf(0.975, len(paired) - 1) * stats.sem(paired)
    improved = int((paired > 0).sum())
    both = (first.mean, first.sd, second.mean, second.sd)
    return PairedSummary(len(paired), *both, mean, float(mean - half), float(mean + half), improved)
