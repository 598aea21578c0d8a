"""Steps whose loss or gradient is no number are left out, where that was asked for."""

import logging
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..losses.gather import reduce_sum
from .loss_check import NonFiniteLoss

logger = logging.getLogger(__name__)


class SkipNanSteps(TrainerCallback):
    """
    Takes back a step whose loss or gradient is NaN or infinite on any process, on all processes alike: its gradient,
    what it did to running statistics, and what it added to the logged terms. It counts as a step all the same, so that
    data and schedules stay where they would be. Waits for the device once a step.

    fp16 has a loss scaling that overflows now and then and leaves such steps out itself: there only the loss counts.

    Args:
        trainer: whose steps these are, an [`AlignmentTrainer`] with `stop_on_nan`.
        most: so many steps may be left out, those before an interruption included.
    """

    def __init__(self, trainer: Any, most: int):
        self.trainer, self.most = trainer, most
        self.steps = 0
        self._before: tuple[list[torch.Tensor], dict, dict] = [], {}, {}

    def on_train_begin(self, args, state, control, **kwargs):
        logged = [entry["nan_steps"] for entry in state.log_history if "nan_steps" in entry]
        self.steps = logged[-1] if logged else 0

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        buffers = [buffer.clone() for buffer in model.buffers()]
        self._before = buffers, dict(self.trainer.logged_sums), dict(self.trainer.loss_check.first_steps)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """
        Raises:
            NonFiniteLoss: when too many steps would be left out.
        """
        step, scaler = state.global_step + 1, self.trainer.accelerator.scaler
        check = self.trainer.loss_check
        bad = check.is_bad(step, args)
        if scaler is None:
            bad = bad | ~_is_finite([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        if reduce_sum(bad.to(torch.float32)).item() == 0:
            return
        terms, image_ids = check.found(step, args)
        if self.steps == self.most:
            raise NonFiniteLoss(check.message(terms, step, image_ids, args, state, left_out=self.steps))
        self._take_back(model, with_gradient=scaler is None)
        self.steps += 1
        if args.process_index == 0:
            logger.warning(
                "Step %d of %d is left out, %d of max_nan_steps %d: %s NaN or infinite. Its images: %s.",
                *(step, state.max_steps, self.steps, self.most, " and ".join(terms) or "the gradient"),
                ", ".join(image_ids),
            )

    def _take_back(self, model: nn.Module, with_gradient: bool) -> None:
        buffers, self.trainer.logged_sums, self.trainer.loss_check.first_steps = self._before
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        if with_gradient:  # optimizers pass over parameters without one
            model.zero_grad(set_to_none=True)


def _is_finite(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.isfinite(torch.nn.utils.get_total_norm(gradients)) if gradients else torch.tensor(True)
