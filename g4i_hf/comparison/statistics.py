"""
Differences between two ways of training, over seeds and images.

A difference has three sources of chance: the seeds, the images (those of one thing, such as an emoji in several
styles, are one cluster), and how this seed happens to do on that image. The variance of the mean is that of the seeds
plus that of the clusters minus that of single cells, which is in both (two-way clustering; Cameron, Gelbach & Miller,
2011), never less than that of the clusters. The interval is Student's, with Satterthwaite's degrees of freedom.
`bootstrap_interval` resamples seeds and clusters instead; it counts the chance of single cells up to three times
(Owen & Eckles, 2012) and is so wider than it should be.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Difference:
    """
    As fractions: mean, 95% interval, two-sided p value; in how many of the seeds (over several students: of the pairs
    of student and seed) it was positive; the interval by bootstrap.
    """

    mean: float
    low: float
    high: float
    p: float
    positive: int
    seeds: int
    bootstrap_low: float
    bootstrap_high: float


def estimate_difference(
    gains: np.ndarray, clusters: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """
    Args:
        gains: (S, n) what a seed gained on an image, such as right minus right of the baseline; over several students,
            the mean of theirs. Students of one seed may have much in common (which labels are kept, the order of the
            data), so that their seeds are no more seeds than those of one student.
        clusters: (n,) which cluster an image belongs to.
        resamples: draws of the bootstrap; 0 for none.
        seed: of the bootstrap.

    Raises:
        ValueError: with fewer than two seeds or clusters.
    """
    from scipy import stats

    sums, sizes = _by_cluster(gains, clusters)
    if len(sums) < 2 or len(sizes) < 2:
        raise ValueError("An interval needs two or more seeds, and two or more clusters of images.")
    mean = float(sums.sum() / (len(sums) * sizes.sum()))
    variance, degrees = _variance(sums, sizes)
    error = np.sqrt(variance)
    half = stats.t.ppf(0.975, degrees) * error
    p = float(2 * stats.t.sf(abs(mean) / error, degrees)) if error > 0 else float(mean == 0)
    low, high = bootstrap_interval(sums, sizes, resamples, seed) if resamples else (np.nan, np.nan)
    positive = int((sums.sum(1) > 0).sum())
    return Difference(mean, mean - half, mean + half, p, positive, len(sums), float(low), float(high))


def _by_cluster(gains: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (S, C) over the images of each cluster, and their number (C,)."""
    names, index = np.unique(clusters, return_inverse=True)
    index = index.reshape(-1)
    sums = np.stack([np.bincount(index, weights=row, minlength=len(names)) for row in np.asarray(gains, dtype=float)])
    return sums, np.bincount(index, minlength=len(names)).astype(float)


def _variance(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Variance of the mean over seeds and images, and its degrees of freedom."""
    total, (num_seeds, num_clusters) = sizes.sum(), sums.shape
    # Contributions to the mean: residuals of a ratio, as the number of images is by chance too
    rest = sums - sums.sum() / (num_seeds * total) * sizes
    of_seeds = np.var(rest.sum(1) / total, ddof=1) / num_seeds
    of_clusters = np.var(rest.mean(0) * num_clusters / total, ddof=1) / num_clusters
    cells = rest - rest.mean(0) - rest.mean(1, keepdims=True) + rest.mean()
    spread = (cells**2).sum() / ((num_seeds - 1) * (num_clusters - 1))
    of_cells = spread * num_clusters / (num_seeds * total**2)
    variance = max(of_seeds + of_clusters - of_cells, of_clusters, 1e-30)
    uncertain = of_seeds**2 / (num_seeds - 1) + of_clusters**2 / (num_clusters - 1)
    return float(variance), float(max(num_seeds - 1, variance**2 / max(uncertain, 1e-60)))


def bootstrap_interval(
    sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentiles over draws of seeds and clusters."""
    rng = np.random.default_rng(seed)
    num_seeds, num_clusters = sums.shape
    clusters = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=resamples)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples)
    drawn = ((seeds @ sums) * clusters).sum(1) / (num_seeds * (clusters @ sizes))
    tail = (1 - level) / 2
    return tuple(np.quantile(drawn, [tail, 1 - tail]))


def holm(p_values: list[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979), in the same order."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[place])
        corrected[place] = min(1.0, highest)
    return corrected.tolist()
