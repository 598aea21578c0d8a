"""Training examples from a stream: the part of each process, the order of rows, batches and items."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetInfo, List, Value
from datasets.table import InMemoryTable
from torch.utils.data import BatchSampler

from .. import columns
from .dataset import CaptionedImages, Draw, DrawnRows, share_of
from .images import BadRowError
from .joining import image_id_of
from .stream import READ_ROWS, RowStream

Row = tuple[pa.Table, int]  # a table and the place in it
MOST_CAPTIONS = 16  # of a row: all batches have keys of one shape, on every process
ENOUGH_ARCHIVES = 8  # a process: then one more or less matters little


class Part(NamedTuple):
    """Rows of a shard from `first` up to, without, `last`; to the end where that is None."""

    shard: int
    first: int = 0
    last: int | None = None


def parts_of(stream: RowStream, batch_size: int, num_processes: int, process_index: int) -> list[Part]:
    """
    The part of a stream for a process with batches of `batch_size` rows: consecutive rows, as many as it has in all
    global batches, where the sizes of shards are known; else every `num_processes`-th shard, of which too few are a
    ValueError.
    """
    if stream.shard_rows is None:
        number = stream.rows.num_shards
        if number % num_processes and number < ENOUGH_ARCHIVES * num_processes:
            what = f"The stream has {number} archives for {num_processes} processes, which cannot share them evenly"
            raise ValueError(f"{what}: make it a multiple, or at least {ENOUGH_ARCHIVES} archives a process.")
        return [Part(shard) for shard in range(process_index, number, num_processes)]
    whole, rest = divmod(sum(stream.shard_rows), batch_size * num_processes)
    mine = share_of(rest, num_processes, process_index)
    first = process_index * whole * batch_size + mine.start
    last = first + whole * batch_size + len(mine)
    parts, start = [], 0
    for shard, rows in enumerate(stream.shard_rows):
        part = Part(shard, max(first - start, 0), min(last - start, rows))
        if part.first < part.last:
            parts.append(part)
        start += rows
    return parts


def rows_in_order(
    stream: RowStream, parts: list[Part], *, seed: list[int] | None, block: int, skip: int = 0
) -> Iterator[Row]:
    """
    The rows of an epoch: parts in a random order, `block` rows at a time shuffled (none below 2). So the order after
    `skip` rows does not depend on reading those before, and skipped parts of known size are not read. Without a `seed`
    rows stay in the order of the data.
    """
    if seed is None:
        block = 0
    else:
        parts = [parts[place] for place in np.random.default_rng(seed).permutation(len(parts))]
    first = skip // block if block > 1 else 0
    before = first * block if block > 1 else skip
    rows = read_ahead(_tables(stream, parts, before), max(2, math.ceil(block / READ_ROWS)))
    in_order = ((table, place) for table in rows for place in range(len(table)))
    if block > 1:
        in_order = islice(_shuffled(in_order, seed, block, first), skip - before, None)
    yield from in_order


def batch_of(rows: list[Row]) -> pa.Table:
    """A table of these rows alone."""
    return pa.concat_tables([table.slice(place, 1) for table, place in rows]).combine_chunks()


def read_ahead(items: Iterator[Any], number: int) -> Iterator[Any]:
    """The items, `number` of them read ahead in a thread."""
    end = object()
    reader = ThreadPoolExecutor(1)
    try:
        coming = deque(reader.submit(next, items, end) for _ in range(number))
        while (item := coming.popleft().result()) is not end:
            coming.append(reader.submit(next, items, end))
            yield item
    finally:
        reader.shutdown(wait=False, cancel_futures=True)  # perhaps called in that thread, by the garbage collector


def _tables(stream: RowStream, parts: list[Part], skip: int) -> Iterator[pa.Table]:
    for shard, first, last in parts:
        if last is not None and last - first <= skip:
            skip -= last - first
            continue
        place = 0  # of the table in the shard
        for table in stream.read(shard):
            begin = min(max(first + skip - place, 0), len(table))
            end = len(table) if last is None else min(last - place, len(table))
            place += len(table)
            if begin < end:
                yield table.slice(begin, end - begin)
            if last is not None and place >= last:
                break
        skip = max(0, skip - (place - first))


def _shuffled(rows: Iterator[Row], seed: list[int], block: int, first: int) -> Iterator[Row]:
    """Shuffles within blocks, the first of which has the number `first`."""
    number = first
    while together := list(islice(rows, block)):
        for place in np.random.default_rng([*seed, number]).permutation(len(together)):
            row, together[place] = together[place], None  # frees the memory of each row at once
            yield row
        number += 1


# --- Batches ---------------------------------------------------------------------------------------------------------


class StreamBatch(NamedTuple):
    """
    Rows in place of indices of the data loader; workers decode them. `padding` rows fill a process that has none: they
    count for nothing in the loss, only BatchNorm sees them.
    """

    table: pa.Table
    epoch: int
    padding: bool = False


class StreamBatches(BatchSampler):
    """
    Cuts a stream into batches, in an order that depends on `seed` and the epoch alone. Each process reads its own
    rows, see [`parts_of`]; none is repeated or dropped. Processes without rows of the last global batch get the first
    rows of the stream as padding, so that no collective hangs.

    A stream of unknown length does not end: one epoch follows another, on each process for itself. Arguments as those
    of [`~g4i_hf.data.dataset.GlobalBatchSampler`]; `block` rows are shuffled together, see [`rows_in_order`].
    """

    split_batches = False  # read by accelerate, which multiplies batch_size by num_processes itself

    def __init__(
        self,
        stream: RowStream,
        batch_size: int,
        *,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        block: int = 0,
    ):
        self.stream, self.batch_size, self.block = stream, batch_size, block
        self.num_processes, self.process_index = num_processes, process_index
        self.seed, self.shuffle = seed, shuffle
        self.parts = parts_of(stream, batch_size, num_processes, process_index)
        self.epoch = 0
        self._passed_over = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def sampler(self) -> "StreamBatches":
        """As of [`~g4i_hf.data.dataset.GlobalBatchSampler`]."""
        return self

    def pass_over(self, batches: int) -> None:
        """
        The next iteration gives None for so many batches of the epoch, or of the training where the length is unknown.
        They are not read where the sizes of shards are known.
        """
        self._passed_over = batches

    @property
    def total_length(self) -> int:
        return len(self)

    def __len__(self) -> int:
        if self.stream.num_rows is None:
            raise TypeError("the number of rows of the stream is not known")
        return -(-self.stream.num_rows // (self.batch_size * self.num_processes))

    def __iter__(self) -> Iterator[StreamBatch | None]:
        skip, self._passed_over = self._passed_over, 0
        yield from repeat(None, skip)
        if self.stream.num_rows is not None:
            yield from self._epoch(self.epoch, skip)
            own = math.ceil(sum(part.last - part.first for part in self.parts) / self.batch_size)
            if own < len(self) > skip:
                everything = parts_of(self.stream, self.batch_size, num_processes=1, process_index=0)
                first_rows = islice(rows_in_order(self.stream, everything, seed=None, block=0), self.batch_size)
                yield StreamBatch(batch_of(list(first_rows)), self.epoch, padding=True)
            return
        epoch = 0
        if skip:
            rows = sum(self.stream.count_rows(part.shard) for part in self.parts)
            epoch, skip = divmod(skip, max(1, math.ceil(rows / self.batch_size)))
        while True:
            has_rows = False
            for batch in self._epoch(epoch, skip):
                has_rows = True
                yield batch
            if not has_rows:
                raise ValueError("The stream that is to be trained on has no rows for one of the processes.")
            epoch, skip = epoch + 1, 0

    def _epoch(self, epoch: int, skip: int) -> Iterator[StreamBatch]:
        seed = [self.seed, epoch, self.process_index] if self.shuffle else None
        rows = rows_in_order(self.stream, self.parts, seed=seed, block=self.block, skip=skip * self.batch_size)
        while together := list(islice(rows, self.batch_size)):
            yield StreamBatch(batch_of(together), epoch)


# --- Items -----------------------------------------------------------------------------------------------------------


class StreamedImages(torch.utils.data.Dataset):
    """
    The items of [`~g4i_hf.data.dataset.CaptionedImages`] from a stream. Augmentation depends on (seed, epoch,
    `image_id`) alone, and `row` is the `image_id`, empty for padding.

    Its indices are batches of [`StreamBatches`], see `batches`. It has a length where that of the stream is known.

    Args:
        stream: rows with `image` (not decoded) and perhaps `image_id`, `label`, `caption`, `text_embeds`,
            `caption_weight`. A missing `image_id` is made from the file name, or else from the content.
        transform, seed, captions: as there; `captions` is `sample` or `mean`.
        block: rows that are shuffled together, see [`rows_in_order`].
        class_names: by number; they number labels that are strings.
        require_labels: whether an unlabelled row (null or -1) is a BadRowError, as a label that is no class is.
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
        split = self._split_of(batch)
        images = CaptionedImages(split, self.transform, self.seed, self.captions)
        images.names = split[columns.IMAGE_ID][:]
        number = images.caption_keys.shape[1]
        if number > self.num_keys:
            raise ValueError(f"A row has {number} captions; streams take up to {MOST_CAPTIONS} of an image.")
        more = ((0, 0), (0, self.num_keys - number))
        images.caption_keys = np.pad(images.caption_keys, more, constant_values=-1)
        items = DrawnRows(images).__getitems__([Draw(row, batch.epoch, batch.padding) for row in range(len(images))])
        for row, item in enumerate(items):
            # A place in the batch does not identify a row of the stream
            item["row"] = "" if batch.padding else images.names[row]
        return items

    def _split_of(self, batch: StreamBatch) -> Dataset:
        """The rows as a dataset, with `image_id`, and labels as numbers."""
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
        what = f"The image {image_id!r}"
        if label is None or label == -1:
            if self.require_labels:
                remedy = "Label it, remove it, or give --require_labels false"
                raise BadRowError(f"{what} is unlabelled ({label}). {remedy}.")
            return label
        if self.numbers is not None:
            if label not in self.numbers:
                known = f"none of the {len(self.numbers)} classes"
                raise BadRowError(f"{what} has the label {label!r}, which is {known}. Correct one of both.")
            return self.numbers[label]
        if self.class_names is not None and not 0 <= label < len(self.class_names):
            number = len(self.class_names)
            known = f"there are {number} classes (0 to {number - 1})"
            raise BadRowError(f"{what} has the label {label}, but {known}. Correct the label or the class names.")
        return label
