"""Squared distance on the unit sphere: no negatives. Called byol in the official code of GPT4Image."""

import torch

from .pairs import Pairs
from .settings import LogitSettings


def cosine_loss(pairs: Pairs, settings: LogitSettings | None = None) -> torch.Tensor:
    """
    The sum over the local pairs of w_ij (2 - 2 z_i t_j) = w_ij |z_i - t_j|^2. The settings play no part.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    own_texts = pairs.text_embeds[pairs.own_texts]  # (n, P, D)
    cosines = torch.einsum("nd,npd->np", pairs.image_embeds, own_texts)
    return (pairs.own_weights * (2 - 2 * cosines)).sum()
