"""Multinomial logistic regression with balanced classes, by preconditioned L-BFGS."""

import numpy as np
import torch
from torch import nn

ABSENT = -1000.0  # logit of a class without examples: the view has no vote there
MAX_ITER = 40
TOLERANCE = 1e-5  # change of the mean loss at which an optimisation ends


def logistic_regression(
    values: np.ndarray,
    labels: np.ndarray,
    num_labels: int,
    strength: float,
    variances: np.ndarray,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Args:
        values: (n, D) float32, along principal components.
        labels: class indices (n,), or float32 probabilities (n, C), zeros for a class that is left out.
        num_labels: C.
        strength: C of scikit-learn's LogisticRegression.
        variances: (D,) of all values; they precondition the weights, so that few iterations are needed.
        start: weight and bias to begin with; None: zeros.

    Returns:
        Weight (D, C) and bias (C,), which is near `ABSENT` for a class without rows.
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
    scaled, offset = scaled.requires_grad_(), offset.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled, offset],
        max_iter=MAX_ITER,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        weight = scale * scaled
        losses = nn.functional.cross_entropy(x @ weight + offset + absent, y, reduction="none")
        losses = losses if row_weight is None else row_weight * losses
        loss = (losses.sum() + (weight**2).sum() / (2 * strength)) / len(y)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    weight = (scale * scaled).detach().cpu().numpy()
    return weight, (offset.detach() + absent).cpu().numpy()
