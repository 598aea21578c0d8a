"""The two last layers that `g4i fit` compares: on labels alone and with all that is known; and what judges them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from ..names import LABELS_ONLY, WITH_VIEWS
from .head import QUICK, Head, Scale, fit_head

KEPT_SHARE, FEWEST_KEPT, MOST_KEPT = 0.2, 100, 5_000  # of the unlabelled images, to judge both by
FOLDS = 5
VALIDATION, KEPT, IN_TURN = "validation", "kept", "folds"


@dataclass
class Known:
    """
    What is known of the classes of N training rows.

    Attributes:
        labels: (N,) as given; negative without one.
        targets: (N, C) float32, what the student learns from: probabilities of the class, given the label too. Zeros
            for a row of which nothing is known.
        probabilities: (N, C) float32, without the row's own label. Zeros for a row of which nothing else is known.
        order: (N,) a number by the content of each image, the same for equal ones.
        facts: estimates for `all_results.json`.
    """

    labels: np.ndarray
    targets: np.ndarray
    probabilities: np.ndarray
    order: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Judge:
    """
    Images that neither classifier is fitted on.

    Attributes:
        name: `validation`, `kept` (unlabelled training images) or `folds` (labelled ones, left out in turn).
        images: n rows.
        features: (n, F).
        probabilities: (n, C) of their classes, of labelled images one-hot.
        rows: (n,) of `train`, if they are from there.
        logits: (n, C) by classifier, once it is fitted.
    """

    name: str
    images: Dataset
    features: np.ndarray
    probabilities: np.ndarray
    rows: np.ndarray | None = None
    logits: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def kept(self) -> np.ndarray:
        """Unlabelled rows of `train` that no classifier learns from."""
        return self.rows if self.name == KEPT and self.rows is not None else np.arange(0)

    def accuracy(self, name: str) -> float:
        """The share of right predictions, or, of unlabelled images, what can be expected of it."""
        predicted = self.logits[name].argmax(1)
        return float(self.probabilities[np.arange(len(predicted)), predicted].mean())


def judge_in_training(training: Dataset, known: Known, features: np.ndarray) -> Judge:
    """Without a validation split: unlabelled images that are kept from both, else the labelled ones in turn."""
    labelled = known.labels >= 0
    unlabelled = ~labelled & known.probabilities.any(1) & ~np.isin(known.order, known.order[labelled])
    if unlabelled.sum() >= FEWEST_KEPT:
        images = np.unique(known.order[unlabelled])  # equal ones are kept together
        number = min(int(np.clip(KEPT_SHARE * len(images), FEWEST_KEPT, MOST_KEPT)), len(images) // 2)
        kept = np.flatnonzero(unlabelled & np.isin(known.order, images[:number]))
        return Judge(KEPT, training.select(kept), features[kept], known.probabilities[kept], kept)
    folds = _folds_of_labels(known.labels, known.order)
    is_large = known.targets.size * features.shape[1] > QUICK
    rows = np.flatnonzero(folds == 0 if is_large else folds >= 0)
    truth = one_hot(known.labels[rows], known.targets.shape[1])
    return Judge(IN_TURN, training.select(rows), features[rows], truth, rows)


def judged_heads(known: Known, features: np.ndarray, judge: Judge) -> dict[str, Head]:
    """
    The last layers by name, that on labels alone where two classes have one. The judge has their logits. Images that
    were kept for it are given back at the end.
    """
    number, heads, scale = known.targets.shape[1], {}, Scale.of(features)
    told, labelled = np.flatnonzero(known.targets.any(1)), np.flatnonzero(known.labels >= 0)
    if len(np.unique(known.labels[labelled])) > 1:
        truth = one_hot(known.labels[labelled], number)
        folds = _folds_of_labels(known.labels[labelled], known.order[labelled])
        heads[LABELS_ONLY] = fit_head(features[labelled], truth, truth * (folds >= 0)[:, None], folds, scale=scale)
    fitted, folds = np.setdiff1d(told, judge.kept), known.order % FOLDS
    of_fitted = known.targets[fitted], known.probabilities[fitted], folds[fitted]
    head = fit_head(features[fitted], *of_fitted, scale=scale)
    heads[WITH_VIEWS] = head
    for name, each in heads.items():
        in_turn = judge.name == IN_TURN
        of_fold = (name, each, known, features, judge.rows, scale)
        judge.logits[name] = _out_of_fold(*of_fold) if in_turn else each.logits(judge.features)
    if len(judge.kept):
        heads[WITH_VIEWS] = fit_head(features[told], known.targets[told], strength=head.strength, scale=scale)
    return heads


def _out_of_fold(
    name: str, head: Head, known: Known, features: np.ndarray, rows: np.ndarray, scale: Scale
) -> np.ndarray:
    """(n, C) logits of labelled rows that the classifier was not fitted on, by fewer labels."""
    targets = known.targets if name == WITH_VIEWS else one_hot(known.labels, known.targets.shape[1])
    folds, told = _folds_of_labels(known.labels, known.order)[rows], targets.any(1)
    found = np.zeros((len(rows), targets.shape[1]), dtype=np.float32)
    for fold in range(FOLDS):
        asked = rows[folds == fold]
        fitted = np.flatnonzero(told & ~np.isin(known.order, known.order[asked]))
        if len(asked) and len(fitted):
            of_fold = fit_head(features[fitted], targets[fitted], strength=head.strength, scale=scale)
            found[folds == fold] = of_fold.logits(features[asked])
    return found


def one_hot(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(n, C) float32; zeros for a row without a label."""
    return np.eye(num_labels, dtype=np.float32)[np.maximum(labels, 0)] * (labels >= 0)[:, None]


def _folds_of_labels(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """
    (n,) stratified, equal images together; -1 for a row without a label, and for the only labelled image of a class,
    which cannot be held out.
    """
    folds = np.full(len(labels), -1)
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        images, image = np.unique(order[rows], return_inverse=True)
        if len(images) > 1:
            folds[rows] = (image + label) % FOLDS
    return folds
