"""
Accuracy, and the difference of two accuracies, where few images have a label and some labels are wrong.

This is prediction-powered inference (Angelopoulos et al., Science 382, 2023, arXiv 2301.09633). For each image the
label model gives the probability that the classifier is right. Labelled rows that were not fitted on their label
rectify the mean of these probabilities (cross-fitting: Zrnic and Candes, arXiv 2309.16598):

    theta   = mean(f) + J g mean(r) - B
    error^2 = var(a) / N + g V(r) + K^2 (s^2 + 0.15^2) + 0.20^2 L^2

- f_i is the probability p_ic of the class c that is predicted for image i of N; a_i is 1 where that is right, else 0.
  So var(a) = mean(f) - mean(f)^2. For a difference of two classifiers, f, a and r are differences.
- r_j = ([y_j = c] - (1 - e) p_jc - e q_jc) / (1 - e), for a labelled row j. Its label y_j is noisy with probability e,
  and then has the distribution q_j, as in [`~g4i_hf.label_model.LabelModel`]. Several e, the ends of an
  interval, give the union of their intervals.
- mean(r) is weighted. A row counts in proportion to the share of its class (class_shares.py), as k labels of each
  class are not a random sample. V(r) = (var(r) + 0.5 / n) / (n - 1) is the squared error of the mean of n effective
  rows, n = 1 / sum_j w_j^2 (Kish, 1965). As few rows may all agree by chance, half a row is added, and var(r) is at
  least the variance that the probabilities imply.
- s is the standard deviation of the bias of mean(f) on other datasets. The correction is shrunk by
  g = s^2 / (s^2 + V(r)), like a posterior mean. Without this prior g is 1, and s^2 in the error is 0. It is left out
  where labelled rows had views that other images lack, as then any bias is likely.
- J, K and L are the estimated shares of images whose class has such a row, labels of which none can be held out, and
  no label. The error takes J for 1. Where other classes have more labels, the model is overconfident for the last two:
  B = 0.17 J K + 0.33 L, or 0 for a difference. If no row at all can be held out, theta = mean(f), and the error has
  var(a) / N and s^2 alone.

The 95% interval is that of Student's distribution with 20 degrees of freedom, theta +- 2.09 error; with n - 1 of
fewer rows that judge themselves. Both accuracies then move, in proportion to their intervals, until their difference
is the estimated one.

Where no view has names of all classes, images without a label may be of another mix than the labels without a sign of
it. Then the interval by them also holds the mean over classes of how often each is recognised: the accuracy if all are
as frequent.

Images of one scene are not independent. Where there are groups, each V is that of a ratio of sums over groups: a group
is one row, with the sum of their weights and their mean. Both n and N are effective numbers of groups, and Student's
distribution has n - 1 degrees of freedom, at most 20.

Where a person labelled a random sample of n images, these labels count. The probabilities f of the sample and of the N
other images only make the interval narrower, by power tuning (PPI++: Angelopoulos et al., arXiv 2311.01453):

    theta       = mean(a) + l (mean_N(f) - mean_n(f))
    n error^2   = var(a - l f) (n - 1) / (n - 2) + l^2 var_N(f) n / N
    l           = cov(a, f) / ((1 + n / N) var(f)), from 0 to 1

It is the mean of the sample alone, l = 0, where the other error is not smaller. Half a row is added to the variances,
as above. By the ratio of both errors the sample counts as a larger one in the interval of Wilson (1927) for an
accuracy, and of Student for a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from .. import priors
from ..linear import one_hot
from .class_shares import class_shares, recalls

HELPED, HURT, CANNOT_TELL = "helped", "hurt", "cannot tell"


@dataclass
class Estimate:
    """A share in [0, 1], or a difference of two, and its 95% interval; None where it is unknown."""

    share: float
    interval: tuple[float, float] | None = None

    @property
    def error(self) -> float:
        """The standard error, by the interval."""
        low, high = self.interval
        return (high - low) / float(2 * norm.ppf(priors.LEVEL))


@dataclass
class Judgement:
    accuracies: dict[str, Estimate]  # by name of the classifier
    difference: Estimate | None = None  # accuracy of the second classifier minus that of the first; None without both
    judges: int = 0  # images, or groups of them

    @property
    def verdict(self) -> str | None:
        """The effect of what the second classifier has learned more; None without both."""
        if self.difference is None:
            return None
        if self.judges < priors.MIN_JUDGES:
            return CANNOT_TELL
        low, high = self.difference.interval
        return HELPED if low > 0 else HURT if high < 0 else CANNOT_TELL


@dataclass
class HeldOut:
    """Labelled rows, with probabilities by models that were not fitted on their label."""

    probabilities: np.ndarray  # (m, C) p
    labels: np.ndarray  # (m,) y, class indices
    noise: np.ndarray  # (S, m) e, of each row for S shares of wrong labels: the estimate first
    if_noisy: np.ndarray  # (m, C) q
    weights: np.ndarray  # (m,) w, whose sum is 1
    single: float = 0.0  # K
    unknown: float = 0.0  # L
    groups: np.ndarray | None = None  # (m,) the same for rows of one scene; None: each is one
    have_more: bool = False  # whether they had views that images to judge lack, when `probabilities` were calibrated
    # Where the mix of the images is unknown: (m, C) probabilities of the true class, and (C,) labels of each class
    of_classes: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        labels: np.ndarray,
        noise: np.ndarray,
        if_noisy: np.ndarray,
        posterior: np.ndarray,
        counts: np.ndarray,
        everywhere: np.ndarray,
    ) -> HeldOut:
        """
        Args:
            posterior: (m, C) probabilities given the label too, which decide the class that a row counts for.
            counts: (C,) labels of each class, including those that cannot be held out.
            everywhere: (n, C) probabilities of all rows.
        """
        frequency = class_shares(everywhere.mean(0, dtype=np.float64), probabilities, posterior, counts)
        of_class = posterior.sum(0, dtype=np.float64)
        weights = posterior @ (frequency / np.maximum(of_class, 1e-9))
        missing = np.bincount(labels, minlength=len(frequency)) == 0
        # Views with few examples of a class underestimate its frequency
        by_labels = (counts + priors.PSEUDO_COUNT) / (counts.sum() + priors.PSEUDO_COUNT * len(counts))
        single, unknown = (
            float(max(frequency[classes].sum(), by_labels[classes].sum()))
            for classes in (missing & (counts > 0), missing & (counts == 0))
        )
        return cls(probabilities, labels, noise, if_noisy, weights / weights.sum(), single, unknown * (1 - single))

    def recall(self, predicted: np.ndarray) -> float:
        """How often predicted classes (m,) are right if all classes are as frequent; see [`recalls`]."""
        truth, counts = self.of_classes
        right, _ = recalls(one_hot(predicted, len(counts)).astype(np.float64), truth.astype(np.float64), counts)
        return float(right.mean())

    @property
    def freedom(self) -> float:
        """Of Student's distribution: independent groups less one."""
        of_groups, _ = _by_group(self.groups, self.weights)
        return min(priors.DEGREES_OF_FREEDOM, max(1 / (of_groups @ of_groups) - 1, 1))

    def residuals(self, predicted: np.ndarray) -> np.ndarray:
        """(2, S, m): r of predicted classes (m,), and its variance by the probabilities."""
        places = np.arange(len(predicted)), predicted
        by_model = (1 - self.noise) * self.probabilities[places] + self.noise * self.if_noisy[places]
        variance = by_model * (1 - by_model) / (1 - self.noise) ** 2
        return np.stack([((predicted == self.labels) - by_model) / (1 - self.noise), variance])


