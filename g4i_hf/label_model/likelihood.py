"""Temperatures of the logits of several views, and the share of wrong labels, by likelihood on held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from .. import priors
from ..linear import has_vote, margins_of
from .calibration import Calibration

WEIGHT_OF_EXCESS = 10.0  # of a share of wrong labels beyond what is possible


@dataclass
class PriorOfTemperatures:
    """Logarithms of the inverse temperatures of V views are normal a priori."""

    means: np.ndarray  # (V,) of the inverse temperatures
    stds: np.ndarray  # (V,) of their logarithms

    @classmethod
    def of(cls, copies: np.ndarray, std: float | None = None) -> PriorOfTemperatures:
        """copies: (V,) the number of views of the same source, which share an inverse temperature."""
        means = priors.PRIOR_MEAN_INVERSE_TEMPERATURE / copies
        return cls(means, np.full(len(copies), std or priors.PRIOR_STD_LOG_TEMPERATURE))


def calibrate(
    views: list[np.ndarray],
    labels: np.ndarray,
    log_prior: np.ndarray,
    trusts: np.ndarray,
    folds: np.ndarray | None = None,
    fixed_noise: tuple[float, tuple[float, float]] | None = None,
    expected: PriorOfTemperatures | None = None,
    reviewed: np.ndarray | None = None,
    *,
    instance_dependent: bool = False,
    with_interval: bool = False,
    quick: bool = False,
) -> Calibration:
    """
    Fit temperatures, powers and wrong labels, maximum a posteriori on held-out rows. Probabilities are among the J
    classes that these rows have, as other classes have no label that could be held out. So q is 1 / J at random.

    Args:
        views: (n, C) logits each.
        labels: (n,) class indices.
        log_prior: (C,).
        trusts: (V, C), as in [`Calibration`].
        folds: (n,) of the rows. If given, the labels may also be wrong in a pattern, counted in the contradictions of
            the other folds; the likelier kind of error is returned.
        fixed_noise: share of labels that are wrong in a pattern, or 0, and its interval, if these are not estimated.
        expected: of the temperatures; None: the usual prior.
        reviewed: (n,) whether a label is known to be right; None: no label is.
        instance_dependent: whether wrong labels may prefer likely classes. A view that confuses classes looks the
            same, so another view must contradict the labels first: `label_errors_follow_ambiguity` in agreement.py.
        with_interval, quick: see [`_NoiseModel`].
    """
    number = len(views)
    expected = PriorOfTemperatures.of(np.ones(number)) if expected is None else expected
    if not len(labels):
        fixed = expected.means, np.zeros(number), np.ones(number)
        return Calibration(*fixed, log_prior, 0.0, (0.0, priors.MAX_NOISE), 0.0, 0.0, 0.0, trusts)
    task = _HeldOutLikelihood.of(views, labels, log_prior, expected, reviewed, trusts)
    if fixed_noise is not None and not fixed_noise[0]:
        return replace(task.fit(_NoiseModel(1 / len(task.judged)), fixed_share=0.0), interval=fixed_noise[1])
    kind = _NoiseModel(1 / len(task.judged), None, instance_dependent, with_interval, quick)
    best = task.fit(replace(kind, with_interval=with_interval and fixed_noise is None))
    if folds is None:
        return best
    likely = best.probabilities(views).argmax(1)
    confusions = _confusions(likely, labels, len(log_prior))
    if_noisy = _if_noisy(likely, labels, folds, len(log_prior))[:, task.judged].astype(np.float32)
    pattern = _NoiseModel(float(np.diag(confusions).mean()), if_noisy)
    if fixed_noise is not None:
        share, interval = fixed_noise
        return replace(task.fit(pattern, fixed_share=share), confusions=confusions, interval=interval)
    with_pattern = task.fit(replace(pattern, quick=True), best)
    gain, of_rows = (best.loss - with_pattern.loss) * len(labels), priors.MIN_GAIN_OF_PATTERN_A_ROW * len(labels)
    if gain < max(priors.MIN_GAIN_OF_PATTERN, of_rows):
        return best
    with_pattern = task.fit(replace(pattern, with_interval=with_interval), with_pattern)
    return replace(with_pattern, confusions=confusions)


def widen_for_unseen_subclasses(
    calibration: Calibration, logits: np.ndarray, labels: np.ndarray, reviewed: np.ndarray
) -> None:
    """
    Lower the interval of wrong labels by those that may look wrong to the only view (n, C), as their rows are unlike
    the rest of their class. Of k rows about one in k is, as Good and Turing estimate the probability of a new kind.
    """
    look_wrong = (calibration.probabilities([logits]).argmax(1) != labels) & (margins_of(logits) > 0) & ~reviewed
    low, high = calibration.interval
    calibration.interval = max(0.0, low - float((look_wrong / np.bincount(labels)[labels]).mean())), high


def recalibrate_without(
    left_out: np.ndarray, full: Calibration, views: list[np.ndarray], labels: np.ndarray, **kwargs: Any
) -> Calibration:
    """Fit the temperatures again without rows (n,), starting from `full`; `kwargs` are those of [`calibrate`]."""
    kept = ~left_out
    if not kept.any() or full.confusions is not None:
        return full
    fixed_share = None if full.share else 0.0
    task = _HeldOutLikelihood.of(
        [logits[kept] for logits in views],
        labels[kept],
        kwargs["log_prior"],
        kwargs["expected"],
        kwargs["reviewed"][kept],
        kwargs["trusts"],
    )
    kind = _NoiseModel(1 / len(task.judged), None, kwargs["instance_dependent"], quick=True)
    return task.fit(kind, full, fixed_share)


def _confusions(likely: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(C, C) R, P(label | true class, the label is noisy), counted where the label is not the most probable class."""
    wrong = np.full((num_labels, num_labels), 1 / num_labels)
    differ = likely != labels
    np.add.at(wrong, (likely[differ], labels[differ]), 1)
    return wrong / wrong.sum(1, keepdims=True)


