"""The student's last layer on cached features: a multinomial logistic regression on class probabilities by L-BFGS."""

from dataclasses import dataclass

import numpy as np
import torch

from ..label_model.view_model import minimise
from ..modeling import AlignedImageClassification
from ..modeling.student import classifier_layers

STRENGTHS = (2.0, 0.5, 0.1, 0.02, 5e-3, 1e-3, 2e-4, 5e-5)  # of the regularisation, tried from the strongest on
USUAL_STRENGTH = 2e-4  # if too few labels can be held out to select one
BLOCK = 16_384
MAX_ITER = 60
TOLERANCE, ROUGH = 1e-7, 1e-5  # change of the mean loss at which to stop; `ROUGH` while selecting a strength
FOLDS = 5
FEWEST_JUDGED = 20  # held-out rows needed to select a strength
QUICK = 2e7  # rows x features x classes, above which a single fold is held out


@dataclass
class Head:
    weight: np.ndarray  # (C, F), for features that are not standardised
    bias: np.ndarray  # (C,)
    strength: float  # of the regularisation, a factor of the squared weights of standardised features

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, C) float32."""
        return np.asarray(features, dtype=np.float32) @ self.weight.T + self.bias

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
    judged_by: np.ndarray | None = None,
    folds: np.ndarray | None = None,
    strength: float | None = None,
    scale: "Scale | None" = None,
) -> Head:
    """
    Minimise the mean cross entropy with the targets plus `strength` times the squared weights of standardised
    features. The strength maximises the likelihood of held-out rows.

    Args:
        features: (n, F), of any float type.
        targets: (n, C) class probabilities; a row may sum to less than 1, its weight, but not to 0.
        judged_by: (n, C) class probabilities of held-out rows; rows of zeros are skipped. None: the targets.
        folds: (n,) integers, equal for rows that are held out together; negative: never held out.
        strength: None to select one; without folds, or with too few rows, it is `USUAL_STRENGTH`.
        scale: computed from more features than these, as a few rows do not determine it.
    """
    scale = scale or Scale.of(features)
    x, y = torch.from_numpy(scale(features)), torch.from_numpy(np.asarray(targets, dtype=np.float32))
    judge = y if judged_by is None else torch.from_numpy(np.asarray(judged_by, dtype=np.float32))
    if strength is None and folds is not None and int((judge.sum(1) > 0).sum()) >= FEWEST_JUDGED:
        strength = _likeliest_strength(x, y, judge, torch.from_numpy(folds))
    strength = strength or USUAL_STRENGTH
    fitted = _fit(x, y, strength, TOLERANCE).cpu().numpy()
    weight = fitted[:-1] / scale.deviation[:, None]
    return Head(weight.T.copy(), fitted[-1] - scale.mean @ weight, strength)


def _likeliest_strength(x: torch.Tensor, y: torch.Tensor, judge: torch.Tensor, folds: torch.Tensor) -> float:
    """Stop at the first strength that is worse than the one before, as the likelihood has a single peak."""
    judged = judge.sum(1) > 0
    judged &= folds >= 0
    held_out = folds[judged].unique()
    if x.numel() * y.shape[1] > QUICK:
        held_out = held_out[:1]
    starts: dict[int, torch.Tensor | None] = {int(fold): None for fold in held_out}
    best, least = STRENGTHS[0], np.inf
    for strength in STRENGTHS:
        loss = 0.0
        for fold in starts:
            fitted, held = folds != fold, judged & (folds == fold)
            starts[fold] = _fit(x[fitted], y[fitted], strength, ROUGH, starts[fold])
            logits = x[held] @ starts[fold][:-1] + starts[fold][-1]
            loss -= float((judge[held] * logits.log_softmax(1)).sum())
        if loss >= least:
            break
        best, least = strength, loss
    return best


def _fit(
    x: torch.Tensor, y: torch.Tensor, strength: float, tolerance: float, start: torch.Tensor | None = None
) -> torch.Tensor:
    """(F + 1, C) weight and, in the last row, bias."""
    weight = x.new_zeros(x.shape[1] + 1, y.shape[1]) if start is None else start.clone()

    def loss() -> torch.Tensor:
        log_p = (x @ weight[:-1] + weight[-1]).log_softmax(1)
        return -(y * log_p).sum() / y.sum() + strength * weight[:-1].square().sum()

    minimise(loss, [weight], MAX_ITER, tolerance)
    return weight.detach()


@dataclass
class Scale:
    """Mean and standard deviation of each feature, (F,)."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Scale":
        mean = features.mean(0, dtype=np.float64)
        blocks = (features[start : start + BLOCK] - mean for start in range(0, len(features), BLOCK))
        deviation = np.sqrt(sum((block**2).sum(0) for block in blocks) / len(features))
        return cls(mean.astype(np.float32), (deviation + 1e-6).astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.mean) / self.deviation).astype(np.float32)
