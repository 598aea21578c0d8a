"""Probes: k-NN and a linear classifier on the student's features, fitted on the training split."""

import logging
import warnings

import numpy as np
from tqdm import tqdm

from .predict import Predictions, blocks

logger = logging.getLogger(__name__)

NEIGHBOURS = (1, 20)
STRENGTHS_OF_PENALTY = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn, the strongest first
HELD_OUT = 5  # one row in so many of the training split chooses C
MAX_ITER = 1000


class Probes:
    """
    k-NN by cosine, and a linear probe: `LogisticRegression` of scikit-learn on standardised features. Its C is the one
    with the best accuracy on a fifth of the training rows, drawn at random; it is then fitted again on all of them.

    Args:
        training: predictions of the training split without augmentation, with `features`; unlabelled rows are left
            out.
        description: of the progress bars.

    Raises:
        ValueError: when no row is labelled.
    """

    def __init__(self, training: Predictions, description: str = "Probes"):
        from sklearn.neighbors import KNeighborsClassifier

        labelled = training.labels >= 0
        if not labelled.any():
            raise ValueError("The training split has no labels, which probes need. Leave probe out of measures.")
        features, labels = training.features[labelled], training.labels[labelled]
        self.description = description
        self.num_rows = len(labels)
        self.nearest = KNeighborsClassifier(metric="cosine", algorithm="brute").fit(features, labels)
        self.penalty, self.linear = _fit_linear(features, labels, description)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """
        `knn_1_accuracy`, `knn_20_accuracy`, `linear_probe_accuracy`, `linear_probe_c` and `probe_samples`, the number
        of rows that the probes were fitted on; nothing where no row is labelled. Of a training split with a single
        class there is no linear probe.
        """
        labelled = predictions.labels >= 0
        if not labelled.any():
            return {}
        features, labels = predictions.features[labelled], predictions.labels[labelled]
        found: dict[str, float] = {"probe_samples": self.num_rows}
        predicted: dict[str, list[np.ndarray]] = {f"knn_{k}": [] for k in NEIGHBOURS}
        for rows in tqdm([*blocks(len(labels))], desc=f"{self.description}, k-NN", leave=False):
            for k in NEIGHBOURS:
                self.nearest.set_params(n_neighbors=min(k, self.num_rows))
                predicted[f"knn_{k}"].append(self.nearest.predict(features[rows]))
        if self.linear is not None:
            predicted["linear_probe"] = [self.linear.predict(features)]
            found["linear_probe_c"] = self.penalty
        for name, parts in predicted.items():
            found[f"{name}_accuracy"] = float(np.mean(np.concatenate(parts) == labels))
        return found


def _fit_linear(features: np.ndarray, labels: np.ndarray, description: str):
    """C and the probe; two times None where there is only one class."""
    if len(np.unique(labels)) < 2:
        return None, None
    order = np.random.default_rng(0).permutation(len(labels))
    held_out, rest = order[: len(labels) // HELD_OUT], order[len(labels) // HELD_OUT :]
    chosen, best = 1.0, -1.0  # C = 1 where there is nothing to choose it on
    choices = STRENGTHS_OF_PENALTY if len(held_out) and len(np.unique(labels[rest])) > 1 else ()
    for penalty in tqdm(choices, desc=f"{description}, C of the linear probe", leave=False):
        accuracy = _fitted(penalty, features[rest], labels[rest]).score(features[held_out], labels[held_out])
        if accuracy > best:
            chosen, best = penalty, accuracy
    probe = _fitted(chosen, features, labels)
    if probe[-1].n_iter_.max() >= MAX_ITER:
        logger.warning("%s: the linear probe had not converged after %d iterations.", description, MAX_ITER)
    return chosen, probe


def _fitted(penalty: float, features: np.ndarray, labels: np.ndarray):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=MAX_ITER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features, labels)
