"""Paired comparison of runs over seeds."""

from dataclasses import asdict, dataclass

import numpy as np


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
    first, second = np.asarray(baseline, dtype=float), np.asarray(aligned, dtype=float)
    differences = second - first
    half = stats.t.ppf(0.975, len(first) - 1) * differences.std(ddof=1) / np.sqrt(len(first))
    return PairedSummary(
        seeds=len(first),
        baseline_mean=float(first.mean()),
        baseline_sd=float(first.std(ddof=1)),
        aligned_mean=float(second.mean()),
        aligned_sd=float(second.std(ddof=1)),
        difference=float(differences.mean()),
        low=float(differences.mean() - half),
        high=float(differences.mean() + half),
        improved=int((differences > 0).sum()),
    )
