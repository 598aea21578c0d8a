"""Accuracies of two classifiers on new images, and which is better: estimates with 95% intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

from ..label_model.calibration import NONE_TOO_HIGH, ONE_TOO_HIGH, Estimate, HeldOut
from ..names import LABELS_ONLY, WITH_VIEWS

HELPED, HURT, CANNOT_TELL = "helped", "hurt", "cannot tell"
LEVEL = 0.975
LEAST_DOUBT = 0.02  # minimum expected error, however confident the probabilities are


@dataclass(frozen=True)
class Prior:
    """Errors of the estimates on other datasets (benchmarks/coverage.py)."""

    # by how much the accuracy is underestimated, relative to the estimated error; `spread` its standard deviation
    low: float = 0.0
    spread: float = 0.22
    # standard deviation of an estimated difference, relative to the share of differing predictions
    of_difference: float = 0.11
    freedom: int = 20  # degrees of freedom of Student's distribution

    def of(self, low: float, spread: float, doubt: float) -> tuple[float, float, int]:
        doubt = max(doubt, LEAST_DOUBT)
        return low * doubt, spread * doubt, self.freedom


PRIOR = Prior()


@dataclass
class Judgement:
    accuracies: dict[str, Estimate]  # by name of the classifier
    difference: Estimate | None = None  # accuracy with views minus accuracy on labels only; None without both

    @property
    def verdict(self) -> str | None:
        """The effect of views on the classifier; None without a classifier on labels only."""
        if self.difference is None:
            return None
        low, high = self.difference.interval
        return HELPED if low > 0 else HURT if high < 0 else CANNOT_TELL


def judged_by_labels(predicted: Mapping[str, np.ndarray], labels: np.ndarray) -> Judgement:
    """By (n,) correct labels. `predicted`: (n,) classes by name of the classifier."""
    right = {name: (classes == labels).astype(np.float64) for name, classes in predicted.items()}
    shares = {name: float(classes.mean()) for name, classes in right.items()}
    judgement = Judgement(
        {name: Estimate(each, accuracy_interval(each, len(labels))) for name, each in shares.items()}
    )
    if len(right) == 2:
        difference = right[WITH_VIEWS] - right[LABELS_ONLY]
        judgement.difference = Estimate(float(difference.mean()), difference_interval(difference))
    return judgement


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95% interval of an accuracy over images (Wilson, 1927)."""
    interval = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(difference: np.ndarray) -> tuple[float, float]:
    """
    The 95% interval of a mean over images, for (n,) differences of two classifiers on the same images. It is
    Student's, with half an observation more, as few images may all agree by chance.
    """
    number, mean = len(difference), float(difference.mean())
    deviation = np.sqrt((difference.var() + 0.5 / (number + 1)) / number)
    half = float(student_t.ppf(LEVEL, max(number - 1, 1)) * deviation)
    return max(mean - half, -1.0), min(mean + half, 1.0)


def judged_by_probabilities(
    predicted: Mapping[str, np.ndarray],
    probabilities: np.ndarray,
    held_out: HeldOut | None = None,
    of_held_out: Mapping[str, np.ndarray] | None = None,
    prior: Prior = PRIOR,
) -> Judgement:
    """
    From unlabelled images: the mean probability of the predicted classes, corrected by labelled rows that were held
    out (prediction-powered inference: Angelopoulos et al., arXiv 2301.09633; cross-fitted: Zrnic and Candes, arXiv
    2309.16598). The correction is shrunk towards that of other datasets, which is used alone if no label can be held
    out.

    Args:
        predicted: (n,) classes by name of the classifier.
        probabilities: (n, C) by a label model that was not fitted on these images.
        held_out: labelled rows, by the label model; None: no class has labels of two images.
        of_held_out: (m,) classes of these rows, by name of the classifier.
        prior: from other datasets.
    """
    rows = np.arange(len(probabilities))
    right = {name: probabilities[rows, classes].astype(np.float64) for name, classes in predicted.items()}
    by_labels = (
        {name: _Residuals.of(held_out, classes) for name, classes in (of_held_out or {}).items()} if held_out else {}
    )
    judgement = Judgement({})
    for name, values in right.items():
        mean = float(values.mean())
        usual = prior.of(prior.low, prior.spread, 1 - mean)
        judgement.accuracies[name] = _corrected(
            mean, mean * (1 - mean) / len(rows), usual, held_out, by_labels.get(name)
        )
    if len(right) == 2:
        one, other = right[WITH_VIEWS], right[LABELS_ONLY]
        differ = predicted[WITH_VIEWS] != predicted[LABELS_ONLY]
        mean, usual = float((one - other).mean()), prior.of(0, prior.of_difference, float(differ.mean()))
        variance = float((differ * (one + other)).mean() - mean**2) / len(rows)
        residuals = by_labels[WITH_VIEWS] - by_labels[LABELS_ONLY] if len(by_labels) == 2 else None
        judgement.difference = _corrected(mean, variance, usual, held_out, residuals, is_difference=True)
        _make_consistent(judgement)
    return judgement


