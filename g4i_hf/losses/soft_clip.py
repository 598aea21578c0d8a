"""Symmetric InfoNCE whose targets follow the similarity of the texts, so that near-synonyms are not pushed apart."""

import torch

from .pairs import Pairs
from .settings import LogitSettings
from .softmax import masked_logits, weighted_cross_entropy


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
    image_to_text = weighted_cross_entropy(
        pairs.image_embeds @ pairs.all_text_embeds.T / settings.temperature,
        _targets_of_images(pairs, settings.target_temperature),
        pairs.image_to_text_allowed,
    )
    text_to_image = weighted_cross_entropy(
        pairs.text_embeds @ pairs.all_image_embeds.T / settings.temperature,
        _targets_of_texts(pairs, settings.target_temperature),
        pairs.text_to_image_allowed,
    )
    return (image_to_text + text_to_image) / 2


@torch.no_grad()
def _targets_of_images(pairs: Pairs, temperature: float) -> torch.Tensor:
    """(n, M)"""
    targets = torch.zeros_like(pairs.image_to_text_weights)
    for own_text, weight in zip(pairs.own_texts.unbind(1), pairs.own_weights.unbind(1), strict=True):
        similarity = pairs.text_embeds[own_text] @ pairs.all_text_embeds.T / temperature
        targets += weight.unsqueeze(1) * masked_logits(similarity, pairs.image_to_text_allowed).softmax(1)
    return targets * pairs.image_to_text_allowed


@torch.no_grad()
def _targets_of_texts(pairs: Pairs, temperature: float) -> torch.Tensor:
    """(m, N)"""
    similarity = pairs.text_embeds @ pairs.all_text_embeds.T / temperature
    similarity = similarity[:, pairs.all_own_texts] + pairs.all_own_shares.log()  # (m, N, P), -inf for a share of zero
    similarity = masked_logits(similarity.logsumexp(2), pairs.text_to_image_allowed)
    weights = pairs.text_to_image_weights.sum(1, keepdim=True)
    return weights * similarity.softmax(1) * pairs.text_to_image_allowed
