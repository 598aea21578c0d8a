"""Which rows make a training batch: of a data set at hand, or of a stream."""

from typing import Any

import torch
from accelerate import Accelerator
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
