"""How cosines become logits: what objectives take besides the pairs."""

from dataclasses import dataclass

import torch


@dataclass
class LogitSettings:
    """
    Logits are cosine / temperature + bias.

    Args:
        temperature: number, or 0-d tensor with gradient where it is learned.
        bias: the same; only `siglip` has one.
        target_temperature: of the targets of `soft_clip`.
    """

    temperature: float | torch.Tensor = 0.2
    bias: float | torch.Tensor = 0.0
    target_temperature: float = 0.1
