"""From items to a batch, and from 8-bit pixels to the normalised and, where asked, mixed ones of training."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from timm.data import Mixup

from .dataset import own_randomness
from .normalization import Normalization


@dataclass
class AlignmentCollator:
    """
    Stacks items of [`CaptionedImages`] and applies mixup or CutMix, telling how much of which image went where, so
    that labels and captions can be mixed alike.

    Args:
        mixup_alpha: parameter of mixup's Beta distribution; 0 for none.
        cutmix_alpha: parameter of CutMix's; 0 for none.
        mix_prob: probability that a batch is mixed.
        mix_switch_prob: probability of CutMix where both are on.

    A batch of B rows holds `pixel_values` (B, 3, H, W), `labels` (B,), `image_keys` (B, 1), `caption_keys` (B, C),
    with embeddings `text_embeds` (B, K, D), of float16 where the items' are, `caption_weight` (B, K), `text_keys` and
    `text_rows` (B, K), perhaps `soft_labels` (B, num_labels), and when mixed `mix_partner` (B,) and `mix_share` (B,);
    in training also `rows` (B,), a NumPy array, -1 for padding, and `bad_images`, row -> why its image could not be
    read, without padding.

    Where items hold 8-bit pixels and their `normalization`, the batch does too: `pixel_values` are uint8, beside
    `pixel_mean` (3,), `pixel_std` (3,) and, to be mixed, `mix`. [`finish_batch`] makes of it what is described above,
    on the device of training: a quarter of the bytes goes there.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_prob: float = 1.0
    mix_switch_prob: float = 0.5

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {
            "pixel_values": torch.stack([item["pixel_values"] for item in items]),
            "labels": torch.as_tensor([int(item["labels"]) for item in items]),
        }
        if "row" in items[0]:  # an array, which stays where it is: nobody computes with it
            batch["rows"] = np.asarray([item["row"] for item in items])
        bad = {item["row"]: item["bad_image"] for item in items if "bad_image" in item and item.get("row", -1) >= 0}
        if bad:  # without padding: the process that trains on that row reports it
            batch["bad_images"] = bad
        if "image_key" in items[0]:
            batch["image_keys"] = _stack(items, "image_key", np.int64)
            batch["caption_keys"] = _stack(items, "caption_keys", np.int64)
        if "text_embeds" in items[0]:
            # Of float16, as they are stored, half as much goes to the device and to other processes
            is_half = np.asarray(items[0]["text_embeds"]).dtype == np.float16
            batch["text_embeds"] = _stack(items, "text_embeds", np.float16 if is_half else np.float32, dims=2)
            batch["caption_weight"] = _stack(items, "caption_weight", np.float32)
            if "text_keys" in items[0]:
                batch["text_keys"] = _stack(items, "text_keys", np.int64)
            if "text_rows" in items[0]:
                batch["text_rows"] = _stack(items, "text_rows", np.int64)
        if "soft_labels" in items[0]:
            batch["soft_labels"] = torch.from_numpy(np.stack([item["soft_labels"] for item in items]))
        if self.mixup_alpha > 0 or self.cutmix_alpha > 0:
            batch["mix"] = partial(self._mix, seed=items[0].get("draw_seed"))
        if "normalization" not in items[0]:
            return finish_batch(batch)
        normalization = items[0]["normalization"]
        batch["pixel_mean"], batch["pixel_std"] = normalization.mean.flatten(), normalization.std.flatten()
        return batch

    def _mix(self, batch: dict[str, torch.Tensor], seed: int | None) -> None:
        """
        timm mixes the batch with its reverse. Given row numbers as labels of as many classes, its soft labels are the
        shares: entry (i, i) is what is left of image i. Of an odd batch the last row stays as it is.
        """
        pixels = batch["pixel_values"]
        even = len(pixels) // 2 * 2
        if even == 0:
            return
        mixup = Mixup(
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            prob=self.mix_prob,
            switch_prob=self.mix_switch_prob,
            label_smoothing=0.0,
            num_classes=even,
        )
        with own_randomness() as seed_all:
            if seed is not None:
                seed_all(seed)
            mixed, shares = mixup(pixels[:even].clone(), torch.arange(even, device=pixels.device))
        batch["pixel_values"] = torch.cat([mixed, pixels[even:]])
        share = shares.diagonal().to(torch.float32)
        batch["mix_share"] = torch.cat([share, share.new_ones(len(pixels) - even)])
        partner = torch.arange(len(pixels), device=pixels.device)
        partner[:even] = partner[:even].flip(0)
        batch["mix_partner"] = partner


def finish_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Of a batch of [`AlignmentCollator`], pixels normalised and then mixed, where they are not yet."""
    batch = dict(batch)
    mean, std, mix = (batch.pop(name, None) for name in ("pixel_mean", "pixel_std", "mix"))
    if mean is not None:
        batch["pixel_values"] = Normalization(mean, std)(batch["pixel_values"])
    if mix is not None:
        mix(batch)
    return batch


def _stack(items: list[dict[str, Any]], name: str, dtype: type, dims: int = 1) -> torch.Tensor:
    """(B, ...) of values that have `dims` dimensions each, or one less, as of a single caption."""
    values = np.stack([np.asarray(item[name], dtype=dtype) for item in items])
    return torch.from_numpy(values if values.ndim == dims + 1 else np.expand_dims(values, 1))


def collator_from(args: Any) -> AlignmentCollator:
    """The collator that training arguments ask for."""
    return AlignmentCollator(args.mixup_alpha, args.cutmix_alpha, args.mix_prob, args.mix_switch_prob)
