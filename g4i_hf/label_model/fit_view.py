"""The classifier of each view: of several, the one that predicts held-out labels best."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from .. import priors
from ..linear import Classifier, balanced_regression, linear_discriminant, margins_of, one_hot, strongest_first
from .likelihood import PriorOfTemperatures, calibrate
from .view_model import ViewModel
from .views import FOLDS, WHOLE, Rows, Values

STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # C of the logistic regression, as in scikit-learn
SHRINKAGES = (0.6, 0.2)  # of the linear discriminant
MOST_FITTED = 50_000  # rows that a model is fitted on; of more a sample is taken
PARTS = ((0, 1, 2), (3, 4, WHOLE))  # of folds, where so many rows are left without any of them
ENOUGH_COMPARED = 2_000  # held-out rows that select the strength
MOST_COMPARED = 4_000  # unlabelled rows on which views are compared


def fit_view(view: Values, rows: Rows, log_prior: np.ndarray) -> ViewModel:
    """
    Logistic regressions are tried from the strongest regularisation on. For views that self-train, such as image
    features, linear discriminants are tried too; for views that name all classes, a regression on the names alone, as
    few labels, of which some are wrong, can teach less. `log_prior`: (C,) of the classes.
    """
    judged, num_labels = rows.judged[view.has[rows.judged]], len(log_prior)
    folds = [int(fold) for fold in np.unique(rows.folds[rows.known[view.has[rows.known]]]) if fold >= 0]
    # Of many rows, some folds are enough to select the strength
    numbers = np.cumsum([np.count_nonzero(rows.folds[judged] == fold) for fold in folds])
    compared = folds[: 1 + int(np.searchsorted(numbers, ENOUGH_COMPARED))]
    judged = judged[np.isin(rows.folds[judged], compared)]
    # At free temperatures, few rows would not tell how sure a view may be
    expected = PriorOfTemperatures.of(np.ones(1), priors.NARROW_STD_LOG_TEMPERATURE)

    def regression(c: float, before: ViewModel | None, numbers: Sequence[int] = compared) -> ViewModel:
        fit = partial(balanced_regression, c=c, variances=view.space.variances)
        return _of_folds(view, rows, num_labels, fit, numbers, before)

    if not len(judged):
        return regression(priors.DEFAULT_C, None, [WHOLE])

    def held_out(model: ViewModel) -> np.ndarray:
        return model.logits({view.name: view}, judged, rows.folds)

    def loss_of(model: ViewModel) -> float:
        of_view = [held_out(model)], rows.labels[judged], log_prior, view.trusts(rows.labels)
        return calibrate(*of_view, expected=expected, quick=True).loss

    c, best, least = strongest_first(STRENGTHS, regression, loss_of)
    regressions, others, every = best, [], [*folds, WHOLE]
    if view.self_trains and len(judged) >= priors.MIN_HELD_OUT:
        for shrinkage in SHRINKAGES:
            fit = partial(linear_discriminant, shrinkage=shrinkage)
            others.append((_of_folds(view, rows, num_labels, fit, every), 0.0))
    if view.is_named.all() and (view.names != view.names[0]).any():
        of_names = balanced_regression(view.names, np.eye(num_labels), STRENGTHS[0], view.space.variances)
        model = ViewModel((view.name,), (view.x.shape[1],), dict.fromkeys(every, of_names), num_labels)
        others.append((model, priors.MIN_GAIN_OF_NAMES / len(judged)))
    margin = margins_of(held_out(best)).mean()
    for model, least_gain in others:
        # The priors of temperatures are for logits like those of the regression
        model.scale(margin / margins_of(held_out(model)).mean())
        loss = loss_of(model)
        if loss < least - least_gain:
            best, least = model, loss
    if best is regressions:
        best.models |= regression(c, None, [fold for fold in (*folds, WHOLE) if fold not in best.models]).models
    unlabelled = rows.unlabelled[view.has[rows.unlabelled]][:MOST_COMPARED]
    if len(unlabelled):
        best.match_margin_of_fold_models({view.name: view}, unlabelled)
    return best


def _of_folds(
    view: Values,
    rows: Rows,
    num_labels: int,
    fit: Callable[..., Classifier],
    folds: Sequence[int],
    start: ViewModel | None = None,
) -> ViewModel:
    """A classifier for each fold, without its labels, or for the rest (`WHOLE`). Names of classes are examples too."""
    classes, known = np.flatnonzero(view.is_named), rows.known[view.has[rows.known]]
    model = ViewModel((view.name,), (view.x.shape[1],), {}, num_labels)
    for part in _parts(rows.folds[known], rows.labels[known]):
        if not set(part) & set(folds):
            continue
        fitted = known[~np.isin(rows.folds[known], part)][:MOST_FITTED]
        x = np.concatenate([view.x[fitted], view.names[classes]])
        shares = one_hot(np.concatenate([rows.labels[fitted], classes]), num_labels)
        kwargs = {} if start is None else {"start": start.models[part[0]]}
        model.models |= dict.fromkeys(part, fit(x, shares, **kwargs))
    return model


def _parts(folds: np.ndarray, labels: np.ndarray) -> Sequence[tuple[int, ...]]:
    """
    Numbers of models that share a classifier. Of many rows (n,) it takes two, if each is fitted on enough of them, and
    on all classes.
    """
    left = [labels[~np.isin(folds, part)][:MOST_FITTED] for part in PARTS]
    classes = len(np.unique(labels))
    enough = all(len(each) == MOST_FITTED and len(np.unique(each)) == classes for each in left)
    return PARTS if enough else [(fold,) for fold in (*range(FOLDS), WHOLE)]
