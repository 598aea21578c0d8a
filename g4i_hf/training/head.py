"""The student's last layer on cached features: a multinomial logistic regression on class probabilities by L-BFGS."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..label_model.view_model import minimise
from ..modeling import AlignedImageClassification
from ..modeling.student import classifier_layers

STRENGTHS = (2.0, 0.5, 0.1, 0.02, 5e-3, 1e-3, 2e-4, 5e-5)  # of the regularisation, the strongest first
USUAL_STRENGTH = 2e-4  # if too few labels can be held out to select one
BLOCK = 16_384
# Change of the mean loss at which to stop. At 1e-10, in double precision, features that differ by rounding change no
# prediction; a strength is selected in single precision
TOLERANCE, MAX_ITER = 1e-10, 1_000
ROUGH, MAX_ITER_ROUGH = 1e-5, 60
FEWEST_JUDGED = 20  # held-out rows needed to select a strength
SHARPNESS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # factors of the logits
TINY = 1e-9


@dataclass
class Head:
    weight: np.ndarray  # (C, F), for features that are not scaled
    bias: np.ndarray  # (C,)
    strength: float  # of the regularisation, a factor of the squared weights of scaled features

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, C) float32."""
        return np.asarray(features, dtype=np.float32) @ self.weight.T + self.bias

    def times(self, factor: float) -> "Head":
        return Head(factor * self.weight, factor * self.bias, self.strength)

    @torch.no_grad()
    def put_into(self, model: AlignedImageClassification) -> torch.nn.Linear:
        """Copy these weights into the student's last layer, and return that; all parameters are trainable again."""
        (layer,) = classifier_layers(model.requires_grad_(True).student)
        layer.weight.copy_(torch.from_numpy(self.weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(self.bias))
        return layer


def fit_head(
    features: np.ndarray,
    targets: np.ndarray,
    strength: float = USUAL_STRENGTH,
    scale: "Scale | None" = None,
    start: Head | None = None,
) -> Head:
    """
    Minimise the mean cross entropy with the targets plus `strength` times the squared weights of features that are
    centred and divided by one standard deviation. The bias is the weight of one more feature, which is 1: few labels
    hardly determine it otherwise, and nothing determines that of a class without any.

    Args:
        features: (n, F), of any float type.
        targets: (n, C) class probabilities; a row may sum to less than 1, its weight, but not to 0.
        scale: computed from more features than these, as a few rows do not determine it.
        start: fitted on almost the same rows, which takes fewer iterations to the same minimum.
    """
    scale = scale or Scale.of(features)
    x, y = (torch.from_numpy(np.asarray(values, dtype=np.float64)) for values in (scale(features), targets))
    near = None
    if start is not None:
        bias = start.bias + start.weight @ scale.mean
        near = torch.from_numpy(np.vstack([start.weight.T * scale.deviation, bias]).astype(np.float64, order="C"))
    fitted = _fit(x, y, strength, TOLERANCE, MAX_ITER, near).numpy().astype(np.float32)
    weight = fitted[:-1] / scale.deviation
    return Head(weight.T.copy(), fitted[-1] - scale.mean @ weight, strength)


@dataclass
class Fold:
    """Rows on which a head is fitted, and held-out rows that judge it."""

    fitted: np.ndarray  # (n,)
    targets: np.ndarray  # (n, C)
    held_out: np.ndarray  # (m,)
    probabilities: np.ndarray  # (m, C) of the classes of the held-out rows


def best_strength(
    features: np.ndarray, folds: Sequence[Fold], scale: "Scale", labels: np.ndarray | None = None
) -> float:
    """
    The strength by which the classes of held-out rows are likeliest, at the factor of the logits that suits it best.
    Targets that are often wrong blur probabilities more than they change which class is first.

    Args:
        features: (N, F) of the rows that the folds divide.
        labels: (C, C) how likely each label is for each class, if the classes of held-out rows are labels that may be
            wrong.
    """
    if sum(len(fold.held_out) for fold in folds) < FEWEST_JUDGED:
        return USUAL_STRENGTH
    x = _tensor(scale(features))
    weights: list[torch.Tensor | None] = [None] * len(folds)
    best, most = USUAL_STRENGTH, -np.inf
    for strength in STRENGTHS:
        likelihoods = torch.zeros(len(SHARPNESS))
        for place, fold in enumerate(folds):
            y = _tensor(fold.targets)
            weights[place] = weight = _fit(x[fold.fitted], y, strength, ROUGH, MAX_ITER_ROUGH, weights[place])
            logits, probabilities = x[fold.held_out] @ weight[:-1] + weight[-1], _tensor(fold.probabilities)
            for number, sharpness in enumerate(SHARPNESS):
                predicted = (sharpness * logits).softmax(1)
                predicted = predicted if labels is None else predicted @ _tensor(labels)
                likelihoods[number] += (probabilities * predicted.clamp_min(TINY).log()).sum()
        if float(likelihoods.max()) <= most:
            break
        best, most = strength, float(likelihoods.max())
    return best


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _fit(
    x: torch.Tensor,
    y: torch.Tensor,
    strength: float,
    tolerance: float,
    max_iter: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """(F + 1, C) weight and, in the last row, bias."""
    weight = x.new_zeros(x.shape[1] + 1, y.shape[1]) if start is None else start.clone()

    def loss() -> torch.Tensor:
        log_p = (x @ weight[:-1] + weight[-1]).log_softmax(1)
        return -(y * log_p).sum() / y.sum() + strength * weight.square().sum()

    minimise(loss, [weight], max_iter, tolerance)
    return weight.detach()


@dataclass
class Scale:
    """
    Mean of each feature, and the standard deviation of all. One for each feature would make those that vary little
    count as much as others, and few labels do not tell which of them are noise.
    """

    mean: np.ndarray  # (F,)
    deviation: np.float32

    @classmethod
    def of(cls, features: np.ndarray) -> "Scale":
        mean = features.mean(0, dtype=np.float64)
        blocks = (features[start : start + BLOCK] - mean for start in range(0, len(features), BLOCK))
        deviation = np.sqrt(sum((block**2).sum() for block in blocks) / features.size)
        return cls(mean.astype(np.float32), np.float32(deviation + 1e-6))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.mean) / self.deviation).astype(np.float32)