def _make_consistent(judgement: Judgement) -> None:
    """Move both accuracies, in proportion to their intervals, until their difference is the estimated one."""
    ends = {name: np.array(judgement.accuracies[name].interval) for name in (LABELS_ONLY, WITH_VIEWS)}
    widths = {name: float(np.diff(interval)[0]) ** 2 for name, interval in ends.items()}
    one, other = (judgement.accuracies[name] for name in (WITH_VIEWS, LABELS_ONLY))
    missing = judgement.difference.share - (one.share - other.share)
    part = widths[WITH_VIEWS] / max(sum(widths.values()), 1e-12)
    for estimate, moved in ((one, missing * part), (other, -missing * (1 - part))):
        share, low, high = (float(np.clip(end + moved, 0, 1)) for end in (estimate.share, *estimate.interval))
        estimate.share, estimate.interval = share, (low, high)
    judgement.difference.share = one.share - other.share


def judged_in_turn(predicted: Mapping[str, np.ndarray], held_out: HeldOut) -> Judgement:
    """
    From labelled rows alone, whose labels may be wrong. `predicted`: (m,) classes by name of a classifier that was
    not fitted on these rows. The estimate is uncertain for classes without a row here.
    """
    rows = np.arange(len(held_out.labels))
    by_labels = {name: _Residuals.of(held_out, classes) for name, classes in predicted.items()}
    right = {
        name: [held_out.probabilities[rows, classes] + residuals for residuals in by_labels[name].residuals]
        for name, classes in predicted.items()
    }
    judgement = Judgement({name: _mean_of_rows(values, held_out) for name, values in right.items()})
    if len(right) == 2:
        paired = [one - other for one, other in zip(right[WITH_VIEWS], right[LABELS_ONLY], strict=True)]
        judgement.difference = _mean_of_rows(paired, held_out, is_difference=True)
    return judgement


def _mean_of_rows(values: list[np.ndarray], held_out: HeldOut, *, is_difference: bool = False) -> Estimate:
    """The mean of (m,) values, and the union of the intervals, one for each share of wrong labels."""
    single, unknown = held_out.single, held_out.unknown
    too_high = 0.0 if is_difference else ONE_TOO_HIGH[0] * single + NONE_TOO_HIGH[0] * unknown
    means = np.array([(held_out.weights * of_rows).sum() for of_rows in values]) - too_high
    errors = [
        (held_out.error_of(of_rows, np.zeros(len(of_rows))), ONE_TOO_HIGH[1] * single, NONE_TOO_HIGH[1] * unknown)
        for of_rows in values
    ]
    half = student_t.ppf(LEVEL, held_out.freedom) * np.linalg.norm(errors, axis=1)
    return _clipped(means[0], (means - half).min(), (means + half).max(), is_difference)


def _clipped(share: float, low: float, high: float, is_difference: bool) -> Estimate:
    share, low, high = (float(np.clip(end, -1 if is_difference else 0, 1)) for end in (share, low, high))
    return Estimate(share, (low, high))


@dataclass
class _Residuals:
    """How (m,) held-out labels differ from the probabilities of a classifier."""

    # (m,) each, how much more often a prediction is right than its probability says, for the estimated share of wrong
    # labels and the ends of its interval
    residuals: list[np.ndarray]
    doubt: np.ndarray  # (m,) variance of the first, by the probabilities
    predicted: np.ndarray  # (m,) classes

    @classmethod
    def of(cls, held_out: HeldOut, predicted: np.ndarray) -> _Residuals:
        results = [held_out.residuals(predicted, share) for share in held_out.shares]
        expected = results[0][1]
        return cls([residuals for residuals, _ in results], expected * (1 - expected), predicted)

    def __sub__(self, other: _Residuals) -> _Residuals:
        residuals = [one - two for one, two in zip(self.residuals, other.residuals, strict=True)]
        return _Residuals(residuals, (self.doubt + other.doubt) * (self.predicted != other.predicted), self.predicted)


def _corrected(
    mean: float,
    variance: float,
    prior: tuple[float, float, int],
    held_out: HeldOut | None,
    seen: _Residuals | None,
    *,
    is_difference: bool = False,
) -> Estimate:
    """
    Args:
        mean: by the probabilities; `variance` of it, over the choice of images.
        prior: mean and standard deviation of the underestimation, and degrees of freedom.
    """
    usual, spread, freedom = prior
    estimates, errors = [mean + usual], [np.sqrt(spread**2 + variance)]
    if held_out is not None and seen is not None:
        estimates, errors = [], []
        judged, single, unknown = held_out.judged, held_out.single, held_out.unknown
        too_high = 0.0 if is_difference else ONE_TOO_HIGH[0] * single * judged + NONE_TOO_HIGH[0] * unknown
        of_rest = single * np.hypot(spread, ONE_TOO_HIGH[1] * judged), NONE_TOO_HIGH[1] * unknown
        for residuals in seen.residuals:
            error = held_out.error_of(residuals, seen.doubt)
            gain = spread**2 / (spread**2 + error**2)
            correction = (held_out.weights * residuals).sum() - usual
            estimates.append(mean + (judged + single) * usual + judged * gain * correction - too_high)
            errors.append(np.linalg.norm([np.sqrt(1 - gain) * judged * spread, *of_rest, np.sqrt(variance)]))
    half = student_t.ppf(LEVEL, freedom) * np.array(errors)
    return _clipped(estimates[0], (estimates - half).min(), (estimates + half).max(), is_difference)
