"""The weight of the alignment loss over a run."""

import math


def align_weight_at(
    step: int,
    *,
    weight: float,
    num_steps: int,
    steps_per_epoch: float,
    schedule: str = "constant",
    warmup_epochs: float = 0.0,
    off_epochs: float = 0.0,
) -> float:
    """
    Args:
        step: optimizer steps taken so far, from 0.
        weight: the weight that the warm-up leads to.
        num_steps: of the whole run.
        steps_per_epoch: optimizer steps.
        schedule: `constant`, or `cosine`: from the end of the warm-up down to zero where the last epochs begin.
        warmup_epochs: in which the weight rises linearly from zero.
        off_epochs: last epochs, with weight zero.
    """
    warmup, end = warmup_epochs * steps_per_epoch, num_steps - off_epochs * steps_per_epoch
    if step >= end:
        return 0.0
    if step < warmup:
        return weight * step / warmup
    if schedule == "cosine":
        return weight * (1 + math.cos(math.pi * (step - warmup) / (end - warmup))) / 2
    return weight
