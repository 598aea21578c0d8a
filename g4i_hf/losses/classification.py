"""Cross entropy or binary cross entropy over hard, mixed or soft labels."""

import torch
from torch import nn

UNLABELLED = -100


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    mix_partner: torch.Tensor | None = None,
    mix_share: torch.Tensor | None = None,
    *,
    kind: str = "cross_entropy",
    bce_target_threshold: float | None = None,
    class_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Weighted mean over the labelled rows. A mixed image has the target m of its first label and 1 - m of that of its
    partner, each smoothed; the target of an unlabelled partner is left out.

    Args:
        logits: (n, num_labels).
        labels: (n,), -100 for unlabelled rows.
        label_smoothing: share of the target distributed evenly over all classes.
        mix_partner: (n,) local index of the image mixed into each image.
        mix_share: (n,) share m of the row's first image.
        kind: `cross_entropy`, or `bce`: a binary decision a class, averaged over the classes, as in "ResNet strikes
            back" (arXiv 2110.00476) and DeiT III (arXiv 2204.07118).
        bce_target_threshold: targets of `bce` above it are 1, others 0.
        class_weights: (num_labels,) weight of a row by its label. As in torch, the mean is divided by the weights.

    Returns:
        The 0-d mean, zero (with gradient) without labelled rows, and its divisor: the 0-d number, or total weight, of
            the labelled rows.
    """
    labelled = labels != UNLABELLED
    weights = None if class_weights is None else class_weights[labels.clamp(min=0)] * labelled
    divisor = labelled.sum() if weights is None else weights.sum()
    targets = [(labels, None)]
    if mix_share is not None:
        targets = [(labels, mix_share), (labels[mix_partner], 1 - mix_share)]
    if kind == "bce" and bce_target_threshold is not None:
        total = _thresholded(logits, targets, label_smoothing, bce_target_threshold, class_weights)
    elif weights is None and mix_share is None and kind == "cross_entropy":
        total = nn.functional.cross_entropy(
            logits, labels, ignore_index=UNLABELLED, label_smoothing=label_smoothing, reduction="sum"
        )
    else:
        row_loss = _bce_of_rows if kind == "bce" else _cross_entropy_of_rows
        total = sum(
            _weighted_sum(row_loss(logits, target, label_smoothing), target, share, class_weights)
            for target, share in targets
        )
    return total / torch.where(divisor > 0, divisor, 1), divisor


def _cross_entropy_of_rows(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    return nn.functional.cross_entropy(
        logits, labels, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="none"
    )


def _bce_of_rows(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    targets = _one_hot(labels, logits, smoothing)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return losses * (labels != UNLABELLED)


def _one_hot(labels: torch.Tensor, like: torch.Tensor, smoothing: float) -> torch.Tensor:
    """(n, num_labels), zero for unlabelled rows."""
    targets = torch.zeros_like(like).scatter_(1, labels.clamp(min=0).unsqueeze(1), 1 - smoothing)
    return (targets + smoothing / like.shape[1]) * (labels != UNLABELLED).unsqueeze(1)


def _weighted_sum(
    losses: torch.Tensor, labels: torch.Tensor, share: torch.Tensor | None, class_weights: torch.Tensor | None
) -> torch.Tensor:
    if share is not None:
        losses = share * losses
    if class_weights is not None:
        losses = class_weights[labels.clamp(min=0)] * losses
    return losses.sum()


def _thresholded(
    logits: torch.Tensor,
    targets: list[tuple[torch.Tensor, torch.Tensor | None]],
    smoothing: float,
    threshold: float,
    class_weights: torch.Tensor | None,
) -> torch.Tensor:
    """The mixed target is thresholded; the weight of a row is the labelled part of its image."""
    mixed, row_weights = torch.zeros_like(logits), logits.new_zeros(len(logits))
    for labels, share in targets:
        share = logits.new_ones(len(logits)) if share is None else share.to(logits.dtype)
        mixed = mixed + share.unsqueeze(1) * _one_hot(labels, logits, smoothing)
        weights = share if class_weights is None else share * class_weights[labels.clamp(min=0)]
        row_weights = row_weights + weights * (labels != UNLABELLED)
    mixed = (mixed > threshold).to(logits.dtype)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, mixed, reduction="none").mean(1)
    return (row_weights * losses).sum()


def soft_label_loss(
    logits: torch.Tensor,
    soft_labels: torch.Tensor,
    mix_partner: torch.Tensor | None = None,
    mix_share: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Cross entropy with soft labels, averaged over the rows that have some. A mixed image has those of both images, by
    their shares.

    Args:
        logits: (n, num_labels).
        soft_labels: (n, num_labels) probabilities; zeros for a row without soft labels.
        mix_partner: (n,) local index of the image mixed into each image.
        mix_share: (n,) share of the row's first image.

    Returns:
        The 0-d mean, zero (with gradient) without such rows, and their 0-d number.
    """
    soft_labels = soft_labels.to(logits.dtype)
    if mix_share is not None:
        share = mix_share.to(logits.dtype).unsqueeze(1)
        soft_labels = share * soft_labels + (1 - share) * soft_labels[mix_partner]
    rows = (soft_labels > 0).any(1).sum()
    total = -(soft_labels * nn.functional.log_softmax(logits, dim=1)).sum()
    return total / rows.clamp(min=1), rows
