"""Batches of one image, which a student that normalises over the batch may be unable to train on."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.sampler import GlobalBatchSampler


def smallest_batch(sampler: GlobalBatchSampler) -> int:
    """Rows of the smallest batch of any process, where a process without rows has one of padding."""
    rest = sampler.num_rows % (sampler.batch_size * sampler.num_processes)
    if rest == 0 or sampler.drop_last:
        return sampler.batch_size
    return max(1, rest // sampler.num_processes)


def has_batch_norm(model: nn.Module) -> bool:
    """Which is what may be unable to train on one image."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def check_trains_on_one_image(model: nn.Module, pixel_values: torch.Tensor, with_projector: bool) -> None:
    """
    Runs the model once as in training, on copies of its statistics, so that nothing of it changes.

    Args:
        model: on one device, not yet wrapped.
        pixel_values: (1, 3, H, W), on its device.
        with_projector: whether training will use the projector.

    Raises:
        ValueError: when BatchNorm would have a single value a channel, which torch refuses.
    """
    was_training = model.training
    model.train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [pixel_values.device] if pixel_values.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            functional_call(model, buffers, (pixel_values,), {"output_image_embeds": with_projector})
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "A process will have a batch of a single image, on which BatchNorm cannot train: choose another "
            "--per_device_train_batch_size, or where it is the last batch of an epoch, leave it out with "
            "--dataloader_drop_last true."
        ) from error
    finally:
        model.train(was_training)
