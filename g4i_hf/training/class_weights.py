"""Weights of the classes in the classification loss."""

from typing import Any

import numpy as np
import torch


def class_weights_of(option: list[float] | str | None, num_labels: int, train_dataset: Any) -> torch.Tensor | None:
    """
    Args:
        option: a weight a class, or `balanced`: in inverse proportion to the number of images of the class, with a
            mean over the labelled images of 1.
        num_labels: number of classes.
        train_dataset: with `labels` (rows,), negative where unlabelled; only for `balanced`.

    Returns:
        (num_labels,) float64, or None where nothing is weighted.

    Raises:
        ValueError: for another number of weights than of classes, a weight that is not positive, or `balanced` without
            labels to count.
    """
    if option is None or train_dataset is None:
        return None
    if option != "balanced":
        if len(option) != num_labels or not all(weight > 0 for weight in option):
            raise ValueError(
                f"class_weights has {len(option)} weights for {num_labels} classes; give one positive weight a class, "
                "in the order of the class names."
            )
        return torch.tensor(option, dtype=torch.float64)
    labels = getattr(train_dataset, "labels", None)
    if labels is None:
        raise ValueError("class_weights is 'balanced', but the training data has no `labels` to count: give a list.")
    counts = np.bincount(np.asarray(labels)[np.asarray(labels) >= 0], minlength=num_labels)
    present = counts > 0
    weights = np.ones(num_labels)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.from_numpy(weights)
