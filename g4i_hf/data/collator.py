"""From items to a batch, mixing images where asked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data import Mixup

from .dataset import own_randomness


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
    with embeddings `text_embeds` (B, K, D), `caption_weight` (B, K) and `text_keys` (B, K), and when mixed
    `mix_partner` (B,) and `mix_share` (B,).
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
        if "image_key" in items[0]:
            batch["image_keys"] = _stack(items, "image_key", np.int64)
            batch["caption_keys"] = _stack(items, "caption_keys", np.int64)
        if "text_embeds" in items[0]:
            batch["text_embeds"] = _stack(items, "text_embeds", np.float32, dims=2)
            batch["caption_weight"] = _stack(items, "caption_weight", np.float32)
            if "text_keys" in items[0]:
                batch["text_keys"] = _stack(items, "text_keys", np.int64)
        if self.mixup_alpha > 0 or self.cutmix_alpha > 0:
            self._mix(batch, items[0].get("draw_seed"))
        return batch

    def _mix(self, batch: dict[str, torch.Tensor], seed: int | None) -> None:
        """
        timm mixes the batch with its reverse. Given row numbers as labels of as many classes, its soft labels are the
        shares: entry (i, i) is what is left of image i. Of an odd batch the last row stays as it is.
        """
        even = len(batch["labels"]) // 2 * 2
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
            mixed, shares = mixup(batch["pixel_values"][:even].clone(), torch.arange(even))
        batch["pixel_values"] = torch.cat([mixed, batch["pixel_values"][even:]])
        share = shares.diagonal().to(torch.float32)
        batch["mix_share"] = torch.cat([share, torch.ones(len(batch["labels"]) - even)])
        partner = torch.arange(len(batch["labels"]))
        partner[:even] = partner[:even].flip(0)
        batch["mix_partner"] = partner


def _stack(items: list[dict[str, Any]], name: str, dtype: type, dims: int = 1) -> torch.Tensor:
    """(B, ...) of values that have `dims` dimensions each, or one less, as of a single caption."""
    values = np.stack([np.asarray(item[name], dtype=dtype) for item in items])
    return torch.from_numpy(values if values.ndim == dims + 1 else np.expand_dims(values, 1))


def collator_from(args: Any) -> AlignmentCollator:
    """The collator that training arguments ask for."""
    return AlignmentCollator(args.mixup_alpha, args.cutmix_alpha, args.mix_prob, args.mix_switch_prob)
