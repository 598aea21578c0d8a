"""From the logits of views to class probabilities, where some labels are wrong; and estimates of their accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import t as student_t

from ..linear import ABSENT, margins_of

MOST_NOISE = 0.95


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
    flatness: float  # k, how much such labels depend on p
    loss: float  # mean negative log-likelihood, including the priors
    confusions: np.ndarray | None = None  # (C, C) R, if labels are wrong in a pattern, else None
    # (V, C) r of each view, 0 for a class without an example, see [`Calibration.probabilities`]
    trusts: np.ndarray | None = None

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
        seen = np.stack([logits > ABSENT / 2 for logits in views])
        trusts = seen.any(1).astype(np.float64) if self.trusts is None else self.trusts
        total = np.broadcast_to(self.log_prior, views[0].shape).astype(np.float64)
        for number in np.argsort(-(trusts > 0).sum(1), kind="stable"):
            trust = seen[number] * trusts[number]
            scaled = self.of_view(number, views[number])
            if (trust < 1).any():
                weights = np.stack([total, np.broadcast_to(self.log_prior, total.shape)])
                known = np.where((trust == 1).any(1)[:, None], trust == 1, trust > 0)
                weights[:, ~known & known.any(1)[:, None]] = -np.inf
                neutral = (logsumexp(weights + scaled, axis=2) - logsumexp(weights, axis=2)).max(0)
                with np.errstate(divide="ignore"):
                    scaled = np.logaddexp(np.log(trust) + scaled, np.log(1 - trust) + neutral[:, None])
            total = total + scaled
        return softmax(np.where((trusts > 0).any(0), total, -np.inf), axis=1)

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
        if_wrong = self.if_unsure(p)[labelled][:, None] if self.confusions is None else self.confusions.T[labelled[1]]
        likelihood = np.broadcast_to(noise * if_wrong, p.shape).astype(np.float32)
        likelihood[labelled] += 1 - noise[:, 0]
        weighted = p * likelihood
        posterior[known] = weighted / weighted.sum(1, keepdims=True)
        return posterior

    def if_unsure(self, probabilities: np.ndarray) -> np.ndarray:
        """(n, C) q, proportional to p^k: uniform for k = 0; where people err, k is about 0.3."""
        return softmax(self.flatness * np.log(probabilities + 1e-7), axis=1)

    def agreement(
        self, probabilities: np.ndarray, predicted: np.ndarray, share: float, reviewed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        (n,) probability that the label of a row is the predicted class (n,), if `share` of the labels is wrong; and
        the slope of this probability with respect to the probability of that class.
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


# --- Accuracy over all rows, estimated from held-out rows ------------------------------------------------------------


# Overconfidence for classes without a label, and for classes with one label where others have more; each with its
# standard deviation (three datasets)
NONE_TOO_HIGH, ONE_TOO_HIGH = (0.33, 0.2), (0.17, 0.15)


@dataclass
class Estimate:
    """A share in [0, 1], or a difference of two, and its 95% interval; None where it is unknown."""

    share: float
    interval: tuple[float, float] | None = None


@dataclass
class HeldOut:
    """Labelled rows, with probabilities by models that were not fitted on their label, to measure calibration."""

    probabilities: np.ndarray  # (m, C)
    labels: np.ndarray  # (m,) class indices
    reviewed: np.ndarray  # (m,) whether a label is known to be right
    # (m,), whose sum is 1. Each row counts in proportion to the frequency of its class in all rows, since k labels of
    # each class are not a random sample
    weights: np.ndarray
    single: float  # share of all rows whose class has a single label, which cannot be held out
    unknown: float  # share of all rows whose class has no label
    calibration: Calibration  # how labels are wrong
    shares: tuple[float, float, float]  # of wrong labels: the estimate and the ends of its interval

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        posterior: np.ndarray,
        labels: np.ndarray,
        reviewed: np.ndarray,
        counts: np.ndarray,
        everywhere: np.ndarray,
        calibration: Calibration,
    ) -> HeldOut:
        """
        Args:
            posterior: (m, C) probabilities given the label too, which decide the class that a row counts for.
            counts: (C,) labels of each class, including those that cannot be held out.
            everywhere: (n, C) probabilities of all rows.
        """
        frequency, of_class = everywhere.mean(0, dtype=np.float64), posterior.sum(0, dtype=np.float64)
        weights = posterior @ (frequency / np.maximum(of_class, 1e-9))
        missing = np.bincount(labels, minlength=len(frequency)) == 0
        # Views with few examples of a class underestimate its frequency
        by_labels = (counts + 2) / (counts.sum() + 2 * len(counts))
        single, unknown = (
            float(max(frequency[classes].sum(), by_labels[classes].sum()))
            for classes in (missing & (counts > 0), missing & (counts == 0))
        )
        return cls(
            probabilities,
            labels,
            reviewed,
            weights / weights.sum(),
            single,
            unknown * (1 - single),
            calibration,
            (calibration.share, *calibration.interval),
        )

    @property
    def judged(self) -> float:
        """Share of all rows whose class has a row here."""
        return max(1 - self.single - self.unknown, 0.0)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a weighted mean."""
        return max(1 / (self.weights**2).sum() - 1, 1)

    def residuals(self, predicted: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(m,) how much more often a predicted class is right than its probability says; and its probability."""
        expected, slope = self.calibration.agreement(self.probabilities, predicted, share, self.reviewed)
        return ((predicted == self.labels) - expected) / slope, expected

    def error_of(self, residuals: np.ndarray, least: np.ndarray) -> float:
        """
        Standard error of the weighted mean of (m,) residuals. The variance is at least the one (m,) that the
        probabilities imply, plus half a row, as few rows may all agree by chance.
        """
        variance = (self.weights * (residuals - (self.weights * residuals).sum()) ** 2).sum()
        variance = max(variance, (self.weights * least).sum()) + 0.5 / (self.freedom + 1)
        return float(np.sqrt(variance / self.freedom))


def accuracy_of(everywhere: np.ndarray, held_out: HeldOut) -> Estimate | None:
    """
    The accuracy over all rows (n, C): the mean probability of the most probable class, plus the mean residual of
    held-out rows (prediction-powered inference: Angelopoulos et al., arXiv 2301.09633).
    """
    if not len(held_out.labels):
        return None
    predicted = held_out.probabilities.argmax(1)
    judged, single, unknown = held_out.judged, held_out.single, held_out.unknown
    too_high = ONE_TOO_HIGH[0] * single * judged + NONE_TOO_HIGH[0] * unknown
    ends = []
    for share in held_out.shares:
        residuals, expected = held_out.residuals(predicted, share)
        errors = (
            held_out.error_of(residuals, expected * (1 - expected)),
            ONE_TOO_HIGH[1] * single,
            NONE_TOO_HIGH[1] * unknown,
        )
        accuracy = everywhere.max(1).mean(dtype=np.float64) + judged * (held_out.weights * residuals).sum() - too_high
        half = student_t.ppf(0.975, held_out.freedom) * np.linalg.norm(errors)
        ends.append((accuracy, accuracy - half, accuracy + half))
    accuracies, lows, highs = np.clip(np.array(ends).T, 0, 1)
    return Estimate(float(accuracies[0]), (float(lows.min()), float(highs.max())))
