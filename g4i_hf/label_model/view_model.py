"""The linear classifier of one view, or of several concatenated: a model for each fold, and one of all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .views import WHOLE, Values

SELF_TRAINED = ""  # name of the model that learns the predictions of the views
Classifier = tuple[np.ndarray, np.ndarray]  # weight (D, C) and bias (C,)


@dataclass
class ViewModel:
    """Models of one view, or of several views whose values are concatenated."""

    inputs: tuple[str, ...]  # names of the views; `widths` the dimensions of their values
    widths: tuple[int, ...]
    # weight and bias by fold, of the model that was not fitted on it; `WHOLE` was fitted on all rows, and serves all
    # other folds
    models: dict[int, Classifier]
    num_labels: int
    self_trained: bool = False  # whether it learned the predictions of the views

    @property
    def name(self) -> str:
        return SELF_TRAINED if self.self_trained else self.inputs[0]

    def has_value(self, values: dict[str, Values]) -> np.ndarray:
        """(N,) whether a row has any of the inputs."""
        return np.any([values[name].has for name in self.inputs if name in values], axis=0)

    def inputs_of(self, values: dict[str, Values], rows: np.ndarray) -> np.ndarray:
        return np.concatenate([values[name].x[rows] for name in self.inputs], axis=1)

    def logits(self, values: dict[str, Values], rows: np.ndarray, model_of: np.ndarray) -> np.ndarray:
        """(rows, C), of each row by the model whose number is in `model_of` (N,); zeros for a row without a value."""
        logits = np.zeros((len(rows), self.num_labels), dtype=np.float32)
        if not any(name in values for name in self.inputs):
            return logits
        has, numbers = self.has_value(values)[rows], model_of[rows]
        for number in np.unique(numbers):
            places = np.flatnonzero((numbers == number) & has)
            logits[places] = self.by_model(int(number), values, rows[places])
        return logits

    def by_model(self, number: int, values: dict[str, Values], rows: np.ndarray) -> np.ndarray:
        """(rows, C) logits."""
        weight, bias = self.models.get(number, self.models[WHOLE])
        logits, start = bias, 0
        for name, width in zip(self.inputs, self.widths, strict=True):
            if name in values:
                logits = logits + values[name].x[rows] @ weight[start : start + width]
            start += width
        return logits

    def temper_whole(self, values: dict[str, Values], rows: np.ndarray) -> None:
        """
        Scale the logits of `WHOLE` until their mean margin on unlabelled rows is that of the other models. It has seen
        more labels, so it is more confident than the models whose errors calibrate it.
        """
        margins = {number: margins_of(self.by_model(number, values, rows)).mean() for number in self.models}
        self.scale(float(np.mean([margins[fold] for fold in margins if fold != WHOLE]) / margins[WHOLE]), WHOLE)

    def scale(self, factor: float, *numbers: int) -> None:
        """Multiply the logits of these models, or of all."""
        for number in numbers or self.models:
            weight, bias = self.models[number]
            self.models[number] = weight * factor, np.where(has_vote(bias), bias * factor, bias)


# --- Multinomial logistic regression ---------------------------------------------------------------------------------


ABSENT = -1000.0  # logit of a class without examples: the view has no vote there
MAX_ITER = 40
TOLERANCE = 1e-5  # change of the mean loss at which an optimisation ends


def logistic_regression(
    values: np.ndarray,
    labels: np.ndarray,
    num_labels: int,
    strength: float,
    variances: np.ndarray,
    start: Classifier | None = None,
) -> Classifier:
    """
    Weight (D, C) and bias (C,), which is near `ABSENT` for a class without rows. Values (n, D) are along principal
    components; labels are class indices (n,), or probabilities (n, C), zeros for a class that is left out. `strength`
    is C of scikit-learn's LogisticRegression; `variances` (D,) of all values precondition the weights, so that few
    iterations are needed, from `start` or zeros.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    soft = labels.ndim == 2
    counts = labels.sum(0) if soft else np.bincount(labels, minlength=num_labels)
    seen = counts > 0
    balance = (len(labels) / (np.count_nonzero(seen) * np.where(seen, counts, 1))).astype(np.float32)
    factors = 1 / np.sqrt(variances / np.count_nonzero(seen) + 1 / (strength * len(labels)))
    weight, bias = np.zeros((values.shape[1], num_labels)), np.zeros(num_labels)
    if start is not None:
        known = seen & (start[1] > ABSENT / 2)
        weight, bias = (np.where(known, array, 0) for array in start)
    arrays = (values, factors[:, None], weight / factors[:, None], bias, np.where(seen, 0, ABSENT), balance)
    x, scale, scaled, offset, absent, share = (
        torch.tensor(array, dtype=torch.float32, device=device) for array in arrays
    )
    y = torch.from_numpy(labels).to(device)
    y, row_weight = (y * share, None) if soft else (y, share[y])

    def loss() -> torch.Tensor:
        weight = scale * scaled
        losses = nn.functional.cross_entropy(x @ weight + offset + absent, y, reduction="none")
        losses = losses if row_weight is None else row_weight * losses
        return (losses.sum() + (weight**2).sum() / (2 * strength)) / len(y)

    minimise(loss, [scaled, offset], MAX_ITER, TOLERANCE)
    weight = (scale * scaled).detach().cpu().numpy()
    return weight, (offset.detach() + absent).cpu().numpy()


