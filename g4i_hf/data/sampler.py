"""Which rows make a batch, on which process, in which epoch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, Dataset, SequentialSampler


class Draw(NamedTuple):
    """
    One use of a row. It travels through the data loader in place of an index, so that augmentation can depend on the
    epoch without any state in the workers. `padding` rows fill a process that has none: they count for nothing.
    `repeat` tells the uses of a row in one epoch apart.
    """

    row: int
    epoch: int
    padding: bool = False
    repeat: int = 0


def share_of(count: int, num_processes: int, process_index: int) -> range:
    """Which of `count` places of a global batch are those of a process: as evenly as it goes, the first get more."""
    share, extra = divmod(count, num_processes)
    first = process_index * share + min(process_index, extra)
    return range(first, first + share + (process_index < extra))


class GlobalBatchSampler(BatchSampler):
    """
    Cuts the epoch's order into global batches and gives each process its part. On one process the order is that of
    stock `Trainer`. The last, smaller global batch is dealt out as evenly as it goes: no row is repeated or dropped,
    and a process that would get none gets one padding row, so that no collective hangs.

    With repeated augmentation (arXiv 1901.09335, as in DeiT) each row comes `repeats` times in succession, and the
    epoch ends after as many draws as there are rows: it sees that part of the rows alone.

    Args:
        num_rows: rows of the data set.
        batch_size: rows of a process.
        num_processes, process_index: who we are among how many.
        seed: the order of epoch e is drawn from `seed + e`.
        shuffle: keep the order of the data set when False.
        drop_last: leave out the last, smaller global batch.
        repeats: uses of a row in one epoch.
    """

    split_batches = False  # read by accelerate, which multiplies batch_size by num_processes itself

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
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.process_index = process_index
        self.drop_last = drop_last
        self.repeats = repeats
        rows = range(num_rows)
        self.sampler = SeedableRandomSampler(rows, data_seed=seed) if shuffle else SequentialSampler(rows)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if isinstance(self.sampler, SeedableRandomSampler):
            self.sampler.set_epoch(epoch)

    @property
    def total_length(self) -> int:
        return len(self)

    def __len__(self) -> int:
        whole, rest = divmod(self.num_rows, self.batch_size * self.num_processes)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = self.epoch, list(self.sampler)
        size = self.batch_size * self.num_processes
        for start in range(0, len(self) * size, size):
            mine = share_of(min(size, self.num_rows - start), self.num_processes, self.process_index)
            uses = (start + place for place in mine)
            draws = [Draw(order[use // self.repeats], epoch, repeat=use % self.repeats) for use in uses]
            yield draws or [Draw(order[start // self.repeats], epoch, padding=True)]


class DrawnRows(Dataset):
    """Looks up the draws of [`GlobalBatchSampler`] in any map-style data set."""

    def __init__(self, dataset: Dataset):
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
                item["labels"] = -100
                item["caption_weight"] = np.zeros_like(item.get("caption_weight", 0.0))
        return items
