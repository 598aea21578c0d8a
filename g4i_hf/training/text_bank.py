"""The captions of the whole training set: as text is frozen, exact negatives at any batch size."""

from collections.abc import Callable

import numpy as np
import torch

from ..losses import BankTexts


class TextBank:
    """
    Args:
        texts: `embeds` (B, D), of which only what is drawn is read, `text_keys` (B,), `caption_keys` (B, C) and
            `labels` (B,), as [`~g4i_hf.data.dataset.CaptionedImages.text_bank`] gives them.
        size: texts of a draw; -1 for all of them.
        seed: of the draws.
        transform: of drawn embeddings (B, D), such as centring.
    """

    def __init__(
        self,
        texts: dict[str, np.ndarray],
        size: int,
        seed: int,
        transform: Callable[[torch.Tensor], torch.Tensor] = lambda embeds: embeds,
    ):
        self.transform = transform
        self.embeds = texts["embeds"]
        self.texts = {name: torch.from_numpy(values) for name, values in texts.items() if name != "embeds"}
        self.size = len(self) if size < 0 else min(size, len(self))
        self.seed = seed
        self._whole: BankTexts | None = None

    def __len__(self) -> int:
        return len(self.embeds)

    def draw(self, step: int, micro_step: int, by_class: bool, device: torch.device) -> BankTexts:
        """
        The same texts on every process, and again after an interruption: drawn from the seed and the step alone.

        Args:
            step, micro_step: optimizer step, and batch within it.
            by_class: whether rows of one class are no negatives of each other.
            device: of the batch.
        """
        if self._whole is not None:
            return self._whole
        rows = np.arange(len(self))
        if self.size < len(self):
            generator = np.random.default_rng([self.seed, step, micro_step])
            rows = generator.choice(len(self), self.size, replace=False, shuffle=False)
        embeds = torch.from_numpy(self.embeds[rows]).to(device, non_blocking=True)
        drawn = {name: values[rows].to(device, non_blocking=True) for name, values in self.texts.items()}
        labels = drawn["labels"].unsqueeze(1)
        nobodys = torch.full_like(labels, -1)  # a caption is known by itself, not by one image of those that have it
        texts = BankTexts(
            embeds=self.transform(embeds.float()),
            text_keys=drawn["text_keys"],
            keys=[nobodys, drawn["caption_keys"], *([labels] if by_class else [])],
        )
        if self.size == len(self):
            self._whole = texts
        return texts
