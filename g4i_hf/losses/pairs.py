"""Which image of a global batch belongs to which text, with what weight, and which pairs are no negatives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .gather import gather_counts, gather_rows, rank


@dataclass
class Pairs:
    """
    What every objective takes: local rows against global columns. n images and m = n K texts on this process, N and M
    over all processes, K texts an image, D dimensions; M also counts the B texts of a bank, the last columns. P = K
    own texts of an image, or 2 K where images are mixed.

    Args:
        image_embeds: (n, D) local images, unit norm, with gradient.
        text_embeds: (m, D) local texts, unit norm; whatever where there is none.
        all_image_embeds: (N, D), differentiable across processes.
        all_text_embeds: (M, D).
        image_to_text_weights: (n, M) weight of the pair (local image, global text): the text's weight, times the
            share of that text's image where images are mixed; zero for everything that is not a pair.
        text_to_image_weights: (m, N) the same for (local text, global image).
        image_to_text_allowed: (n, M) bool, which texts count for a local image: its own and its negatives.
        text_to_image_allowed: (m, N) bool, which images count for a local text.
        own_texts: (n, P) the own texts of a local image, as rows of `text_embeds`.
        own_weights: (n, P) their weights; zero where there is none.
        all_own_texts: (N, P) the own texts of every image, as rows of `all_text_embeds`.
        all_own_shares: (N, P) how much of an image each of them describes, whatever its weight; the sum is 1 at most.
        num_captions: 0-d, number of rows with a text over all processes: the divisor of the loss.
        num_bank: B.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    all_image_embeds: torch.Tensor
    all_text_embeds: torch.Tensor
    image_to_text_weights: torch.Tensor
    text_to_image_weights: torch.Tensor
    image_to_text_allowed: torch.Tensor
    text_to_image_allowed: torch.Tensor
    own_texts: torch.Tensor
    own_weights: torch.Tensor
    all_own_texts: torch.Tensor
    all_own_shares: torch.Tensor
    num_captions: torch.Tensor
    num_bank: int


@dataclass
class BankTexts:
    """
    Texts without an image in the batch, the same on every process: negatives of every image that does not own them.

    Args:
        embeds: (B, D) unit norm.
        text_keys: (B,) integers; a text that is in the batch already, known by its key, is left out.
        keys: as those of [`make_pairs`], (B, C) a group.
    """

    embeds: torch.Tensor
    text_keys: torch.Tensor
    keys: Sequence[torch.Tensor]


def make_pairs(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    text_weights: torch.Tensor,
    keys: Sequence[torch.Tensor] = (),
    mix_partner: torch.Tensor | None = None,
    mix_share: torch.Tensor | None = None,
    text_keys: torch.Tensor | None = None,
    bank: BankTexts | None = None,
) -> Pairs:
    """
    Gathers what the objectives need. With several processes, each must call it for every batch, with keys of the same
    shapes, and all or none with a bank.

    Args:
        image_embeds: (n, D) projected features of unit norm; n may be 0.
        text_embeds: (n, D), or (n, K, D) for several texts an image, of unit norm; no gradient.
        text_weights: (n,) or (n, K), in [0, 1]; 0 takes a text out of the alignment, as positive and as negative. The
            K weights of a row add up to the weight of the row.
        keys: groups of integers (n, C), such as the image's, its captions', its class. Rows that have any key of any
            group in common are never negatives of each other; a negative integer is no key.
        mix_partner: (n,) local index of the image that was mixed into each image (mixup, CutMix).
        mix_share: (n,) share m of the row's own image; its partner has 1 - m.
        text_keys: (n, K) integers, equal for equal texts; needed with a bank.
        bank: further negatives of the images.
    """
    text_weights = (text_weights if text_weights.ndim == 2 else text_weights.unsqueeze(1)).to(image_embeds.dtype)
    n, texts_per_row = text_weights.shape
    text_embeds = text_embeds.reshape(n * texts_per_row, text_embeds.shape[-1])  # -1 would be any number of no rows
    present = text_weights > 0
    rows, shares = _slots(image_embeds, mix_partner, mix_share)
    num_mixed = (shares[:, 1] > 0).sum()
    counts = gather_counts(torch.stack([torch.full_like(num_mixed, n), present.any(1).sum(), num_mixed]))
    num_rows, _, mixed = zip(*counts.tolist(), strict=True)
    if not any(mixed):
        rows, shares = rows[:, :1], shares[:, :1]

    local = _Rows(rows + sum(num_rows[: rank()]), shares, present, list(keys), text_keys)
    everywhere = local.gathered(num_rows)
    own_weights = shares.unsqueeze(2) * text_weights[rows]  # (n, S, K)
    weights = _local_weights(rows, own_weights)
    image_to_text, text_to_image = _allowed(local, everywhere)
    pairs = Pairs(
        image_embeds=image_embeds,
        text_embeds=text_embeds,
        all_image_embeds=gather_rows(image_embeds, num_rows),
        all_text_embeds=gather_rows(text_embeds, [texts_per_row * rows for rows in num_rows]),
        image_to_text_weights=_place(weights.flatten(1), num_rows, texts_per_row),
        text_to_image_weights=_place(weights.permute(1, 2, 0).flatten(0, 1), num_rows, 1),
        image_to_text_allowed=image_to_text,
        text_to_image_allowed=text_to_image,
        own_texts=_texts_of(rows, texts_per_row),
        own_weights=own_weights.flatten(1),
        all_own_texts=_texts_of(everywhere.slot_rows, texts_per_row),
        all_own_shares=everywhere.text_shares(),
        num_captions=counts[:, 1].sum(),
        num_bank=0,
    )
    return pairs if bank is None else _with_bank(pairs, _allowed_of_bank(local, everywhere, bank), bank.embeds)


