"""Temperatures of the logits of several views, and the share of wrong labels, by likelihood on held-out rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize, root_scalar
from scipy.special import logsumexp, softmax

ABSENT = -30.0  # logit of a class that a model has not seen: it says nothing about it
# Normal priors, which matter where few rows are held out: of an inverse temperature's logarithm, and a power (mean 0)
USUAL_INVERSE_TEMPERATURE, SPREAD, SPREAD_OF_POWER = 2.0, 0.7, 0.5
MOST_NOISE = 0.95
CHI_SQUARED = 3.84 / 2  # half the 95% quantile, for an interval by the likelihood ratio
# Log-likelihood, in all and for each row, by which a pattern must explain labels better than errors at random do;
# judgements
CLEAR_GAIN, CLEAR_GAIN_A_ROW = 10.0, 0.01


@dataclass
class Calibration:
    """
    From the logits of V views to probabilities, and the share of wrong labels.

    Attributes:
        inverse_temperatures, powers, margins: (V,) T, g and M of each view, see [`CaptionClassifier`].
        log_prior: (C,).
        noise: e, share of labels that do not depend on the caption; `interval` its 95% interval, where it is needed.
        loss: mean negative log-likelihood, with the prior.
        confusions: (C, C) R, where labels are wrong in a pattern; None where they are wrong at random.
        trusts: (V, C) r of each view, see [`Calibration.probabilities`]; None: 1.
    """

    inverse_temperatures: np.ndarray
    powers: np.ndarray
    margins: np.ndarray
    log_prior: np.ndarray
    noise: float
    interval: tuple[float, float]
    loss: float
    confusions: np.ndarray | None = None
    trusts: np.ndarray | None = None

    @property
    def wrong(self) -> float:
        """Share of the labels of `noise` that are wrong: the others are right by chance."""
        by_chance = 1 / len(self.log_prior) if self.confusions is None else np.diag(self.confusions).mean()
        return float(1 - by_chance)

    def of_view(self, number: int, logits: np.ndarray) -> np.ndarray:
        """(n, C) logits of one view, scaled."""
        ratios = margins_of(logits) / self.margins[number]
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
        total = np.broadcast_to(self.log_prior, views[0].shape).astype(np.float64)
        for number in np.argsort(-seen.sum((1, 2)), kind="stable"):
            trust = seen[number] * (1.0 if self.trusts is None else self.trusts[number])
            said = self.of_view(number, views[number])
            if (trust < 1).any():
                weights = np.stack([total, np.broadcast_to(self.log_prior, total.shape)])
                weights[:, trust < 1] = -np.inf
                neutral = (logsumexp(weights + said, axis=2) - logsumexp(weights, axis=2)).max(0)
                with np.errstate(divide="ignore"):
                    said = np.logaddexp(np.log(trust) + said, np.log(1 - trust) + neutral[:, None])
            total = total + said
        return softmax(np.where(seen.any(0), total, -np.inf), axis=1)


def calibrate(
    views: list[np.ndarray],
    labels: np.ndarray,
    log_prior: np.ndarray,
    folds: np.ndarray | None = None,
    known: tuple[float, tuple[float, float]] | None = None,
    trusts: np.ndarray | None = None,
) -> Calibration:
    """
    Temperatures, powers and wrong labels by maximum likelihood on held-out rows: of each label among the classes that
    these rows have, as classes without a label to hold out are missing from them.

    Args:
        views: (n, C) logits each.
        labels: (n,) class indices.
        log_prior: (C,).
        folds: (n,) of the rows. With them, labels that are always wrong in the same way are looked for too, in the
            contradictions of the other folds; the likelier kind of error is returned, with the interval of its share.
        known: the share of labels that are wrong in a pattern, and its interval, where they need not be estimated.
        trusts: (V, C), as in [`Calibration`].
    """
    number = len(views)
    if not len(labels):
        fixed = np.full(number, USUAL_INVERSE_TEMPERATURE), np.zeros(number), np.ones(number)
        return Calibration(*fixed, log_prior, 0.0, (0.0, MOST_NOISE), 0.0, trusts=trusts)
    at_random = _calibrate(views, labels, log_prior, with_interval=folds is not None and known is None)
    at_random.trusts = trusts
    if folds is None:
        return at_random
    likely = at_random.probabilities(views).argmax(1)
    if_wrong = np.empty((len(labels), len(log_prior)))
    for fold in np.unique(folds):
        inside = folds == fold
        if_wrong[inside] = _confusions(likely[~inside], labels[~inside], len(log_prior))[:, labels[inside]].T
    confusions = _confusions(likely, labels, len(log_prior))
    if known is not None:
        noise, interval = known
        fitted = _calibrate(views, labels, log_prior, if_wrong, noise, with_interval=False)
        return replace(fitted, confusions=confusions, interval=interval, trusts=trusts)
    in_a_pattern = _calibrate(views, labels, log_prior, if_wrong, with_interval=True)
    gain = (at_random.loss - in_a_pattern.loss) * len(labels)
    if gain < max(CLEAR_GAIN, CLEAR_GAIN_A_ROW * len(labels)):
        return at_random
    return replace(in_a_pattern, confusions=confusions, trusts=trusts)


def _confusions(likely: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(C, C) P(given label | true class, the label is wrong), counted where a label is not the likely class."""
    wrong = np.full((num_labels, num_labels), 1 / num_labels)
    differ = likely != labels
    np.add.at(wrong, (likely[differ], labels[differ]), 1)
    return wrong / wrong.sum(1, keepdims=True)


