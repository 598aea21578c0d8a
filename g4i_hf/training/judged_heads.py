"""The two last layers that `g4i fit` compares: on labels alone and with all that is known; and what judges them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.labels import GOLD, PICKED
from ..label_model import LabelModel, View
from ..label_model.estimates import HeldOut
from ..label_model.none_of_these import weights_of_unlabelled
from ..names import LABELS_ONLY, WITH_VIEWS
from .head import QUICK, Head, Scale, fit_head
from .judging import PRIOR, Judgement, Prior, judged_by_labels, judged_by_probabilities, judged_in_turn

KEPT_SHARE, FEWEST_KEPT, MOST_KEPT = 0.2, 100, 5_000  # of the unlabelled images, to judge both by
FOLDS = 5
VALIDATION, KEPT, IN_TURN = "validation", "kept", "folds"
BELIEVED = (GOLD, VALIDATION)  # names of splits whose labels judge; the first that is there


@dataclass
class Known:
    """
    What is known of the classes of N training rows.

    Attributes:
        labels: (N,) as given; negative without one.
        views: of all rows; `model` is fitted on them and the labels.
        order: (N,) a number by the content of each image, the same for equal ones.
        unlabelled_weight: of a row without a label; a labelled one has 1.
        facts: estimates for `all_results.json`.
        reviews: (N,) how an image was picked whose label a person gave or confirmed, "" for others.
    """

    labels: np.ndarray
    views: Mapping[str, View]
    model: LabelModel
    order: np.ndarray
    unlabelled_weight: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)
    reviews: np.ndarray | None = None

    def __post_init__(self):
        if self.reviews is None:
            self.reviews = np.full(len(self.labels), "")

    @property
    def number(self) -> int:
        """C."""
        return self.model.num_labels

    @property
    def weights(self) -> np.ndarray:
        """(N, 1) of each row: the less, the more it seems to belong to no class."""
        of_unlabelled = self.unlabelled_weight * weights_of_unlabelled(self.model.none_)
        return np.where(self.labels < 0, of_unlabelled, 1).astype(np.float32)[:, None]

    def targets(self) -> np.ndarray:
        """(N, C) float32, what the student learns from: probabilities of the class, given the label too."""
        return self.model.posterior_.astype(np.float32) * self.weights

    def targets_without(self, fold: int, rows: np.ndarray) -> np.ndarray:
        """
        (rows, C) the same by models that know no label of this fold. Those of other folds have learned from it, and a
        student that learns what they say of their rows would know it too. The models have learned the other labels.
        """
        return self.by_fold(rows, fold) * self.weights[rows]

    def by_fold(self, rows: np.ndarray, fold: int) -> np.ndarray:
        """(rows, C) probabilities by models that know no label of this fold."""
        return self.model.predict({name: view.values[rows] for name, view in self.views.items()}, fold)

    def rows_in_turn(self) -> np.ndarray:
        """Labelled rows that can be left out: their class has labels of other images too."""
        rows = np.flatnonzero(self.model.folds_ >= 0)
        rows = rows[self.labels[rows] >= 0]
        _, first = np.unique(np.stack([self.labels[rows], self.order[rows]]), axis=1, return_index=True)
        images = np.bincount(self.labels[rows[first]], minlength=self.number)
        return rows[images[self.labels[rows]] > 1]


@dataclass
class Judge:
    """
    Images that neither classifier is fitted on.

    Attributes:
        name: `gold` (reviewed images), `validation`, `kept` (unlabelled training images) or `folds` (labelled ones,
            left out in turn).
        rows: (n,) of the split `gold` or `validation`, else of `train`.
        features: (n, F).
        probabilities: (n, C) of their classes, of labelled images one-hot.
        logits: (n, C) by classifier, once it is fitted.
        held_out: labelled rows that were left out in turn, and the classes (m,) `of_held_out` by classifier: they
            judge, or correct what the kept rows say.
    """

    name: str
    rows: np.ndarray
    features: np.ndarray
    probabilities: np.ndarray
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    held_out: HeldOut | None = None
    of_held_out: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def kept(self) -> np.ndarray:
        """Unlabelled rows of `train` that no classifier learns from."""
        return self.rows if self.name == KEPT else np.arange(0)

    def accuracy(self, name: str) -> float:
        """The share of right predictions, or, of unlabelled images, what can be expected of it."""
        predicted = self.logits[name].argmax(1)
        return float(self.probabilities[np.arange(len(predicted)), predicted].mean())

    def replaced_if_better(self, name: str, logits: np.ndarray) -> tuple[float, float]:
        """The accuracy by the last logits of a classifier, and by these, which stay where they are better."""
        before, earlier = self.accuracy(name), self.logits[name]
        self.logits[name] = np.asarray(logits)
        after = self.accuracy(name)
        if after > before:
            self.of_held_out.pop(name, None)  # which the last layer predicted
        else:
            self.logits[name] = earlier
        return before, after

    def rows_alone(self) -> "Judge":
        """For processes that do not judge."""
        none = np.zeros((0, 0), dtype=np.float32)
        return Judge(self.name, self.rows, none, none)

    def judgement(self, prior: Prior = PRIOR) -> Judgement:
        predicted = {name: logits.argmax(1) for name, logits in self.logits.items()}
        if not len(self.rows):
            return Judgement({})
        if self.name in BELIEVED:
            return judged_by_labels(predicted, self.probabilities.argmax(1))
        if self.name == IN_TURN:
            return judged_in_turn(predicted, self.held_out)
        return judged_by_probabilities(predicted, self.probabilities, self.held_out, self.of_held_out, prior)


def rows_to_keep(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Unlabelled rows by which both classifiers can be judged: none where there are too few."""
    labelled = labels >= 0
    unlabelled = ~labelled & ~np.isin(order, order[labelled])
    images = np.unique(order[unlabelled])  # equal ones are kept together
    if len(images) < FEWEST_KEPT:
        return np.arange(0)
    number = min(int(np.clip(KEPT_SHARE * len(images), FEWEST_KEPT, MOST_KEPT)), len(images) // 2)
    return np.flatnonzero(unlabelled & np.isin(order, images[:number]))


def judge_in_training(known: Known, features: np.ndarray, kept: np.ndarray) -> Judge:
    """Without a validation split: the unlabelled rows that were kept, else labelled ones in turn."""
    if len(kept):
        kept = kept[known.model.none_[kept] < 0.5]  # of a classifier these classes are asked
        return Judge(KEPT, kept, features[kept], known.model.probabilities_[kept].astype(np.float32))
    rows = _left_out(known, features)
    return Judge(IN_TURN, rows, features[rows], one_hot(known.labels[rows], known.number))


def judged_heads(known: Known, features: np.ndarray, judge: Judge) -> dict[str, Head]:
    """
    The last layers by name, that on labels alone where two classes have one. The judge has their logits. Images that
    were kept for it are given back at the end.
    """
    heads, scale, targets = {}, Scale.of(features), known.targets()
    labelled = np.flatnonzero(known.labels >= 0)
    if len(np.unique(known.labels[labelled])) > 1:
        truth = one_hot(known.labels[labelled], known.number)
        in_turn = np.isin(labelled, known.rows_in_turn())
        folds = known.model.folds_[labelled]
        heads[LABELS_ONLY] = fit_head(features[labelled], truth, truth * in_turn[:, None], folds, scale=scale)
    fitted = np.setdiff1d(np.arange(len(targets)), judge.kept)
    judged_by = known.model.probabilities_ * weights_of_unlabelled(known.model.none_)[:, None]
    of_fitted = targets[fitted], judged_by[fitted], known.order[fitted] % FOLDS
    heads[WITH_VIEWS] = head = fit_head(features[fitted], *of_fitted, scale=scale)
    judge.logits = {name: each.logits(judge.features) for name, each in heads.items()}
    if judge.name not in BELIEVED:
        _leave_out(known, features, judge, heads, scale)
    if len(judge.kept):
        heads[WITH_VIEWS] = fit_head(features, targets, strength=head.strength, scale=scale)
    return heads


def _left_out(known: Known, features: np.ndarray) -> np.ndarray:
    """
    Labelled rows that are left out in turn: of much data a fifth of them, where that has all their classes. Those that
    were picked by what the label model says are no random sample, and judge nothing.
    """
    rows = known.rows_in_turn()
    rows = rows[~np.isin(known.reviews[rows], PICKED)]
    fifth = rows[known.model.folds_[rows] == 0]
    is_large = known.labels.size * known.number * features.shape[1] > QUICK
    return fifth if is_large and set(known.labels[fifth]) == set(known.labels[rows]) else rows


def _leave_out(known: Known, features: np.ndarray, judge: Judge, heads: dict[str, Head], scale: Scale) -> None:
    """Both classifiers anew without each fold of the labels, of which unlabelled rows know nothing then either."""
    rows = _left_out(known, features)
    folds, labels = known.model.folds_[rows], known.labels[rows]
    told = np.zeros((len(rows), known.number), dtype=np.float32)
    logits = {name: np.zeros_like(told) for name in heads}
    for fold in np.unique(folds):
        left_out, places = rows[folds == fold], np.flatnonzero(folds == fold)
        told[places] = known.by_fold(left_out, int(fold))
        rest = np.setdiff1d(np.flatnonzero(~np.isin(known.order, known.order[left_out])), judge.kept)
        for name, head in heads.items():
            fitted = rest if name == WITH_VIEWS else rest[known.labels[rest] >= 0]
            if len(fitted):
                of_labels = one_hot(known.labels[fitted], known.number)
                of_fold = known.targets_without(int(fold), fitted) if name == WITH_VIEWS else of_labels
                again = fit_head(features[fitted], of_fold, strength=head.strength, scale=scale)
                logits[name][places] = again.logits(features[left_out])
    if judge.name == IN_TURN:
        judge.logits = logits
    if len(rows):
        posterior, everywhere = known.model.posterior_[rows].astype(np.float32), known.model.probabilities_
        sure = known.reviews[rows] != ""
        counts = np.bincount(known.labels[known.labels >= 0], minlength=known.number)
        rest = posterior, labels, sure, counts, everywhere, known.model.calibration_
        judge.held_out = HeldOut.of(told, *rest)
        judge.of_held_out = {name: each.argmax(1) for name, each in logits.items()}


def one_hot(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(n, C) float32; zeros for a row without a label."""
    return np.eye(num_labels, dtype=np.float32)[np.maximum(labels, 0)] * (labels >= 0)[:, None]