@dataclass
class Expected:
    """How likely a classifier is right, by probabilities of models that were fitted on none of these images."""

    of_sample: np.ndarray  # (n,) f of the images with a correct label
    of_others: np.ndarray  # (N,) f of other images, of which they are a random sample

    def __sub__(self, other: Expected) -> Expected:
        return Expected(self.of_sample - other.of_sample, self.of_others - other.of_others)


def judged_by_labels(
    predicted: Mapping[str, np.ndarray],
    labels: np.ndarray,
    expected: Mapping[str, Expected] | None = None,
    groups: np.ndarray | None = None,
) -> Judgement:
    """
    By (n,) correct labels. `predicted`: (n,) classes by name, of one classifier or of two; `expected`: by name;
    `groups`: (n,) the same for images of one scene.
    """
    expected = expected if expected and len(labels) >= priors.MIN_POWER_TUNED else {}
    right = {name: (classes == labels).astype(np.float64) for name, classes in predicted.items()}
    accuracies = {}
    for name, each in right.items():
        mean, gain = _power_tuned(each, expected.get(name))
        interval = accuracy_interval(mean, len(labels) / gain / _design_effect(each, groups), _freedom(groups))
        accuracies[name] = Estimate(min(max(mean, 0.0), 1.0), interval)
    if len(right) == 1:
        return Judgement(accuracies, judges=_number(groups, len(labels)))
    (one, first), (other, second) = right.items()
    of_both = expected[other] - expected[one] if len(expected) == 2 else None
    difference = _estimate_of_difference(second - first, of_both, groups)
    judgement = Judgement(accuracies, difference, _number(groups, len(labels)))
    if of_both:
        _make_consistent(judgement)
    return judgement