def _calibrate(
    views: list[np.ndarray],
    labels: np.ndarray,
    log_prior: np.ndarray,
    if_wrong: np.ndarray | None = None,
    known_noise: float | None = None,
    *,
    with_interval: bool,
) -> Calibration:
    """
    if_wrong: (n, C) probability of the given label for each true class, if the label is wrong; None: 1 / C.
    known_noise: the share of wrong labels, where it is not to be fitted.
    with_interval: of the noise, which takes longer than the rest.
    """
    number, usual = len(views), np.log(USUAL_INVERSE_TEMPERATURE)
    margins = np.stack([np.log(margins_of(logits)) for logits in views])
    usual_margins = margins.mean(1, keepdims=True)
    ratios = torch.from_numpy(margins - usual_margins)  # (V, n), logarithms
    judged = np.unique(labels)
    logits = torch.from_numpy(np.stack(views)[:, :, judged]).double()
    given = torch.from_numpy(np.searchsorted(judged, labels))[:, None]
    prior_logits = torch.from_numpy(log_prior[judged]).double()
    given_if_wrong = None if if_wrong is None else torch.from_numpy(if_wrong[:, judged])

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log-likelihood with the priors, and its gradient, at log inverse temperatures, powers and noise."""
        parameters = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        log_inverse, powers, noise = parameters[:number], parameters[number:-1], parameters[-1]
        factors = (log_inverse[:, None] + powers[:, None] * ratios).exp()
        probabilities = ((factors[:, :, None] * logits).sum(0) + prior_logits).softmax(1)
        wrong = 1 / len(log_prior) if given_if_wrong is None else (probabilities * given_if_wrong).sum(1)
        likelihood = (1 - noise) * probabilities.gather(1, given)[:, 0] + noise * wrong
        prior = ((log_inverse - usual) ** 2).sum() / (2 * SPREAD**2) - (1 - noise).log()
        prior = prior + (powers**2).sum() / (2 * SPREAD_OF_POWER**2)
        total = prior - (likelihood + 1e-30).log().sum()
        total.backward()
        return total.item(), parameters.grad.numpy()

    def best(start: np.ndarray, least: float = 0.0, most: float = MOST_NOISE) -> Any:
        bounds = [(-5, 5)] * number + [(-3, 3)] * number + [(least, most)]
        return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)

    # With few rows there may be two minima: flat predictions of right labels, sharp ones of labels often wrong
    with torch.enable_grad():
        begin = (np.full(number, usual - 0.7), np.full(number, usual + 0.8))
        noises, bounds = ((0.02, 0.4), ()) if known_noise is None else ((known_noise,), (known_noise, known_noise))
        starts = [np.array([*each, *np.zeros(number), noise]) for each in begin for noise in noises]
        found = min((best(start, *bounds) for start in starts), key=lambda each: each.fun)
        scales, noise = found.x[:-1], float(found.x[-1])

        def excess(bound: float) -> float:
            return best(np.array([*scales, bound]), bound, bound).fun - found.fun - CHI_SQUARED

        interval = _interval(noise, excess) if with_interval else (0.0, MOST_NOISE)
    fitted = np.exp(scales[:number]), scales[number:], np.exp(usual_margins[:, 0])
    return Calibration(*fitted, log_prior, noise, interval, found.fun / len(labels))


def _interval(noise: float, excess: Callable[[float], float]) -> tuple[float, float]:
    """Up to where the excess, of the loss with that noise over the least, is negative."""
    low, high = 0.0, MOST_NOISE
    if noise > 0 and excess(0) > 0:
        low = float(root_scalar(excess, bracket=(0, noise), xtol=0.002).root)
    if excess(MOST_NOISE) > 0:
        high = float(root_scalar(excess, bracket=(noise, MOST_NOISE), xtol=0.002).root)
    return low, high


def margins_of(logits: np.ndarray) -> np.ndarray:
    """(n,) the largest logit minus the mean over the classes that the model has seen."""
    seen = logits > ABSENT / 2
    return np.maximum(logits.max(1) - (logits * seen).sum(1) / seen.sum(1), 1e-6)


def inverse_temperature(logits: np.ndarray, log_prior: np.ndarray, confidence: float) -> float:
    """With which the mean probability of the likeliest class is `confidence`, as far as that can be."""

    def excess(log_inverse: float) -> float:
        return softmax(np.exp(log_inverse) * logits + log_prior, axis=1).max(1).mean() - confidence

    low, high = -5.0, 5.0
    if excess(low) > 0 or excess(high) < 0:
        return float(np.exp(low if excess(low) > 0 else high))
    return float(np.exp(root_scalar(excess, bracket=(low, high), xtol=0.01).root))


def true_accuracy(views: list[np.ndarray], labels: np.ndarray, found: Calibration) -> float | None:
    """On held-out rows, corrected for wrong labels, which agree by chance alone."""
    if not len(labels):
        return None
    agree = (found.probabilities(views).argmax(1) == labels).mean()
    return float(np.clip((agree - found.noise * (1 - found.wrong)) / (1 - found.noise), 0, 1))
