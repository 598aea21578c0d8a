"""How right two classifiers are on images like these, and which is better: estimates with 95% intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from ..label_model.estimates import NONE_TOO_HIGH, ONE_TOO_HIGH, Estimate, HeldOut
from ..names import LABELS_ONLY, WITH_VIEWS

HELPED, HURT, CANNOT_TELL = "helped", "hurt", "cannot tell"
LEVEL = 0.975
LEAST_DOUBT = 0.02  # such a part of the images is doubtful, however sure the probabilities are


@dataclass(frozen=True)
class Prior:
    """
    What other data sets tell of estimates (benchmarks/coverage.py).

    Attributes:
        low: how far the estimated accuracy of a classifier is too low, as a part of the estimated errors; `spread` its
            standard deviation.
        of_difference: standard deviation of an estimated difference, as a part of the images on which the two differ.
        freedom: degrees of freedom of Student's distribution.
    """

    low: float = 0.0
    spread: float = 0.2
    of_difference: float = 0.095
    freedom: int = 20

    def of(self, low: float, spread: float, doubt: float) -> tuple[float, float, int]:
        doubt = max(doubt, LEAST_DOUBT)
        return low * doubt, spread * doubt, self.freedom


PRIOR = Prior()


@dataclass
class Judgement:
    """
    Attributes:
        accuracies: by name of the classifier.
        difference: of the accuracies, with views minus labels only; None where one of them is missing.
    """

    accuracies: dict[str, Estimate]
    difference: Estimate | None = None

    @property
    def verdict(self) -> str | None:
        """What views did to the classifier; None where there is no other to compare it with."""
        if self.difference is None:
            return None
        low, high = self.difference.interval
        return HELPED if low > 0 else HURT if high < 0 else CANNOT_TELL


def judged_by_labels(predicted: Mapping[str, np.ndarray], labels: np.ndarray) -> Judgement:
    """
    By (n,) labels, which are believed. `predicted`: (n,) classes by name of the classifier.
    """
    right = {name: (each == labels).astype(np.float64) for name, each in predicted.items()}
    found = Judgement({name: _mean_of(each) for name, each in right.items()})
    if len(right) == 2:
        found.difference = _mean_of(right[WITH_VIEWS] - right[LABELS_ONLY], least=-1)
    return found


def _mean_of(values: np.ndarray, least: float = 0) -> Estimate:
    """Student's interval; half an observation more, as few images may all agree by chance."""
    number, mean = len(values), float(values.mean())
    half = student_t.ppf(LEVEL, max(number - 1, 1)) * np.sqrt((values.var() + 0.5 / (number + 1)) / number)
    return Estimate(mean, (max(mean - half, least), min(mean + half, 1)))


def judged_by_probabilities(
    predicted: Mapping[str, np.ndarray],
    probabilities: np.ndarray,
    held_out: HeldOut | None = None,
    of_held_out: Mapping[str, np.ndarray] | None = None,
    prior: Prior = PRIOR,
) -> Judgement:
    """
    Of unlabelled images: the mean probability of the predicted classes, corrected by labelled rows that models predict
    which were not fitted on them (prediction-powered inference: Angelopoulos et al., arXiv 2301.09633; cross-fitted:
    Zrnic and Candes, arXiv 2309.16598). The correction is shrunk to what it is for other data sets, which alone counts
    where no label can be held out.

    Args:
        predicted: (n,) classes by name of the classifier.
        probabilities: (n, C) of a label model that learned nothing from these images.
        held_out: labelled rows, by the label model; None: no class has labels of two images.
        of_held_out: (m,) classes of these rows, by name of the classifier.
        prior: what other data sets tell.
    """
    rows = np.arange(len(probabilities))
    told = {name: probabilities[rows, each].astype(np.float64) for name, each in predicted.items()}
    seen = {name: _Seen.of(held_out, each) for name, each in (of_held_out or {}).items()} if held_out else {}
    found = Judgement({})
    for name, values in told.items():
        mean = float(values.mean())
        usual = prior.of(prior.low, prior.spread, 1 - mean)
        found.accuracies[name] = _corrected(mean, mean * (1 - mean) / len(rows), usual, held_out, seen.get(name))
    if len(told) == 2:
        one, other = told[WITH_VIEWS], told[LABELS_ONLY]
        differ = predicted[WITH_VIEWS] != predicted[LABELS_ONLY]
        mean, usual = float((one - other).mean()), prior.of(0, prior.of_difference, float(differ.mean()))
        variance = float((differ * (one + other)).mean() - mean**2) / len(rows)
        residuals = seen[WITH_VIEWS] - seen[LABELS_ONLY] if len(seen) == 2 else None
        found.difference = _corrected(mean, variance, usual, held_out, residuals, is_difference=True)
        _make_consistent(found)
    return found


