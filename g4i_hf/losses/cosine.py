"""Squared distance on the unit sphere: no negatives. Called byol in the official code of GPT4Image."""

import torch

from .pairs import Pairs


def cosine_loss(pairs: Pairs, temperature: float | None = None) -> torch.Tensor:
    """
    The sum over the local pairs of w_ij (2 - 2 z_i t_j) = w_ij |z_i - t_j|^2. The temperature plays no part.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    cosines = pairs.image_embeds @ pairs.all_text_embeds.T
    return (pairs.image_to_text_weights * (2 - 2 * cosines)).sum()