def _if_noisy(likely: np.ndarray, labels: np.ndarray, folds: np.ndarray, num_labels: int) -> np.ndarray:
    """(n, C) R_cy of the label y of each row, for each true class c, by the rows of other folds."""
    probabilities = np.empty((len(labels), num_labels))
    for fold in np.unique(folds):
        inside = folds == fold
        probabilities[inside] = _confusions(likely[~inside], labels[~inside], num_labels)[:, labels[inside]].T
    return probabilities


@dataclass
class _NoiseModel:
    """The kind of errors that labels have."""

    right_by_chance: float  # share of the noisy labels that are right nonetheless
    # (n, J) R_cy of the label y of each row, for each true class c, if labels are wrong in a pattern
    if_noisy: np.ndarray | None = None
    instance_dependent: bool = False  # whether wrong labels may prefer likely classes
    # whether to compute the interval of the share of wrong labels; that it holds 0 is computed for the above anyway
    with_interval: bool = False
    quick: bool = False  # a single start, for a calibration that selects between models

    @property
    def quantile(self) -> float:
        return (
            priors.LIKELIHOOD_RATIO_OF_KIND
            if self.instance_dependent or self.if_noisy is not None
            else priors.LIKELIHOOD_RATIO
        )


@dataclass
class _HeldOutLikelihood:
    """Held-out rows and the classes of their labels, ready for optimisation."""

    log_prior: np.ndarray
    expected: PriorOfTemperatures
    judged: np.ndarray
    usual_margins: np.ndarray
    ratios: np.ndarray  # (V, n) logarithms of the margins divided by their geometric mean, `usual_margins` (V,)
    logits: np.ndarray  # (V, n, J) of the J classes that have labels
    prior_logits: np.ndarray
    given: np.ndarray  # (n,) the label, as an index into `judged`, the (J,) class indices
    may_be_wrong: np.ndarray  # (n,) 1, or 0 for reviewed labels
    trusts: np.ndarray

    def __post_init__(self):
        # (n, J) each, which every evaluation overwrites: to get new memory takes longer than to compute
        self._total, self._p, self._q, self._slope = (np.empty_like(self.logits[0]) for _ in range(4))
        self._at_label = np.arange(len(self.given)), self.given

    @classmethod
    def of(
        cls,
        views: list[np.ndarray],
        labels: np.ndarray,
        log_prior: np.ndarray,
        expected: PriorOfTemperatures,
        reviewed: np.ndarray | None,
        trusts: np.ndarray,
    ) -> _HeldOutLikelihood:
        margins = np.stack([margins_of(logits) for logits in views])
        has = margins > 0
        margins = np.log(np.where(has, margins, 1))
        usual = (margins.sum(1) / np.maximum(has.sum(1), 1))[:, None]
        judged = np.unique(labels)
        stacked = np.stack(views).take(judged, axis=2)  # in order of rows, which indexing does not leave
        prior, lacks_vote = log_prior[judged], ~has_vote(stacked).all(2)
        logits = stacked[lacks_vote]
        votes = has_vote(logits)
        neutral = logsumexp(np.where(votes, logits + prior, -np.inf), axis=1, keepdims=True)
        neutral -= logsumexp(np.where(votes, prior, -np.inf), axis=1, keepdims=True)
        stacked[lacks_vote] = np.where(votes, logits, np.nan_to_num(neutral, nan=0.0, neginf=0.0))
        may_be_wrong = np.ones(len(labels)) if reviewed is None else 1.0 - reviewed
        return cls(
            log_prior,
            expected,
            judged,
            np.exp(usual[:, 0]),
            np.where(has, margins - usual, 0),
            stacked.astype(np.float32),
            prior.astype(np.float32),
            np.searchsorted(judged, labels),
            may_be_wrong,
            trusts,
        )

    def fit(
        self, kind: _NoiseModel, start: Calibration | None = None, fixed_share: float | None = None
    ) -> Calibration:
        """
        Fitted for this kind of errors from a `start`, or from several points, as there may be local minima; with a
        `fixed_share` of wrong labels only the rest.
        """
        number, usual = len(self.logits), np.log(self.expected.means)
        # Two local minima: flat predictions of correct labels, and sharp predictions of labels that are often wrong
        starts = [[*usual - 0.7, *[0.0] * number, 0.01, 0.0], [*usual + 0.8, *[0.0] * number, 0.3, 0.0]]
        if kind.instance_dependent:
            starts.append([*usual + 0.3, *[0.0] * number, 0.08, priors.PRIOR_MEAN_NOISE_EXPONENT])
        if kind.quick:
            starts = starts[:1]
        if start is not None:
            starts = [[*np.log(start.inverse_temperatures), *start.powers, max(start.share, 0.01), 0.0]]
        if not self.may_be_wrong.any():
            fixed_share = 0.0
        bounds = () if fixed_share is None else (fixed_share, fixed_share)
        result = self._minimise(starts, kind, 1.0, *bounds)
        share, interval = float(result.x[-2]), (0.0, priors.MAX_NOISE if fixed_share is None else fixed_share)
        if fixed_share is None and (kind.with_interval or kind.instance_dependent) and not kind.quick:
            interval = self._interval([*starts, result.x], kind, share)
        least = result.fun / len(self.given)
        noise, *_ = self._noise(share, self._of_rows(result.x, kind)[-1])
        scales = np.exp(result.x[:number]), result.x[number:-2], self.usual_margins
        of_noise = float(noise), float(result.x[-1])
        return Calibration(*scales, self.log_prior, share, interval, *of_noise, least, self.trusts)

    def _minimise(
        self, starts: list, kind: _NoiseModel, weight_of_prior: float, low: float = 0.0, high: float | None = None
    ) -> Any:
        number, high = len(self.logits), priors.MAX_NOISE if high is None else high
        noise_exponent = (0, priors.MAX_NOISE_EXPONENT) if kind.instance_dependent else (0, 0)
        bounds = [(-5, 5)] * number + [(-3, 3)] * number + [(low, high), noise_exponent]
        arguments = {"args": (kind, weight_of_prior), "jac": True, "method": "L-BFGS-B", "options": {"ftol": 1e-7}}
        results = [minimize(self._loss, np.array(start), bounds=bounds, **arguments) for start in starts]
        return min(results, key=lambda result: result.fun)

    def _interval(self, starts: list, kind: _NoiseModel, share: float) -> tuple[float, float]:
        """
        The 95% interval of the share of wrong labels, from the likelihood without a prior of the share. It holds the
        estimate `share`. Without `with_interval` the upper end is the largest share there can be.
        """
        likeliest = self._minimise(starts, kind, 0.0)
        nearest = likeliest.x

        def loss_gap(bound: float) -> float:
            nonlocal nearest
            fitted = self._minimise([[*nearest[:-2], bound, nearest[-1]]], kind, 0.0, bound, bound)
            nearest = fitted.x
            return fitted.fun - likeliest.fun

        # Predictions of right labels are flatter than those of labels of which many are wrong
        at_zero = self._minimise([starts[0], likeliest.x], kind, 0.0, 0.0, 0.0).fun - likeliest.fun
        low, high = 0.0 if at_zero < kind.quantile else share, priors.MAX_NOISE
        if kind.with_interval:
            arguments = float(likeliest.x[-2]), len(self.given), loss_gap, kind.quantile
            high = max(_end(priors.MAX_NOISE, *arguments), share)
            nearest = likeliest.x
            low = min(_end(0.0, *arguments), low) if low else low
        return low, high

    def _loss(self, values: np.ndarray, kind: _NoiseModel, weight_of_prior: float) -> tuple[float, np.ndarray]:
        """
        Negative log-likelihood minus log priors, and its gradient: by hand, as autograd takes several times as long.
        `weight_of_prior`: of that of the share.
        """
        right, wrong, same = self._of_rows(values, kind)
        noise, excess, all_wrong = self._noise(values[-2], same)
        noise_of_row = noise * self.may_be_wrong
        likelihood = (1 - noise_of_row) * right + noise_of_row * wrong + 1e-30
        loss, gradient = self._prior(values, weight_of_prior)
        weight_of_excess = WEIGHT_OF_EXCESS * len(likelihood)
        loss += weight_of_excess * excess**2 - np.log(likelihood).sum()

        of_noise = ((right - wrong) * self.may_be_wrong / likelihood).sum()
        of_needed = 2 * weight_of_excess * excess if excess else of_noise
        gradient[-2] += of_needed / all_wrong
        of_same = of_needed * values[-2] / all_wrong**2 * self.may_be_wrong / len(likelihood)
        slopes = (noise_of_row - 1) / likelihood, -noise_of_row / likelihood, of_same
        self._add_gradient(gradient, values, kind, *slopes)
        return float(loss), gradient

    def _prior(self, values: np.ndarray, weight_of_share: float) -> tuple[float, np.ndarray]:
        """Negative logarithm of the priors of all parameters, and its gradient."""
        number, rate = len(self.logits), weight_of_share / priors.PRIOR_MEAN_WRONG_LABELS
        from_mean = values - [*np.log(self.expected.means), *[0.0] * (number + 1), priors.PRIOR_MEAN_NOISE_EXPONENT]
        stds = [*self.expected.stds] + [priors.PRIOR_STD_POWER] * number
        gradient = from_mean / np.square([*stds, np.inf, priors.PRIOR_STD_NOISE_EXPONENT])
        loss = from_mean @ gradient / 2 + rate * values[-2]
        gradient[-2] = rate
        return loss, gradient

    def _factors(self, values: np.ndarray) -> np.ndarray:
        """(V, n) by which logits are multiplied."""
        number = len(self.logits)
        return np.exp(values[:number, None] + values[number:-2, None] * self.ratios)

    def _of_rows(self, values: np.ndarray, kind: _NoiseModel) -> tuple[np.ndarray, ...]:
        """(n,) each: p_y, q_y of [`~g4i_hf.LabelModel`], and the probability that a noisy label is right."""
        total, p, q = self._total, self._p, self._q
        total[:] = self.prior_logits
        for factors, logits in zip(self._factors(values).astype(total.dtype), self.logits, strict=True):
            total += np.multiply(factors[:, None], logits, out=self._slope)
        _softmax(total, p)
        right = p[self._at_label].astype(np.float64)
        wrong = same = np.full_like(right, kind.right_by_chance)
        if kind.if_noisy is not None:
            wrong = _of_each_row(p, kind.if_noisy)
        elif kind.instance_dependent:
            _softmax(np.multiply(total, total.dtype.type(values[-1]), out=self._slope), q)
            wrong, same = q[self._at_label].astype(np.float64), _of_each_row(p, q)
        return right, wrong, same

    def _add_gradient(
        self,
        gradient: np.ndarray,
        values: np.ndarray,
        kind: _NoiseModel,
        of_right: np.ndarray,
        of_wrong: np.ndarray,
        of_same: np.ndarray,
    ) -> None:
        """From the slopes (n,) along what the last [`_of_rows`] has returned; its probabilities are in memory."""
        number, p, q, slope = len(self.logits), self._p, self._q, self._slope
        if kind.if_noisy is not None:
            slope[:] = of_wrong[:, None] * kind.if_noisy
        else:
            slope[:] = of_same[:, None] * q if kind.instance_dependent else 0
        slope[self._at_label] += of_right
        _through_softmax(slope, p)
        if kind.instance_dependent:
            of_q = of_same[:, None].astype(p.dtype) * p
            of_q[self._at_label] += of_wrong
            _through_softmax(of_q, q)
            slope += p.dtype.type(values[-1]) * of_q
            gradient[-1] += _of_each_row(of_q, self._total).sum()
        of_factors = np.einsum("nc,vnc->vn", slope, self.logits) * self._factors(values)
        gradient[:number] += of_factors.sum(1)
        gradient[number:-2] += (of_factors * self.ratios).sum(1)

    def _noise(self, share: float, same: np.ndarray) -> tuple[float, float, float]:
        """
        The share e of noisy labels, from the share of wrong ones, which are a part of them. By how much it would have
        to exceed `MAX_NOISE`: such a share of wrong labels is impossible. And how many labels would be wrong, if all
        were noisy.
        """
        all_wrong = max(float((self.may_be_wrong * (1 - same)).mean()), 1e-6)
        needed = share / all_wrong
        return min(needed, priors.MAX_NOISE), max(needed - priors.MAX_NOISE, 0.0), all_wrong


