"""Statistics of a grid of trainings: a difference over seeds and images with its interval, and Holm's correction."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import sem
from scipy.stats import t as student_t


@dataclass
class Difference:
    """As fractions: mean, 95% interval, two-sided p value; in how many pairs of student and seed it was positive."""

    mean: float
    low: float
    high: float
    p: float
    positive: int
    seeds: int


def estimate_difference(gains: np.ndarray, clusters: np.ndarray) -> Difference:
    """
    A difference between two ways of training has three sources of chance: the seeds, the images (those of one thing,
    such as an emoji in several styles, are one cluster), and how this seed happens to do on that image. The variance
    of the mean is that of the seeds plus that of the clusters minus that of single cells, which is in both (two-way
    clustering; Cameron, Gelbach & Miller, 2011), never less than that of the clusters. The interval is Student's, with
    Satterthwaite's degrees of freedom.

    Args:
        gains: (S, n) what a seed gained on an image, such as right minus right of the baseline; over several students,
            the mean of theirs. Students of one seed may have much in common (which labels are kept, the order of the
            data), so that their seeds are no more seeds than those of one student.
        clusters: (n,) which cluster an image belongs to.

    Raises:
        ValueError: with fewer than two seeds or clusters.
    """
    from scipy import stats

    gains = np.asarray(gains, dtype=float)
    names, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    num_seeds, num_clusters, total = len(gains), len(names), len(index)
    if num_seeds < 2 or num_clusters < 2:
        raise ValueError("An interval needs two or more seeds, and two or more clusters of images.")
    sums = np.stack([np.bincount(index, weights=row) for row in gains])  # (S, C)
    mean = float(sums.sum() / (num_seeds * total))
    # Contributions to the mean: residuals of a ratio, as the number of images is by chance too
    rest = sums - mean * sizes
    of_seeds = np.var(rest.sum(1) / total, ddof=1) / num_seeds
    of_clusters = np.var(rest.mean(0) * num_clusters / total, ddof=1) / num_clusters
    cells = rest - rest.mean(0) - rest.mean(1, keepdims=True) + rest.mean()
    of_cells = (cells**2).sum() / ((num_seeds - 1) * (num_clusters - 1)) * num_clusters / (num_seeds * total**2)
    variance = max(of_seeds + of_clusters - of_cells, of_clusters, 1e-30)
    uncertain = of_seeds**2 / (num_seeds - 1) + of_clusters**2 / (num_clusters - 1)
    degrees = max(num_seeds - 1, variance**2 / max(uncertain, 1e-60))
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.975, degrees)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, degrees))
    return Difference(mean, mean - half, mean + half, p, int((gains.sum(1) > 0).sum()), num_seeds)


def holm(p_values: list[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979), in the same order."""
    p_values = np.asarray(p_values, dtype=float)
    order, number = np.argsort(p_values), len(p_values)
    corrected = np.empty(number)
    corrected[order] = np.maximum.accumulate((number - np.arange(number)) * p_values[order]).clip(max=1)
    return corrected.tolist()


@dataclass
class PairedSummary:
    """
    Of one measure over seeds, as fractions: means and standard deviations (n - 1) of both, and their mean paired
    difference with its 95% interval (Student's t over seeds).
    """

    baseline_mean: float
    baseline_sd: float
    aligned_mean: float
    aligned_sd: float
    difference: float
    low: float
    high: float


def paired_summary(baseline: list[float], aligned: list[float]) -> PairedSummary:
    """Compares values for each seed, in the same order. ValueError for fewer than two, or unequal numbers."""
    if len(baseline) != len(aligned) or len(baseline) < 2:
        raise ValueError(f"Two or more pairs are needed, but there are {len(baseline)} and {len(aligned)} values.")
    paired = np.subtract(aligned, baseline)
    mean, half = float(paired.mean()), student_t.ppf(0.975, len(paired) - 1) * sem(paired)
    return PairedSummary(*_mean_and_sd(baseline), *_mean_and_sd(aligned), mean, float(mean - half), float(mean + half))


def _mean_and_sd(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1))
