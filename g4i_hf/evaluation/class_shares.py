"""The share of each class among images, where labels are of another mix and probabilities are those of a model."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from .. import priors

STEPS = 200  # of expectation maximisation
SAMPLES = 50  # other draws, for intervals
MOST_RESAMPLED = 5_000  # labelled rows in each


def class_shares(
    predicted: np.ndarray,
    probabilities: np.ndarray,
    truth: np.ndarray,
    counts: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """
    (C,) the share of each class among images. Their mean probabilities q have too little of classes with few labels.
    As labels and images may be of different mixes, q is a mixture of what each class is predicted as (Lipton et al.,
    arXiv 1802.03916),

        q_c = pi_c r_c + sum_{y != c} pi_y (1 - r_y) b_c / (1 - b_y)

    where pi are the shares, r_y is the mean probability of the right class y, and b that of wrong ones. The likeliest
    pi is found by expectation maximisation (Saerens et al., Neural Computation 14, 2002). It is shrunk towards q times
    r_c + (1 - r_c) n_c^(g - h): classes with few labels n that are not recognised are more frequent than q says. The
    exponents are those of q by n, h of all classes and g, from 0 to 1, of those that are recognised.

    Args:
        predicted: (C,) q.
        probabilities: (m, C) of labelled rows, by models that were not fitted on their label.
        truth: (m, C) probabilities of their true class, one-hot where labels are right.
        counts: (C,) labels of each class, including those that cannot be held out.
        weights: (m,) of the rows; by default 1.
    """
    predicted, truth = predicted.astype(np.float64) + 1e-9, truth.astype(np.float64)
    truth = truth if weights is None else truth * weights[:, None]
    right, wrong = recalls(probabilities.astype(np.float64), truth, counts)
    trend = (counts + priors.PSEUDO_COUNT) ** _change_of_exponent(predicted, right * truth.sum(0), counts)
    expected = predicted * (right + (1 - right) * trend / (predicted @ trend))
    shares = expected = expected / expected.sum()
    for _ in range(STEPS):
        elsewhere = shares * (1 - right) / (1 - wrong)
        explained = shares * right + wrong * (elsewhere.sum() - elsewhere)
        ratio = predicted / np.maximum(explained, 1e-12)
        of_others = (1 - right) / (1 - wrong) * ((wrong * ratio).sum() - wrong * ratio)
        likeliest = shares * (right * ratio + of_others)
        shares = (likeliest + priors.WEIGHT_OF_EXPECTED_SHARES * expected) / (1 + priors.WEIGHT_OF_EXPECTED_SHARES)
    return shares / shares.sum()


def share_intervals(
    everywhere: np.ndarray,
    probabilities: np.ndarray,
    truth: np.ndarray,
    counts: np.ndarray,
    seed: int,
    *,
    differ: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """
    The shares (C,) by (n, C) probabilities of images, and their 95% intervals (C, 2). These are by other draws of the
    images and of the labelled rows (Rubin, 1981), and wider for classes that are badly recognised. Where images
    `differ` from the labelled rows, these do not tell how well, and no class counts as recognised.
    """
    number, mean, rows = len(everywhere), everywhere.mean(0, dtype=np.float64), slice(MOST_RESAMPLED)
    shares, generator = class_shares(mean, probabilities, truth, counts), np.random.default_rng(seed)
    drawn = []
    for _ in range(SAMPLES):
        other, weights = (
            generator.multinomial(number, mean / mean.sum()) / number,
            generator.exponential(size=len(truth)),
        )
        drawn.append(class_shares(other, probabilities[rows], truth[rows], counts, weights[rows]))
    right, _ = recalls(probabilities, truth, counts)
    doubt = priors.DOUBT_OF_UNRECOGNISED * (1 - right * (not differ)) * (shares + 1 / len(shares))
    half = 1.96 * np.sqrt(np.var(drawn, axis=0) + doubt**2 + (priors.EXTRA_ROWS / number) ** 2)
    return shares, np.clip(np.stack([shares - half, shares + half], 1), 0, 1)


def recalls(probabilities: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) r, shrunk to a logistic function of the logarithm of the number of labels; and b, whose sum is 1."""
    number, own = truth.sum(0), (truth * probabilities).sum(0)
    has = number > 0
    seen, log_counts = own[has] / number[has], np.log(np.maximum(counts, priors.PSEUDO_COUNT))

    def loss(line: np.ndarray) -> float:
        return float(((expit(line[0] + line[1] * log_counts[has]) - seen) ** 2).sum())

    line = np.array([logit(np.clip(seen.mean(), 0.01, 0.99)) if has.any() else 0.0, 0.0])
    line = minimize(loss, line, bounds=[(None, None), (0, None)]).x
    expected = expit(line[0] + line[1] * log_counts)
    right = (own + priors.ROWS_OF_EXPECTED_RECALL * expected) / (number + priors.ROWS_OF_EXPECTED_RECALL)
    of_class = truth / np.maximum(number, 1e-9)  # each class counts once
    wrong = of_class.sum(1) @ probabilities - (of_class * probabilities).sum(0) + 1e-3
    return np.clip(right, 0.01, 0.999), np.minimum(wrong / wrong.sum(), 0.9)


def _change_of_exponent(predicted: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> float:
    """g - h, by regressions of log q on log n with weights (C,) and without; where these tell little, g is about 1."""
    x, y = np.log(counts + priors.PSEUDO_COUNT), np.log(np.maximum(predicted, priors.LEAST_SHARE))

    def slope(weights: np.ndarray, prior: float) -> float:
        centred, weights = x - np.average(x, weights=weights), weights / weights.sum()
        few = priors.VARIANCE_OF_FEW_COUNTS
        return float((weights @ (centred * y) + few * prior) / (weights @ centred**2 + few))

    of_all = slope(np.ones(len(x)), 1.0)
    return min(float(np.clip(slope(weights, 1.0), 0, 1)) - of_all, 0.0)
