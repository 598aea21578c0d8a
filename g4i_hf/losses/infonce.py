"""InfoNCE from image to text (arXiv 1807.03748): the texts compete for each image, the images do not for a text."""

import torch

from .pairs import Pairs
from .settings import LogitSettings
from .softmax import pair_logits, weighted_cross_entropy


def infonce_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    With s_ij = z_i t_j / temperature and the weight w_ij of pair (i, j), the sum over the local pairs of

        w_ij (-s_ij + log sum_k exp s_ik)

    where k runs over the allowed texts of image i over all processes, and those of a bank.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    return weighted_cross_entropy(pair_logits(pairs, settings.temperature), pairs.weights)