def linear_discriminant(values: np.ndarray, labels: np.ndarray, num_labels: int, shrinkage: float) -> Classifier:
    """
    Weight (D, C) and bias (C,) of Fisher's linear discriminant, near `ABSENT` for a class without rows, of values
    (n, D). Labels are class indices (n,), or probabilities (n, C), zeros for a class that is left out. Wrong labels
    move the mean of a class, where they bend a logistic regression. `shrinkage` is the share of the mean variance in
    the covariance within classes (Friedman, 1989). The mean margin of these rows is 1, as that of logits far from each
    other would be taken for a class without rows.
    """
    shares = labels if labels.ndim == 2 else np.eye(num_labels, dtype=np.float32)[labels]
    counts, weights = shares.sum(0), shares.sum(1)
    seen = counts > 0
    means = shares.T @ values / np.maximum(counts, 1e-9)[:, None]
    within = (weights[:, None] * values).T @ values - (counts[:, None] * means).T @ means
    covariance = (1 - shrinkage) * within / weights.sum()
    covariance[np.diag_indices_from(covariance)] += shrinkage * np.trace(within) / (len(within) * weights.sum()) + 1e-9
    middle = means[seen].mean(0)
    weight = np.linalg.solve(covariance, np.where(seen, (means - middle).T, 0))
    bias = -((means + middle).T * weight).sum(0) / 2
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    logits = (values @ weight + bias)[:, seen]
    usual = np.float32(np.average(logits.max(1) - logits.mean(1), weights=weights))
    return weight / usual, np.where(seen, bias / usual, np.float32(ABSENT))


@torch.enable_grad()
def minimise(
    loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor], max_iter: int, tolerance: float
) -> None:
    """Fit parameters in place by L-BFGS, until the loss changes by less than the tolerance."""
    optimizer = torch.optim.LBFGS(
        [parameter.requires_grad_() for parameter in parameters],
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=0,
        tolerance_change=tolerance,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def has_vote(logits: np.ndarray) -> np.ndarray:
    """Whether logits or biases, of any shape, are of classes with examples, elsewhere they are near `ABSENT`."""
    return logits > ABSENT / 2


def margins_of(logits: np.ndarray) -> np.ndarray:
    """(n,) the largest logit minus the mean over the classes with examples; 0 where all are 0."""
    seen = has_vote(logits)
    margins = np.maximum(logits.max(1) - (logits * seen).sum(1) / seen.sum(1), 1e-6)
    return np.where(logits.any(1), margins, 0)
