"""Cross entropy over hard or mixed labels."""

import torch
from torch import nn

UNLABELLED = -100


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    mix_partner: torch.Tensor | None = None,
    mix_share: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean cross entropy over the labelled rows. A mixed image has the target m of its own label and 1 - m of its
    partner's, each smoothed; the target of an unlabelled partner is left out.

    Args:
        logits: (n, num_labels).
        labels: (n,), -100 for unlabelled rows.
        label_smoothing: share of the target spread evenly over all classes.
        mix_partner: (n,) local index of the image mixed into each image.
        mix_share: (n,) share m of the row's own image.

    Returns:
        The 0-d mean, zero (with gradient) without labelled rows, and the 0-d number of labelled rows.
    """
    num_labelled = (labels != UNLABELLED).sum()
    if mix_share is None:
        total = nn.functional.cross_entropy(
            logits, labels, ignore_index=UNLABELLED, label_smoothing=label_smoothing, reduction="sum"
        )
        return total / num_labelled.clamp(min=1), num_labelled
    own, partner = (
        nn.functional.cross_entropy(
            logits, target, ignore_index=UNLABELLED, label_smoothing=label_smoothing, reduction="none"
        )
        for target in (labels, labels[mix_partner])
    )
    total = (mix_share * own + (1 - mix_share) * partner).sum()
    return total / num_labelled.clamp(min=1), num_labelled
