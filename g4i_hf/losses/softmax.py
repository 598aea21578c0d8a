"""Cross entropy over the columns that count."""

import torch


def masked_logits(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """
    Logits whose softmax leaves out the columns that do not count. A large finite number instead of -inf: rows
    without any pair then give 0 x finite, not 0 x nan.
    """
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min / 2)


def weighted_cross_entropy(logits: torch.Tensor, weights: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """The 0-d sum of weights x -log softmax; logits, weights and allowed (a, b), weights zero where not allowed."""
    logits = masked_logits(logits, allowed)
    return (weights * (logits.logsumexp(1, keepdim=True) - logits)).sum()
