"""The shared model of the self-training views, which learns what all views predict for unlabelled rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .. import priors
from ..linear import balanced_regression, linear_discriminant, one_hot
from .calibration import Calibration, inverse_temperature
from .fit_view import MOST_COMPARED, MOST_FITTED
from .view_model import ViewModel
from .views import WHOLE, Rows, Values


def have_two_sources(
    values: dict[str, Values], learners: tuple[str, ...], models: list[ViewModel], weights: np.ndarray
) -> np.ndarray:
    """
    (N,) whether a row has values of two sources, of learners and of views that vote, by models with these weights. A
    view alone would learn its own errors.
    """
    names = {*learners, *(model.name for model, weight in zip(models, weights, strict=True) if weight > 0)}
    of_source: dict[str, np.ndarray] = {}
    for name in names:
        of_source[values[name].source] = values[name].has | of_source.get(values[name].source, False)
    return np.sum(list(of_source.values()), axis=0) > 1


def learn_predictions(
    values: dict[str, Values],
    learners: tuple[str, ...],
    rows: Rows,
    log_prior: np.ndarray,
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    teaches: np.ndarray,
) -> tuple[ViewModel, np.ndarray, np.ndarray] | None:
    """
    A model of these views, fitted on the class probabilities of unlabelled rows. These are more examples than the
    labels, include classes without a label, and show where views are unsure. No row is predicted by a model that was
    fitted on it or on its label.

    Args:
        predict: (n, C) probabilities of rows (n,) by the models that the second argument (N,) names.
        teaches: (N,) whether a row has a prediction to learn.

    Returns:
        The model, the numbers (n,) of the rows that taught it, and what these taught, (n, C); None if there are fewer
        than two classes to learn.
    """
    widths, num_labels = tuple(values[name].x.shape[1] for name in learners), len(log_prior)
    model = ViewModel(learners, widths, {}, num_labels, self_trained=True)
    has = model.has_value(values)
    sample = rows.unlabelled[(has & teaches)[rows.unlabelled]][:MOST_FITTED]
    known = rows.known[has[rows.known]][:MOST_FITTED]
    variances = np.concatenate([values[name].space.variances for name in learners])
    discriminates = len(rows.judged) >= priors.MIN_HELD_OUT

    def learn(fold: int, targets: np.ndarray) -> None:
        """targets: (sample, C) probabilities."""
        fitted, labelled = rows.folds[sample] != fold, known[rows.folds[known] != fold]
        x = model.inputs_of(values, np.concatenate([sample[fitted], labelled]))
        y = np.concatenate([targets[fitted], one_hot(rows.labels[labelled], num_labels)])
        y[:, y.sum(0) < priors.MIN_SELF_TRAINED] = 0
        if discriminates:
            model.models[fold] = linear_discriminant(x, y, priors.SELF_TRAINED_SHRINKAGE)
        else:
            start, strength = model.models.get(WHOLE), priors.AUXILIARY_C / len(learners)
            model.models[fold] = balanced_regression(x, y, strength, variances, start)

    def targets_by(model_of: np.ndarray) -> np.ndarray:
        return predict(sample, model_of).astype(np.float32)

    targets = targets_by(rows.folds)
    if np.count_nonzero(targets.sum(0) >= priors.MIN_SELF_TRAINED) < 2:
        return None
    for fold in (WHOLE, *np.unique(rows.folds[sample])):
        learn(int(fold), targets)
    for fold in np.unique(rows.folds[known][rows.folds[known] >= 0]):
        learn(int(fold), targets_by(np.full(len(rows.labels), fold)))
    if discriminates:  # as sure as it agrees with the targets, before the temperatures and their priors
        logits = model.logits(values, sample[:MOST_COMPARED], rows.folds)
        agreement = targets[np.arange(len(logits)), logits.argmax(1)].mean()
        model.scale(inverse_temperature(logits, log_prior, float(agreement)) / priors.PRIOR_MEAN_INVERSE_TEMPERATURE)
    return model, sample, targets


def calibrated_by_agreement(calibration: Calibration, logits: list[np.ndarray], targets: np.ndarray) -> Calibration:
    """
    Without held-out labels: the shared model, the last of these (n, C), is as accurate as it repeats its targets. They
    (n, C) are right as often as their probabilities say. As the model repeats their errors too, all views together are
    as sure as the targets. `calibration` has temperatures of the others.
    """
    confidence = float(targets.max(1).mean())
    agreement = float((logits[-1].argmax(1) == targets.argmax(1)).mean())
    own = inverse_temperature(logits[-1], calibration.log_prior, min(agreement / confidence, confidence))
    temperatures = np.append(calibration.inverse_temperatures, own)
    unscaled = replace(
        calibration,
        inverse_temperatures=temperatures,
        powers=np.zeros(len(logits)),
        margins=np.ones(len(logits)),
    )
    log_probabilities = np.log(unscaled.probabilities(logits) + 1e-12)
    factor = inverse_temperature(log_probabilities, 0.0, confidence)
    return replace(unscaled, inverse_temperatures=factor * temperatures)