def _with_bank(pairs: Pairs, allowed: torch.Tensor, embeds: torch.Tensor) -> Pairs:
    """The pairs with texts of a bank (B, D) as further columns, allowed (n, B)."""
    return replace(
        pairs,
        all_text_embeds=torch.cat([pairs.all_text_embeds, embeds.to(pairs.all_text_embeds.dtype)]),
        image_to_text_weights=torch.nn.functional.pad(pairs.image_to_text_weights, (0, len(embeds))),
        image_to_text_allowed=torch.cat([pairs.image_to_text_allowed, allowed], dim=1),
        num_bank=len(embeds),
    )


def _slots(
    image_embeds: torch.Tensor, mix_partner: torch.Tensor | None, mix_share: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    An image shows its own row's picture and, where it was mixed, its partner's: two slots. Returns (n, 2) local rows
    and (n, 2) shares.
    """
    own = torch.arange(len(image_embeds), device=image_embeds.device)
    partner = own if mix_partner is None else mix_partner
    share = image_embeds.new_ones(len(own)) if mix_share is None else mix_share.to(image_embeds.dtype)
    return torch.stack([own, partner], dim=1), torch.stack([share, 1 - share], dim=1)


def _local_weights(slot_rows: torch.Tensor, own_weights: torch.Tensor) -> torch.Tensor:
    """(n, n, K) weights of local images against local texts: pairs never cross processes."""
    n, slots, texts_per_row = own_weights.shape
    weights = own_weights.new_zeros(n, n, texts_per_row)
    own = torch.arange(n, device=slot_rows.device)
    for slot in range(slots):
        weights = weights.index_put((own, slot_rows[:, slot]), own_weights[:, slot], accumulate=True)
    return weights


@dataclass
class _Rows:
    """Rows of one process or of all: (a, S) which global rows an image shows and by how much; (a, K) texts."""

    slot_rows: torch.Tensor
    slot_shares: torch.Tensor
    present: torch.Tensor
    keys: list[torch.Tensor]
    text_keys: torch.Tensor | None

    def gathered(self, num_rows: Sequence[int]) -> "_Rows":
        parts = [self.slot_rows, self.present.long(), *self.keys]
        if self.text_keys is not None:
            parts.append(self.text_keys)
        together = gather_rows(torch.cat(parts, dim=1), list(num_rows)).split([part.shape[1] for part in parts], dim=1)
        shares = self.slot_shares
        mixed = shares.shape[1] > 1
        return _Rows(
            slot_rows=together[0],
            slot_shares=gather_rows(shares, list(num_rows)) if mixed else shares.new_ones(len(together[0]), 1),
            present=together[1].bool(),
            keys=list(together[2 : 2 + len(self.keys)]),
            text_keys=None if self.text_keys is None else together[-1],
        )

    def text_shares(self) -> torch.Tensor:
        """(a, S K): the share of a picture, in equal parts to its texts."""
        present = self.present.to(self.slot_shares.dtype)
        equal_parts = present / present.sum(1, keepdim=True).clamp(min=1)
        return (self.slot_shares.unsqueeze(2) * equal_parts[self.slot_rows]).flatten(1)


def _allowed(local: _Rows, everywhere: _Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, N K) which texts count for a local image, and (n K, N) which images count for a local text."""
    texts_per_row = local.present.shape[1]
    rows = torch.arange(len(everywhere.present), device=local.present.device)
    own_rows = local.slot_rows[:, 0]
    shown, all_shown = local.slot_shares > 0, everywhere.slot_shares > 0
    # What an image shows it is no negative of, with a caption or without
    conflict = torch.zeros(len(own_rows), len(rows), dtype=torch.bool, device=rows.device)
    text_conflict = conflict.clone()
    for group in everywhere.keys:
        conflict |= _overlap(group[local.slot_rows], shown, group)
        text_conflict |= _overlap(group[everywhere.slot_rows], all_shown, group[own_rows]).T
    owned = _overlap(local.slot_rows.unsqueeze(2), shown, rows.unsqueeze(1))
    text_owned = _overlap(everywhere.slot_rows.unsqueeze(2), all_shown, own_rows.unsqueeze(1)).T
    # An image takes part when a picture that it shows has a text
    has_text = everywhere.present.any(1)
    takes_part = (all_shown & has_text[everywhere.slot_rows]).any(1)
    allowed = (owned | ~conflict) & takes_part[own_rows].unsqueeze(1)
    text_allowed = (text_owned | ~text_conflict) & takes_part
    return (
        allowed.repeat_interleave(texts_per_row, dim=1) & everywhere.present.flatten(),
        text_allowed.repeat_interleave(texts_per_row, dim=0) & local.present.flatten().unsqueeze(1),
    )


def _allowed_of_bank(local: _Rows, everywhere: _Rows, bank: BankTexts) -> torch.Tensor:
    """(n, B): texts of the bank that are neither in the batch nor described alike."""
    shown = local.slot_shares > 0
    in_batch = torch.isin(bank.text_keys, everywhere.text_keys[everywhere.present])
    takes_part = (shown & everywhere.present.any(1)[local.slot_rows]).any(1)
    allowed = takes_part.unsqueeze(1) & ~in_batch
    for group, bank_group in zip(everywhere.keys, bank.keys, strict=True):
        allowed &= ~_overlap(group[local.slot_rows], shown, bank_group)
    return allowed


def _place(block: torch.Tensor, num_rows: Sequence[int], columns_per_row: int) -> torch.Tensor:
    """(a, n columns_per_row) of the local columns -> (a, N columns_per_row), zero elsewhere."""
    start = columns_per_row * sum(num_rows[: rank()])
    full = block.new_zeros(len(block), columns_per_row * sum(num_rows))
    full[:, start : start + block.shape[1]] = block
    return full


def _texts_of(rows: torch.Tensor, texts_per_row: int) -> torch.Tensor:
    """Rows (a, S) -> their texts (a, S K), as numbers of the flattened texts."""
    texts = rows.unsqueeze(2) * texts_per_row + torch.arange(texts_per_row, device=rows.device)
    return texts.flatten(1)


def _overlap(image_keys: torch.Tensor, shown: torch.Tensor, text_keys: torch.Tensor) -> torch.Tensor:
    """image_keys (a, S, C), shown (a, S), text_keys (b, C) -> (a, b) bool: does the image show a key of the text?"""
    overlap = torch.zeros(len(image_keys), len(text_keys), dtype=torch.bool, device=image_keys.device)
    for slot in range(image_keys.shape[1]):
        for image_key in image_keys[:, slot].unbind(1):
            is_key = (shown[:, slot] & (image_key >= 0)).unsqueeze(1)
            for text_key in text_keys.unbind(1):
                overlap |= (image_key.unsqueeze(1) == text_key) & is_key
    return overlap
