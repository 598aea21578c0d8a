"""The two last layers that `g4i fit` compares, on labels only and with views."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from .. import priors
from ..evaluation.estimate import Expected, HeldOut
from ..label_model.none_of_these import weights_of_unlabelled
from ..label_model.views import ALONE, FOLDS, has_value
from ..linear import Fold, Scale, best_strength, logistic_regression, one_hot
from ..modeling import AlignedImageClassification
from ..modeling.student import classifier_layers
from ..names import LABELS_ONLY, WITH_VIEWS
from .evidence import Evidence, takes_long
from .targets import Targets

STRENGTHS = (2.0, 0.5, 0.1, 0.02, 5e-3, 1e-3, 2e-4, 5e-5)  # of the regularisation, the strongest first


@dataclass
class Head:
    """A last layer."""

    weight: np.ndarray  # (C, F), for features that are not scaled
    bias: np.ndarray  # (C,)
    strength: float  # of the regularisation, a factor of the squared weights of scaled features

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, C) float32."""
        return np.asarray(features, dtype=np.float32) @ self.weight.T + self.bias

    def times(self, factor: float) -> "Head":
        return Head(factor * self.weight, factor * self.bias, self.strength)

    @torch.no_grad()
    def put_into(self, model: AlignedImageClassification) -> torch.nn.Linear:
        """Copy these weights into the student's last layer, and return that; all parameters are trainable again."""
        (layer,) = classifier_layers(model.requires_grad_(True).student)
        layer.weight.copy_(torch.from_numpy(self.weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(self.bias))
        return layer


@dataclass
class Sample:
    """Images that nothing was fitted on: features of the student (n, F), and by name values (n, D) of views."""

    features: np.ndarray
    views: Mapping[str, np.ndarray]


def fit_head(
    features: np.ndarray, targets: np.ndarray, strength: float, scale: Scale, start: Head | None = None
) -> Head:
    """
    The multinomial logistic regression of the targets (n, C) on scaled features (n, F), see
    [`~g4i_hf.linear.logistic_regression`]. `start`, fitted on almost the same rows, saves iterations.
    """
    near = None
    if start is not None:
        near = start.weight.T * scale.deviation, start.bias + start.weight @ scale.mean
    weight, bias = logistic_regression(scale(features), targets, strength, start=near, exact=True)
    weight = weight / scale.deviation
    return Head(weight.T.copy(), bias - scale.mean @ weight, strength)


def last_layers(targets: Targets, features: np.ndarray) -> dict[str, Head]:
    """The last layers by name, fitted on all rows but the holdout. There is no labels-only one of a single class."""
    heads, scale, evidence = {}, Scale.of(features), targets.evidence
    if len(np.unique(evidence.labels[evidence.labels >= 0])) > 1:
        strength = _best_strength(list(_folds(targets, features, LABELS_ONLY)), features, scale)
        rows, learned = targets.learned(LABELS_ONLY, targets.rows)
        heads[LABELS_ONLY] = fit_head(features[rows], learned, strength, scale)
    folds, labels = list(_folds(targets, features, WITH_VIEWS)), _labels_of_classes(evidence)
    if _too_few(folds):
        folds, labels = list(_folds_of_all(targets, features)), None
    strength = _best_strength(folds, features, scale, labels)
    rows, learned = targets.learned(WITH_VIEWS, targets.rows)
    heads[WITH_VIEWS] = fit_head(features[rows], learned, strength, scale)
    return heads


def on_rows(targets: Targets, features: np.ndarray, heads: Mapping[str, Head], rows: np.ndarray) -> dict[str, Head]:
    """The same layers, the one with views fitted again on these rows. Only that one learns from unlabelled rows."""
    before, (rows, learned) = heads[WITH_VIEWS], targets.learned(WITH_VIEWS, rows)
    head = fit_head(features[rows], learned, before.strength, Scale.of(features), before)
    return {**heads, WITH_VIEWS: head}


def on_all(targets: Targets, features: np.ndarray, heads: Mapping[str, Head]) -> dict[str, Head]:
    """The same layers, the one with views fitted on the holdout too."""
    return on_rows(targets, features, heads, np.arange(len(features)))


def cross_validated(
    targets: Targets,
    features: np.ndarray,
    rows: np.ndarray,
    heads: Mapping[str, Head],
    judged: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], HeldOut | None]:
    """
    Logits (n, C) of these labelled rows by name, each by a layer that was fitted again without the labels of its fold.
    The targets of unlabelled rows lack these labels too. And these rows as they calibrate an estimate, with the views
    that `judged` rows have; None without any.
    """
    evidence = targets.evidence
    views, have_more = _views_as_in(evidence, rows, judged)
    probabilities = np.zeros((len(rows), evidence.num_labels), dtype=np.float32)
    logits = {name: np.zeros_like(probabilities) for name in heads}
    for fold, places, layers in _layers_of_folds(targets, features, rows, heads):
        probabilities[places] = evidence.model.predict({name: view[places] for name, view in views.items()}, fold)
        for name, layer in layers.items():
            logits[name][places] = layer.logits(features[rows[places]])
    if not len(rows):
        return logits, None
    model, labels = evidence.model, evidence.labels
    posterior, is_sure = model.posterior_[rows].astype(np.float32), evidence.is_certain[rows]
    counts = np.bincount(labels[labels >= 0], minlength=evidence.num_labels)
    of_rows = probabilities, posterior, labels[rows], is_sure
    held_out = model.calibration_.held_out(*of_rows, counts, model.probabilities_)
    knows_mix = any(evidence.names_classes(name) for name in evidence.views)
    of_classes = None if knows_mix else (posterior, counts)
    return logits, replace(held_out, groups=evidence.groups[rows], have_more=have_more, of_classes=of_classes)


