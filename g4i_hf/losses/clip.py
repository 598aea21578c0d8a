"""Symmetric InfoNCE, the objective of GPT4Image (arXiv 2306.00693, section 3.3) and of CLIP (arXiv 2103.00020)."""

import torch

from .infonce import infonce_loss
from .pairs import Pairs
from .settings import LogitSettings
from .softmax import weighted_cross_entropy


def clip_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    With s_ij = z_i t_j / temperature and the weight w_ij of pair (i, j), the sum over the local pairs of

        1/2 w_ij (-s_ij + log sum_k exp s_ik) + 1/2 w_ij (-s_ij + log sum_k exp s_kj)

    where k runs over the allowed texts of image i in the first half and the allowed images of text j in the second,
    over all processes. Each process computes n x M and m x N logits, never N x M. Texts of a bank are among the first
    k alone.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    text_to_image = weighted_cross_entropy(
        pairs.text_embeds @ pairs.all_image_embeds.T / settings.temperature,
        pairs.text_to_image_weights,
        pairs.text_to_image_allowed,
    )
    return (infonce_loss(pairs, settings) + text_to_image) / 2
