"""The loader of training batches, of a dataset or a stream."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from torch import nn
from torch.utils.data import BatchSampler

from ..data.dataset import DrawnRows, GlobalBatchSampler
from ..data.stream_batches import StreamedImages
from .arguments import AlignmentArguments


class TrainLoader(DataLoaderShard):
    """
    Draws from torch's generator once an epoch, as a loader does that starts its workers anew. With persistent workers
    torch draws only once, and once more after a resume: dropout would then differ.
    """

    def __iter__(self) -> Iterator[Any]:
        if self.persistent_workers:
            torch.empty((), dtype=torch.int64).random_()
        yield from super().__iter__()


def train_loader(
    data: Any, batch_size: int, args: AlignmentArguments, accelerator: Accelerator, collate: Callable
) -> TrainLoader:
    """Global batches, `batch_size` rows of them on each process, of a stream or of map-style data."""
    common = {
        "num_processes": accelerator.num_processes,
        "process_index": accelerator.process_index,
        "seed": args.data_seed if args.data_seed is not None else args.seed,
        "shuffle": args.train_sampling_strategy != "sequential",
    }

    if isinstance(data, StreamedImages):
        sampler = data.batches(batch_size, **common)
    else:
        sampler = GlobalBatchSampler(
            len(data), batch_size, drop_last=args.dataloader_drop_last, repeats=args.repeated_augmentation, **common
        )
        data = DrawnRows(data)
    workers = args.dataloader_num_workers
    return TrainLoader(
        data,
        device=accelerator.device,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and accelerator.device.type == "cuda",
        persistent_workers=args.dataloader_persistent_workers,
        generator=torch.Generator() if args.dataloader_persistent_workers else None,  # see TrainLoader
        prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
    )


def check_batches_of_one(model: nn.Module, sampler: BatchSampler, num_batches: float) -> None:
    """
    Raises ValueError, before training, when one of so many batches has a single image: BatchNorm1d, as projectors have
    it, cannot train on it.
    """
    if not isinstance(sampler, GlobalBatchSampler):
        return  # the number of rows of a stream may not be known
    rest = sampler.num_rows % (sampler.batch_size * sampler.num_processes)
    has_rest = rest > 0 and not sampler.drop_last and num_batches >= len(sampler)
    smallest = max(1, rest // sampler.num_processes) if has_rest else sampler.batch_size
    if smallest == 1 and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise ValueError(
            "A process will have a batch of a single image, on which BatchNorm cannot train: choose another "
            "--per_device_train_batch_size, or where it is the last batch of an epoch, leave it out with "
            "--dataloader_drop_last true."
        )
