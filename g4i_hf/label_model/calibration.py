"""From the logits of views to class probabilities, where some labels are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import logsumexp, softmax

from .. import priors
from ..evaluation.estimate import HeldOut
from ..linear import has_vote, margins_of


@dataclass
class Calibration:
    """From the logits of V views to probabilities, and the share of wrong labels."""

    inverse_temperatures: np.ndarray  # (V,) T, g and M of each view, see [`LabelModel`]
    powers: np.ndarray
    margins: np.ndarray
    log_prior: np.ndarray  # (C,)
    share: float  # of wrong labels, `interval` its 95% interval, where it is needed
    interval: tuple[float, float]
    noise: float  # e, share of labels that are given without the certainty of p: some of them are right
    noise_exponent: float  # k, how much such labels depend on p
    loss: float  # mean negative log-likelihood, minus log priors
    trusts: np.ndarray  # (V, C) r of each view, 0 for a class without an example, see [`Calibration.probabilities`]
    confusions: np.ndarray | None = None  # (C, C) R, if labels are wrong in a pattern, else None

    def interval_by(self, groups: np.ndarray) -> tuple[float, float]:
        """That of the share where only groups (n,) of rows are independent, as their labels may be wrong together."""
        (low, high), rows_a_group = self.interval, len(groups) / len(np.unique(groups))
        if rows_a_group == 1:
            return low, high
        wider = np.sqrt(rows_a_group)
        ends = self.share - wider * (self.share - low), self.share + wider * (high - self.share)
        return float(max(ends[0], 0.0)), float(min(ends[1], priors.MAX_NOISE))

    def of_view(self, number: int, logits: np.ndarray) -> np.ndarray:
        """(n, C) logits of one view, scaled."""
        margins = margins_of(logits)
        ratios = np.where(margins > 0, margins, self.margins[number]) / self.margins[number]
        return (self.inverse_temperatures[number] * ratios ** self.powers[number])[:, None] * logits

    def probabilities(self, views: list[np.ndarray]) -> np.ndarray:
        """
        (n, C) from the logits of each view. For a class without an example, the logit of a view is neutral: the mean
        over the classes c with examples,

            u = log sum_c p_c exp(z_c) / sum_c p_c,

        where p are the probabilities by the views before it, which have examples of more classes: these alone decide
        between the classes with examples and the others. If the prior gives a larger mean, p is the prior: an image
        unlike all classes of the views before may belong to a class that this view lacks. For a
        class with r below 1, the examples are typical with probability r: log(r e^z + (1 - r) e^u). A class without an
        example in any view has probability 0.
        """
        total = np.broadcast_to(self.log_prior, views[0].shape).astype(np.float64)
        for number in np.argsort(-(self.trusts > 0).sum(1), kind="stable"):
            trust = has_vote(views[number]) * self.trusts[number]
            scaled = self.of_view(number, views[number])
            if (trust < 1).any():
                weights = np.stack([total, np.broadcast_to(self.log_prior, total.shape)])
                known = np.where((trust == 1).any(1)[:, None], trust == 1, trust > 0)
                weights[:, ~known & known.any(1)[:, None]] = -np.inf
                neutral = (logsumexp(weights + scaled, axis=2) - logsumexp(weights, axis=2)).max(0)
                with np.errstate(divide="ignore"):
                    scaled = np.logaddexp(np.log(trust) + scaled, np.log(1 - trust) + neutral[:, None])
            total = total + scaled
        return softmax(np.where((self.trusts > 0).any(0), total, -np.inf), axis=1)

    def posterior(
        self, probabilities: np.ndarray, labels: np.ndarray, reviewed: np.ndarray | None = None
    ) -> np.ndarray:
        """
        (n, C) float32 probabilities of the true class, given the label y too, by Bayes' rule: proportional to
        p_c ((1 - e) [c = y] + e q_y), or with R_cy for q_y. The `probabilities` p (n, C) are out of fold. Rows without
        a label, negative, keep theirs; a `reviewed` label (n,), which a person confirmed, is right.
        """
        posterior = np.asarray(probabilities, dtype=np.float32).copy()
        known = np.flatnonzero(labels >= 0)
        p, labelled = posterior[known] + 1e-7, (np.arange(len(known)), labels[known])
        noise = np.full((len(known), 1), self.noise, dtype=np.float32)
        if reviewed is not None:
            noise[reviewed[known]] = 0
        if_noisy = self.if_noisy(p)[labelled][:, None] if self.confusions is None else self.confusions.T[labelled[1]]
        likelihood = np.broadcast_to(noise * if_noisy, p.shape).astype(np.float32)
        likelihood[labelled] += 1 - noise[:, 0]
        weighted = p * likelihood
        posterior[known] = weighted / weighted.sum(1, keepdims=True)
        return posterior

    def if_noisy(self, probabilities: np.ndarray) -> np.ndarray:
        """(n, C) q, proportional to p^k: 1 / C for k = 0; where people err, k is about 0.3."""
        return softmax(self.noise_exponent * np.log(probabilities + 1e-7), axis=1)

    def held_out(
        self,
        probabilities: np.ndarray,
        posterior: np.ndarray,
        labels: np.ndarray,
        reviewed: np.ndarray,
        counts: np.ndarray,
        everywhere: np.ndarray,
    ) -> HeldOut:
        """Labelled rows, for the estimated share of wrong labels and the ends of its interval; see [`HeldOut.of`]."""
        if self.confusions is None:
            if_noisy = self.if_noisy(probabilities)
            wrong = 1 - (probabilities * if_noisy).sum(1)
        else:
            if_noisy = probabilities @ self.confusions
            wrong = np.full(len(labels), 1 - np.diag(self.confusions).mean())
        shares = np.array([[self.share], [self.interval[0]], [self.interval[1]]])
        noise = np.minimum(shares / max((wrong * ~reviewed).mean(), 1e-6), priors.MAX_NOISE) * ~reviewed
        return HeldOut.of(probabilities, labels, noise, if_noisy, posterior, counts, everywhere)


def inverse_temperature(
    logits: np.ndarray,
    log_prior: np.ndarray | float,
    confidence: float,
    weights: np.ndarray | None = None,
    between: tuple[float, float] = (np.exp(-5.0), np.exp(5.0)),
    xtol: float = 0.01,
) -> float:
    """
    The one whose mean probability of the most probable class, with these weights (n,), is `confidence`; `xtol` is the
    precision of its logarithm.
    """

    def excess(log_inverse: float) -> float:
        most = softmax(np.exp(log_inverse) * logits + log_prior, axis=1).max(1)
        return np.average(most, weights=weights) - confidence

    low, high = np.log(between)
    if excess(low) > 0 or excess(high) < 0:
        return float(between[0] if excess(low) > 0 else between[1])
    return float(np.exp(root_scalar(excess, bracket=(low, high), xtol=xtol).root))
