"""Temperatures of the logits of several views, and the share of wrong labels, by likelihood on held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize, root_scalar
from scipy.special import logsumexp, softmax

from .regression import ABSENT

# Normal priors, which matter where few rows are held out: of an inverse temperature's logarithm, and a power (mean 0)
USUAL_INVERSE_TEMPERATURE, SPREAD, SPREAD_OF_POWER = 2.0, 0.7, 0.5
MOST_NOISE = 0.95
USUAL_SHARE = 0.2  # of wrong labels: the scale of an exponential prior
MOST_FLATNESS, USUAL_FLATNESS, SPREAD_OF_FLATNESS = 0.6, 0.3, 0.2
WEIGHT_OF_EXCESS = 10.0
CHI_SQUARED = 6.63 / 2  # half the 99% quantile: the likelihood ratio would cover 95%, were the model exact
# Log-likelihood, in all and for each row, by which a pattern must explain labels better than errors at random do;
# judgements
CLEAR_GAIN, CLEAR_GAIN_A_ROW = 10.0, 0.01


@dataclass
class Calibration:
    """
    From the logits of V views to probabilities, and the share of wrong labels.

    Attributes:
        inverse_temperatures, powers, margins: (V,) T, g and M of each view, see [`LabelModel`].
        log_prior: (C,).
        share: of wrong labels, `interval` its 95% interval, where it is needed.
        noise: e, share of labels that are given without the certainty of p: some of them are right.
        flatness: k, how much such labels depend on p.
        loss: mean negative log-likelihood, with the prior.
        confusions: (C, C) R, where labels are wrong in a pattern; None where they are not.
        trusts: (V, C) r of each view, 0 for a class that it has not seen, see [`Calibration.probabilities`].
    """

    inverse_temperatures: np.ndarray
    powers: np.ndarray
    margins: np.ndarray
    log_prior: np.ndarray
    share: float
    interval: tuple[float, float]
    noise: float
    flatness: float
    loss: float
    confusions: np.ndarray | None = None
    trusts: np.ndarray | None = None

    def without(self, left_out: np.ndarray, views: list[np.ndarray], labels: np.ndarray, **given: Any) -> Calibration:
        """Temperatures that were not fitted on these rows (n,) of all that this was; see [`calibrate`]."""
        rest = ~left_out
        if not rest.any() or self.confusions is not None:
            return self
        of_rows = {name: each[rest] for name, each in given.items() if name in ("folds", "reviewed")}
        task = _Task.of(
            [logits[rest] for logits in views],
            labels[rest],
            given["log_prior"],
            given["copies"],
            of_rows["reviewed"],
            given["trusts"],
        )
        kind = _Kind(1 / len(task.judged), None, given["as_people_err"], quick=True)
        return task.solved(kind, self)

    def of_view(self, number: int, logits: np.ndarray) -> np.ndarray:
        """(n, C) logits of one view, scaled."""
        margins = margins_of(logits)
        ratios = np.where(margins > 0, margins, self.margins[number]) / self.margins[number]
        return (self.inverse_temperatures[number] * ratios ** self.powers[number])[:, None] * logits

    def probabilities(self, views: list[np.ndarray]) -> np.ndarray:
        """
        (n, C), from the logits of each view. A view says nothing about a class that it has not seen: there its logit
        is the mean of those of the classes c that it knows,

            u = log sum_c p_c exp(z_c) / sum_c p_c,

        where p are the probabilities by the views before it, those that have seen more classes: so these alone decide
        between the classes that it knows and others. Or p is the prior, where that gives more: an image unlike all
        classes that the views before it think of may be of one that this view has not seen. Of a class with r below 1
        it says z with probability r, that the examples stand for the class, else nothing: log(r e^z + (1 - r) e^u). A
        class that no view has seen has probability 0.
        """
        seen = np.stack([logits > ABSENT / 2 for logits in views])
        trusts = seen.any(1).astype(np.float64) if self.trusts is None else self.trusts
        total = np.broadcast_to(self.log_prior, views[0].shape).astype(np.float64)
        for number in np.argsort(-(trusts > 0).sum(1), kind="stable"):
            trust = seen[number] * trusts[number]
            said = self.of_view(number, views[number])
            if (trust < 1).any():
                weights = np.stack([total, np.broadcast_to(self.log_prior, total.shape)])
                known = np.where((trust == 1).any(1)[:, None], trust == 1, trust > 0)
                weights[:, ~known & known.any(1)[:, None]] = -np.inf
                neutral = (logsumexp(weights + said, axis=2) - logsumexp(weights, axis=2)).max(0)
                with np.errstate(divide="ignore"):
                    said = np.logaddexp(np.log(trust) + said, np.log(1 - trust) + neutral[:, None])
            total = total + said
        return softmax(np.where((trusts > 0).any(0), total, -np.inf), axis=1)

    def posterior(
        self, probabilities: np.ndarray, labels: np.ndarray, reviewed: np.ndarray | None = None
    ) -> np.ndarray:
        """
        Probabilities of the true class when the given label y is known too, by Bayes' rule: proportional to
        p_c ((1 - e) [c = y] + e q_y), or e R_cy in place of e q_y. Rows without a label keep theirs; a reviewed label
        is right.

        Args:
            probabilities: (n, C), out of fold.
            labels: (n,) class indices; negative for rows without a label.
            reviewed: (n,) whether a person confirmed the label.

        Returns:
            (n, C) float32.
        """
        found = np.asarray(probabilities, dtype=np.float32).copy()
        known = np.flatnonzero(labels >= 0)
        p, given = found[known] + 1e-7, (np.arange(len(known)), labels[known])
        noise = np.full((len(known), 1), self.noise, dtype=np.float32)
        if reviewed is not None:
            noise[reviewed[known]] = 0
        if_wrong = self.if_unsure(p)[given][:, None] if self.confusions is None else self.confusions.T[given[1]]
        likelihood = np.broadcast_to(noise * if_wrong, p.shape).astype(np.float32)
        likelihood[given] += 1 - noise[:, 0]
        weighted = p * likelihood
        found[known] = weighted / weighted.sum(1, keepdims=True)
        return found

    def if_unsure(self, probabilities: np.ndarray) -> np.ndarray:
        """(n, C) q, proportional to p^k: of k = 0 all classes are as likely, as people err it is about 0.3."""
        return softmax(self.flatness * np.log(probabilities + 1e-7), axis=1)

    def agreement(
        self, probabilities: np.ndarray, predicted: np.ndarray, share: float, reviewed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        (n,) probability that the label of a row is the predicted class (n,), if this share of labels is wrong; and by
        how much it rises with the probability of that class.
        """
        places = np.arange(len(predicted)), predicted
        if self.confusions is None:
            q = self.if_unsure(probabilities)
            wrong, by_chance = 1 - (probabilities * q).sum(1), q[places]
        else:
            wrong = np.full(len(predicted), 1 - np.diag(self.confusions).mean())
            by_chance = (probabilities @ self.confusions)[places]
        noise = np.where(reviewed, 0, min(share / max((wrong * ~reviewed).mean(), 1e-6), MOST_NOISE))
        return (1 - noise) * probabilities[places] + noise * by_chance, np.broadcast_to(1 - noise, len(predicted))


