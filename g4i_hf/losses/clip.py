"""Symmetric InfoNCE, the objective of GPT4Image (arXiv 2306.00693, section 3.3) and of CLIP (arXiv 2103.00020)."""

import torch

from .pairs import Pairs


def clip_loss(pairs: Pairs, temperature: float) -> torch.Tensor:
    """
    With s_ij = z_i t_j / temperature and the weight w_ij of pair (i, j), the sum over the local pairs of

        1/2 w_ij (-s_ij + log sum_k exp s_ik) + 1/2 w_ij (-s_ij + log sum_k exp s_kj)

    where k runs over the allowed texts of image i in the first half and the allowed images of text j in the second,
    over all processes. Each process computes n x N logits twice, never N x N.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    image_to_text = _weighted_cross_entropy(
        pairs.image_embeds @ pairs.all_text_embeds.T / temperature,
        pairs.image_to_text_weights,
        pairs.image_to_text_allowed,
    )
    text_to_image = _weighted_cross_entropy(
        pairs.text_embeds @ pairs.all_image_embeds.T / temperature,
        pairs.text_to_image_weights,
        pairs.text_to_image_allowed,
    )
    return (image_to_text + text_to_image) / 2


def _weighted_cross_entropy(logits: torch.Tensor, weights: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    # A large finite number instead of -inf: rows without any pair then give 0 x finite, not 0 x nan
    logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min / 2)
    return (weights * (logits.logsumexp(1, keepdim=True) - logits)).sum()
