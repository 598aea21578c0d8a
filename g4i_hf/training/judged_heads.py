"""The two last layers that `g4i fit` compares, on labels only and with views, and the images that judge them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.labels import GOLD, PICKED
from ..label_model import LabelModel, View
from ..label_model.calibration import HeldOut, inverse_temperature
from ..label_model.none_of_these import weights_of_unlabelled
from ..label_model.plan import choose, facts_of
from ..names import LABELS_ONLY, WITH_VIEWS
from .head import FEWEST_JUDGED, Fold, Head, Scale, best_strength, fit_head
from .judging import PRIOR, Judgement, Prior, judged_by_labels, judged_by_probabilities, judged_in_turn

KEPT_SHARE, FEWEST_KEPT, MOST_KEPT = 0.2, 100, 5_000  # of the unlabelled images, to judge both layers
FOLDS = 5
QUICK = 2e7  # rows x features x classes, above which data is large
UNSEEN = 0.01  # rows of each class with a label that no other has
FACTORS = (0.02, 50.0)  # of logits, the least and the largest
HALF_TRUSTED = 10  # images that set the confidence of a classifier by half
ENOUGH_JUDGED = 100  # labelled rows that select the strength of the regularisation in large data
VALIDATION, KEPT, IN_TURN = "validation", "kept", "folds"
BELIEVED = (GOLD, VALIDATION)  # splits whose labels judge, the first available one


@dataclass
class Known:
    """Labels, views and label model of N training rows."""

    labels: np.ndarray  # (N,) class indices; negative without a label
    views: Mapping[str, View]  # of all rows; `model` was fitted on them and the labels
    model: LabelModel
    order: np.ndarray  # (N,) numbers from the content of the images, the same for equal images
    unlabelled_weight: float = 1.0  # of a row without a label; a labelled row has 1
    is_as_given: bool = False  # whether all rows have a label, and learn it as it is
    facts: dict[str, Any] = field(default_factory=dict)  # estimates for `all_results.json`
    reviews: np.ndarray | None = None  # (N,) how an image with a reviewed label was selected, "" for others

    def __post_init__(self):
        if self.reviews is None:
            self.reviews = np.full(len(self.labels), "")

    @classmethod
    def of(
        cls,
        model: LabelModel,
        views: Mapping[str, View],
        labels: np.ndarray,
        order: np.ndarray,
        reviews: np.ndarray | None = None,
    ) -> "Known":
        """With the weight of unlabelled rows and the facts by what the fitted model estimates."""
        plan, facts = choose(model, labels), facts_of(model)
        named = {name: {"class_names": view.class_values is not None} for name, view in views.items()}
        facts["views"] = {name: line | named[name] for name, line in facts["views"].items()}
        is_as_given = not plan.softens and bool((labels >= 0).all())
        return cls(labels, views, model, order, plan.unlabelled_weight, is_as_given, facts, reviews)

    @property
    def number(self) -> int:
        """C."""
        return self.model.num_labels

    @property
    def unreviewed(self) -> np.ndarray:
        """(N,) labels that no person has reviewed, -1 for others."""
        return np.where(self.reviews == "", self.labels, -1)

    @property
    def weights(self) -> np.ndarray:
        """(N, 1) the weight of each row: the more likely it belongs to no class, the less."""
        of_unlabelled = self.unlabelled_weight * weights_of_unlabelled(self.model.none_)
        return np.where(self.labels < 0, of_unlabelled, 1).astype(np.float32)[:, None]

    def targets(self) -> np.ndarray:
        """(N, C) float32 targets of the student: class probabilities given the label, times the weight."""
        return self.model.posterior_.astype(np.float32) * self.weights

    def targets_without(self, fold: int, rows: np.ndarray) -> np.ndarray:
        """
        (rows, C) targets by models that have not learned the labels of this fold. The models of other folds have, so
        their targets would leak these labels to a student. The other labels are learned.
        """
        if self.is_as_given:
            return one_hot(self.labels[rows], self.number)
        return self.by_fold(rows, fold) * self.weights[rows]

    def by_fold(self, rows: np.ndarray, fold: int) -> np.ndarray:
        """(rows, C) probabilities by models that have not learned the labels of this fold."""
        return self.model.predict({name: view.values[rows] for name, view in self.views.items()}, fold)

    def rows_in_turn(self) -> np.ndarray:
        """Labelled rows that can be held out, as another image has a label of their class."""
        rows = np.flatnonzero(self.model.folds_ >= 0)
        rows = rows[self.labels[rows] >= 0]
        _, first = np.unique(np.stack([self.labels[rows], self.order[rows]]), axis=1, return_index=True)
        images = np.bincount(self.labels[rows[first]], minlength=self.number)
        return rows[images[self.labels[rows]] > 1]


@dataclass
class Judge:
    """Images on which neither classifier is fitted."""

    # `gold` (reviewed images), `validation`, `kept` (unlabelled training images) or `folds` (labelled ones, held out
    # in turn)
    name: str
    rows: np.ndarray  # (n,) of the split `gold` or `validation`, else of `train`
    features: np.ndarray  # (n, F)
    probabilities: np.ndarray  # (n, C) of their classes; one-hot for labelled images
    logits: dict[str, np.ndarray] = field(default_factory=dict)  # (n, C) by name of the classifier, once it is fitted
    heads: dict[str, Head] = field(default_factory=dict)  # by name, the last layers with these logits
    # labelled rows that were held out in turn, and the classes (m,) `of_held_out` by name of the classifier. They
    # judge, or correct the estimates from the kept rows
    held_out: HeldOut | None = None
    of_held_out: dict[str, np.ndarray] = field(default_factory=dict)
    is_checked: bool = True  # whether labels or another view have calibrated `probabilities`

    @property
    def kept(self) -> np.ndarray:
        """Unlabelled rows of `train` on which no classifier is fitted."""
        return self.rows if self.name == KEPT else np.arange(0)

    def accuracy(self, name: str) -> float:
        """The share of correct predictions; for unlabelled images, the expected share."""
        predicted = self.logits[name].argmax(1)
        return float(self.probabilities[np.arange(len(predicted)), predicted].mean())

    def replaced_if_better(self, name: str, logits: np.ndarray) -> tuple[float, float]:
        """The accuracies by the previous logits of a classifier and by these, which replace them if better."""
        before, earlier = self.accuracy(name), self.logits[name]
        self.logits[name] = np.asarray(logits)
        after = self.accuracy(name)
        if after > before:
            self.of_held_out.pop(name, None)  # they were predicted by the last layer
        else:
            self.logits[name] = earlier
        return before, after

    def factors_of_confidence(self) -> dict[str, float]:
        """Of the logits by name; few images change little, and no accuracy counts as 0 or 1."""
        number, weights = len(self.rows), self.held_out.weights if self.name == IN_TURN and self.held_out else None
        least, trust = 1 / (number + 2), number / (number + HALF_TRUSTED)
        factors = dict.fromkeys(self.logits, 1.0)
        for name, estimate in self._judged(PRIOR).accuracies.items():
            share = float(np.clip(estimate.share, least, 1 - least))
            factor = inverse_temperature(self.logits[name], 0.0, share, weights, FACTORS, xtol=1e-3)
            factors[name] = factor**trust
        return factors

    def rows_alone(self) -> "Judge":
        """Without features and probabilities, for processes that do not judge."""
        none = np.zeros((0, 0), dtype=np.float32)
        return Judge(self.name, self.rows, none, none, heads=self.heads, is_checked=self.is_checked)

    def judgement(self, prior: Prior = PRIOR) -> Judgement:
        return self._judged(prior) if self.is_checked else Judgement({})

    def _judged(self, prior: Prior) -> Judgement:
        predicted = {name: logits.argmax(1) for name, logits in self.logits.items()}
        if not len(self.rows):
            return Judgement({})
        if self.name in BELIEVED:
            return judged_by_labels(predicted, self.probabilities.argmax(1))
        if self.name == IN_TURN:
            return judged_in_turn(predicted, self.held_out)
        return judged_by_probabilities(predicted, self.probabilities, self.held_out, self.of_held_out, prior)


def rows_to_keep(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Unlabelled rows that can judge both classifiers; empty if there are too few."""
    labelled = labels >= 0
    unlabelled = ~labelled & ~np.isin(order, order[labelled])
    images = np.unique(order[unlabelled])  # equal ones are kept together
    if len(images) < FEWEST_KEPT:
        return np.arange(0)
    number = min(int(np.clip(KEPT_SHARE * len(images), FEWEST_KEPT, MOST_KEPT)), len(images) // 2)
    return np.flatnonzero(unlabelled & np.isin(order, images[:number]))


def judge_in_training(known: Known, features: np.ndarray, kept: np.ndarray) -> Judge:
    """Without a validation split: the unlabelled rows that were kept, otherwise labelled rows in turn."""
    if len(kept):
        kept = kept[known.model.none_[kept] < 0.5]  # only images of the classes judge a classifier
        probabilities, is_checked = known.model.probabilities_[kept], known.model.accuracy_ is not None
        return Judge(KEPT, kept, features[kept], probabilities.astype(np.float32), is_checked=is_checked)
    rows = _left_out(known, features)
    return Judge(IN_TURN, rows, features[rows], one_hot(known.labels[rows], known.number))


def judged_heads(known: Known, features: np.ndarray, judge: Judge) -> dict[str, Head]:
    """
    The last layers by name, at the end also fitted on the kept images, and as sure on average as they are judged to be
    right. Sets the logits of the judge, and its heads.
    """
    heads = last_layers(known, features, judge.kept)
    judge.logits = {name: head.logits(judge.features) for name, head in heads.items()}
    if judge.name not in BELIEVED:
        _leave_out(known, features, judge, heads)
    factors = judge.factors_of_confidence()
    judge.logits = {name: logits * factors[name] for name, logits in judge.logits.items()}
    judge.heads = {name: head.times(factors[name]) for name, head in heads.items()}
    heads = on_all(known, features, heads) if len(judge.kept) else heads
    return {name: head.times(factors[name]) for name, head in heads.items()}


def last_layers(known: Known, features: np.ndarray, kept: np.ndarray) -> dict[str, Head]:
    """The last layers by name, fitted on all rows but the kept ones."""
    heads, scale, targets = {}, Scale.of(features), known.targets()
    labelled = np.flatnonzero(known.labels >= 0)
    if len(np.unique(known.labels[labelled])) > 1:
        truth = one_hot(known.labels[labelled], known.number)
        strength = best_strength(features, list(_folds(known, features, LABELS_ONLY, kept)), scale)
        heads[LABELS_ONLY] = fit_head(features[labelled], truth, strength, scale)
    fitted = np.setdiff1d(np.arange(len(targets)), kept)
    folds, labels = list(_folds(known, features, WITH_VIEWS, kept)), _labels_of_classes(known)
    if sum(len(fold.held_out) for fold in folds) < FEWEST_JUDGED:
        folds, labels = list(_folds_of_all(known, features, targets, fitted)), None
    strength = best_strength(features, folds, scale, labels)
    heads[WITH_VIEWS] = fit_head(features[fitted], targets[fitted], strength, scale)
    return heads


def on_all(known: Known, features: np.ndarray, heads: Mapping[str, Head]) -> dict[str, Head]:
    """The same layers, the one with views fitted on the kept images too."""
    head = fit_head(features, known.targets(), heads[WITH_VIEWS].strength, start=heads[WITH_VIEWS])
    return {**heads, WITH_VIEWS: head}


def _folds(known: Known, features: np.ndarray, name: str, kept: np.ndarray) -> Iterator[Fold]:
    """Labelled rows are held out in turn, about `ENOUGH_JUDGED` of large data."""
    rows, judged = _to_hold_out(known), 0
    for fold, left_out, others in _without_labels(known, rows, kept):
        fitted, targets = _without_fold(known, name, fold, others)
        yield Fold(fitted, targets, left_out, one_hot(known.labels[left_out], known.number))
        judged += len(left_out)
        if judged >= ENOUGH_JUDGED and _is_large(targets, features):
            break


def _folds_of_all(known: Known, features: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> Iterator[Fold]:
    """All these rows are held out in turn, by class probabilities: where few labels can be held out."""
    weights = weights_of_unlabelled(known.model.none_[rows])[:, None]
    probabilities, folds = known.model.probabilities_[rows] * weights, known.order[rows] % FOLDS
    for fold in range(1 if _is_large(targets[rows], features) else FOLDS):
        fitted, held_out = rows[folds != fold], folds == fold
        yield Fold(fitted, targets[fitted], rows[held_out], probabilities[held_out])


def _is_large(targets: np.ndarray, features: np.ndarray) -> bool:
    return targets.size * features.shape[1] > QUICK


def _labels_of_classes(known: Known) -> np.ndarray:
    """(C, C) how often rows of each class have each label."""
    rows = np.flatnonzero(known.labels >= 0)
    counts = known.model.posterior_[rows].T @ one_hot(known.labels[rows], known.number) + UNSEEN / known.number
    return counts / counts.sum(1, keepdims=True)


def _without_labels(known: Known, rows: np.ndarray, kept: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each fold of these labelled rows: its number, its rows, and the others that are neither equal nor kept."""
    folds = known.model.folds_[rows]
    for fold in np.unique(folds):
        left_out = rows[folds == fold]
        others = np.flatnonzero(~np.isin(known.order, known.order[left_out]))
        yield int(fold), left_out, np.setdiff1d(others, kept)


def _without_fold(known: Known, name: str, fold: int, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and targets of a layer that has not learned the labels of this fold."""
    if name == WITH_VIEWS:
        return others, known.targets_without(fold, others)
    others = others[known.labels[others] >= 0]
    return others, one_hot(known.labels[others], known.number)


def _to_hold_out(known: Known) -> np.ndarray:
    """Labelled rows, but none that the label model's predictions selected, as they are not a random sample."""
    rows = known.rows_in_turn()
    return rows[~np.isin(known.reviews[rows], PICKED)]


def _left_out(known: Known, features: np.ndarray) -> np.ndarray:
    """Labelled rows to judge by in turn; of large data only a fifth, if it has all classes."""
    rows = _to_hold_out(known)
    fifth = rows[known.model.folds_[rows] == 0]
    has_all = set(known.labels[fifth]) == set(known.labels[rows])
    return fifth if has_all and _is_large(known.model.posterior_, features) else rows


def _leave_out(known: Known, features: np.ndarray, judge: Judge, heads: dict[str, Head]) -> None:
    """Fit both classifiers again without each fold of the labels, which the targets of unlabelled rows lack too."""
    rows, scale = _left_out(known, features), Scale.of(features)
    folds, labels = known.model.folds_[rows], known.labels[rows]
    probabilities = np.zeros((len(rows), known.number), dtype=np.float32)
    logits = {name: np.zeros_like(probabilities) for name in heads}
    for fold, left_out, others in _without_labels(known, rows, judge.kept):
        places = np.flatnonzero(folds == fold)
        probabilities[places] = known.by_fold(left_out, fold)
        for name, head in heads.items():
            fitted, targets = _without_fold(known, name, fold, others)
            if len(fitted):
                refitted = fit_head(features[fitted], targets, head.strength, scale, start=head)
                logits[name][places] = refitted.logits(features[left_out])
    if judge.name == IN_TURN:
        judge.logits = logits
    if len(rows):
        posterior, everywhere = known.model.posterior_[rows].astype(np.float32), known.model.probabilities_
        sure = known.reviews[rows] != ""
        counts = np.bincount(known.labels[known.labels >= 0], minlength=known.number)
        judge.held_out = HeldOut.of(
            probabilities, posterior, labels, sure, counts, everywhere, known.model.calibration_
        )
        judge.of_held_out = {name: values.argmax(1) for name, values in logits.items()}


def one_hot(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(n, C) float32; zeros for a row without a label."""
    return np.eye(num_labels, dtype=np.float32)[np.maximum(labels, 0)] * (labels >= 0)[:, None]
