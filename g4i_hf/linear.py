"""
Linear classifiers on frozen features: multinomial logistic regression on class probabilities by L-BFGS, Fisher's
linear discriminant, and the strength of the regularisation that predicts held-out rows best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from scipy.optimize import minimize_scalar

Classifier = tuple[np.ndarray, np.ndarray]  # weight (D, C) and bias (C,)
Fitted = TypeVar("Fitted")

ABSENT = -1000.0  # logit of a class without examples: the classifier has no vote there
MAX_ITER, TOLERANCE = 60, 1e-5  # iterations, and the change of the mean loss at which to stop
# To the minimum, in double precision: then features that differ by rounding change no prediction
EXACT_MAX_ITER, EXACT_TOLERANCE = 1_000, 1e-10
BLOCK = 16_384
LEAST_SHARPNESS, MOST_SHARPNESS = 0.05, 20.0  # factors of logits
TINY = 1e-9


# --- Classifiers -----------------------------------------------------------------------------------------------------


def logistic_regression(
    x: np.ndarray,
    targets: np.ndarray,
    strength: float,
    variances: np.ndarray | None = None,
    start: Classifier | None = None,
    *,
    exact: bool = False,
    free_bias: bool = False,
) -> Classifier:
    """
    Minimise the mean cross entropy with the targets plus `strength` times the squared weights. The bias counts as the
    weight of one more feature, which is 1: few labels hardly determine it otherwise, and nothing determines that of a
    class without any. So the minimum is unique.

    Args:
        x: (n, D), of any float type.
        targets: (n, C) class probabilities; a row may have another sum than 1, its weight.
        strength: of the regularisation, 1 / (2 C n) for C of scikit-learn's LogisticRegression.
        variances: (D,) of values along their principal components; they precondition the weights, so that fewer
            iterations are needed.
        start: weight and bias near the minimum.
        exact: reach the minimum.
        free_bias: leave the bias out of the regularisation.
    """
    accelerated = torch.accelerator.is_available() and not exact  # not every device has double precision
    device = torch.accelerator.current_accelerator() if accelerated else torch.device("cpu")
    dtype, (dim, classes) = torch.float64 if exact else torch.float32, (x.shape[1], targets.shape[1])
    scale = np.ones(dim) if variances is None else 1 / np.sqrt(variances / classes + 2 * strength)
    weight, bias = (np.zeros((dim, classes)), np.zeros(classes)) if start is None else start
    # Classes are rows and images columns here: BLAS takes a quarter less time than for the transposed
    arrays = x.T, targets.T, scale, weight.T / scale, bias[:, None]
    columns, y, factors, scaled, offset = (
        torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=device) for array in arrays
    )
    of_images, total, penalty_of_bias = y.sum(0), y.sum(), 0.0 if free_bias else strength
    logits, log_p = torch.empty_like(y), torch.empty_like(y)

    def loss() -> torch.Tensor:
        """With its gradient, in memory that is used again: to get new memory takes longer than to compute."""
        weight = factors * scaled
        torch.log_softmax(torch.addmm(offset, weight, columns, out=logits), 0, out=log_p)
        squares = strength * weight.square().sum() + penalty_of_bias * offset.square().sum()
        value = squares - torch.mul(y, log_p, out=logits).sum() / total
        excess = log_p.exp_().mul_(of_images).sub_(y).div_(total)
        scaled.grad = factors * (excess @ columns.T + 2 * strength * weight)
        offset.grad = excess.sum(1, keepdim=True) + 2 * penalty_of_bias * offset
        return value

    _minimise(loss, [scaled, offset], *((EXACT_MAX_ITER, EXACT_TOLERANCE) if exact else (MAX_ITER, TOLERANCE)))
    weight, bias = (array.cpu().numpy().astype(np.float32) for array in ((factors * scaled).T, offset[:, 0]))
    return np.ascontiguousarray(weight), bias


def _minimise(
    loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor], max_iter: int, tolerance: float
) -> None:
    """Fit parameters in place by L-BFGS, until the loss changes by less than the tolerance; `loss` sets `grad`."""
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=0,
        tolerance_change=tolerance,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(loss)


def balanced_regression(
    x: np.ndarray,
    shares: np.ndarray,
    c: float,
    variances: np.ndarray,
    start: Classifier | None = None,
) -> Classifier:
    """
    A logistic regression in which all classes weigh the same, so that its bias is small. It is `ABSENT` for a class
    without rows.

    Args:
        x: (n, D) along principal components, with these variances (D,).
        shares: (n, C) class probabilities, zeros for a class that is left out.
        c: C of scikit-learn's LogisticRegression.
    """
    counts = shares.sum(0)
    seen = np.flatnonzero(counts > 0)
    targets = shares[:, seen] * (len(x) / (len(seen) * counts[seen])).astype(np.float32)
    if start is not None:
        known = has_vote(start[1][seen])
        start = np.where(known, start[0][:, seen], 0), np.where(known, start[1][seen], 0)
    fitted = logistic_regression(x, targets, 1 / (2 * c * len(x)), variances, start, free_bias=True)
    weight, bias = np.zeros((x.shape[1], len(counts)), np.float32), np.full(len(counts), ABSENT, np.float32)
    weight[:, seen], bias[seen] = fitted
    return weight, bias


def linear_discriminant(x: np.ndarray, shares: np.ndarray, shrinkage: float) -> Classifier:
    """
    Weight (D, C) and bias (C,) of Fisher's linear discriminant, `ABSENT` for a class without rows. Wrong labels move
    the mean of a class, where they bend a logistic regression. The mean margin of these rows is 1, as that of logits
    far from each other would be taken for a class without rows.

    Args:
        x: (n, D).
        shares: (n, C) class probabilities, zeros for a class that is left out.
        shrinkage: share of the mean variance in the covariance within classes (Friedman, 1989).
    """
    counts, weights = shares.sum(0), shares.sum(1)
    seen = counts > 0
    means = shares.T @ x / np.maximum(counts, 1e-9)[:, None]
    within = (weights[:, None] * x).T @ x - (counts[:, None] * means).T @ means
    covariance = (1 - shrinkage) * within / weights.sum()
    covariance[np.diag_indices_from(covariance)] += shrinkage * np.trace(within) / (len(within) * weights.sum()) + 1e-9
    middle = means[seen].mean(0)
    weight = np.linalg.solve(covariance, np.where(seen, (means - middle).T, 0))
    bias = -((means + middle).T * weight).sum(0) / 2
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    logits = (x @ weight + bias)[:, seen]
    usual = np.float32(np.average(logits.max(1) - logits.mean(1), weights=weights))
    return weight / usual, np.where(seen, bias / usual, np.float32(ABSENT))


# --- Votes -----------------------------------------------------------------------------------------------------------


def one_hot(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(n, C) float32; zeros for a row without a label."""
    return np.eye(num_labels, dtype=np.float32)[np.maximum(labels, 0)] * (labels >= 0)[:, None]


