"""Mistakes of runs, and confusions between classes."""

from collections import Counter
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
        rows: those of the run with more of them that the other run does not take for that class.
    """

    label: int
    predicted: int
    baseline: int
    aligned: int
    rows: np.ndarray

    @property
    def change(self) -> int:
        return self.aligned - self.baseline


def changed_confusions(baseline: Predictions, aligned: Predictions) -> tuple[list[Confusion], list[Confusion]]:
    """
    Pairs of classes that the aligned run confuses less often than the baseline, and those that it confuses more often;
    the largest change first, among equal ones the more frequent pair.
    """
    labels, runs = aligned.labels, {"baseline": baseline.predicted, "aligned": aligned.predicted}
    counts = {}
    for run, predicted in runs.items():
        wrong = (labels >= 0) & (predicted != labels)
        counts[run] = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    confusions = []
    for label, other in sorted(counts["baseline"].keys() | counts["aligned"].keys()):
        before, after = counts["baseline"][label, other], counts["aligned"][label, other]
        more, less = ("baseline", "aligned") if before > after else ("aligned", "baseline")
        rows = np.flatnonzero((labels == label) & (runs[more] == other) & (runs[less] != other))
        confusions.append(Confusion(label, other, before, after, rows))
    confusions.sort(key=lambda one: (-abs(one.change), -one.baseline - one.aligned))
    return [one for one in confusions if one.change < 0], [one for one in confusions if one.change > 0]


def class_gains(baseline: Predictions, aligned: Predictions) -> list[tuple[int, int, int]]:
    """(class, images, how many more are classified rightly by the aligned run) of each class, most gained first."""
    gains = []
    for label in np.unique(aligned.labels[aligned.labels >= 0]).tolist():
        rows = aligned.labels == label
        gained = int((aligned.predicted[rows] == label).sum()) - int((baseline.predicted[rows] == label).sum())
        gains.append((label, int(rows.sum()), gained))
    return sorted(gains, key=lambda gain: -gain[2])


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