def _views_as_in(
    evidence: Evidence, rows: np.ndarray, judged: np.ndarray | None
) -> tuple[dict[str, np.ndarray], bool]:
    """
    (m, D) values of these rows by view. So many rows lose one that its share is not above that among `judged` rows. As
    where only labelled images have captions, others have less certain probabilities. And whether many rows lose one.
    """
    have_more, values = False, {name: view.values[rows] for name, view in evidence.views.items()}
    if judged is None or not len(judged):
        return values, have_more
    order = np.argsort(evidence.groups[rows], kind="stable")
    for name, view in evidence.views.items():
        has = has_value(values[name])
        too_many = has.sum() - round(len(rows) * float(has_value(view.values[judged]).mean()))
        if too_many > 0:
            values[name] = np.array(values[name], dtype=np.float32)
            values[name][order[has[order]][:too_many]] = np.nan
            have_more |= too_many > priors.MANY_WITHOUT_VIEW * len(rows)
    return values, have_more


def expected_right(
    targets: Targets, features: np.ndarray, sample: Sample, heads: Mapping[str, Head]
) -> dict[str, Expected]:
    """
    How likely the answer of each layer is right, on the sample and on the training rows, by the label model. Each row
    has the layers and the label model that have not learned its fold, and the sample those of all folds in proportion,
    as nothing has learned it.
    """
    evidence, model = targets.evidence, targets.evidence.model
    names = [name for name in sample.views if name in evidence.views]
    rows, alone = np.flatnonzero(model.folds_ >= 0), np.flatnonzero(model.folds_ == ALONE)
    if takes_long(model.posterior_.size, features):
        rows, alone = rows[model.folds_[rows] % FOLDS == 0], alone[::FOLDS]
    if not names or not len(rows):
        return {}
    of_heads = {name: Expected(np.zeros(len(sample.features)), np.zeros(len(rows))) for name in heads}
    for fold, places, layers in _layers_of_folds(targets, features, rows, heads):
        of_rows = model.predict({name: evidence.views[name].values[rows[places]] for name in names}, fold)
        of_sample = model.predict({name: sample.views[name] for name in names}, fold)
        for name, layer in layers.items():
            of_heads[name].of_others[places] = _of_answers(of_rows, layer, features[rows[places]])
            of_heads[name].of_sample += _of_answers(of_sample, layer, sample.features) * len(places) / len(rows)
    # The only label of a class cannot be held out: other rows stand for it, by their probability of the class
    alike = model.probabilities_[rows].astype(np.float64)[:, evidence.labels[alone]]
    alike /= np.maximum(alike.sum(0), 1e-9)
    for name, each in of_heads.items():
        of_heads[name] = Expected(each.of_sample, np.concatenate([each.of_others, each.of_others @ alike]))
    return of_heads


