"""
Which images a classifier answers by itself, and which it leaves to a person: thresholds of its probability above which
so many answers are right.

A threshold is certain by a fixed-sequence test, learn then test (Angelopoulos et al., 2021, arXiv 2110.01052). There
are twenty candidates: the probabilities above which 5, 10, ... 100% of the images that judge are answered. The order
of the tests does not depend on labels. The first candidate is the one with which the probabilities alone
promise the highest lower bound of the precision; the others follow towards more answers. The threshold is the last one
before the first failure, so that all of them together are wrong in at most 5% of cases.

A test by labels compares the precision with the lower end of the one-sided 95% interval of a share (Clopper and
Pearson, 1934). It is of k answered images or, where several show one scene, of their effective number. So k is at
least log(0.05) / log(precision): 29 images for 90%, 59 for 95% and 299 for 99%.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import beta

from .estimate import accuracy_interval, effective_number

PRECISIONS = (0.9, 0.95, 0.99)
SHARES = np.arange(1, 21) / 20
LEVEL = 0.05
SIZES = (50, 100, 150, 200, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000)  # of samples that a person labels
HIGHEST_BY_PROBABILITIES = 0.95  # a precision that is certain without labels (results/decide.json: not one of 99%)
FEWEST_OF_CLASS = 10  # answered images that tell the precision of a class


@dataclass
class Point:
    """What is known of the answers above a threshold."""

    threshold: float
    share: float  # of all images that is answered
    images: float  # answered, the effective number
    expected: float  # precision, by probabilities alone
    precision: float  # judged
    low: float  # lower end of its one-sided 95% interval; 0 where nothing tells it
    worst_class: int | None = None  # the predicted class with the lowest precision
    worst_precision: float | None = None

    def precision_at_most(self, has_labels: bool) -> float:
        """Labels of the answered images are few, so that they only contradict what is clearly too high."""
        return upper_end(self.precision, self.images) if has_labels else self.precision


@dataclass
class Decision:
    """For an asked precision."""

    precision: float
    threshold: float | None  # None: no threshold is likely to reach it
    share: float | None = None  # of images that is answered
    interval: tuple[float, float] | None = None
    certain: bool = False  # otherwise by probabilities alone
    gold: int | None = None  # images of a random sample that would make it certain, where it is not

    def as_result(self) -> dict[str, Any]:
        return asdict(self)


Judged = Callable[[np.ndarray, float], tuple[float, float]]


def by_labels(right: np.ndarray, groups: np.ndarray | None = None) -> Judged:
    """The precision of answered images (n,) and its lower end, by whether each is right."""

    def judged(answered: np.ndarray, threshold: float) -> tuple[float, float]:
        share = float(right[answered].mean())
        return share, lower_end(share, effective_number(groups, answered))

    return judged


def lower_end(share: float, images: float) -> float:
    return float(beta.ppf(LEVEL, share * images, (1 - share) * images + 1)) if share > 0 else 0.0


def upper_end(share: float, images: float) -> float:
    return float(beta.ppf(1 - LEVEL, share * images + 1, (1 - share) * images)) if share < 1 else 1.0


def points(
    confidence: np.ndarray,
    expected: np.ndarray,
    predicted: np.ndarray,
    judged: Judged | None,
    groups: np.ndarray | None = None,
    right: np.ndarray | None = None,
) -> list[Point]:
    """
    A point for each share.

    Args:
        confidence: (n,) probabilities of the predicted classes (n,).
        expected: (n,) how likely each is right, without its label.
        judged: precision and lower end of answered images; None where nothing tells them.
        groups: (n,) the same for images of one scene.
        right: (n,) whether each is right, for the worst class; `expected` by default.
    """
    candidates, ordered = [], np.sort(confidence)[::-1]
    for number in np.ceil(SHARES * len(confidence)).astype(int):
        threshold = float(ordered[number - 1])
        answered = confidence >= threshold
        mean = float(expected[answered].mean())
        precision, low = judged(answered, threshold) if judged else (mean, 0.0)
        worst = _worst_class(predicted[answered], (expected if right is None else right)[answered])
        images = effective_number(groups, answered)
        candidates.append(Point(threshold, float(answered.mean()), images, mean, precision, low, *worst))
    return candidates


def _worst_class(predicted: np.ndarray, right: np.ndarray) -> tuple[int | None, float | None]:
    counts, sums = np.bincount(predicted), np.bincount(predicted, right)
    classes = np.flatnonzero(counts >= FEWEST_OF_CLASS)
    if len(classes) < 2:
        return None, None
    shares = sums[classes] / counts[classes]
    return int(classes[shares.argmin()]), float(shares.min())


def threshold_for(
    candidates: list[Point], precision: float, images: float, *, has_labels: bool = True, least: float = 0.0
) -> Decision:
    """
    The threshold for a precision; `images`: the effective number of all that judge, which have labels or are judged by
    probabilities that labels of other images rectify; `least`: the threshold for a lower precision.
    """
    promised = [lower_end(point.expected, point.images) for point in candidates]
    last, can_be_certain = None, has_labels or precision <= HIGHEST_BY_PROBABILITIES
    for point in candidates[int(np.argmax(promised)) :] if can_be_certain else []:
        if point.low < precision:
            break
        last = point
    is_certain = last is not None
    likely = [
        point
        for point in candidates
        if min(point.expected, point.precision_at_most(has_labels)) >= precision and point.threshold >= least
    ]
    chosen = last or (likely[-1] if likely else None)
    gold = None if is_certain else sample_that_would_do(candidates, precision)
    if chosen is None:
        return Decision(precision, None, gold=gold)
    return Decision(
        precision, chosen.threshold, chosen.share, accuracy_interval(chosen.share, images), is_certain, gold=gold
    )


def sample_that_would_do(candidates: list[Point], precision: float) -> int | None:
    """The size of a random sample, so that a test would mostly not fail; None where none would do."""
    for size in SIZES:
        for point in candidates:
            images = point.share * size
            unlucky = point.expected - np.sqrt(point.expected * (1 - point.expected) / images)
            if lower_end(float(unlucky), images) >= precision:
                return size
    return None
