"""Which image of a global batch belongs to which text, with what weight, and which pairs are no negatives."""

from dataclasses import dataclass

import torch

from .gather import gather_counts, gather_rows, rank


@dataclass
class Pairs:
    """
    What every objective takes: local rows against global columns. n rows on this process, N over all, D dimensions.

    Args:
        image_embeds: (n, D) local images, unit norm, with gradient.
        text_embeds: (n, D) local texts, unit norm; zero where a row has no caption.
        all_image_embeds: (N, D), differentiable across processes.
        all_text_embeds: (N, D).
        image_to_text_weights: (n, N) weight of the pair (local image, global text): the caption's weight, times the
            share of that caption's image where images are mixed; zero for everything that is not a pair.
        text_to_image_weights: (n, N) the same for (local text, global image).
        image_to_text_allowed: (n, N) bool, which texts count for a local image: its own and its negatives.
        text_to_image_allowed: (n, N) bool, which images count for a local text.
        num_captions: 0-d, number of rows with a caption over all processes: the divisor of the loss.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    all_image_embeds: torch.Tensor
    all_text_embeds: torch.Tensor
    image_to_text_weights: torch.Tensor
    text_to_image_weights: torch.Tensor
    image_to_text_allowed: torch.Tensor
    text_to_image_allowed: torch.Tensor
    num_captions: torch.Tensor


def make_pairs(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    caption_weight: torch.Tensor,
    keys: torch.Tensor,
    mix_partner: torch.Tensor | None = None,
    mix_share: torch.Tensor | None = None,
) -> Pairs:
    """
    Gathers what the objectives need. With several processes, each must call it for every batch.

    Args:
        image_embeds: (n, D) projected features of unit norm.
        text_embeds: (n, D) frozen text embeddings of unit norm; no gradient.
        caption_weight: (n,) in [0, 1]; 0 takes a row out of the alignment, as positive and as negative.
        keys: (n, K) integers; rows that share any of the K (the image's, the caption's) are never negatives of each
            other.
        mix_partner: (n,) local index of the image that was mixed into each image (mixup, CutMix).
        mix_share: (n,) share m of the row's own image; its partner has 1 - m.
    """
    n = len(image_embeds)
    own = torch.arange(n, device=image_embeds.device)
    partner = own if mix_partner is None else mix_partner
    share = image_embeds.new_ones(n) if mix_share is None else mix_share.to(image_embeds.dtype)
    captioned = caption_weight > 0
    counts = gather_counts(torch.stack([captioned.new_tensor(n, dtype=torch.long), captioned.sum()]))
    num_rows = counts[:, 0].tolist()

    # An image shows its own row's picture and, where it was mixed, its partner's: two slots. What it shows it is no
    # negative of, with a caption or without; it takes part when a picture that it shows has a caption.
    shown = torch.stack([share > 0, share < 1], dim=1)  # (n, 2)
    takes_part = (shown & torch.stack([captioned, captioned[partner]], dim=1)).any(1)
    shown_keys = torch.stack([keys, keys[partner]], dim=1)  # (n, 2, K)
    weights = caption_weight.to(image_embeds.dtype)
    block = image_embeds.new_zeros(n, n)  # local images against local texts: pairs never cross processes
    block = block.index_put((own, own), weights * share, accumulate=True)
    block = block.index_put((own, partner), weights[partner] * (1 - share), accumulate=True)

    flags = torch.cat([shown, torch.stack([takes_part, captioned], dim=1)], dim=1)  # (n, 4)
    all_flags = gather_rows(flags.byte(), num_rows).bool()
    all_shown, all_take_part, all_captioned = all_flags[:, :2], all_flags[:, 2], all_flags[:, 3]
    all_keys, all_shown_keys = gather_rows(keys, num_rows), gather_rows(shown_keys, num_rows)
    pair_weights, text_pair_weights = _place(block, num_rows), _place(block.T, num_rows)
    shows_text = _overlap(shown_keys, shown, all_keys)  # (n, N)
    text_shown = _overlap(all_shown_keys, all_shown, keys).T  # (n, N)
    return Pairs(
        image_embeds=image_embeds,
        text_embeds=text_embeds,
        all_image_embeds=gather_rows(image_embeds, num_rows),
        all_text_embeds=gather_rows(text_embeds, num_rows),
        image_to_text_weights=pair_weights,
        text_to_image_weights=text_pair_weights,
        image_to_text_allowed=((pair_weights > 0) | ~shows_text) & all_captioned & takes_part.unsqueeze(1),
        text_to_image_allowed=((text_pair_weights > 0) | ~text_shown) & all_take_part & captioned.unsqueeze(1),
        num_captions=counts[:, 1].sum(),
    )


def _place(block: torch.Tensor, num_rows: list[int]) -> torch.Tensor:
    """(n, n) of the local columns -> (n, N), zero elsewhere."""
    start = sum(num_rows[: rank()])
    full = block.new_zeros(len(block), sum(num_rows))
    full[:, start : start + len(block)] = block
    return full


def _overlap(image_keys: torch.Tensor, shown: torch.Tensor, text_keys: torch.Tensor) -> torch.Tensor:
    """image_keys (a, 2, K), shown (a, 2), text_keys (b, K) -> (a, b) bool: does the image show a key of the text?"""
    overlap = torch.zeros(len(image_keys), len(text_keys), dtype=torch.bool, device=image_keys.device)
    for slot in range(image_keys.shape[1]):
        for key in range(image_keys.shape[2]):
            same = image_keys[:, slot, key].unsqueeze(1) == text_keys[:, key].unsqueeze(0)
            overlap |= same & shown[:, slot].unsqueeze(1)
    return overlap