def _make_consistent(found: Judgement) -> None:
    """Moves both accuracies until their difference is the one that was estimated, the less certain one by more."""
    ends = {name: np.array(found.accuracies[name].interval) for name in (LABELS_ONLY, WITH_VIEWS)}
    widths = {name: float(np.diff(each)[0]) ** 2 for name, each in ends.items()}
    one, other = (found.accuracies[name] for name in (WITH_VIEWS, LABELS_ONLY))
    missing = found.difference.share - (one.share - other.share)
    part = widths[WITH_VIEWS] / max(sum(widths.values()), 1e-12)
    for estimate, moved in ((one, missing * part), (other, -missing * (1 - part))):
        share, low, high = (float(np.clip(end + moved, 0, 1)) for end in (estimate.share, *estimate.interval))
        estimate.share, estimate.interval = share, (low, high)
    found.difference.share = one.share - other.share


def judged_in_turn(predicted: Mapping[str, np.ndarray], held_out: HeldOut) -> Judgement:
    """
    By labelled rows alone, whose labels may be wrong. `predicted`: (m,) classes by name of a classifier that was not
    fitted on these rows. Of classes that have no row here little is known.
    """
    rows = np.arange(len(held_out.labels))
    seen = {name: _Seen.of(held_out, each) for name, each in predicted.items()}
    right = {
        name: [held_out.probabilities[rows, each] + residuals for residuals in seen[name].residuals]
        for name, each in predicted.items()
    }
    found = Judgement({name: _mean_of_rows(values, held_out) for name, values in right.items()})
    if len(right) == 2:
        paired = [one - other for one, other in zip(right[WITH_VIEWS], right[LABELS_ONLY], strict=True)]
        found.difference = _mean_of_rows(paired, held_out, is_difference=True)
    return found


def _mean_of_rows(values: list[np.ndarray], held_out: HeldOut, *, is_difference: bool = False) -> Estimate:
    """Over the intervals of all (m,) values, one for each share of wrong labels."""
    single, unknown = held_out.single, held_out.unknown
    too_high = 0.0 if is_difference else ONE_TOO_HIGH[0] * single + NONE_TOO_HIGH[0] * unknown
    means = np.array([(held_out.weights * each).sum() for each in values]) - too_high
    errors = [
        (held_out.error_of(each, np.zeros(len(each))), ONE_TOO_HIGH[1] * single, NONE_TOO_HIGH[1] * unknown)
        for each in values
    ]
    half = student_t.ppf(LEVEL, held_out.freedom) * np.linalg.norm(errors, axis=1)
    return _clipped(means[0], (means - half).min(), (means + half).max(), is_difference)


def _clipped(share: float, low: float, high: float, is_difference: bool) -> Estimate:
    share, low, high = (float(np.clip(end, -1 if is_difference else 0, 1)) for end in (share, low, high))
    return Estimate(share, (low, high))


@dataclass
class _Seen:
    """
    What (m,) held-out labels say of a classifier.

    Attributes:
        residuals: by how much more often a prediction is right than its probability says, for the estimated share of
            wrong labels and the ends of its interval: (m,) each.
        doubt: (m,) variance that the probabilities claim for the first.
        predicted: (m,) classes.
    """

    residuals: list[np.ndarray]
    doubt: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, held_out: HeldOut, predicted: np.ndarray) -> _Seen:
        found = [held_out.residuals(predicted, share) for share in held_out.shares]
        expected = found[0][1]
        return cls([residuals for residuals, _ in found], expected * (1 - expected), predicted)

    def __sub__(self, other: _Seen) -> _Seen:
        residuals = [one - two for one, two in zip(self.residuals, other.residuals, strict=True)]
        return _Seen(residuals, (self.doubt + other.doubt) * (self.predicted != other.predicted), self.predicted)


def _corrected(
    mean: float,
    variance: float,
    prior: tuple[float, float, int],
    held_out: HeldOut | None,
    seen: _Seen | None,
    *,
    is_difference: bool = False,
) -> Estimate:
    """
    Args:
        mean: by the probabilities; `variance` of it, as other images could have been kept.
        prior: mean and standard deviation of how far it is too low, and degrees of freedom.
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
