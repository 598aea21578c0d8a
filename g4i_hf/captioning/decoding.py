"""What an answer depends on beside image, prompt and model, as every captioner records it."""

from typing import Any


def decoding_provenance(
    max_new_tokens: int, temperature: float, top_p: float | None, seed: int, max_side: int
) -> dict[str, Any]:
    """
    Args:
        max_new_tokens: longest answer.
        temperature: of sampling; at 0 neither `top_p` nor `seed` change anything, and neither is recorded.
        top_p: sample among the likeliest tokens of this total probability.
        seed: of sampling.
        max_side: longest side of images in pixels.
    """
    is_sampled = temperature > 0
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p if is_sampled else None,
        "seed": seed if is_sampled else None,
        "image_max_side": max_side,
    }