def calibrate(
    views: list[np.ndarray],
    labels: np.ndarray,
    log_prior: np.ndarray,
    folds: np.ndarray | None = None,
    known: tuple[float, tuple[float, float]] | None = None,
    trusts: np.ndarray | None = None,
    copies: np.ndarray | None = None,
    reviewed: np.ndarray | None = None,
    *,
    as_people_err: bool = False,
    with_interval: bool = False,
    quick: bool = False,
) -> Calibration:
    """
    Temperatures, powers and wrong labels by maximum likelihood on held-out rows: of each label among the classes that
    these rows have, as classes without a label to hold out are missing from them.

    Args:
        views: (n, C) logits each.
        labels: (n,) class indices.
        log_prior: (C,).
        folds: (n,) of the rows. With them, labels that are always wrong in the same way are looked for too, in the
            contradictions of the other folds; the likelier kind of error is returned.
        known: the share of labels that are wrong in a pattern, and its interval, where they need not be estimated.
        trusts: (V, C), as in [`Calibration`].
        copies: (V,) the number of views of the same source, which share an inverse temperature a priori; None: 1.
        reviewed: (n,) whether a label is known to be right; None: of none.
        as_people_err: whether wrong labels may prefer likely classes. A view that confuses classes looks the same, so
            that another view has to deny labels first, see [`~g4i_hf.label_model.witnesses.deny_labels`].
        with_interval, quick: see [`_Kind`].
    """
    number = len(views)
    copies = np.ones(number) if copies is None else copies
    if not len(labels):
        fixed = USUAL_INVERSE_TEMPERATURE / copies, np.zeros(number), np.ones(number)
        return Calibration(*fixed, log_prior, 0.0, (0.0, MOST_NOISE), 0.0, 0.0, 0.0, trusts=trusts)
    task = _Task.of(views, labels, log_prior, copies, reviewed, trusts)
    kind = _Kind(1 / len(task.judged), None, as_people_err, with_interval, quick)
    best = task.solved(replace(kind, with_interval=with_interval and known is None))
    if folds is None:
        return best
    likely = best.probabilities(views).argmax(1)
    if_wrong = np.empty((len(labels), len(log_prior)))
    for fold in np.unique(folds):
        inside = folds == fold
        if_wrong[inside] = _confusions(likely[~inside], labels[~inside], len(log_prior))[:, labels[inside]].T
    confusions = _confusions(likely, labels, len(log_prior))
    given_if_wrong = torch.from_numpy(if_wrong[:, task.judged]).float()
    pattern = _Kind(float(np.diag(confusions).mean()), given_if_wrong)
    if known is not None:
        share, interval = known
        return replace(task.solved(pattern, known=share), confusions=confusions, interval=interval)
    found = task.solved(pattern, best)
    if (best.loss - found.loss) * len(labels) < max(CLEAR_GAIN, CLEAR_GAIN_A_ROW * len(labels)):
        return best
    if with_interval:
        found = task.solved(replace(pattern, with_interval=True), found)
    return replace(found, confusions=confusions)


