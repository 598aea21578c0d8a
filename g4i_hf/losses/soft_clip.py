"""Symmetric InfoNCE whose targets follow the similarity of the texts, so that near-synonyms are not pushed apart."""

import torch

from .gather import reduce_sum
from .pairs import Pairs
from .settings import LogitSettings
from .softmax import cross_entropy_of_columns, logsumexp_of_columns, masked_logits, pair_logits, weighted_cross_entropy


def soft_clip_loss(pairs: Pairs, settings: LogitSettings) -> torch.Tensor:
    """
    As `clip`, with other targets than one-hot ones. For an image and each of its own texts t_p, of weight w_p, the
    target over its allowed texts is

        w_p softmax_j (t_p t_j / target_temperature)

    For a text j it is, over its allowed images i with their own texts t_q, of share r_q in the image,

        w_j softmax_i (log sum_q r_q exp (t_j t_q / target_temperature))

    where w_j is the weight of the text's pairs. A target temperature near zero gives `clip`.

    Returns:
        0-d sum, to be divided by `pairs.num_captions`.
    """
    of_images, of_texts = _targets(pairs, settings.target_temperature)
    logits = pair_logits(pairs, settings.temperature)
    image_to_text = weighted_cross_entropy(logits, of_images)
    return (image_to_text + cross_entropy_of_columns(logits[:, pairs.in_batch], of_texts)) / 2


@torch.no_grad()
def _targets(pairs: Pairs, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, M) of the local images over all texts, and (n, M - B) of all texts of the batch over the local images."""
    of_images = torch.zeros_like(pairs.weights)
    to_texts = torch.full_like(pairs.weights[:, pairs.in_batch], -torch.inf)
    own = (pairs.own_texts, pairs.own_weights, pairs.own_shares)
    for text, weight, share in zip(*(values.unbind(1) for values in own), strict=True):
        similarity = pairs.text_embeds[text] @ pairs.all_text_embeds.T / temperature
        of_images += weight.unsqueeze(1) * masked_logits(similarity, pairs.allowed).softmax(1)
        to_texts = torch.logaddexp(to_texts, similarity[:, pairs.in_batch] + share.log().unsqueeze(1))
    allowed = pairs.allowed[:, pairs.in_batch]
    to_texts = masked_logits(to_texts, allowed)
    over_images = (to_texts - logsumexp_of_columns(to_texts)).exp()
    weights = reduce_sum(pairs.weights[:, pairs.in_batch].sum(0))  # pairs never cross processes
    return of_images * pairs.allowed, weights * over_images * allowed
