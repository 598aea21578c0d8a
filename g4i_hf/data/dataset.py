"""Rows of a data set as the student's training examples."""

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from .. import columns
from .images import open_image, to_rgb
from .sampler import Draw

CACHE_BYTES = 1 << 30  # decoded images are kept in memory below this


class CaptionedImages(torch.utils.data.Dataset):
    """
    Decodes, augments and pairs each image with its label and text embedding.

    The randomness of a row's augmentation is drawn from (seed, epoch, row) alone. So it does not depend on workers,
    processes or an interruption, and leaves the random state of training as it was.

    Args:
        split: rows with `image` (not decoded), `image_id` and, where there are any, `label`, `caption`, `text_embeds`,
            `caption_weight`.
        transform: PIL image in RGB -> tensor (3, H, W).
        seed: of the augmentation.

    An item holds `pixel_values` (3, H, W), `labels` (-100 when unlabelled), `image_key` and `caption_key` (integers,
    equal for equal images and captions), `draw_seed`, and with embeddings `text_embeds` (D,) and `caption_weight`.
    """

    def __init__(self, split: Dataset, transform: Callable, seed: int = 0):
        self.images = split.select_columns([columns.IMAGE])
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self.labels = _labels(split)
        self.image_keys = _keys(split[columns.IMAGE_ID][:])
        self.text_embeds, captioned = _text_embeds(split)
        weights = split[columns.CAPTION_WEIGHT][:] if columns.CAPTION_WEIGHT in split.column_names else None
        if columns.CAPTION in split.column_names:
            captioned &= ~np.asarray([is_blank(caption) for caption in split[columns.CAPTION][:]], dtype=bool)
        self.caption_weight = captioned.astype(np.float32)
        if weights is not None:
            self.caption_weight *= np.asarray([weight or 0.0 for weight in weights], dtype=np.float32)
        if columns.CAPTION in split.column_names:
            self.caption_keys = _keys(split[columns.CAPTION][:])
        elif self.text_embeds is not None:
            self.caption_keys = _keys([row.tobytes() for row in self.text_embeds])
        else:
            self.caption_keys = self.image_keys
        self._decoded: dict[int, Any] = {}
        self._decoded_bytes = 0

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """For data loaders that give plain indices: the epoch of the next items."""
        self.epoch = epoch

    def use_one_embedding(self, dim: int, captions: list) -> None:
        """Gives all rows with a caption one and the same vector (`dim`,), to time steps before they are embedded."""
        self.text_embeds = np.broadcast_to(np.full((1, dim), dim**-0.5, dtype=np.float16), (len(self), dim))
        self.caption_weight = np.asarray([not is_blank(caption) for caption in captions], dtype=np.float32)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.get_draws([Draw(row, self.epoch)])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        return self.get_draws([Draw(row, self.epoch) for row in rows])

    def get_draws(self, draws: list[Draw]) -> list[dict[str, Any]]:
        with own_randomness() as seed_all:
            return [self._item(draw, seed_all) for draw in draws]

    def _item(self, draw: Draw, seed_all: Callable[[int], None]) -> dict[str, Any]:
        row = draw.row
        draw_seed = int.from_bytes(
            hashlib.blake2b(f"{self.seed} {draw.epoch} {row}".encode(), digest_size=7).digest(), "little"
        )
        image = self._image(row)
        seed_all(draw_seed)
        item = {
            "pixel_values": self.transform(image),
            "labels": self.labels[row],
            "image_key": self.image_keys[row],
            "caption_key": self.caption_keys[row],
            "draw_seed": draw_seed,
        }
        if self.text_embeds is not None:
            item["text_embeds"] = self.text_embeds[row]
            item["caption_weight"] = self.caption_weight[row]
        return item

    def _image(self, row: int) -> Any:
        image = self._decoded.get(row)
        if image is None:
            image = to_rgb(open_image(self.images[row][columns.IMAGE]))
            size = image.width * image.height * 3
            if self._decoded_bytes + size <= CACHE_BYTES:
                self._decoded[row] = image
                self._decoded_bytes += size
        return image


@contextlib.contextmanager
def own_randomness() -> Iterator[Callable[[int], None]]:
    """Gives a function that seeds Python, NumPy and torch, and restores their states on leaving."""
    generator = torch.default_generator
    states = random.getstate(), np.random.get_state(), generator.get_state()

    def seed_all(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        generator.manual_seed(seed)

    try:
        yield seed_all
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        generator.set_state(states[2])


def is_blank(caption: str | list[str] | None) -> bool:
    """Whether there is nothing to read: the row is then trained on its label alone."""
    texts = caption if isinstance(caption, list) else [caption]
    return not any(text and text.strip() for text in texts)


def _labels(split: Dataset) -> np.ndarray:
    if columns.LABEL not in split.column_names:
        return np.full(len(split), -100)
    labels = split[columns.LABEL][:]
    return np.asarray([-100 if label is None or label < 0 else label for label in labels], dtype=np.int64)


def _keys(values: list) -> np.ndarray:
    """Equal values get equal integers; a null gets one of its own."""
    numbers: dict[Any, int] = {}
    keys = np.empty(len(values), dtype=np.int64)
    for position, value in enumerate(values):
        value = tuple(value) if isinstance(value, list) else value
        keys[position] = -1 - position if value is None else numbers.setdefault(value, len(numbers))
    return keys


def _text_embeds(split: Dataset) -> tuple[np.ndarray | None, np.ndarray]:
    """(rows, D) float16, zero where null, and (rows,) bool: which rows have one."""
    if columns.TEXT_EMBEDS not in split.column_names:
        return None, np.zeros(len(split), dtype=bool)
    arrays = split.select_columns([columns.TEXT_EMBEDS]).with_format("arrow")[:][columns.TEXT_EMBEDS].combine_chunks()
    captioned = ~np.asarray(arrays.is_null())
    dim = arrays.type.list_size
    embeds = np.zeros((len(split), dim), dtype=np.float16)
    embeds[captioned] = arrays.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return embeds, captioned
