"""Whether a classifier knows how sure it may be. Metrics as subclasses of `evaluate.Metric`; all of them combine."""

import datasets
import evaluate
import numpy as np
import scipy.special

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
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    return {
        "ece": expected_calibration_error(probabilities, labels),
        "adaptive_ece": adaptive_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
        "brier": brier_score(probabilities, labels),
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
    return _error_in_bins(probabilities, labels, np.linspace(0, 1, num_bins + 1)[1:-1])


def adaptive_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """
    The same with as many images in each bin (AdaECE of Mukhoti et al., arXiv 2002.09437), which does not leave most
    bins nearly empty where most confidences are alike. Equal confidences share a bin.

    Args:
        probabilities: (n, classes).
        labels: (n,) class indices.
        num_bins: how many bins.
    """
    edges = np.quantile(probabilities.max(1), np.arange(1, num_bins) / num_bins, method="inverted_cdf")
    return _error_in_bins(probabilities, labels, edges)


def _error_in_bins(probabilities: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> float:
    """edges: the upper ones of all bins but the last, which they belong to."""
    confidence = probabilities.max(1)
    surplus = (probabilities.argmax(1) == labels) - confidence
    sums = np.bincount(np.digitize(confidence, edges, right=True), weights=surplus)
    return float(np.abs(sums).sum() / len(labels))


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """
    Mean of -log p(right class), in nats.

    Args:
        probabilities: (n, classes); one of 0 counts as the smallest positive float64.
        labels: (n,) class indices.
    """
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """
    Mean over images of the sum over classes of (p - y)^2, y being 1 for the right class: in [0, 2] (Brier 1950).

    Args:
        probabilities: (n, classes).
        labels: (n,) class indices.
    """
    right = probabilities[np.arange(len(labels)), labels]
    return float((np.einsum("nc,nc->n", probabilities, probabilities) - 2 * right + 1).mean())
