"""Which rows of a stream make a batch, in which order, and the examples that they become."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
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
MOST_CAPTIONS = 16  # of a row: the keys of all batches have one shape, on every process


def rows_in_order(
    stream: RowStream, shards: list[int], *, seed: list[int] | None, block: int, skip: int = 0
) -> Iterator[Row]:
    """
    The rows of an epoch. Shards come in a random order, one after the other; of them `block` rows at a time are read
    and put in a random order. So what comes after `skip` rows is known without those before, and shards whose size is
    known are passed over unread.

    Args:
        shards: those that are read.
        seed: words that the orders are drawn from; None keeps the order of the data.
        block: rows that are put in a random order together; below 2 none are.
        skip: rows left out at the start.
    """
    if seed is None:
        block = 0
    else:
        shards = np.random.default_rng(seed).permutation(shards).tolist()
    first = skip // block if block > 1 else 0
    before = first * block if block > 1 else skip
    rows = read_ahead(_tables(stream, shards, before), max(2, math.ceil(block / READ_ROWS)))
    in_order = ((table, place) for table in rows for place in range(len(table)))
    if block > 1:
        in_order = islice(_shuffled(in_order, seed, block, first), skip - before, None)
    yield from in_order


def batch_of(rows: list[Row]) -> pa.Table:
    """One table, which holds no other rows."""
    return pa.concat_tables([table.slice(place, 1) for table, place in rows]).combine_chunks()


def read_ahead(items: Iterator[Any], number: int) -> Iterator[Any]:
    """The items, of which so many are read in a thread before they are asked for."""
    end = object()
    reader = ThreadPoolExecutor(1)
    try:
        coming = deque(reader.submit(next, items, end) for _ in range(number))
        while (item := coming.popleft().result()) is not end:
            coming.append(reader.submit(next, items, end))
            yield item
    finally:
        reader.shutdown(cancel_futures=True)


def _tables(stream: RowStream, shards: list[int], skip: int) -> Iterator[pa.Table]:
    for shard in shards:
        known = None if stream.shard_rows is None else stream.shard_rows[shard]
        if known is not None and known <= skip:
            skip -= known
            continue
        for table in stream.read(shard):
            passed_over = min(skip, len(table))
            skip -= passed_over
            if passed_over < len(table):
                yield table.slice(passed_over)


def _shuffled(rows: Iterator[Row], seed: list[int], block: int, first: int) -> Iterator[Row]:
    """Blocks of rows, the first of which has the number `first`, each in an order of its own."""
    number = first
    while together := list(islice(rows, block)):
        for place in np.random.default_rng([*seed, number]).permutation(len(together)):
            row, together[place] = together[place], None  # else all would be there until the next block is
            yield row
        number += 1


# --- Batches ---------------------------------------------------------------------------------------------------------


class StreamBatch(NamedTuple):
    """
    Rows that travel through the data loader in place of indices. Images are decoded where they arrive, in the workers.
    `padding` rows fill a process that has none: they count for nothing in the loss, only BatchNorm sees them.
    """

    table: pa.Table
    epoch: int
    padding: bool = False


class StreamBatches(BatchSampler):
    """
    Reads a stream and cuts it into batches, in an order that depends on `seed` and the epoch alone.

    Where shards can be dealt out evenly, each process reads its own, and those that are done first wait with padding,
    so that no collective hangs: batches of their first rows, which BatchNorm sees as it sees any others. Elsewhere
    every process reads all and takes its part of each global batch, as in
    [`~g4i_hf.data.dataset.GlobalBatchSampler`]. No row is repeated or dropped.

    Of a stream of unknown length the batches do not end: one epoch follows another.

    Args:
        stream: the rows.
        batch_size: rows of a process.
        num_processes, process_index: who we are among how many.
        seed: of the orders.
        shuffle: keep the order of the data when False.
        block: rows that are shuffled together, see [`~g4i_hf.data.stream_batches.rows_in_order`].
        exchange: given the number of our rows, those of every process, by rank; called for each batch by all
            processes alike. Only needed where the number of rows is unknown.
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
        exchange: Callable[[int], list[int]] | None = None,
    ):
        self.stream, self.batch_size, self.block = stream, batch_size, block
        self.num_processes, self.process_index = num_processes, process_index
        self.seed, self.shuffle, self.exchange = seed, shuffle, exchange
        self.shards = stream.shards_of(num_processes, batch_size)
        self.epoch = 0
        self.epoch_starts = [0]  # of a stream of unknown length: batches before each epoch that is known
        self._passed_over = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def pass_over(self, batches: int, epoch_starts: list[int] | None = None) -> None:
        """
        The next iteration gives None for so many batches, which are not read, where their rows can be passed over.

        Args:
            batches: of the epoch or, where its length is unknown, of the whole training.
            epoch_starts: what is known of that from an earlier run.
        """
        self._passed_over = batches
        self.epoch_starts = epoch_starts or self.epoch_starts

    @cached_property
    def batches_per_epoch(self) -> int | None:
        sizes = self.stream.shard_rows
        if sizes is None:
            return None
        if self.shards is None:
            return -(-sum(sizes) // (self.batch_size * self.num_processes))
        return max(-(-sum(sizes[shard] for shard in own) // self.batch_size) for own in self.shards)

    @property
    def total_length(self) -> int:
        return len(self)

    def __len__(self) -> int:
        if self.batches_per_epoch is None:
            raise TypeError("the number of rows of the stream is not known")
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[StreamBatch | None]:
        skip, self._passed_over = self._passed_over, 0
        yield from (None for _ in range(skip))
        if self.batches_per_epoch is not None:
            yield from self._epoch(self.epoch, skip)
            return
        epoch = max(number for number, start in enumerate(self.epoch_starts) if start <= skip)
        self.epoch_starts, done = self.epoch_starts[: epoch + 1], skip
        while True:
            for batch in self._epoch(epoch, done - self.epoch_starts[epoch]):
                done += 1
                yield batch
            if done == 0:
                raise ValueError("The stream that is to be trained on has no rows.")
            epoch += 1
            self.epoch_starts.append(done)

    # --- One epoch ---------------------------------------------------------------------------------------------------

    def _epoch(self, epoch: int, skip: int) -> Iterator[StreamBatch]:
        own = self.shards[self.process_index] if self.shards is not None else list(range(self.stream.rows.num_shards))
        size = self.batch_size * (1 if self.shards is not None else self.num_processes)
        who = self.process_index if self.shards is not None else 0
        seed = [self.seed, epoch, who] if self.shuffle else None
        rows = rows_in_order(self.stream, own, seed=seed, block=self.block, skip=skip * size)
        number, first_rows = skip, []
        while True:
            together = list(islice(rows, size))
            if not self._goes_on(number, len(together)):
                return
            mine = self._share(together)
            if mine:
                yield StreamBatch(batch_of(mine), epoch)
            else:
                first_rows = first_rows or together[:1] or self._first_rows(own, seed)
                yield StreamBatch(batch_of(first_rows), epoch, padding=True)
            number += 1

    def _goes_on(self, number: int, num_rows: int) -> bool:
        """Whether any process has rows of batch `number` of the epoch; `num_rows` are here."""
        if self.shards is None or self.num_processes == 1:
            return num_rows > 0
        if self.stream.shard_rows is not None:
            return number < len(self)
        return any(self.exchange(num_rows))

    def _share(self, together: list[Row]) -> list[Row]:
        if self.shards is not None:
            return together
        return [together[place] for place in share_of(len(together), self.num_processes, self.process_index)]

    def _first_rows(self, shards: list[int], seed: list[int] | None) -> list[Row]:
        """A batch of the epoch, whatever row it was taken up again at; of all shards where ours have no rows."""
        for read in (shards, list(range(self.stream.rows.num_shards))):
            if rows := list(islice(rows_in_order(self.stream, read, seed=seed, block=0), self.batch_size)):
                break
        return rows


# --- Examples --------------------------------------------------------------------------------------------------------


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
        block: rows that are shuffled together, see [`~g4i_hf.data.stream_batches.rows_in_order`].
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
