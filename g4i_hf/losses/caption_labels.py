"""Soft labels from captions: an image is likely to be of the classes whose captions are like its own."""

from dataclasses import dataclass

import torch
from torch import nn

from .classification import UNLABELLED
from .softmax import masked_logits


@dataclass
class LabelledTexts:
    """
    Captions of labelled training images.

    Args:
        embeds: (L, D) float32, unit norm.
        text_keys: (L,) equal for equal captions.
        labels: (L,) class indices.
        caption_keys: (L,) which caption a text is; none where texts are means of several.
    """

    embeds: torch.Tensor
    text_keys: torch.Tensor
    labels: torch.Tensor
    caption_keys: torch.Tensor | None = None


def caption_labels(
    text_embeds: torch.Tensor,
    text_keys: torch.Tensor,
    caption_weight: torch.Tensor,
    labels: torch.Tensor,
    known: LabelledTexts,
    *,
    num_labels: int,
    temperature: float,
    caption_keys: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    With cosine s_ij of caption i and the known caption j, the probability of class c is

        q_i(c) = sum of p_ij over the j of class c,    p_ij = exp(s_ij / temperature) / sum_k exp(s_ik / temperature)

    Captions are privileged information (Vapnik; arXiv 1511.03643): the student learns from what they say of the
    classes, and needs none at inference. A labelled image is not told by its own captions what its label already says:
    equal ones are left out for it, drawn or not, and where no other caption of its class is known, it learns nothing.
    An unlabelled image takes the class of an equal caption.

    Args:
        text_embeds: (B, K, D) unit norm.
        text_keys: (B, K).
        caption_weight: (B, K), zero for captions that are not there.
        labels: (B,) class indices, -100 for unlabelled images.
        known: what the classes are known by.
        num_labels: C.
        temperature: of the softmax over known captions.
        caption_keys: (B, C) all captions of each image, of which `text_keys` may be a draw; negative for none.

    Returns:
        The soft labels (B, C), and a weight (B,) that is zero for images without a caption, and for labelled ones
        without another known caption of their class. Of several captions of an image the soft labels are averaged by
        their weights.
    """
    unlabelled = (labels == UNLABELLED)[:, None, None]
    own = text_keys.unsqueeze(2) == known.text_keys
    if caption_keys is not None and known.caption_keys is not None:
        own = own | (caption_keys.unsqueeze(2) == known.caption_keys).any(1, keepdim=True)
    own = own & ~unlabelled
    shares = masked_logits(text_embeds @ known.embeds.T / temperature, ~own).softmax(2)
    of_captions = shares.new_zeros(*shares.shape[:2], num_labels).index_add_(2, known.labels, shares)
    weights = caption_weight * (~own & (unlabelled | (known.labels == labels[:, None, None]))).any(2)
    total = weights.sum(1)
    soft = (weights.unsqueeze(2) * of_captions).sum(1) / torch.where(total > 0, total, 1).unsqueeze(1)
    return soft, total


def caption_label_loss(
    logits: torch.Tensor,
    soft: torch.Tensor,
    weights: torch.Tensor,
    mix_partner: torch.Tensor | None = None,
    mix_share: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Weighted cross entropy with soft labels. A mixed image has those of both its images, by their shares.

    Args:
        logits: (B, C).
        soft, weights: of [`caption_labels`].
        mix_partner: (B,) local index of the image mixed into each image.
        mix_share: (B,) share of the row's own image.

    Returns:
        The 0-d mean over the rows that have a weight, zero (with gradient) without any, and the 0-d number of them.
    """
    if mix_share is not None:
        own, other = (mix_share * weights).unsqueeze(1), ((1 - mix_share) * weights[mix_partner]).unsqueeze(1)
        weights = (own + other).squeeze(1)
        soft = (own * soft + other * soft[mix_partner]) / torch.where(weights > 0, weights, 1).unsqueeze(1)
    rows = (weights > 0).sum()
    losses = nn.functional.cross_entropy(logits, soft.to(logits.dtype), reduction="none")
    return (weights * losses).sum() / rows.clamp(min=1), rows
