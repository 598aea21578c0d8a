"""Cross entropy over the pairs that count, where each process has some rows of the logits and all columns."""

import torch

from .gather import global_logsumexp
from .pairs import Pairs


def pair_logits(pairs: Pairs, temperature: float | torch.Tensor) -> torch.Tensor:
    """(n, M) cosines of local images and all texts over the temperature, without the pairs that do not count."""
    # The smaller factor is divided, and the product masked in place: n x M numbers are there once
    logits = (pairs.image_embeds / temperature) @ pairs.all_text_embeds.T
    return logits.masked_fill_(~pairs.allowed, left_out(logits))


def masked_logits(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Logits whose softmax leaves out the columns that do not count."""
    return logits.masked_fill(~allowed, left_out(logits))


def left_out(logits: torch.Tensor) -> float:
    """
    A large finite number instead of -inf: rows and columns without any pair then give 0 x finite, not 0 x nan.
    """
    return torch.finfo(logits.dtype).min / 2


def weighted_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The 0-d sum of targets x -log softmax over the columns; logits and targets (n, M)."""
    return _cross_entropy(logits, targets, logits.logsumexp(1), targets.sum(1))


def cross_entropy_of_columns(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """
    The same with a softmax over the rows, of which every process has its own; logits and targets (n, M) of these.

    Returns:
        0-d: the part of the own rows. The sum over processes has the gradient of the global loss.
    """
    return _cross_entropy(logits, targets, logsumexp_of_columns(logits), targets.sum(0))


def logsumexp_of_columns(logits: torch.Tensor) -> torch.Tensor:
    """(M,) over the rows of all processes; finite also where no process has one."""
    return global_logsumexp(logits.logsumexp(0).clamp(min=left_out(logits)))


def _cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, logsumexp: torch.Tensor, sums: torch.Tensor
) -> torch.Tensor:
    """Two sums, so that there is no third matrix of the size of the logits."""
    return (sums * logsumexp).sum() - (targets * logits).sum()
