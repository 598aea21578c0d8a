"""Mistakes of runs, and confusions between classes."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from .predict import Predictions, texts_of


def worst_mistakes(predictions: Predictions, most: int) -> np.ndarray:
    """At most `most` rows that are classified wrongly, the highest score first; unlabelled rows are none."""
    wrong = np.flatnonzero((predictions.labels >= 0) & (predictions.predicted != predictions.labels))
    return wrong[np.argsort(-predictions.score[wrong], kind="stable")[:most]]


@dataclass
class Confusion:
    """
    Images of one class that are taken for another.

    Attributes:
        label, predicted: class indices.
        baseline, aligned: how many, by each run.
    """

    label: int
    predicted: int
    baseline: int
    aligned: int

    def rows(self, baseline: Predictions, aligned: Predictions) -> np.ndarray:
        """Those of the run with more of them that the other run does not take for that class."""
        more, less = (baseline, aligned) if self.baseline > self.aligned else (aligned, baseline)
        is_meant = (aligned.labels == self.label) & (more.predicted == self.predicted)
        return np.flatnonzero(is_meant & (less.predicted != self.predicted))


def changed_confusions(baseline: Predictions, aligned: Predictions) -> tuple[list[Confusion], list[Confusion]]:
    """
    Pairs of classes that the aligned run confuses less often than the baseline, and those that it confuses more often;
    the largest change first, among equal ones the more frequent pair.
    """
    before, after = _confusion_matrices(baseline, aligned)
    change = after - before
    np.fill_diagonal(change, 0)
    pairs = np.argwhere(change)
    confusions = [
        Confusion(label, predicted, int(before[label, predicted]), int(after[label, predicted]))
        for label, predicted in pairs.tolist()
    ]
    confusions.sort(key=lambda one: (-abs(one.aligned - one.baseline), -one.baseline - one.aligned))
    fallen = [one for one in confusions if one.aligned < one.baseline]
    return fallen, [one for one in confusions if one.aligned > one.baseline]


def class_gains(baseline: Predictions, aligned: Predictions) -> list[tuple[int, int, int]]:
    """(class, images, how many more are classified rightly by the aligned run) of each class, most gained first."""
    before, after = _confusion_matrices(baseline, aligned)
    images, gained = after.sum(1), np.diag(after) - np.diag(before)
    gains = [(label, int(images[label]), int(gained[label])) for label in np.flatnonzero(images).tolist()]
    return sorted(gains, key=lambda gain: -gain[2])


def _confusion_matrices(*runs: Predictions) -> list[np.ndarray]:
    """(classes, classes) numbers of labelled images of a class, by row, that are given each class, by column."""
    from sklearn.metrics import confusion_matrix

    labelled = runs[0].labels >= 0
    classes = range(runs[0].logits.shape[1])
    return [confusion_matrix(run.labels[labelled], run.predicted[labelled], labels=classes) for run in runs]


class ClassTexts:
    """
    How alike the captions of classes are. Empty where the split has no text embeddings, or of another size than the
    model's.
    """

    def __init__(self, split: Dataset, predictions: Predictions):
        texts = texts_of(split, predictions)
        labels = np.repeat(predictions.labels, texts.counts) if texts is not None else np.zeros(0)
        # Not normalised: the product of two is the mean cosine of all pairs
        self.means = {int(c): texts.embeds[labels == c].mean(0) for c in np.unique(labels[labels >= 0])}

    def cosine(self, first: int, second: int) -> float | None:
        """Mean cosine between the captions of two classes; None where one has none."""
        if first not in self.means or second not in self.means:
            return None
        return float(self.means[first] @ self.means[second])

    def mean_cosine(self) -> float | None:
        """Mean of [`cosine`] over all pairs of different classes; None with fewer than two classes."""
        number = len(self.means)
        if number < 2:
            return None
        means = np.stack(list(self.means.values())).astype(np.float64)
        return float(((means.sum(0) ** 2).sum() - (means**2).sum()) / (number * (number - 1)))