def _confusions(likely: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(C, C) P(given label | true class, the label is wrong), counted where a label is not the likely class."""
    wrong = np.full((num_labels, num_labels), 1 / num_labels)
    differ = likely != labels
    np.add.at(wrong, (likely[differ], labels[differ]), 1)
    return wrong / wrong.sum(1, keepdims=True)


@dataclass
class _Kind:
    """
    Of wrong labels.

    Attributes:
        right_by_chance: share of the labels that are given in this way and are right.
        given_if_wrong: (n, C) probability of the given label for each true class, where there is a pattern.
        as_people_err: whether wrong labels may prefer likely classes.
        with_interval: whether the interval of their share is wanted, which takes longer than the rest.
        quick: from one start, for a calibration that chooses between models.
    """

    right_by_chance: float
    given_if_wrong: torch.Tensor | None = None
    as_people_err: bool = False
    with_interval: bool = False
    quick: bool = False

    def if_wrong(
        self, task: _Task, total: torch.Tensor, p: torch.Tensor, of_p: torch.Tensor, flatness: float
    ) -> tuple[torch.Tensor, ...]:
        """
        Probability of the given label if it is given in this way, its derivatives by the factors and by the flatness;
        and the same three of the probability that it is right nonetheless.

        Args:
            total, p: (n, J) scaled logits and probabilities; of_p: (V, n) mean of the logits by p.
        """
        level = torch.full((len(p),), self.right_by_chance)
        none, none_by = torch.zeros_like(level), torch.zeros_like(of_p)
        if self.given_if_wrong is not None:
            joint = p * self.given_if_wrong
            wrong = joint.sum(1)
            by_wrong = torch.einsum("nc,vnc->vn", joint, task.logits) - wrong * of_p
            return wrong, by_wrong, none, level, none_by, none
        if not self.as_people_err:
            return level, none_by, none, level, none_by, none
        q = (flatness * total).softmax(1)
        wrong, of_q = q.gather(1, task.given)[:, 0], torch.einsum("nc,vnc->vn", q, task.logits)
        mean = (q * total).sum(1)
        both = p * q
        same, of_both = both.sum(1), torch.einsum("nc,vnc->vn", both, task.logits)
        return (
            wrong,
            flatness * wrong * (task.given_logits - of_q),
            wrong * (total.gather(1, task.given)[:, 0] - mean),
            same,
            (1 + flatness) * of_both - same * (of_p + flatness * of_q),
            (both * total).sum(1) - same * mean,
        )


@dataclass
class _Task:
    """
    Held-out rows, whose classes alone count.

    Attributes:
        ratios: (V, n) logarithms of the margins over their geometric mean, `usual_margins` (V,).
        logits: (V, n, J) of the J classes that have labels.
        given: (n, 1) the label, as an index of these classes; `judged` (J,) are their indices.
        given_logits: (V, n) of the label.
        may_be_wrong: (n,) 1, or 0 for reviewed labels.
    """

    log_prior: np.ndarray
    copies: np.ndarray
    judged: np.ndarray
    usual_margins: np.ndarray
    ratios: np.ndarray
    logits: torch.Tensor
    prior_logits: torch.Tensor
    given: torch.Tensor
    given_logits: torch.Tensor
    may_be_wrong: np.ndarray
    trusts: np.ndarray | None

    @classmethod
    def of(
        cls,
        views: list[np.ndarray],
        labels: np.ndarray,
        log_prior: np.ndarray,
        copies: np.ndarray,
        reviewed: np.ndarray | None,
        trusts: np.ndarray | None,
    ) -> _Task:
        margins = np.stack([margins_of(logits) for logits in views])
        has = margins > 0
        margins = np.log(np.where(has, margins, 1))
        usual = (margins.sum(1) / np.maximum(has.sum(1), 1))[:, None]
        judged = np.unique(labels)
        given = torch.from_numpy(np.searchsorted(judged, labels))[:, None]
        stacked = np.stack(views)[:, :, judged]
        seen = stacked > ABSENT / 2  # a view says nothing of other classes
        neutral = logsumexp(np.where(seen, stacked + log_prior[judged], -np.inf), axis=2, keepdims=True)
        neutral -= logsumexp(np.where(seen, log_prior[judged], -np.inf), axis=2, keepdims=True)
        logits = torch.from_numpy(np.where(seen, stacked, np.nan_to_num(neutral, nan=0.0, neginf=0.0))).float()
        may_be_wrong = np.ones(len(labels)) if reviewed is None else 1.0 - reviewed
        return cls(
            log_prior,
            copies,
            judged,
            np.exp(usual[:, 0]),
            np.where(has, margins - usual, 0),
            logits,
            torch.from_numpy(log_prior[judged]).float(),
            given,
            logits.gather(2, given.expand(len(views), -1, 1))[:, :, 0],
            may_be_wrong,
            trusts,
        )

    def solved(self, kind: _Kind, start: Calibration | None = None, known: float | None = None) -> Calibration:
        """
        kind: of errors that wrong labels have.
        start: from where to go on.
        known: share of wrong labels, where it is not to be fitted.
        """
        number, usual = len(self.logits), self._usual
        # There may be several minima: flat predictions of right labels, sharp ones of labels often wrong
        starts = [[*usual - 0.7, *[0.0] * number, 0.01, 0.0], [*usual + 0.8, *[0.0] * number, 0.3, 0.0]]
        if kind.as_people_err:
            starts.append([*usual + 0.3, *[0.0] * number, 0.08, USUAL_FLATNESS])
        if kind.quick:
            starts = starts[:1]
        if start is not None:
            starts = [[*np.log(start.inverse_temperatures), *start.powers, max(start.share, 0.01), 0.0]]
        if not self.may_be_wrong.any():
            known = 0.0
        bounds = () if known is None else (known, known)
        found = self._least(starts, kind, 1.0, *bounds)
        share, interval = float(found.x[-2]), (0.0, MOST_NOISE if known is None else known)
        if kind.with_interval and known is None:
            low, high = self._interval([*starts, found.x], kind)
            interval = min(low, share), max(high, share)
        scales = np.exp(found.x[:number]), found.x[number:-2], self.usual_margins
        least = found.fun / len(self.given)
        fitted = Calibration(*scales, self.log_prior, share, interval, 0.0, float(found.x[-1]), least)
        fitted.trusts = self.trusts
        fitted.noise = self._noise_of(fitted, kind.right_by_chance)
        return fitted

    @property
    def _usual(self) -> np.ndarray:
        """(V,) logarithms of the usual inverse temperatures."""
        return np.log(USUAL_INVERSE_TEMPERATURE / self.copies)

    def _least(
        self, starts: list, kind: _Kind, weight_of_prior: float, low: float = 0.0, high: float = MOST_NOISE
    ) -> Any:
        number = len(self.logits)
        flatness = (0, MOST_FLATNESS) if kind.as_people_err else (0, 0)
        bounds = [(-5, 5)] * number + [(-3, 3)] * number + [(low, high), flatness]
        arguments = {"args": (kind, weight_of_prior), "jac": True, "method": "L-BFGS-B", "options": {"ftol": 1e-7}}
        found = [minimize(self._loss, np.array(start), bounds=bounds, **arguments) for start in starts]
        return min(found, key=lambda each: each.fun)

    def _interval(self, starts: list, kind: _Kind) -> tuple[float, float]:
        """Of the share of wrong labels by the likelihood, without a prior of the share."""
        likeliest = self._least(starts, kind, 0.0)
        nearest = likeliest.x

        def excess(bound: float) -> float:
            nonlocal nearest
            fitted = self._least([[*nearest[:-2], bound, nearest[-1]]], kind, 0.0, bound, bound)
            nearest = fitted.x
            return fitted.fun - likeliest.fun

        return _interval(float(likeliest.x[-2]), len(self.given), excess)

    def _loss(self, values: np.ndarray, kind: _Kind, weight_of_prior: float) -> tuple[float, np.ndarray]:
        """
        Negative log-likelihood with the priors, and its gradient, at log inverse temperatures, powers, the share of
        wrong labels, and the flatness. `weight_of_prior`: of that of the share.
        """
        number = len(self.logits)
        log_inverse, powers, share, flatness = values[:number], values[number:-2], values[-2], values[-1]
        factors = np.exp(log_inverse[:, None] + powers[:, None] * self.ratios)  # (V, n)
        total = torch.einsum("vn,vnc->nc", torch.from_numpy(factors).float(), self.logits) + self.prior_logits
        p = total.softmax(1)
        right, of_p = p.gather(1, self.given)[:, 0], torch.einsum("nc,vnc->vn", p, self.logits)
        by_right = right * (self.given_logits - of_p)  # derivatives by the factors
        parts = (right, by_right, *kind.if_wrong(self, total, p, of_p, flatness))
        right, by_right, wrong, by_wrong, by_flatness, same, same_by, same_by_flatness = (
            each.double().numpy() for each in parts
        )
        differ = max((self.may_be_wrong * (1 - same)).mean(), 1e-6)
        needed = share / differ  # by more than can be, such a share of wrong labels is impossible
        noise, excess = min(needed, MOST_NOISE), max(needed - MOST_NOISE, 0)
        of_row = noise * self.may_be_wrong
        likelihood = (1 - of_row) * right + of_row * wrong + 1e-30
        by_noise = -(self.may_be_wrong * (wrong - right) / likelihood).sum() if noise < MOST_NOISE else 0.0
        by_noise += 2 * WEIGHT_OF_EXCESS * len(same) * excess
        by_factor = -((1 - of_row) * by_right + of_row * by_wrong) / likelihood
        same_by, same_by_flatness = self.may_be_wrong * same_by, self.may_be_wrong * same_by_flatness
        by_factor = (by_factor + by_noise * needed / differ * same_by / len(same)) * factors
        deviations = log_inverse - self._usual, powers, flatness - USUAL_FLATNESS
        gradient = np.array(
            [
                *by_factor.sum(1) + deviations[0] / SPREAD**2,
                *(by_factor * self.ratios).sum(1) + powers / SPREAD_OF_POWER**2,
                by_noise / differ + weight_of_prior / USUAL_SHARE,
                -(of_row * by_flatness / likelihood).sum()
                + by_noise * needed / differ * same_by_flatness.mean()
                + deviations[2] / SPREAD_OF_FLATNESS**2,
            ]
        )
        spreads = SPREAD, SPREAD_OF_POWER, SPREAD_OF_FLATNESS
        prior = sum(np.sum(each**2) / (2 * spread**2) for each, spread in zip(deviations, spreads, strict=True))
        prior += weight_of_prior * share / USUAL_SHARE + WEIGHT_OF_EXCESS * len(same) * excess**2
        return float(prior - np.log(likelihood).sum()), gradient

    def _noise_of(self, found: Calibration, right_by_chance: float) -> float:
        """The share of labels that are given in another way, of which the share of wrong ones is a part."""
        if found.flatness:
            factors = found.inverse_temperatures[:, None] * np.exp(found.powers[:, None] * self.ratios)
            total = torch.einsum("vn,vnc->nc", torch.from_numpy(factors).float(), self.logits) + self.prior_logits
            same = (total.softmax(1) * (found.flatness * total).softmax(1)).sum(1).double().numpy()
        else:
            same = np.full(len(self.given), right_by_chance)
        return min(found.share / max((self.may_be_wrong * (1 - same)).mean(), 1e-6), MOST_NOISE)


def _interval(noise: float, number: int, excess: Callable[[float], float]) -> tuple[float, float]:
    """
    Up to where the excess, of the loss with that noise over the least, reaches its quantile. Its root is almost linear
    in the noise.
    """
    step = 2 * np.sqrt(max(noise * (1 - noise), 1 / number) / number)
    ends = []
    for sign, end in ((-1, 0.0), (1, MOST_NOISE)):
        near, at_near, far = noise, 0.0, noise
        at_far, reach = 0.0, step
        while at_far < CHI_SQUARED and far != end:
            near, at_near = far, at_far
            far = float(np.clip(noise + sign * reach, min(end, noise), max(end, noise)))
            at_far, reach = max(excess(far), at_near), 2 * reach
        while at_far > CHI_SQUARED and abs(far - near) > max(0.002, 0.1 * abs(far - noise)):
            part = (CHI_SQUARED**0.5 - at_near**0.5) / (at_far**0.5 - at_near**0.5)
            between = near + float(np.clip(part, 0.1, 0.9)) * (far - near)
            at_between = excess(between)
            if at_between < CHI_SQUARED:
                near, at_near = between, max(at_between, at_near)
            else:
                far, at_far = between, at_between
        ends.append(far)
    return ends[0], ends[1]


def margins_of(logits: np.ndarray) -> np.ndarray:
    """(n,) the largest logit minus the mean over the classes that the model has seen; 0 where all are 0."""
    seen = logits > ABSENT / 2
    found = np.maximum(logits.max(1) - (logits * seen).sum(1) / seen.sum(1), 1e-6)
    return np.where(logits.any(1), found, 0)


def inverse_temperature(logits: np.ndarray, log_prior: np.ndarray, confidence: float) -> float:
    """With which the mean probability of the likeliest class is `confidence`, as far as that can be."""

    def excess(log_inverse: float) -> float:
        return softmax(np.exp(log_inverse) * logits + log_prior, axis=1).max(1).mean() - confidence

    low, high = -5.0, 5.0
    if excess(low) > 0 or excess(high) < 0:
        return float(np.exp(low if excess(low) > 0 else high))
    return float(np.exp(root_scalar(excess, bracket=(low, high), xtol=0.01).root))
