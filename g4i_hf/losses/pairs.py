"""The pairs of a global batch: which text belongs to which image, with what weight, and which are negatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .gather import gather_counts, gather_rows, rank


@dataclass
class Pairs:
    """
    The input of every objective: local images and the texts of all processes. This process has n images and m = n K
    texts of D dimensions, K an image; all processes have N images and M = N K texts. An image has P = K texts, or 2 K
    if images are mixed. Embeddings have unit norm. `own_texts` (n, P) are the texts of an image, as rows of
    `text_embeds`; `own_weights` (n, P) are their weights, zero for missing texts.
    """

    image_embeds: torch.Tensor  # (n, D) local images, unit norm, with gradient
    text_embeds: torch.Tensor  # (n K, D) local texts, unit norm; arbitrary for missing texts
    all_text_embeds: torch.Tensor  # (M, D)
    # (n, M) for pairs of a local image and a text: the weight of the text, times the share of its image in a mixed
    # one; zero otherwise
    weights: torch.Tensor
    allowed: torch.Tensor  # (n, M) bool, True where image i and text j are compared, as a positive or a negative
    own_texts: torch.Tensor  # (n, P) the texts of an image, as rows of `text_embeds`: pairs never cross processes
    own_weights: torch.Tensor  # (n, P) their weights; zero for missing texts
    num_captioned_rows: torch.Tensor  # 0-d, rows with a text over all processes: the divisor of the loss


def make_pairs(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_weights: torch.Tensor,
    keys: Sequence[torch.Tensor] = (),
    mix_partner: torch.Tensor | None = None,
    mix_share: torch.Tensor | None = None,
) -> Pairs:
    """
    Gather the input of the objectives. With several processes, each must call it for every batch, with keys of the
    same shapes.

    Args:
        image_embeds: (n, D) projected features of unit norm; n may be 0.
        text_embeds: (n, D), or (n, K, D) for several texts an image, of unit norm; no gradient. Processes exchange
            them in their dtype.
        text_weights: (n,) or (n, K), in [0, 1]; 0 excludes a text from the alignment, as positive and as negative. The
            K weights of a row sum to the weight of the row.
        keys: groups of integers (n, C), such as those of the image, of its captions, of its class. Rows with a common
            key in any group are never negatives of each other; a negative integer is not a key.
        mix_partner: (n,) local index of the image that was mixed into each image (mixup, CutMix).
        mix_share: (n,) share m of the row's first image; its partner has 1 - m.
    """
    text_weights = (text_weights if text_weights.ndim == 2 else text_weights.unsqueeze(1)).to(image_embeds.dtype)
    n, texts_per_row = text_weights.shape
    present = text_weights > 0
    counts = gather_counts(torch.stack([torch.full_like(present.sum(), n), present.any(1).sum()]))
    num_rows = counts[:, 0].tolist()

    rows = _Rows(present, list(keys))
    everywhere = rows.gathered(num_rows)
    own_texts = text_embeds.reshape(n, texts_per_row, text_embeds.shape[-1])  # -1 is ambiguous without rows
    all_text_embeds = gather_rows(own_texts, num_rows).to(image_embeds.dtype).flatten(0, 1)
    first = texts_per_row * sum(num_rows[: rank()])

    slots, shares = _slots(image_embeds, mix_partner, mix_share)
    own_weights = shares.unsqueeze(2) * text_weights[slots]  # (n, S, K)
    return Pairs(
        image_embeds=image_embeds,
        text_embeds=all_text_embeds[first : first + n * texts_per_row],
        all_text_embeds=all_text_embeds,
        weights=_pair_weights(slots + first // texts_per_row, own_weights, sum(num_rows)).flatten(1),
        allowed=_allowed(rows, everywhere, slots, shares, first // texts_per_row),
        own_texts=(slots.unsqueeze(2) * texts_per_row + torch.arange(texts_per_row, device=slots.device)).flatten(1),
        own_weights=own_weights.flatten(1),
        num_captioned_rows=counts[:, 1].sum(),
    )


def _slots(
    image_embeds: torch.Tensor, mix_partner: torch.Tensor | None, mix_share: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, S) local rows that an image shows, its own and, if mixed, its partner's; and their shares (n, S)."""
    own = torch.arange(len(image_embeds), device=image_embeds.device)
    if mix_partner is None or mix_share is None:
        return own.unsqueeze(1), image_embeds.new_ones(len(own), 1)
    share = mix_share.to(image_embeds.dtype)
    return torch.stack([own, mix_partner], dim=1), torch.stack([share, 1 - share], dim=1)


def _pair_weights(slot_rows: torch.Tensor, own_weights: torch.Tensor, num_rows: int) -> torch.Tensor:
    """(n, N, K) weights of local images and all texts; `slot_rows` (n, S) are row numbers among all rows."""
    n, slots, texts_per_row = own_weights.shape
    weights = own_weights.new_zeros(n, num_rows, texts_per_row)
    own = torch.arange(n, device=slot_rows.device)
    for slot in range(slots):
        weights.index_put_((own, slot_rows[:, slot]), own_weights[:, slot], accumulate=True)
    return weights


@dataclass
class _Rows:
    """Rows of one process or of all: which of their K texts are present, and their keys."""

    present: torch.Tensor
    keys: list[torch.Tensor]

    def gathered(self, num_rows: list[int]) -> "_Rows":
        """The rows of all processes, in one exchange of integers."""
        parts = [self.present.long(), *self.keys]
        present, *keys = gather_rows(torch.cat(parts, dim=1), num_rows).split([part.shape[1] for part in parts], dim=1)
        return _Rows(present.bool(), keys)


def _allowed(
    local: _Rows, everywhere: _Rows, slots: torch.Tensor, shares: torch.Tensor, first_row: int
) -> torch.Tensor:
    """(n, N K) the texts compared with a local image; `first_row` is the number of its first row among all rows."""
    texts_per_row = local.present.shape[1]
    shown = shares > 0
    rows = torch.arange(len(everywhere.present), device=shown.device).unsqueeze(1)
    # An image is never a negative of the images mixed into it, captioned or not
    conflict = torch.zeros(len(shown), len(rows), dtype=torch.bool, device=shown.device)
    for group, of_all in zip(local.keys, everywhere.keys, strict=True):
        conflict |= _overlap(group[slots], shown, of_all)
    owned = _overlap((slots + first_row).unsqueeze(2), shown, rows)
    takes_part = (shown & local.present.any(1)[slots]).any(1, keepdim=True)  # it shows an image with a text
    allowed = (owned | ~conflict) & takes_part
    return allowed.repeat_interleave(texts_per_row, dim=1) & everywhere.present.flatten()


def _overlap(image_keys: torch.Tensor, shown: torch.Tensor, text_keys: torch.Tensor) -> torch.Tensor:
    """
    image_keys (a, S, C), shown (a, S), text_keys (b, C) -> (a, b) bool: whether the image shows a key of the text.
    """
    overlap = torch.zeros(len(image_keys), len(text_keys), dtype=torch.bool, device=image_keys.device)
    for slot in range(image_keys.shape[1]):
        for image_key in image_keys[:, slot].unbind(1):
            is_key = (shown[:, slot] & (image_key >= 0)).unsqueeze(1)
            for text_key in text_keys.unbind(1):
                overlap |= (image_key.unsqueeze(1) == text_key) & is_key
    return overlap
