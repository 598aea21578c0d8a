"""Alignment objectives: pure functions of tensors, (pairs, settings) -> the 0-d sum over the local pairs."""

from dataclasses import dataclass

import torch
from torch import nn

from .gather import global_logsumexp
from .pairs import Pairs


@dataclass
class LogitSettings:
    """Logits are cosine / temperature + bias; numbers, or 0-d tensors with gradient if they are learned."""

    temperature: float | torch.Tensor = 0.2
    bias: float | torch.Tensor = 0.0  # of `siglip` only


def clip_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    Symmetric InfoNCE, the objective of GPT4Image (arXiv 2306.00693, section 3.3) and of CLIP (arXiv 2103.00020).

    With s_ij = z_i t_j / temperature and the weight w_ij of pair (i, j), the sum over the local pairs of

        1/2 w_ij (-s_ij + log sum_k exp s_ik) + 1/2 w_ij (-s_ij + log sum_k exp s_kj)

    where k runs over the allowed texts of image i in the first half and the allowed images of text j in the second,
    over all processes. Each process computes n x M logits once, for both halves: processes exchange the sums of the
    second half, not images.

    Returns:
        0-d sum, to be divided by `pairs.num_captioned_rows`.
    """
    logits = pair_logits(pairs, settings.temperature)
    image_to_text = weighted_cross_entropy(logits, pairs.weights)
    return (image_to_text + cross_entropy_of_columns(logits, pairs.weights)) / 2


def infonce_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    InfoNCE from image to text (arXiv 1807.03748): texts compete for each image, images do not compete for a text.

    With s_ij = z_i t_j / temperature and the weight w_ij of pair (i, j), the sum over the local pairs of

        w_ij (-s_ij + log sum_k exp s_ik)

    where k runs over the allowed texts of image i over all processes.

    Returns:
        0-d sum, to be divided by `pairs.num_captioned_rows`.
    """
    return weighted_cross_entropy(pair_logits(pairs, settings.temperature), pairs.weights)


def siglip_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    Pairwise sigmoid loss of SigLIP (arXiv 2303.15343): each pair is a binary decision, without competition.

    With s_ij = z_i t_j / temperature + bias and the weight w_ij of pair (i, j), the sum over the local images of

        sum_j w_ij log(1 + exp(-s_ij)) + w_i sum_k log(1 + exp(s_ik)),    w_i = sum_j w_ij

    where k runs over the negatives of image i over all processes. Processes exchange no images.

    Returns:
        0-d sum, to be divided by `pairs.num_captioned_rows`.
    """
    logits = (pairs.image_embeds / settings.temperature) @ pairs.all_text_embeds.T + settings.bias
    weights = pairs.weights
    positive = weights * nn.functional.softplus(-logits)
    is_negative = pairs.allowed & (weights == 0)
    negative = weights.sum(1, keepdim=True) * is_negative * nn.functional.softplus(logits)
    return (positive + negative).sum()


def cosine_loss(pairs: Pairs, settings: LogitSettings | None = None) -> torch.Tensor:
    """
    Squared distance on the unit sphere, without negatives; named byol in the official code of GPT4Image.

    The sum over the local pairs of w_ij (2 - 2 z_i t_j) = w_ij |z_i - t_j|^2. The settings are not used.

    Returns:
        0-d sum, to be divided by `pairs.num_captioned_rows`.
    """
    own_texts = pairs.text_embeds[pairs.own_texts]  # (n, P, D)
    cosines = torch.einsum("nd,npd->np", pairs.image_embeds, own_texts)
    return (pairs.own_weights * (2 - 2 * cosines)).sum()


OBJECTIVES = {
    "clip": clip_loss,
    "infonce": infonce_loss,
    "siglip": siglip_loss,
    "cosine": cosine_loss,
}

# Objectives whose temperature and bias the model learns
LEARNED_LOGITS = {"siglip"}

# Objectives whose official implementation gathers without gradient: DDP then divides their gradient by the number of
# processes, which `align_gradient="official"` reproduces. Its other losses keep the full gradient.
OFFICIALLY_DIVIDED = {"clip"}


# --- Softmax over rows, and over columns whose rows are spread over processes ----------------------------------------


def pair_logits(pairs: Pairs, temperature: float | torch.Tensor) -> torch.Tensor:
    """(n, M) cosines of local images and all texts, divided by the temperature; masked where not allowed."""
    # Divide the smaller factor and mask the product in place, to allocate n x M numbers only once
    logits = (pairs.image_embeds / temperature) @ pairs.all_text_embeds.T
    return logits.masked_fill_(~pairs.allowed, mask_value(logits))


def mask_value(logits: torch.Tensor) -> float:
    """Large but finite: rows and columns without any pair then give 0 x finite, not 0 x nan."""
    return torch.finfo(logits.dtype).min / 2


def weighted_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The 0-d sum of targets x -log softmax over the columns; logits and targets (n, M)."""
    return _cross_entropy(logits, targets, logits.logsumexp(1), targets.sum(1))


def cross_entropy_of_columns(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same with a softmax over the rows of all processes: the 0-d part of the local rows, (n, M)."""
    return _cross_entropy(logits, targets, logsumexp_of_columns(logits), targets.sum(0))


def logsumexp_of_columns(logits: torch.Tensor) -> torch.Tensor:
    """(M,) over the rows of all processes; finite even if no process has one."""
    return global_logsumexp(logits.logsumexp(0).clamp(min=mask_value(logits)))


def _cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, logsumexp: torch.Tensor, sums: torch.Tensor
) -> torch.Tensor:
    """Two sums, without a third matrix of the size of the logits."""
    return (sums * logsumexp).sum() - (targets * logits).sum()


# --- Diagnostics --------------------------------------------------------------------------------------------------


DIAGNOSTICS = ("cosine_positive", "cosine_negative", "retrieval_top1")


@torch.no_grad()
def alignment_diagnostics(pairs: Pairs) -> dict[str, torch.Tensor]:
    """
    Sums over the local images with a text, to divide by their number over all processes.

    Returns:
        0-d tensors: `cosine_positive`, the cosine of an image and its text (the mean over several); `cosine_negative`,
            its mean cosine with its negatives; `retrieval_top1`, 1 if its text is nearer than all negatives.
    """
    cosines, weights = pairs.image_embeds.detach() @ pairs.all_text_embeds.T, pairs.weights  # (n, M)
    if cosines.numel() == 0:
        return dict.fromkeys(DIAGNOSTICS, cosines.sum())
    has_pair = weights.sum(1) > 0
    is_pair = weights == weights.amax(1, keepdim=True)  # the larger part of a mixed image
    positive = (cosines * is_pair).sum(1) / is_pair.sum(1)
    negatives = pairs.allowed & (weights == 0)
    negative = (cosines * negatives).sum(1) / negatives.sum(1).clamp(min=1)
    nearest_negative = cosines.masked_fill(~negatives, -2.0).amax(1)
    values = (positive, negative, (positive > nearest_negative).to(cosines.dtype))
    return {name: (value * has_pair).sum() for name, value in zip(DIAGNOSTICS, values, strict=True)}
