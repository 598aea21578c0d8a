"""Rows of a stream as the student's training examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetInfo, List, Value
from datasets.table import InMemoryTable

from .. import columns
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
    digests of ids and captions, and augmentation drawn from (seed, epoch, `image_id`) alone.

    Its indices are batches of [`StreamBatches`], see `batches`. It has a length where that of the stream is known.

    Args:
        stream: rows with `image` (not decoded) and, where there are any, `image_id`, `label`, `caption`,
            `text_embeds`, `caption_weight`. Without `image_id` it is made of file names, or else of the content.
        transform, seed, captions: as there; `captions` is `sample` or `mean`.
        block: rows that are shuffled together, see [`~g4i_hf.data.stream_order.rows_in_order`].
        class_names: where labels are strings, what they are numbered by.
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
    ):
        self.stream, self.transform, self.seed, self.captions = stream, transform, seed, captions
        self.block = block
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
        for item in items:
            del item["row"]  # a place in the batch, which names no row of the stream
            item.pop("text_rows", None)  # nor a text
        return items

    def _split_of(self, batch: StreamBatch) -> Dataset:
        """The rows as a data set, with `image_id`, and labels that are numbers."""
        split = Dataset(InMemoryTable(batch.table), info=DatasetInfo(features=self.features), fingerprint="batch")
        if columns.IMAGE_ID not in self.features:
            image_ids = [image_id_of(image) for image in split[columns.IMAGE]]
            split = split.add_column(columns.IMAGE_ID, image_ids, feature=Value("string"), new_fingerprint="named")
        if self.numbers is not None:
            labels = [self._number_of(label) for label in split[columns.LABEL]]
            split = split.remove_columns(columns.LABEL, new_fingerprint="unlabelled")
            split = split.add_column(columns.LABEL, labels, feature=Value("int64"), new_fingerprint="numbered")
        return split

    def _number_of(self, label: str | None) -> int | None:
        if label is not None and label not in self.numbers:
            raise ValueError(
                f"Column 'label' holds {label!r}, which is none of the {len(self.numbers)} classes. "
                "Correct the label, or add the class to class_names_file."
            )
        return None if label is None else self.numbers[label]


class _BatchImages(CaptionedImages):
    keys_of = staticmethod(hashed_keys)

    def __init__(self, split: Dataset, transform: Callable, seed: int, captions: str, num_keys: int):
        super().__init__(split, transform, seed, captions)
        self.names = split[columns.IMAGE_ID][:]
        more = num_keys - self.caption_keys.shape[1]
        if more < 0:
            raise ValueError(f"A row has {num_keys - more} captions; streams take up to {MOST_CAPTIONS} of an image.")
        self.caption_keys = np.pad(self.caption_keys, ((0, 0), (0, more)), constant_values=-1)

    def name_of(self, row: int) -> str:
        return self.names[row]
