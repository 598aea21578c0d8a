"""What views say of each other: how right each is where no label can be held out, and labels that two views deny."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from scipy.stats import binomtest

from .likelihood import calibrate
from .regression import logistic_regression
from .rows import Rows
from .views import Values

LEARNED_STRENGTH = 1.0  # of a view that learns predictions of another, or labels that these confirm
LEAST_SURE = 100  # rows of which two views are sure, for the labels of these to tell of all labels
CLEAR_SHARE = 2 / 3  # of the contradictions of all rows, which those sure rows must have


def accuracies_by_each_other(logits: list[np.ndarray], views: list[Values], rows: np.ndarray) -> list[float]:
    """
    Classes that one view predicts can be learned from another view as far as they are true: its own errors mean
    nothing there. So each view learns what another predicts for half of the rows, and its recall on the other half,
    the mean over the classes, stands for the other's accuracy. It is too low for the better view, which is learned
    from the worse one, so the odds are spread: their ratio is squared. Of several others the geometric mean of the
    odds counts; views of the same source do not judge each other.

    Args:
        logits: (n, C) of each view, for the rows.
        views: of which the rows, an array (n,) of numbers, are asked.

    Returns:
        The accuracy of each view.
    """
    number, num_labels = len(views), logits[0].shape[1]
    log_odds = np.full((number, number), np.nan)
    for told, asked in permutations(range(number), 2):
        if views[told].source == views[asked].source:
            continue
        both = np.flatnonzero(views[told].has[rows] & views[asked].has[rows])
        if len(both) < 2:
            continue
        predicted = logits[told][both].argmax(1)
        x, half = views[asked].x[rows[both]], np.arange(len(both)) % 2
        learned = np.empty_like(predicted)
        for part in (0, 1):
            taught, left = half != part, half == part
            weight, bias = logistic_regression(
                x[taught], predicted[taught], num_labels, LEARNED_STRENGTH, views[asked].space.variances
            )
            learned[left] = (x[left] @ weight + bias).argmax(1)
        again, number_of = (
            np.bincount(of, minlength=num_labels) for of in (predicted[learned == predicted], predicted)
        )
        recall = (again[number_of > 0] / number_of[number_of > 0]).mean()
        recall = np.clip(recall, 0.01, 0.99)
        log_odds[told, asked] = np.log(recall / (1 - recall))
    spread = log_odds + (log_odds - log_odds.T) / 2
    means = np.array([np.nanmean(of_view) if np.isfinite(of_view).any() else 0.0 for of_view in spread])
    return list(1 / (1 + np.exp(-means)))


def deny_labels(held_out: list[np.ndarray], views: list[Values], rows: np.ndarray, labels: np.ndarray) -> bool | None:
    """
    Whether labels are wrong that a view contradicts: in the fifth of these rows where it does so most clearly, another
    view prefers its class to the label too, more often than not. Where a view errs and the label is right, the other
    view prefers the label, unless it errs in the same way. Image features do so with each other, and texts of one
    model do: only a view that learns and one that does not are asked about each other. None where too few rows decide.

    Args:
        held_out: (n, C) logits of each view.
        views: of which the rows, an array (n,) of numbers, are asked.
        labels: (n,) class indices.
    """
    decided: bool | None = False
    for accuser, witness in permutations(range(len(views)), 2):
        if views[accuser].learns == views[witness].learns:
            continue
        told = held_out[accuser].argmax(1)
        places = np.flatnonzero((told != labels) & views[accuser].has[rows] & views[witness].has[rows])
        lead = held_out[accuser][places, told[places]] - held_out[accuser][places, labels[places]]
        clearest = places[np.argsort(lead)[len(places) - len(places) // 5 :]]
        if not len(clearest):
            continue
        sides = held_out[witness][clearest, told[clearest]] > held_out[witness][clearest, labels[clearest]]
        if binomtest(int(sides.sum()), len(sides)).proportion_ci(method="wilson").low > 0.5:
            return True
        if sides.mean() > 0.5:
            decided = None
    return decided


def noise_of_sure_rows(
    told: np.ndarray, first: Values, other: Values, rows: Rows, log_prior: np.ndarray
) -> tuple[float, tuple[float, float]] | None:
    """
    The share of wrong labels among rows of which two views are sure, and its 95% interval there. Two classes whose
    labels often change places look like two classes that a view confuses. But two views that confuse classes are sure
    of the rows that they do not confuse; labels that change places do so there too (anchor points: Patrini et al.,
    arXiv 1609.03683). None where sure rows have clearly fewer contradictions than all rows have.

    Args:
        told: (judged, C) held-out logits of the first view.
        other: another view, which learns the judged rows whose label the first confirms, in two halves.
    """
    judged, num_labels = rows.judged, told.shape[1]
    labels, has = rows.labels[judged], first.has[judged] & other.has[judged]
    predicted = calibrate([told], labels, log_prior, quick=True).probabilities([told]).argmax(1)
    agree, half = predicted == labels, rows.folds[judged] % 2
    learned = np.zeros(told.shape, dtype=np.float32)
    for part in (0, 1):
        taught = judged[agree & has & (half != part)]
        if len(np.unique(rows.labels[taught])) < 2:
            return None
        weight, bias = logistic_regression(
            other.x[taught], rows.labels[taught], num_labels, LEARNED_STRENGTH, other.space.variances
        )
        learned[half == part] = other.x[judged[half == part]] @ weight + bias
    if (learned.argmax(1) == labels)[agree & has].mean() < (1 + 1 / num_labels) / 2:
        return None  # the other view is less than halfway from chance to always right
    sure = np.zeros(len(labels), dtype=bool)
    for label in np.unique(predicted):
        alike = np.flatnonzero((predicted == label) & (learned.argmax(1) == label) & has)
        ranks = [_lead(logits[alike]).argsort().argsort() for logits in (told, learned)]
        sure[alike[np.minimum(*ranks).argsort()[len(alike) - len(alike) // 4 :]]] = True
    if sure.sum() < LEAST_SURE:
        return None
    share = float((~agree[sure]).mean())
    if share <= CLEAR_SHARE * (~agree[has]).mean():
        return None
    low, high = binomtest(int((~agree[sure]).sum()), int(sure.sum())).proportion_ci(method="wilson")
    return share, (float(low), float(high))


def _lead(logits: np.ndarray) -> np.ndarray:
    """(n,) by how much the largest logit exceeds the second."""
    second, first = np.partition(logits, -2, axis=1)[:, -2:].T
    return first - second