def _softmax(logits: np.ndarray, out: np.ndarray) -> None:
    """Of (n, J), by torch, which takes a quarter of the time of NumPy."""
    torch.softmax(torch.from_numpy(logits), 1, out=torch.from_numpy(out))


def _through_softmax(slope: np.ndarray, p: np.ndarray) -> None:
    """From the slope (n, J) along probabilities to that along their logits, in place."""
    slope -= _of_each_row(slope, p)[:, None].astype(p.dtype)
    slope *= p


def _of_each_row(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) sums of the products of (n, J) each."""
    return np.einsum("nc,nc->n", one, other).astype(np.float64)


def _end(end: float, share: float, number: int, loss_gap: Callable[[float], float], quantile: float) -> float:
    """
    Of an interval, towards 0 or the largest share: where `loss_gap`, the loss at a share of wrong labels minus the
    least loss, at this `share`, reaches the quantile. The square root of the gap is almost linear in the share.
    """
    step, sign = 2 * np.sqrt(max(share * (1 - share), 1 / number) / number), 1 if end > share else -1
    near, at_near, far = share, 0.0, share
    at_far, reach = 0.0, step
    while at_far < quantile and far != end:
        near, at_near = far, at_far
        far = float(np.clip(share + sign * reach, min(end, share), max(end, share)))
        at_far, reach = max(loss_gap(far), at_near), 2 * reach
    while at_far > quantile and abs(far - near) > max(0.002, 0.1 * abs(far - share)):
        part = (quantile**0.5 - at_near**0.5) / (at_far**0.5 - at_near**0.5)
        between = near + float(np.clip(part, 0.1, 0.9)) * (far - near)
        at_between = loss_gap(between)
        if at_between < quantile:
            near, at_near = between, max(at_between, at_near)
        else:
            far, at_far = between, at_between
    return far
