"""Training examples from a dataset: the sampler, items with augmentation, and batches with mixup and CutMix."""

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.data_loader import DataLoaderShard, SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from timm.data import Mixup
from torch.utils.data import BatchSampler, SequentialSampler

from .. import columns
from .checks import UNLABELLED, labels_of
from .images import bad_image, error_of, why_bad
from .texts import Texts, caption_keys, column_alone, keys_of, values_of
from .transforms import Normalization, StoredJpeg, TrainTransform, open_rgb

CACHE_BYTES = 1 << 30  # limit of the decoded images in memory


# --- Which rows make a batch -----------------------------------------------------------------------------------------


class Draw(NamedTuple):
    """
    What the sampler yields instead of an index: row and epoch, so that augmentation is reproducible and workers are
    stateless. A process without rows gets a `padding` row, which has no weight; `repeat` counts the uses in an epoch.
    """

    row: int
    epoch: int
    padding: bool = False
    repeat: int = 0


def share_of(count: int, num_processes: int, process_index: int) -> range:
    """The positions of a process among `count` rows of a global batch, split evenly; the first processes get more."""
    share, extra = divmod(count, num_processes)
    first = process_index * share + min(process_index, extra)
    return range(first, first + share + (process_index < extra))


class GlobalBatchSampler(BatchSampler):
    """
    Cuts the order of an epoch into global batches and gives each process its part. On one process the order is that
    of `Trainer`. The last, smaller global batch is split evenly: no row is repeated or dropped, and a process without
    a row gets one padding row, so that no collective operation hangs. With `drop_last` this batch is left out.

    With repeated augmentation (arXiv 1901.09335, as in DeiT) each row comes `repeats` times in succession, and the
    epoch ends after as many draws as there are rows.

    A process has `batch_size` rows of a batch; the order of epoch e is drawn from `seed + e`.
    """

    split_batches = False  # read by accelerate, which then multiplies batch_size by num_processes

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        repeats: int = 1,
    ):
        self.num_rows, self.batch_size, self.repeats = num_rows, batch_size, repeats
        self.num_processes, self.process_index = num_processes, process_index
        self.drop_last = drop_last
        rows = range(num_rows)
        self.order = SeedableRandomSampler(rows, data_seed=seed) if shuffle else SequentialSampler(rows)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if isinstance(self.order, SeedableRandomSampler):
            self.order.set_epoch(epoch)

    @property
    def sampler(self) -> "GlobalBatchSampler":
        """Where accelerate calls `set_epoch` if batches are skipped."""
        return self

    def __len__(self) -> int:
        whole, remainder = divmod(self.num_rows, self.batch_size * self.num_processes)
        return whole + (remainder > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = self.epoch, list(self.order)
        size = self.batch_size * self.num_processes
        for start in range(0, len(self) * size, size):
            mine = share_of(min(size, self.num_rows - start), self.num_processes, self.process_index)
            uses = (start + place for place in mine)
            draws = [Draw(order[use // self.repeats], epoch, repeat=use % self.repeats) for use in uses]
            yield draws or [Draw(order[start // self.repeats], epoch, padding=True)]


class DrawnRows(torch.utils.data.Dataset):
    """The rows of any map-style dataset for the draws of [`GlobalBatchSampler`]."""

    def __init__(self, dataset: torch.utils.data.Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[Draw]) -> list[dict[str, Any]]:
        if hasattr(self.dataset, "get_draws"):
            items = self.dataset.get_draws(draws)
        else:
            items = [dict(self.dataset[draw.row]) for draw in draws]
        for draw, item in zip(draws, items, strict=True):
            item["row"] = -1 if draw.padding else draw.row
            if draw.padding:
                item["labels"] = UNLABELLED
                item["caption_weight"] = np.zeros_like(item.get("caption_weight", 0.0))
                if "soft_labels" in item:
                    item["soft_labels"] = np.zeros_like(item["soft_labels"])
        return items


class TrainLoader(DataLoaderShard):
    """
    Draws from torch's generator once an epoch, as a loader without persistent workers does. With persistent workers
    torch draws only once, and again after a resume, which would change dropout.
    """

    def __iter__(self) -> Iterator[Any]:
        if self.persistent_workers:
            torch.empty((), dtype=torch.int64).random_()
        yield from super().__iter__()


# --- Examples --------------------------------------------------------------------------------------------------------


def _unchanged(image: Any) -> Any:
    return image  # no lambda: workers that are started by `spawn` get it pickled


class CaptionedImages(torch.utils.data.Dataset):
    """
    Decoded and augmented images with their labels and text embeddings.

    Augmentation depends on (seed, epoch, row, repeat) only, not on workers, processes or a resume. The global random
    state is unchanged.

    Args:
        split: rows with `image` (not decoded), `image_id`, perhaps `label`, `caption`, `text_embeds`, `soft_labels`.
        transform: PIL image in RGB -> tensor (3, H, W); or a [`~g4i_hf.data.transforms.TrainTransform`], whose `fixed`
            steps are cached, and whose `normalization` is applied by [`finish_batch`].
        seed: of the augmentation.
        captions: of several captions of an image, `sample` draws one each time, `mean` averages, `all` keeps all.

    An item holds `pixel_values` (3, H, W), `labels` (-100 without a label), `draw_seed`, and the integers `image_key`
    and `caption_keys` (C,), equal for equal images and captions, -1 for none. With embeddings it holds `text_embeds`
    (K, D) float16 and `caption_weight` (K,), the share of each text; the shares sum to 1, or to 0 without a caption,
    and K is 1 except for `all`. It may hold `soft_labels` (num_labels,), and the `normalization` of uint8
    `pixel_values`.

    Raises:
        BadImageError: if an image cannot be read.
    """

    def __init__(self, split: Dataset, transform: Callable, seed: int = 0, captions: str = "sample"):
        self.split = split
        self.images = column_alone(split, columns.IMAGE)
        self.open_stored = getattr(transform, "open_stored", open_rgb)
        self.image_ids = column_alone(split, columns.IMAGE_ID)
        self.prepare = getattr(transform, "fixed", _unchanged)
        self.normalization = transform.normalization if isinstance(transform, TrainTransform) else None
        self.transform = getattr(transform, "drawn", transform)
        self.seed = seed
        self.epoch = 0
        self.labels = labels_of(split)
        self.image_keys = keys_of(values_of(split, columns.IMAGE_ID))
        self.texts = Texts.of(split, captions)
        self.texts_per_row = max(1, self.texts.counts.max(initial=1)) if self.texts and captions == "all" else 1
        if self.texts is not None:
            self.caption_keys = self.texts.caption_keys
        elif columns.CAPTION in split.column_names:
            self.caption_keys = caption_keys(split)
        else:
            self.caption_keys = self.image_keys[:, None]
        self.soft_labels = None
        if columns.SOFT_LABELS in split.column_names:
            self.soft_labels = column_alone(split, columns.SOFT_LABELS).with_format("numpy")
        self.features: np.ndarray | None = None
        self._decoded: dict[int, Any] = {}
        self._decoded_bytes = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"split": None}  # workers only need its parts

    @property
    def has_caption(self) -> np.ndarray:
        """(rows,) bool; False for all rows without embeddings."""
        return np.zeros(len(self), dtype=bool) if self.texts is None else self.texts.counts > 0

    def set_epoch(self, epoch: int) -> None:
        """Epoch of the next items, for data loaders with plain indices."""
        self.epoch = epoch

    def use_features(self, features: np.ndarray) -> None:
        """Items then hold `features`, a row of these (rows, F), instead of `pixel_values`; no image is read."""
        self.features = features

    def images_with_ids(self) -> Dataset:
        return concatenate_datasets([self.images, self.image_ids], axis=1)

    def use_one_embedding(self, dim: int) -> None:
        """Give all rows with a caption the same vector (`dim`,), to time steps before captions are embedded."""
        captioned = (self.caption_keys >= 0).any(1)
        number = int(captioned.sum())
        self.texts = Texts(
            embeds=np.broadcast_to(np.full((1, dim), dim**-0.5, dtype=np.float16), (number, dim)),
            starts=np.concatenate([[0], np.cumsum(captioned)]),
            text_keys=np.arange(number),
            caption_keys=self.caption_keys,
        )

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.get_draws([Draw(row, self.epoch)])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        return self.get_draws([Draw(row, self.epoch) for row in rows])

    def get_draws(self, draws: list[Draw]) -> list[dict[str, Any]]:
        # A single access for all rows: with small images, one access a row takes half of the time
        rows = [row for row in dict.fromkeys(draw.row for draw in draws) if row not in self._decoded]
        rows = rows if self.features is None else []
        stored = dict(zip(rows, self.images[rows][columns.IMAGE], strict=True)) if rows else {}
        with own_randomness() as seed_all:
            items = [self._item(draw, stored, seed_all) for draw in draws]
        rows = [draw.row for draw in draws]
        if self.texts is not None:
            self._add_texts(items, np.asarray(rows))
        if self.soft_labels is not None:
            for item, soft_labels in zip(items, self.soft_labels[rows][columns.SOFT_LABELS], strict=True):
                item["soft_labels"] = soft_labels
        return items

    def _item(self, draw: Draw, stored: dict[int, Any], seed_all: Callable[[int], None]) -> dict[str, Any]:
        row = draw.row
        what = f"{self.seed} {draw.epoch} {row}" + (f" {draw.repeat}" if draw.repeat else "")
        draw_seed = int.from_bytes(hashlib.blake2b(what.encode(), digest_size=7).digest(), "little")
        if self.features is not None:
            content = {"features": torch.from_numpy(np.asarray(self.features[row], dtype=np.float32))}
        else:
            content = {"pixel_values": self._pixels(row, stored, draw_seed, seed_all)}
        item = {
            **content,
            "labels": self.labels[row],
            "image_key": self.image_keys[row],
            "caption_keys": self.caption_keys[row],
            "draw_seed": draw_seed,
        }
        if self.normalization is not None and self.features is None:
            item["normalization"] = self.normalization
        return item

    def _add_texts(self, items: list[dict[str, Any]], rows: np.ndarray) -> None:
        seeds = np.asarray([item["draw_seed"] for item in items])
        numbers = self.texts.select(rows, seeds, self.texts_per_row)
        embeds, is_present = self.texts.read(numbers), numbers >= 0
        weights = is_present / np.maximum(is_present.sum(1, keepdims=True), 1)
        for place, item in enumerate(items):
            item["text_embeds"] = embeds[place]
            item["caption_weight"] = weights[place].astype(np.float32)

    def _pixels(
        self, row: int, stored: dict[int, Any], draw_seed: int, seed_all: Callable[[int], None]
    ) -> torch.Tensor:
        """The augmented image (3, H, W)."""
        try:
            image = self._image(row, stored)
            seed_all(draw_seed)
            return self.transform(image)  # a JPEG is decoded here
        except Exception as error:
            reason = why_bad(self.images[row][columns.IMAGE])
            if reason is None:  # the error is not in the image
                raise
            raise error_of(bad_image(self.images, self.image_ids, row, reason)) from error

    def _image(self, row: int, stored: dict[int, Any]) -> Any:
        image = self._decoded.get(row)
        if image is None:
            image = self.prepare(self.open_stored(stored[row]))
            if isinstance(image, StoredJpeg):
                size = image.num_bytes
            else:
                size = image.nbytes if isinstance(image, torch.Tensor) else image.width * image.height * 3
            if self._decoded_bytes + size <= CACHE_BYTES:
                self._decoded[row] = image
                self._decoded_bytes += size
        return image


@contextlib.contextmanager
def own_randomness() -> Iterator[Callable[[int], None]]:
    """A function that seeds Python, NumPy and torch, whose states are restored at the end."""
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


# --- Batches ---------------------------------------------------------------------------------------------------------


@dataclass
class AlignmentCollator:
    """
    Stacks items of [`CaptionedImages`], and applies mixup or CutMix by the options of these names. The loss mixes
    labels and captions.

    A batch of B rows holds `pixel_values` (B, 3, H, W), `labels` (B,), `image_keys` (B, 1) and `caption_keys` (B, C).
    With embeddings it holds `text_embeds` (B, K, D), float16 as in the items, and `caption_weight` (B, K); if mixed,
    `mix_partner` (B,) and `mix_share` (B,), the share of the first image. It may hold `soft_labels` (B, num_labels).

    If items have a `normalization`, `pixel_values` are uint8, with `pixel_mean` (3,), `pixel_std` (3,) and perhaps
    `mix`. [`finish_batch`] completes them on the training device, to transfer a quarter of the bytes. With cached
    features, `features` (B, F) replaces all of these.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_prob: float = 1.0
    mix_switch_prob: float = 0.5

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        key = "features" if "features" in items[0] else "pixel_values"
        batch = {
            key: torch.stack([item[key] for item in items]),
            "labels": torch.as_tensor([int(item["labels"]) for item in items]),
        }
        for name in ("image_key", "caption_keys"):
            if name in items[0]:
                batch["image_keys" if name == "image_key" else name] = _stack(items, name, np.int64)
        if "text_embeds" in items[0]:
            # float16 as stored: half the bytes to transfer
            is_half = np.asarray(items[0]["text_embeds"]).dtype == np.float16
            batch["text_embeds"] = _stack(items, "text_embeds", np.float16 if is_half else np.float32, dims=2)
            batch["caption_weight"] = _stack(items, "caption_weight", np.float32)
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
        """timm mixes a batch with its reverse. With row numbers as labels, (i, i) is the remaining share of row i."""
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
    """Normalise and then mix the pixels of a batch of [`AlignmentCollator`], if that is still to be done."""
    batch = dict(batch)
    mean, std, mix = (batch.pop(name, None) for name in ("pixel_mean", "pixel_std", "mix"))
    if mean is not None:
        batch["pixel_values"] = Normalization(mean, std)(batch["pixel_values"])
    if mix is not None:
        mix(batch)
    return batch


def for_inference(batch: dict[str, Any]) -> dict[str, Any]:
    """With channels last, faster for convolutions. Training has the layout, and so the bits, of the stock Trainer."""
    pixels = batch.get("pixel_values")
    if pixels is not None:
        batch = batch | {"pixel_values": pixels.contiguous(memory_format=torch.channels_last)}
    return batch


def _stack(items: list[dict[str, Any]], name: str, dtype: type, dims: int = 1) -> torch.Tensor:
    """(B, ...) of values of `dims` dimensions each, or one less for a single caption."""
    values = np.stack([np.asarray(item[name], dtype=dtype) for item in items])
    return torch.from_numpy(values if values.ndim == dims + 1 else np.expand_dims(values, 1))