def has_vote(logits: np.ndarray) -> np.ndarray:
    """Whether logits or biases, of any shape, are of classes with examples, elsewhere they are near `ABSENT`."""
    return logits > ABSENT / 2


def margins_of(logits: np.ndarray) -> np.ndarray:
    """(n,) the largest logit minus the mean over the classes with examples; 0 where all are 0."""
    seen = has_vote(logits)
    margins = np.maximum(logits.max(1) - (logits * seen).sum(1) / seen.sum(1), 1e-6)
    return np.where(logits.any(1), margins, 0)


# --- The strength of the regularisation ------------------------------------------------------------------------------


def strongest_first(
    strengths: Iterable[float],
    fit: Callable[[float, Fitted | None], Fitted],
    loss: Callable[[Fitted], float],
) -> tuple[float, Fitted, float]:
    """
    The strength with the least loss, what was fitted with it, and the loss. Each is fitted from the one before, until
    the loss grows.
    """
    best: tuple[float, Fitted, float] | None = None
    for strength in strengths:
        fitted = fit(strength, best and best[1])
        of_rows = loss(fitted)
        if best is not None and of_rows >= best[2]:
            break
        best = strength, fitted, of_rows
    if best is None:
        raise ValueError("no strength to choose from")
    return best


@dataclass
class Fold:
    """Rows on which a classifier is fitted, and held-out rows that judge it."""

    fitted: np.ndarray  # (n,)
    targets: np.ndarray  # (n, C)
    held_out: np.ndarray  # (m,)
    probabilities: np.ndarray  # (m, C) of the classes of the held-out rows


def best_strength(
    x: np.ndarray, folds: Sequence[Fold], strengths: Sequence[float], labels: np.ndarray | None = None
) -> float:
    """
    The strength by which the classes of held-out rows are likeliest, at the factor of the logits that suits it best.
    Targets that are often wrong blur probabilities more than they change which class is first.

    Args:
        x: (N, F) of the rows that the folds divide.
        labels: (C, C) how likely each label is for each class, if the classes of held-out rows are labels that may be
            wrong.
    """
    truth = np.concatenate([fold.probabilities for fold in folds])

    def fit(strength: float, before: list[Classifier] | None) -> list[Classifier]:
        starts = before or [None] * len(folds)
        pairs = zip(folds, starts, strict=True)
        return [logistic_regression(x[fold.fitted], fold.targets, strength, start=start) for fold, start in pairs]

    def loss(fitted: list[Classifier]) -> float:
        pairs = zip(folds, fitted, strict=True)
        logits = torch.from_numpy(np.concatenate([x[fold.held_out] @ weight + bias for fold, (weight, bias) in pairs]))

        def at(log_sharpness: float) -> float:
            predicted = (np.exp(log_sharpness) * logits).softmax(1).numpy()
            predicted = predicted if labels is None else predicted @ labels
            return -float((truth * np.log(np.maximum(predicted, TINY))).sum())

        bounds = np.log(LEAST_SHARPNESS), np.log(MOST_SHARPNESS)
        return float(minimize_scalar(at, bounds=bounds, method="bounded", options={"xatol": 0.03}).fun)

    return strongest_first(strengths, fit, loss)[0]


@dataclass
class Scale:
    """
    Mean of each feature, and the standard deviation of all. One for each feature would make those that vary little
    count as much as others, and few labels do not tell which of them are noise.
    """

    mean: np.ndarray  # (F,)
    deviation: np.float32

    @classmethod
    def of(cls, features: np.ndarray) -> Scale:
        mean = features.mean(0, dtype=np.float64)
        blocks = (features[start : start + BLOCK] - mean for start in range(0, len(features), BLOCK))
        deviation = np.sqrt(sum((block**2).sum() for block in blocks) / features.size)
        return cls(mean.astype(np.float32), np.float32(deviation + 1e-6))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.mean) / self.deviation).astype(np.float32)
