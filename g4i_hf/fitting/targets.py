"""From what is known of each image to who learns what: the targets of both classifiers, and their weights."""

from dataclasses import dataclass

import numpy as np

from ..label_model.none_of_these import weights_of_unlabelled
from ..linear import one_hot
from ..names import LABELS_ONLY
from ..training.supervision import plan_for
from .evidence import Evidence


@dataclass
class Targets:
    """
    What each classifier learns from N training rows. The one on labels only learns the labels; the one with views
    learns class probabilities given the label, if any, times the weight of the row.
    """

    evidence: Evidence
    unlabelled_weight: float = 1.0  # of a row without a label; a labelled row has 1
    trains_on_given_labels: bool = False  # whether all rows have a label, and folds learn it as it is

    @classmethod
    def of(cls, evidence: Evidence) -> "Targets":
        """With the weight of unlabelled rows by what the label model estimates."""
        plan = plan_for(evidence.model, evidence.labels)
        return cls(evidence, plan.unlabelled_weight, not plan.relabels and bool((evidence.labels >= 0).all()))

    @property
    def rows(self) -> np.ndarray:
        """All but those that are held out to judge."""
        return np.setdiff1d(np.arange(len(self.evidence.labels)), self.evidence.holdout)

    @property
    def weights(self) -> np.ndarray:
        """(N, 1) the weight of each row: the more likely it belongs to no class, the less."""
        of_unlabelled = self.unlabelled_weight * weights_of_unlabelled(self.evidence.model.none_)
        return np.where(self.evidence.labels < 0, of_unlabelled, 1).astype(np.float32)[:, None]

    def learned(self, name: str, rows: np.ndarray, fold: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """
        Those of the rows that a classifier learns from, and what: (n,) rows and (n, C) targets. With a `fold`, by
        models that have not learned its labels, for rows that lack them. The models of other folds have, so their
        targets would leak these labels to a student. The other labels are learned.
        """
        evidence = self.evidence
        if name == LABELS_ONLY:
            rows = rows[evidence.labels[rows] >= 0]
        if name == LABELS_ONLY or (fold is not None and self.trains_on_given_labels):
            return rows, one_hot(evidence.labels[rows], evidence.num_labels)
        posterior = evidence.model.posterior_[rows] if fold is None else evidence.by_fold(rows, fold)
        return rows, posterior.astype(np.float32) * self.weights[rows]

    def to_choose_strength(self, rows: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """
        (n, C) the targets of a fold that choose a regularisation. Where no view has texts of the classes, predictions
        for rows that a fold's models have learned are smooth. A weaker regularisation suits them than suits what is
        learned in the end. So these rows are given their labels once more, which is no smoother.
        """
        evidence = self.evidence
        if any(view.class_values is not None for view in evidence.views.values()):
            return learned
        return evidence.model.calibration_.posterior(learned, evidence.labels[rows], evidence.is_certain[rows])

    def of_all_rows(self, name: str) -> np.ndarray:
        """(N, C) float32, zeros for a row that a classifier does not learn from."""
        rows, learned = self.learned(name, self.rows)
        targets = np.zeros((len(self.evidence.labels), self.evidence.num_labels), dtype=np.float32)
        targets[rows] = learned
        return targets
