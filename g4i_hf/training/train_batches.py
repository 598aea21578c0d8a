"""Which rows make a training batch: of a data set at hand, or of a stream."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from torch.utils.data import BatchSampler, Dataset

from ..data.sampler import DrawnRows, GlobalBatchSampler
from ..data.streamed_images import StreamedImages
from .alignment_arguments import AlignmentArguments


def train_batches(
    data: Any, batch_size: int, args: AlignmentArguments, accelerator: Accelerator
) -> tuple[Dataset, BatchSampler]:
    """
    What looks rows up, and what says which make a batch of this process, see
    [`~g4i_hf.data.sampler.GlobalBatchSampler`] and [`~g4i_hf.data.stream_batches.StreamBatches`].

    Args:
        data: [`~g4i_hf.data.streamed_images.StreamedImages`], or map-style.
        batch_size: of a process.
    """
    common = {
        "num_processes": accelerator.num_processes,
        "process_index": accelerator.process_index,
        "seed": args.data_seed if args.data_seed is not None else args.seed,
        "shuffle": args.train_sampling_strategy != "sequential",
    }
    if isinstance(data, StreamedImages):

        def exchange(number: int) -> list[int]:
            return accelerator.gather(torch.tensor([number], device=accelerator.device)).tolist()

        return data, data.batches(batch_size, exchange=exchange, **common)
    sampler = GlobalBatchSampler(
        len(data), batch_size, drop_last=args.dataloader_drop_last, repeats=args.repeated_augmentation, **common
    )
    return DrawnRows(data), sampler


class TrainLoader(DataLoaderShard):
    """
    Takes from torch's randomness in every epoch what a loader takes that starts its workers anew. Workers that live on
    would only do so once, and a run that goes on from a checkpoint once more: dropout would then draw something else.
    """

    def __iter__(self) -> Iterator[Any]:
        if self.persistent_workers:
            torch.empty((), dtype=torch.int64).random_()
        yield from super().__iter__()