def _of_answers(probabilities: np.ndarray, layer: Head, features: np.ndarray) -> np.ndarray:
    """(n,) probabilities of the classes that a layer predicts."""
    return probabilities[np.arange(len(features)), layer.logits(features).argmax(1)]


def _layers_of_folds(
    targets: Targets, features: np.ndarray, rows: np.ndarray, heads: Mapping[str, Head]
) -> Iterator[tuple[int, np.ndarray, dict[str, Head]]]:
    """
    For each fold of these rows: its number, the places of its rows among them, and the layers fitted again without
    these. Without labels, where a fold leaves none, there is no layer.
    """
    scale = Scale.of(features)
    for fold, held_out, others in _without_fold(targets.evidence, rows):
        layers = {}
        for name, head in heads.items():
            fitted, learned = targets.learned(name, others, fold)
            if name == LABELS_ONLY and fold >= FOLDS:  # it has not learned unlabelled rows
                layers[name] = head
            elif len(fitted):
                layers[name] = fit_head(features[fitted], learned, head.strength, scale, head)
        yield fold, np.flatnonzero(np.isin(rows, held_out)), layers


def rows_that_judge(evidence: Evidence, features: np.ndarray) -> np.ndarray:
    """Labelled rows for cross-validation; of large data only a fifth, if it has all classes."""
    rows = evidence.rows_for_cross_validation()
    fifth = rows[evidence.model.folds_[rows] == 0]
    has_all = set(evidence.labels[fifth]) == set(evidence.labels[rows])
    return fifth if has_all and takes_long(evidence.model.posterior_.size, features) else rows


def _best_strength(folds: list[Fold], features: np.ndarray, scale: Scale, labels: np.ndarray | None = None) -> float:
    return priors.DEFAULT_STRENGTH if _too_few(folds) else best_strength(scale(features), folds, STRENGTHS, labels)


def _too_few(folds: list[Fold]) -> bool:
    return sum(len(fold.held_out) for fold in folds) < priors.MIN_HELD_OUT


# --- Folds -----------------------------------------------------------------------------------------------------------


def _folds(targets: Targets, features: np.ndarray, name: str) -> Iterator[Fold]:
    """Labelled rows are held out in turn, about `ENOUGH_HELD_OUT` of large data."""
    evidence, number = targets.evidence, 0
    for fold, held_out, others in _without_fold(evidence, evidence.rows_for_cross_validation()):
        fitted, learned = targets.learned(name, others, fold)
        learned = targets.to_choose_strength(fitted, learned) if name == WITH_VIEWS else learned
        yield Fold(fitted, learned, held_out, one_hot(evidence.labels[held_out], evidence.num_labels))
        number += len(held_out)
        if number >= priors.ENOUGH_HELD_OUT and takes_long(learned.size, features):
            break


def _folds_of_all(targets: Targets, features: np.ndarray) -> Iterator[Fold]:
    """All rows are held out in turn, by class probabilities: where few labels can be held out."""
    evidence, (rows, learned) = targets.evidence, targets.learned(WITH_VIEWS, targets.rows)
    weights = weights_of_unlabelled(evidence.model.none_[rows])[:, None]
    probabilities, folds = evidence.model.probabilities_[rows] * weights, evidence.groups[rows] % FOLDS
    for fold in range(1 if takes_long(learned.size, features) else FOLDS):
        is_fitted, is_held_out = folds != fold, folds == fold
        yield Fold(rows[is_fitted], learned[is_fitted], rows[is_held_out], probabilities[is_held_out])


def _without_fold(evidence: Evidence, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each fold of these rows: its number, its rows, and the others, of other groups and not held out."""
    folds = evidence.model.folds_[rows]
    for fold in np.unique(folds):
        held_out = rows[folds == fold]
        others = np.flatnonzero(~np.isin(evidence.groups, evidence.groups[held_out]))
        yield int(fold), held_out, np.setdiff1d(others, evidence.holdout)


def _labels_of_classes(evidence: Evidence) -> np.ndarray:
    """(C, C) how often rows of each class have each label."""
    rows = np.flatnonzero(evidence.labels >= 0)
    labels = one_hot(evidence.labels[rows], evidence.num_labels)
    counts = evidence.model.posterior_[rows].T @ labels + priors.PSEUDO_COUNT_OF_CLASS / evidence.num_labels
    return counts / counts.sum(1, keepdims=True)
