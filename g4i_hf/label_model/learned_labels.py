"""Views that held-out labels speak against: those that have learned these labels, and those that tell no class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import mannwhitneyu

from .. import priors
from .agreement import by_chance
from .none_of_these import explained
from .view_model import ViewModel
from .views import FOLDS, Rows, Values

MOST_COMPARED = 4_000  # unlabelled rows


def views_that_know(models: Sequence[ViewModel], values: dict[str, Values], rows: Rows) -> list[str]:
    """
    Names of the views that are much surer of labelled rows than of others, although the models of both have not
    learned their labels: the view itself has. Only rows of the same predicted class are compared, as classes with more
    labels are surer. Images of no class lower the sureness too, but of less than half of the rows.
    """
    judged, unlabelled = rows.judged, np.flatnonzero(rows.labels < 0)[:MOST_COMPARED]
    if len(judged) < priors.MIN_HELD_OUT:
        return []
    model_of = np.where(rows.labels < 0, np.arange(len(rows.labels)) % FOLDS, rows.folds)
    names = []
    for model in models:
        has = values[model.name].has
        places = judged[has[judged]], unlabelled[has[unlabelled]]
        logits = [model.logits(values, of, model_of) for of in places]
        area, deviations = _surer(*(explained(each) for each in logits), *(each.argmax(1) for each in logits))
        if area > priors.MIN_AREA_OF_LEARNED and deviations > priors.MIN_DEVIATIONS_OF_LEARNED:
            names.append(model.name)
    return names


def views_by_chance(models: Sequence[ViewModel], values: dict[str, Values], rows: Rows) -> list[str]:
    """
    Names of views, such as captions that are file names, whose predictions equal held-out labels, and on unlabelled
    rows the predictions of other views, no more often than by chance. Views that self-train are not among them.
    """
    number, judged, unlabelled = models[0].num_labels, rows.judged, rows.unlabelled[:MOST_COMPARED]
    in_judged, in_unlabelled = (
        {model.name: model.logits(values, places, rows.folds).argmax(1) for model in models}
        for places in (judged, unlabelled)
    )

    def agree(first: np.ndarray, second: np.ndarray, both: np.ndarray, alpha: float) -> bool:
        return bool(both.any()) and by_chance(first[both], second[both], number) < alpha

    names = []
    for name, predicted in in_unlabelled.items():
        view, has = values[name], values[name].has[judged]
        if view.self_trains or has.sum() < priors.MIN_HELD_OUT:
            continue
        tells = agree(in_judged[name], rows.labels[judged], has, priors.ALPHA_OF_NAMES)
        for other, of_other in in_unlabelled.items():
            both = (view.has & values[other].has & (view.source != values[other].source))[unlabelled]
            tells = tells or agree(predicted, of_other, both, priors.ALPHA_IN_COMMON)
        names += [] if tells else [name]
    return names


def _surer(first: np.ndarray, second: np.ndarray, of_first: np.ndarray, of_second: np.ndarray) -> tuple[float, float]:
    """
    Probability that a row of `first` is surer than one of `second` of the same class. By how many standard deviations
    that exceeds a half: van Elteren's stratified rank test.
    """
    excess, total, variance = 0.0, 0.0, 0.0
    for label in np.unique(of_first):
        one, other = first[of_first == label], second[of_second == label]
        if not len(other):
            continue
        area = mannwhitneyu(one, other, method="asymptotic").statistic / (len(one) * len(other))
        weight = 1 / (1 / len(one) + 1 / len(other))
        excess, total = excess + weight * (area - 0.5), total + weight
        variance += weight**2 * (len(one) + len(other) + 1) / (12 * len(one) * len(other))
    return (0.5 + excess / total, excess / np.sqrt(variance)) if total else (0.5, 0.0)
