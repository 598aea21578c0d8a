"""What one looks at to see whether images and texts come together."""

import torch

from .pairs import Pairs

DIAGNOSTICS = ("cosine_positive", "cosine_negative", "retrieval_top1")


@torch.no_grad()
def alignment_diagnostics(pairs: Pairs) -> dict[str, torch.Tensor]:
    """
    Sums over the local images with a text, to be divided by their number over all processes.

    Returns:
        0-d tensors: `cosine_positive`, the cosine of an image and its own text (the mean over several);
        `cosine_negative`, its mean cosine with the texts of the batch that are its negatives; `retrieval_top1`, 1
        where its own text is nearer than all of those.
    """
    in_batch = pairs.in_batch  # comparable with and without a bank
    cosines = pairs.image_embeds.detach() @ pairs.all_text_embeds[in_batch].T  # (n, M)
    weights = pairs.weights[:, in_batch]
    if cosines.numel() == 0:
        return dict.fromkeys(DIAGNOSTICS, cosines.sum())
    has_pair = weights.sum(1) > 0
    is_pair = weights == weights.amax(1, keepdim=True)  # of a mixed image, the larger part
    positive = (cosines * is_pair).sum(1) / is_pair.sum(1)
    negatives = pairs.allowed[:, in_batch] & (weights == 0)
    negative = (cosines * negatives).sum(1) / negatives.sum(1).clamp(min=1)
    nearest_negative = cosines.masked_fill(~negatives, -2.0).amax(1)
    values = (positive, negative, (positive > nearest_negative).to(cosines.dtype))
    return {name: (value * has_pair).sum() for name, value in zip(DIAGNOSTICS, values, strict=True)}
