"""Whether a classifier knows how sure it may be. Metrics as subclasses of `evaluate.Metric`; all of them combine."""

import datasets
import evaluate
import numpy as np
import scipy.special

from .outputs import blocks

NUM_BINS = 15  # as in Guo et al.
_GUO = "Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599"
_MUKHOTI = "Mukhoti et al., Calibrating Deep Neural Networks using Focal Loss, arXiv 2002.09437"
_BRIER = "Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78 (1950)"


class _OfProbabilities(evaluate.Metric):
    """Takes probabilities (n, classes) as predictions and class indices (n,) as references."""

    description = citation = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="predictions: probabilities of the classes; references: class indices.",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )


class ExpectedCalibrationError(_OfProbabilities):
    """`ece`, see [`expected_calibration_error`]."""

    description, citation = "Expected calibration error, in bins of equal width.", _GUO

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"ece": expected_calibration_error(*_arrays(predictions, references))}


class AdaptiveCalibrationError(_OfProbabilities):
    """`adaptive_ece`, see [`adaptive_calibration_error`]."""

    description, citation = "Expected calibration error, in bins of equal mass.", _MUKHOTI

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"adaptive_ece": adaptive_calibration_error(*_arrays(predictions, references))}


class NegativeLogLikelihood(_OfProbabilities):
    """`nll`, see [`negative_log_likelihood`]."""

    description, citation = "Mean negative logarithm of the right class's probability, in nats.", _GUO

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"nll": negative_log_likelihood(*_arrays(predictions, references))}


class BrierScore(_OfProbabilities):
    """`brier`, see [`brier_score`]."""

    description, citation = "Mean squared distance of the probabilities from the right class, in [0, 2].", _BRIER

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"brier": brier_score(*_arrays(predictions, references))}


def _arrays(predictions, references) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(predictions, dtype=np.float64), np.asarray(references)


def calibration_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """
    Args:
        logits: (n, classes); their softmax are the probabilities, as in a pipeline.
        labels: (n,) class indices.

    Returns:
        `ece`, `adaptive_ece`, `nll` and `brier`.
    """
    parts = []
    for rows in blocks(len(labels)):
        probabilities = scipy.special.softmax(logits[rows].astype(np.float64), axis=1)
        parts.append((*_confidence(probabilities, labels[rows]), *_of_rows(probabilities, labels[rows])))
    confidence, is_right, nll, brier = map(np.concatenate, zip(*parts, strict=True))
    return {
        "ece": _error_in_bins(confidence, is_right, _equal_widths(NUM_BINS)),
        "adaptive_ece": _error_in_bins(confidence, is_right, _equal_masses(confidence, NUM_BINS)),
        "nll": float(nll.mean()),
        "brier": float(brier.mean()),
    }


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """
    ECE of the predicted class (Guo et al., arXiv 1706.04599, equation 3): sum over bins of n_bin / n times
    |accuracy - mean confidence| of the bin; bin m holds confidences in ((m - 1) / M, m / M].

    Args:
        probabilities: (n, classes).
        labels: (n,) class indices.
        num_bins: M.
    """
    return _error_in_bins(*_confidence(probabilities, labels), _equal_widths(num_bins))


def adaptive_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """
    The same with as many images in each bin (AdaECE of Mukhoti et al., arXiv 2002.09437), which does not leave most
    bins nearly empty where most confidences are alike. Equal confidences share a bin.

    Args:
        probabilities: (n, classes).
        labels: (n,) class indices.
        num_bins: how many bins.
    """
    confidence, is_right = _confidence(probabilities, labels)
    return _error_in_bins(confidence, is_right, _equal_masses(confidence, num_bins))


def _confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) probability of the predicted class, and whether it is the right one."""
    return probabilities.max(1), probabilities.argmax(1) == labels


def _equal_widths(num_bins: int) -> np.ndarray:
    return np.linspace(0, 1, num_bins + 1)[1:-1]


def _equal_masses(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    return np.quantile(confidence, np.arange(1, num_bins) / num_bins, method="inverted_cdf")


def _error_in_bins(confidence: np.ndarray, is_right: np.ndarray, edges: np.ndarray) -> float:
    """edges: the upper ones of all bins but the last, which they belong to."""
    sums = np.bincount(np.digitize(confidence, edges, right=True), weights=is_right - confidence)
    return float(np.abs(sums).sum() / len(confidence))


def _of_rows(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) negative log-likelihood and Brier score of each row."""
    right = probabilities[np.arange(len(labels)), labels]
    nll = -np.log(np.maximum(right, np.finfo(np.float64).tiny))
    return nll, np.einsum("nc,nc->n", probabilities, probabilities) - 2 * right + 1


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """
    Mean of -log p(right class), in nats.

    Args:
        probabilities: (n, classes); one of 0 counts as the smallest positive float64.
        labels: (n,) class indices.
    """
    return float(_of_rows(probabilities, labels)[0].mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """
    Mean over images of the sum over classes of (p - y)^2, y being 1 for the right class: in [0, 2] (Brier 1950).

    Args:
        probabilities: (n, classes).
        labels: (n,) class indices.
    """
    return float(_of_rows(probabilities, labels)[1].mean())
