"""
Labels of several people. Each annotator confuses classes in another way (Dawid and Skene, 1979), and views say
beforehand how likely each class is (Raykar et al., 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import priors
from ..evaluation.estimate import accuracy_interval

ROUNDS, CONVERGED = 100, 1e-4
TINY = 1e-12


@dataclass
class Annotators:
    """What the votes of A annotators on N images say of C classes and of each other."""

    posterior: np.ndarray  # (N, C) probabilities, given the votes and what is known without them
    confusions: np.ndarray  # (A, C, C) how likely each annotator gives which label to an image of which class
    labels: np.ndarray  # (A,) number of votes of each
    accuracies: np.ndarray  # (A,) share of right ones among them
    intervals: np.ndarray  # (A, 2) 95% of it
    agreement: float | None  # share of pairs of votes on one image that agree

    def by_name(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """For `all_results.json`."""
        values = self.labels.tolist(), self.accuracies.tolist(), self.intervals.tolist()
        return {
            name: {"labels": labels, "accuracy": accuracy, "interval": interval}
            for name, labels, accuracy, interval in zip(names, *values, strict=True)
        }


def counts_of(votes: np.ndarray, num_labels: int) -> np.ndarray:
    """(N, C) numbers of votes."""
    counts = np.zeros((len(votes), num_labels))
    rows, annotators = np.nonzero(votes >= 0)
    np.add.at(counts, (rows, votes[rows, annotators]), 1)
    return counts


def majority(votes: np.ndarray, num_labels: int) -> np.ndarray:
    """(N,) the class with most of the votes (N, A), -1 without a vote and for a tie."""
    counts = counts_of(votes, num_labels)
    ordered = np.sort(counts, axis=1)
    return np.where(ordered[:, -1] > ordered[:, -2], counts.argmax(1), -1)


def judge_annotators(votes: np.ndarray, known: np.ndarray) -> Annotators:
    """
    By expectation maximisation.

    Args:
        votes: (N, A) class indices, -1 where an annotator gave no label.
        known: (N, C) probabilities of the classes without these votes, such as those of views that were not fitted on
            them.
    """
    number, num_labels = known.shape
    rows, who = np.nonzero(votes >= 0)
    given = votes[rows, who]
    counts = counts_of(votes, num_labels)
    log_known = np.log(np.maximum(known, TINY).astype(np.float64))
    posterior = known * (counts + 1 / num_labels)
    posterior /= posterior.sum(1, keepdims=True)
    for _ in range(ROUNDS):
        seen = np.zeros((votes.shape[1], num_labels, num_labels))  # by annotator, label and class
        np.add.at(seen, (who, given), posterior[rows])
        confusions = _confusions(seen.transpose(0, 2, 1))
        logits = log_known.copy()
        np.add.at(logits, rows, np.log(confusions)[who, :, given])
        before, posterior = posterior, np.exp(logits - logits.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        if np.abs(posterior - before).max(initial=0) < CONVERGED:
            break
    right, labels = posterior[rows, given], np.bincount(who, minlength=votes.shape[1])
    accuracies = np.bincount(who, right, minlength=len(labels)) / np.maximum(labels, 1)
    unsure = np.bincount(who, right * (1 - right), minlength=len(labels)) / np.maximum(labels, 1)
    spread = accuracies * (1 - accuracies)
    effective = np.maximum(labels * spread / np.maximum(spread + unsure, TINY), 1)
    intervals = [accuracy_interval(share, images) for share, images in zip(accuracies, effective, strict=True)]
    total = counts.sum(1)
    pairs = float((total * (total - 1)).sum())
    agreement = float((counts * (counts - 1)).sum() / pairs) if pairs else None
    return Annotators(posterior, confusions, labels, accuracies, np.array(intervals), agreement)


def _confusions(counts: np.ndarray) -> np.ndarray:
    """
    (A, C, C), of counts by annotator, class and label. Few labels of an annotator tell little of each class. So the
    accuracy of all annotators counts like a few more labels, and to which classes they err like a few of each class.
    """
    num_labels = counts.shape[1]
    diagonal = np.eye(num_labels)
    of_all = counts.sum(0) + (1 + diagonal) / num_labels
    errors = of_all * (1 - diagonal)
    errors /= errors.sum(1, keepdims=True)
    own = np.einsum("acc->a", counts) + priors.VOTES_OF_ALL * np.trace(of_all) / of_all.sum()
    own = (own / (counts.sum((1, 2)) + priors.VOTES_OF_ALL))[:, None, None]
    smoothed = counts + priors.VOTES_OF_CLASS * (own * diagonal + (1 - own) * errors)
    return smoothed / smoothed.sum(2, keepdims=True)
