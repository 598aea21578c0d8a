"""Pairwise sigmoid loss of SigLIP (arXiv 2303.15343): every pair is a decision of its own, nothing competes."""

import torch
from torch import nn

from .pairs import Pairs
from .settings import LogitSettings


def siglip_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    With s_ij = z_i t_j / temperature + bias and the weight w_ij of pair (i, j), the sum over the local images of

        sum_j w_ij log(1 + exp(-s_ij)) + w_i sum_k log(1 + exp(s_ik)),    w_i = sum_j w_ij

    where k runs over the negatives of image i over all processes, and those of a bank. No image crosses processes.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    logits = (pairs.image_embeds / settings.temperature) @ pairs.all_text_embeds.T + settings.bias
    weights = pairs.weights
    positive = weights * nn.functional.softplus(-logits)
    is_negative = pairs.allowed & (weights == 0)
    negative = weights.sum(1, keepdim=True) * is_negative * nn.functional.softplus(logits)
    return (positive + negative).sum()
