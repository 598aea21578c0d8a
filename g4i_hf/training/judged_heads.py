"""The two last layers that `g4i fit` compares: on labels alone and with all that is known; and what judges them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from ..names import LABELS_ONLY, WITH_VIEWS
from .head import Head, Scale, fit_head

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
        name: `validation`, `kept` (unlabelled training images) or `folds` (labelled ones, each left out once).
        images: n rows.
        features: (n, F).
        probabilities: (n, C) of their classes, of labelled images one-hot.
        kept: rows of `train` that are among them.
        logits: (n, C) by classifier, once it is fitted.
    """

    name: str
    images: Dataset
    features: np.ndarray
    probabilities: np.ndarray
    kept: np.ndarray
    logits: dict[str, np.ndarray] = field(default_factory=dict)

    def accuracy(self, name: str) -> float:
        """The share of right predictions, or, of unlabelled images, what can be expected of it."""
        predicted = self.logits[name].argmax(1)
        return float(self.probabilities[np.arange(len(predicted)), predicted].mean())


def judge_in_training(training: Dataset, known: Known, features: np.ndarray) -> Judge:
    """Without a validation split: unlabelled images that are kept from both, else the labelled ones in turn."""
    unlabelled = np.flatnonzero((known.labels < 0) & known.probabilities.any(1))
    if len(unlabelled) >= FEWEST_KEPT:
        number = int(np.clip(KEPT_SHARE * len(unlabelled), FEWEST_KEPT, MOST_KEPT))
        kept = np.sort(unlabelled[known.order[unlabelled].argsort(kind="stable")[:number]])
        return Judge(KEPT, training.select(kept), features[kept], known.probabilities[kept], kept)
    rows = np.flatnonzero(known.labels >= 0)
    truth = one_hot(known.labels[rows], known.targets.shape[1])
    return Judge(IN_TURN, training.select(rows), features[rows], truth, rows[:0])


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
        judge.logits[name] = _out_of_fold(name, each, known, features) if in_turn else each.logits(judge.features)
    if len(judge.kept):
        heads[WITH_VIEWS] = fit_head(features[told], known.targets[told], strength=head.strength, scale=scale)
    return heads


def _out_of_fold(name: str, head: Head, known: Known, features: np.ndarray) -> np.ndarray:
    """(labelled, C) logits of labelled images that the classifier was not fitted on, by fewer labels."""
    labelled = np.flatnonzero(known.labels >= 0)
    targets = known.targets if name == WITH_VIEWS else one_hot(known.labels, known.targets.shape[1])
    found = np.zeros((len(labelled), targets.shape[1]), dtype=np.float32)
    for fold in range(FOLDS):
        asked = known.order[labelled].argsort(kind="stable").argsort() % FOLDS == fold
        rows = np.setdiff1d(np.flatnonzero(targets.any(1)), labelled[asked])
        if asked.any() and len(rows):
            fitted = fit_head(features[rows], targets[rows], strength=head.strength, scale=Scale.of(features))
            found[asked] = fitted.logits(features[labelled[asked]])
    return found


def one_hot(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(n, C) float32; zeros for a row without a label."""
    return np.eye(num_labels, dtype=np.float32)[np.maximum(labels, 0)] * (labels >= 0)[:, None]


def _folds_of_labels(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(n,) stratified, by the order of the rows; -1 for the only label of a class, which cannot be held out."""
    folds = np.full(len(labels), -1)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            folds[rows[order[rows].argsort(kind="stable")]] = (np.arange(len(rows)) + label) % FOLDS
    return folds
