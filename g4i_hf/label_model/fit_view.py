"""The classifier of each view: of several, the one that predicts held-out labels best."""

from collections.abc import Callable
from functools import partial, reduce

import numpy as np

from .. import priors
from ..linear import Classifier, balanced_regression, linear_discriminant, margins_of, one_hot, strongest_first
from .likelihood import calibrate
from .view_model import ViewModel
from .views import WHOLE, Rows, Values

STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # C of the logistic regression, as in scikit-learn
SHRINKAGES = (0.6, 0.2)  # of the linear discriminant
MOST_FITTED = 50_000  # rows that a model is fitted on; of more a sample is taken
MOST_COMPARED = 4_000  # unlabelled rows on which views are compared


def fit_view(view: Values, rows: Rows, log_prior: np.ndarray) -> ViewModel:
    """
    Logistic regressions are tried from the strongest regularisation on. For views that self-train, such as image
    features, linear discriminants are tried too. `log_prior`: (C,) of the classes.
    """
    judged = rows.judged[view.has[rows.judged]]

    def regression(c: float, before: ViewModel | None) -> ViewModel:
        fit = partial(balanced_regression, c=c, variances=view.space.variances)
        return _of_folds(view, rows, len(log_prior), fit, before)

    if not len(judged):
        stronger = [c for c in STRENGTHS if c < priors.DEFAULT_C]  # each starts from the one before
        return reduce(lambda before, c: regression(c, before), [*stronger, priors.DEFAULT_C], None)

    def held_out(model: ViewModel) -> np.ndarray:
        return model.logits({view.name: view}, judged, rows.folds)

    def loss_of(model: ViewModel) -> float:
        return calibrate([held_out(model)], rows.labels[judged], log_prior, quick=True).loss

    _, best, least = strongest_first(STRENGTHS, regression, loss_of)
    if view.self_trains and len(judged) >= priors.MIN_HELD_OUT:
        margin = margins_of(held_out(best)).mean()
        for shrinkage in SHRINKAGES:
            model = _of_folds(view, rows, len(log_prior), partial(linear_discriminant, shrinkage=shrinkage))
            # The priors of temperatures are for logits like those of the regression
            model.scale(margin / margins_of(held_out(model)).mean())
            loss = loss_of(model)
            if loss < least:
                best, least = model, loss
    unlabelled = rows.unlabelled[view.has[rows.unlabelled]][:MOST_COMPARED]
    if len(unlabelled):
        best.match_margin_of_fold_models({view.name: view}, unlabelled)
    return best


def _of_folds(
    view: Values, rows: Rows, num_labels: int, fit: Callable[..., Classifier], start: ViewModel | None = None
) -> ViewModel:
    """A classifier for each fold, without its labels, and one of all rows. Names of classes are examples too."""
    classes, known = np.flatnonzero(view.is_named), rows.known[view.has[rows.known]]
    model = ViewModel((view.name,), (view.x.shape[1],), {}, num_labels)
    for fold in map(int, [*np.unique(rows.folds[known][rows.folds[known] >= 0]), WHOLE]):
        fitted = known[rows.folds[known] != fold][:MOST_FITTED]
        x = np.concatenate([view.x[fitted], view.names[classes]])
        shares = one_hot(np.concatenate([rows.labels[fitted], classes]), num_labels)
        kwargs = {} if start is None else {"start": start.models[fold]}
        model.models[fold] = fit(x, shares, **kwargs)
    return model