def _power_tuned(values: np.ndarray, expected: Expected | None) -> tuple[float, float]:
    """theta of (n,) values, and its squared error relative to that of their mean, at most 1."""
    number, mean, extra = len(values), float(values.mean()), priors.EXTRA_ROWS / len(values)
    if expected is None:
        return mean, 1.0
    of_sample, of_others, ratio = expected.of_sample, expected.of_others, number / len(expected.of_others)
    spread = (1 + ratio) * np.concatenate([of_sample, of_others]).var()
    power = float(np.clip(np.cov(values, of_sample, ddof=0)[0, 1] / max(spread, 1e-12), 0, 1))
    rest = (values - power * of_sample).var() * (number - 1) / (number - 2) + power**2 * of_others.var() * ratio
    gain = float((rest + extra) / (values.var() + extra))
    return (mean + power * float(of_others.mean() - of_sample.mean()), gain) if gain < 1 else (mean, 1.0)


def accuracy_interval(accuracy: float, images: float, freedom: float = np.inf) -> tuple[float, float]:
    """The 95% interval of an accuracy over images (Wilson, 1927), with Student's quantile for few groups."""
    quantile = norm.ppf(priors.LEVEL) if np.isinf(freedom) else student_t.ppf(priors.LEVEL, freedom)
    share, squared = min(max(accuracy, 0.0), 1.0), quantile**2 / images
    middle, half = share + squared / 2, np.sqrt(share * (1 - share) * squared + squared**2 / 4)
    ends = np.clip([(middle - half) / (1 + squared), (middle + half) / (1 + squared)], 0, 1)
    return float(ends[0]), float(ends[1])


