"""Which rows of a stream make a batch, on which process."""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
from torch.utils.data import BatchSampler

from .row_streams import RowStream
from .sampler import share_of
from .stream_order import Row, batch_of, rows_in_order


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
    [`~g4i_hf.data.sampler.GlobalBatchSampler`]. No row is repeated or dropped.

    Of a stream of unknown length the batches do not end: one epoch follows another.

    Args:
        stream: the rows.
        batch_size: rows of a process.
        num_processes, process_index: who we are among how many.
        seed: of the orders.
        shuffle: keep the order of the data when False.
        block: rows that are shuffled together, see [`~g4i_hf.data.stream_order.rows_in_order`].
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
