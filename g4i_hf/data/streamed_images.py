"""Rows of a stream as the student's training examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetInfo, List, Value
from datasets.table import InMemoryTable

from .. import columns
from .bad_images import BadRowError
from .dataset import CaptionedImages
from .image_ids import image_id_of
from .row_streams import RowStream
from .sampler import Draw, DrawnRows
from .stream_batches import StreamBatch, StreamBatches
from .texts import hashed_keys

MOST_CAPTIONS = 16  # of a row: the keys of all batches have one shape, on every process


class StreamedImages(torch.utils.data.Dataset):
    """
    What [`~g4i_hf.data.dataset.CaptionedImages`] makes of rows, of a stream: the same items, with keys that are
    digests of ids and captions, augmentation drawn from (seed, epoch, `image_id`) alone, and the `image_id` as `row`,
    empty for padding.

    Its indices are batches of [`StreamBatches`], see `batches`. It has a length where that of the stream is known.

    Args:
        stream: rows with `image` (not decoded) and, where there are any, `image_id`, `label`, `caption`,
            `text_embeds`, `caption_weight`. Without `image_id` it is made of file names, or else of the content.
        transform, seed, captions: as there; `captions` is `sample` or `mean`.
        block: rows that are shuffled together, see [`~g4i_hf.data.stream_order.rows_in_order`].
        class_names: by number; labels that are strings are numbered by them.
        require_labels: whether an unlabelled row (null or -1) is an error.

    Raises:
        BadRowError: for a row without label where these are required, or with one that is no class; it names the row.
        BadImageError: when an image cannot be read.
    """

    def __init__(
        self,
        stream: RowStream,
        transform: Callable,
        seed: int = 0,
        captions: str = "sample",
        *,
        block: int = 0,
        class_names: list[str] | None = None,
        require_labels: bool = False,
    ):
        self.stream, self.transform, self.seed, self.captions = stream, transform, seed, captions
        self.block, self.class_names, self.require_labels = block, class_names, require_labels
        self.features = stream.features
        label = self.features.get(columns.LABEL)
        is_text = isinstance(label, Value) and label.dtype in ("string", "large_string")
        self.numbers = {name: number for number, name in enumerate(class_names or [])} if is_text else None
        caption, embeds = self.features.get(columns.CAPTION), self.features.get(columns.TEXT_EMBEDS)
        several = isinstance(caption, List) or (isinstance(embeds, List) and isinstance(embeds.feature, List))
        self.num_keys = MOST_CAPTIONS if several else 1

    def __len__(self) -> int:
        if self.stream.num_rows is None:
            raise TypeError("the number of rows of the stream is not known")
        return self.stream.num_rows

    def batches(self, batch_size: int, **options: Any) -> StreamBatches:
        """See [`StreamBatches`]."""
        return StreamBatches(self.stream, batch_size, block=self.block, **options)

    def __getitems__(self, batch: StreamBatch) -> list[dict[str, Any]]:
        rows = _BatchImages(self._split_of(batch), self.transform, self.seed, self.captions, self.num_keys)
        items = DrawnRows(rows).__getitems__([Draw(row, batch.epoch, batch.padding) for row in range(len(rows))])
        for row, item in enumerate(items):
            # A place in the batch names no row of the stream, nor a text; the row is only told of, by its id
            item["row"] = "" if batch.padding else str(rows.name_of(row))
            item.pop("text_rows", None)
        return items

    def _split_of(self, batch: StreamBatch) -> Dataset:
        """The rows as a data set, with `image_id`, and labels that are numbers."""
        split = Dataset(InMemoryTable(batch.table), info=DatasetInfo(features=self.features), fingerprint="batch")
        if columns.IMAGE_ID not in self.features:
            image_ids = [image_id_of(image) for image in split[columns.IMAGE]]
            split = split.add_column(columns.IMAGE_ID, image_ids, feature=Value("string"), new_fingerprint="named")
        if columns.LABEL not in self.features:
            return split
        labels = list(map(self._number_of, split[columns.LABEL], split[columns.IMAGE_ID]))
        if self.numbers is not None:
            split = split.remove_columns(columns.LABEL, new_fingerprint="unlabelled")
            split = split.add_column(columns.LABEL, labels, feature=Value("int64"), new_fingerprint="numbered")
        return split

    def _number_of(self, label: int | str | None, image_id: str) -> int | None:
        if label is None or label == -1:
            if self.require_labels:
                raise BadRowError(
                    f"The image {image_id!r} is unlabelled ({label}). Label it, remove it, or train it on its caption "
                    "alone with --require_labels false."
                )
            return label
        if self.numbers is not None:
            if label not in self.numbers:
                raise BadRowError(
                    f"The image {image_id!r} has the label {label!r}, which is none of the {len(self.numbers)} "
                    "classes. Correct the label, or add the class to class_names_file."
                )
            return self.numbers[label]
        if self.class_names is not None and not 0 <= label < len(self.class_names):
            raise BadRowError(
                f"The image {image_id!r} has the label {label}, but there are {len(self.class_names)} classes (0 to "
                f"{len(self.class_names) - 1}). Correct the label or the class names."
            )
        return label


class _BatchImages(CaptionedImages):
    keys_of = staticmethod(hashed_keys)
    bad_images_can_be_left_out = False

    def __init__(self, split: Dataset, transform: Callable, seed: int, captions: str, num_keys: int):
        super().__init__(split, transform, seed, captions)
        self.names = split[columns.IMAGE_ID][:]
        more = num_keys - self.caption_keys.shape[1]
        if more < 0:
            raise ValueError(f"A row has {num_keys - more} captions; streams take up to {MOST_CAPTIONS} of an image.")
        self.caption_keys = np.pad(self.caption_keys, ((0, 0), (0, more)), constant_values=-1)

    def name_of(self, row: int) -> str:
        return self.names[row]
