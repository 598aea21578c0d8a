"""
Whether new images differ from those that a classifier was fitted on, and how right it is expected to be there.

The test compares means of features (Gretton et al., JMLR 13, 2012, with a linear kernel), such that another mix of the
classes is no difference. It leaves out the directions in which the means of the classes differ: in the others any mix
has the same mean. And it weighs images by the new shares of their classes. Weights alone would do, but a part of the
images that differs would then be found less often. The null distribution is that of the deviations from the means with
random signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from .. import priors
from .class_shares import recalls
from .estimate import Estimate


@dataclass
class Comparison:
    """`p_value` of a difference that no mix of the classes explains."""

    p_value: float
    scores: np.ndarray  # (n,) the more an image differs, the larger

    @property
    def differs(self) -> bool:
        return self.p_value < priors.ALPHA_OF_NEW_IMAGES


def axes_of(features: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The mean (F,) of features, and axes (F, K): the principal components of what varies within classes. Each is divided
    by the root of its variance plus the mean variance, as small variances are not well known.

    Args:
        features: (m, F).
        classes: (m, C) probabilities.
    """
    mean = features.mean(0, dtype=np.float64)
    centred, of_class = features - mean, np.maximum(classes.sum(0), 1e-6)[:, None]
    within = centred - classes @ (classes.T @ centred / of_class)
    number = max(min(priors.COMPARED_COMPONENTS, len(features) // 4, features.shape[1]), 1)
    variances, components = np.linalg.eigh(within.T @ within / len(features))
    variances, components = np.maximum(variances[::-1][:number], 0), components[:, ::-1][:, :number]
    return mean.astype(np.float32), (components / np.sqrt(variances + variances.mean() + 1e-12)).astype(np.float32)


def compared(values: np.ndarray, classes: np.ndarray, new: np.ndarray, shares: np.ndarray) -> Comparison:
    """
    Args:
        values: (m, K) features along the axes of [`axes_of`], of the images that the classifier was fitted on.
        classes: (m, C) probabilities of their classes.
        new: (n, K) of new images.
        shares: (C,) estimated shares of the classes among these.
    """
    values, new = values.astype(np.float64), new.astype(np.float64)
    of_class = classes.sum(0, dtype=np.float64)
    weights = classes @ (shares / np.maximum(of_class, 1.0))  # none of a class with a fraction of an image
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(values), 1 / len(values))
    means = classes.T @ values / np.maximum(of_class, 1e-6)[:, None]
    means = (means - values.mean(0)) * np.sqrt(of_class / len(values))[:, None]
    _, spread, directions = np.linalg.svd(means, full_matrices=False)
    directions = directions[spread > 1e-3 * max(spread[0], 1e-12)][: values.shape[1] // 2]  # the other half compares
    values, new = (each - each @ directions.T @ directions for each in (values, new))
    mean, generator = weights @ values, np.random.default_rng(0)
    difference = new.mean(0) - mean
    deviations = np.concatenate([(new - new.mean(0)) / len(new), (values - mean) * weights[:, None]])
    signs = generator.choice([-1.0, 1.0], (priors.DRAWS_OF_SIGNS, len(deviations)))
    larger = ((signs @ deviations) ** 2).sum(1) >= difference @ difference
    return Comparison((1 + int(larger.sum())) / (1 + len(larger)), (new - mean) @ difference)


def expected_accuracy(
    accuracy: Estimate,
    predicted: np.ndarray,
    truth: np.ndarray,
    counts: np.ndarray,
    shares: np.ndarray,
    intervals: np.ndarray,
    number: int,
) -> Estimate:
    """
    The accuracy on `number` new images, if their mix of classes alone is another one. It is the known one, moved by
    the differences of the shares times the recalls r of the classes,

        theta + sum_c (pi_c - pi'_c) r_c

    The interval adds the errors of both terms, and that of an accuracy over so few images.

    Args:
        accuracy: theta, on images like those that judge.
        predicted: (k, C) probabilities of images that the classifier has not learned, and `truth`, of their classes.
        counts: (C,) labels of each class.
        shares: (C,) pi of the new images, with 95% `intervals` (C, 2).
    """
    truth = truth.astype(np.float64)
    hits = np.eye(predicted.shape[1])[predicted.argmax(1)]
    recall, _ = recalls(hits, truth, counts)
    change = shares - truth.mean(0)
    share = float(np.clip(accuracy.share + change @ recall, 0, 1))
    of_shares = (intervals[:, 1] - intervals[:, 0]) / (2 * norm.ppf(priors.LEVEL))
    of_recalls = recall * (1 - recall) / (truth.sum(0) + priors.ROWS_OF_EXPECTED_RECALL)
    variance = (of_shares**2) @ (recall - share) ** 2 + change**2 @ of_recalls + share * (1 - share) / number
    low, high = (abs(share_of - accuracy.share) for share_of in accuracy.interval or (0.0, 1.0))
    below, above = (float(np.hypot(each, norm.ppf(priors.LEVEL) * np.sqrt(variance))) for each in (low, high))
    return Estimate(share, (max(share - below, 0.0), min(share + above, 1.0)))