def difference_interval(difference: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """
    The 95% interval of a mean over images, for (n,) differences of two classifiers on the same images; `groups`: (n,)
    the same for images of one scene. It is Student's, with half an observation more, as few images may all agree by
    chance.
    """
    return _estimate_of_difference(difference, groups=groups).interval


def _estimate_of_difference(
    difference: np.ndarray, expected: Expected | None = None, groups: np.ndarray | None = None
) -> Estimate:
    mean, gain = _power_tuned(difference, expected)
    _, variance = _mean(difference, np.full(len(difference), 1 / len(difference)), groups=groups)
    freedom = min(max(len(difference) - 1, 1), _freedom(groups))
    half = float(student_t.ppf(priors.LEVEL, freedom) * np.sqrt(gain * variance))
    return Estimate(mean, (max(mean - half, -1.0), min(mean + half, 1.0)))


def accuracy_of(everywhere: np.ndarray, held_out: HeldOut) -> Estimate | None:
    """How often the most probable class of (n, C) probabilities is right; None without a labelled row."""
    if not len(held_out.labels):
        return None
    mean = float(everywhere.max(1).mean(dtype=np.float64))
    residuals = held_out.residuals(held_out.probabilities.argmax(1))
    return _estimate(mean, mean * (1 - mean) / len(everywhere), held_out, residuals)


def judged_by_probabilities(
    predicted: Mapping[str, np.ndarray],
    probabilities: np.ndarray,
    held_out: HeldOut | None = None,
    of_held_out: Mapping[str, np.ndarray] | None = None,
    groups: np.ndarray | None = None,
) -> Judgement:
    """
    From images without a label, whose mean probability the labelled rows rectify.

    Args:
        predicted: (n,) classes by name, of one classifier or of two.
        probabilities: (n, C) by a label model that was not fitted on these images.
        held_out: labelled rows, by the label model; None: no class has labels of two images.
        of_held_out: (m,) classes of these rows by name, of classifiers that were not fitted on them.
        groups: (n,) the same for images of one scene.
    """
    seen = of_held_out if held_out is not None and of_held_out else {}
    places, number = np.arange(len(probabilities)), _independent(groups, len(probabilities))
    right = {name: probabilities[places, classes].astype(float) for name, classes in predicted.items()}
    residuals = {name: held_out.residuals(classes) for name, classes in seen.items()}
    is_free = bool(seen) and held_out.have_more
    judgement = Judgement({}, judges=_number(groups, len(probabilities)))
    for name, of_images in right.items():
        mean = float(of_images.mean())
        spread = None if is_free else priors.PRIOR_STD_BIAS * max(1 - mean, priors.MIN_EXPECTED_ERROR)
        variance = mean * (1 - mean) / number
        judgement.accuracies[name] = _estimate(mean, variance, held_out, residuals.get(name), spread)
    if len(predicted) == 2:
        first, second = predicted
        differ = predicted[first] != predicted[second]
        mean = float((right[second] - right[first]).mean())
        variance = float((differ * (right[second] + right[first])).mean() - mean**2) / number
        expected = max(float(differ.mean()), priors.MIN_EXPECTED_ERROR)
        spread = None if is_free else priors.PRIOR_STD_BIAS_OF_DIFFERENCE * expected
        of_rows = None
        if len(residuals) == 2:
            (one, least), (other, of_other) = residuals[second], residuals[first]
            of_rows = np.stack([one - other, (least + of_other) * (seen[first] != seen[second])])
        judgement.difference = _estimate(mean, variance, held_out, of_rows, spread, is_difference=True)
        _make_consistent(judgement)
    if seen and held_out.of_classes is not None:
        _hold_even_classes(judgement, {name: held_out.recall(classes) for name, classes in seen.items()})
    return judgement


def _hold_even_classes(judgement: Judgement, recall: Mapping[str, float]) -> None:
    """Widen intervals to hold the accuracies if all classes are as frequent, by name."""
    for name, share in recall.items():
        judgement.accuracies[name] = _holding(judgement.accuracies[name], share)
    if judgement.difference is not None:
        first, second = recall.values()
        judgement.difference = _holding(judgement.difference, second - first)


def _holding(estimate: Estimate, share: float) -> Estimate:
    low, high = estimate.interval
    return Estimate(estimate.share, (min(low, share), max(high, share)))


def judged_in_turn(predicted: Mapping[str, np.ndarray], held_out: HeldOut) -> Judgement:
    """
    From labelled rows alone, whose labels may be wrong. `predicted`: (m,) classes by name, of one classifier or of
    two that were not fitted on these rows. They are the images too, so the error is that of f + r.
    """
    rows = np.arange(len(held_out.labels))
    right = [held_out.probabilities[rows, each] + held_out.residuals(each)[0] for each in predicted.values()]
    accuracies = {name: _estimate_in_turn(each, held_out) for name, each in zip(predicted, right, strict=True)}
    judgement = Judgement(accuracies, judges=_number(held_out.groups, len(rows)))
    if len(right) == 2:
        judgement.difference = _estimate_in_turn(right[1] - right[0], held_out, is_difference=True)
    return judgement


def _estimate_in_turn(right: np.ndarray, held_out: HeldOut, *, is_difference: bool = False) -> Estimate:
    """`right`: (S, m) f + r."""
    mean = float(right[0] @ held_out.weights)
    residuals = np.stack([right - mean, 0 * right])
    return _estimate(mean, 0.0, held_out, residuals, freedom=held_out.freedom, is_difference=is_difference)


def _estimate(
    mean: float,
    variance: float,
    held_out: HeldOut | None,
    residuals: np.ndarray | None,
    spread: float | None = None,
    *,
    freedom: float | None = None,
    is_difference: bool = False,
) -> Estimate:
    """`mean` of f, `variance`: var(a) / N, `residuals`: (2, S, m), see [`HeldOut.residuals`], `spread`: s."""
    judged, single, unknown, of_single, rectifiers = 0.0, 1.0, 0.0, 0.0, [(0.0, 0.0)]
    if held_out is not None and residuals is not None:
        single, unknown, of_single = held_out.single, held_out.unknown, priors.STD_OF_ONE_LABEL
        judged = max(1 - single - unknown, 0.0)
        given = held_out.weights, held_out.groups
        rectifiers = [_mean(of_rows, given[0], least, given[1]) for of_rows, least in zip(*residuals, strict=True)]
        freedom = freedom or (None if _are_single(held_out.groups) else held_out.freedom)
    of_one, of_none = priors.OVERCONFIDENCE_OF_ONE_LABEL, priors.OVERCONFIDENCE_WITHOUT_LABEL
    too_high = 0.0 if is_difference else of_one * judged * single + of_none * unknown
    variance += single**2 * ((spread or 0) ** 2 + of_single**2) + (priors.STD_WITHOUT_LABEL * unknown) ** 2
    shares, errors = [], []
    for rectifier, squared_error in rectifiers:
        gain = 1.0 if spread is None else spread**2 / (spread**2 + squared_error)
        shares.append(mean + judged * gain * rectifier - too_high)
        errors.append(np.sqrt(variance + gain * squared_error))
    half = student_t.ppf(priors.LEVEL, freedom or priors.DEGREES_OF_FREEDOM) * np.array(errors)
    ends = np.array([shares[0], (shares - half).min(), (shares + half).max()])
    share, low, high = np.clip(ends, -1 if is_difference else 0, 1).tolist()
    return Estimate(share, (low, high))


def _mean(
    values: np.ndarray,
    weights: np.ndarray,
    least: np.ndarray | float = 0.0,
    groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """
    The mean of (m,) values, and V, its squared error; `least` (m,): variances by the probabilities. Rows of one of the
    `groups` (m,) count as one row, their mean.
    """
    mean = float(weights @ values)
    weights, (values, least) = _by_group(groups, weights, values, np.broadcast_to(least, np.shape(values)))
    number = 1 / (weights @ weights)
    variance = max(weights @ (values - mean) ** 2, (weights * least).sum()) + priors.EXTRA_ROWS / number
    return mean, float(variance / max(number - 1, 1))


# --- Groups ----------------------------------------------------------------------------------------------------------


def _are_single(groups: np.ndarray | None) -> bool:
    return groups is None or len(np.unique(groups)) == len(groups)


def _by_group(
    groups: np.ndarray | None, weights: np.ndarray, *values: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The weights (g,) of groups, and the weighted means of each of the values (m,) in them."""
    if _are_single(groups):
        return weights, values
    _, places = np.unique(groups, return_inverse=True)
    of_groups = np.bincount(places, weights)
    return of_groups, tuple(np.bincount(places, weights * each) / np.maximum(of_groups, 1e-12) for each in values)


def _number(groups: np.ndarray | None, rows: int) -> int:
    return rows if groups is None else len(np.unique(groups))


def _independent(groups: np.ndarray | None, rows: int) -> float:
    """The effective number of groups, where all rows weigh the same (Kish, 1965)."""
    of_groups, _ = _by_group(groups, np.full(rows, 1 / rows))
    return rows if _are_single(groups) else float(1 / (of_groups @ of_groups))


def effective_number(groups: np.ndarray | None, chosen: np.ndarray) -> float:
    """Of independent images among the `chosen` ones (n,), which is True or False for each."""
    return _independent(None if groups is None else groups[chosen], int(chosen.sum()))


def _freedom(groups: np.ndarray | None) -> float:
    return np.inf if _are_single(groups) else float(max(_number(groups, 0) - 1, 1))


def _design_effect(values: np.ndarray, groups: np.ndarray | None) -> float:
    """The squared error of the mean of (n,) values, relative to that of as many independent ones; at least 1."""
    if _are_single(groups):
        return 1.0
    number, extra = len(values), priors.EXTRA_ROWS / _independent(groups, len(values))
    _, clustered = _mean(values, np.full(number, 1 / number), groups=groups)
    return max(clustered * (number - 1) / float(values.var() + extra), 1.0)


def _make_consistent(judgement: Judgement) -> None:
    """Move both accuracies, in proportion to their intervals, until their difference is the estimated one."""
    first, second = judgement.accuracies.values()
    widths = [(each.interval[1] - each.interval[0]) ** 2 for each in (first, second)]
    missing = judgement.difference.share - (second.share - first.share)
    part = widths[1] / max(sum(widths), 1e-12)
    for estimate, moved in ((second, missing * part), (first, -missing * (1 - part))):
        ends = np.clip(np.array([estimate.share, *estimate.interval]) + moved, 0, 1)
        estimate.share, *interval = ends.tolist()
        estimate.interval = tuple(interval)
    judgement.difference.share = second.share - first.share
