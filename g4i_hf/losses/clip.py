"""Symmetric InfoNCE, the objective of GPT4Image (arXiv 2306.00693, section 3.3) and of CLIP (arXiv 2103.00020)."""

import torch

from .pairs import Pairs
from .settings import LogitSettings
from .softmax import cross_entropy_of_columns, pair_logits, weighted_cross_entropy


def clip_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    With s_ij = z_i t_j / temperature and the weight w_ij of pair (i, j), the sum over the local pairs of

        1/2 w_ij (-s_ij + log sum_k exp s_ik) + 1/2 w_ij (-s_ij + log sum_k exp s_kj)

    where k runs over the allowed texts of image i in the first half and the allowed images of text j in the second,
    over all processes. Each process computes n x M logits once, for both halves, never N x M: the sums of the second
    half are put together from those of every process, and no image crosses processes. Texts of a bank are among the
    first k alone.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    logits, in_batch = pair_logits(pairs, settings.temperature), pairs.in_batch
    image_to_text = weighted_cross_entropy(logits, pairs.weights)
    text_to_image = cross_entropy_of_columns(logits[:, in_batch], pairs.weights[:, in_batch])
    return (image_to_text + text_to_image) / 2
