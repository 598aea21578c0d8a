"""Training ends when its loss is no number any more."""

import math
from collections.abc import Callable

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ..losses.gather import gather_counts

NEVER = torch.iinfo(torch.int64).max
REMEDIES = {
    "loss_ce": "a smaller learning_rate, a longer warm-up (warmup_steps), max_grad_norm 1, or bf16 instead of fp16",
    "loss_align": "a larger align_temperature, a smaller align_weight or learning_rate, or bf16 instead of fp16",
}


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite."""


class LossCheck(TrainerCallback):
    """
    Notes on the device in which step a term of the loss became NaN or infinite, and looks at it when the terms are
    logged, so that it makes no step wait for the device. Logs before every checkpoint: none is written of weights
    that are lost, and a resumed run has the log of the uninterrupted one.

    Args:
        before_raising: called before the error, to end a progress bar.
    """

    def __init__(self, before_raising: Callable[[], None] | None = None):
        self.before_raising = before_raising
        self._first: dict[str, torch.Tensor] = {}  # term -> () int64, its first bad step on this process

    def note(self, name: str, value: torch.Tensor, step: int) -> None:
        """
        Args:
            name: of the term; only those called `loss_...` are looked at.
            value: (), on the device.
            step: the optimizer step that it belongs to.
        """
        if name.startswith("loss_"):
            bad = torch.where(torch.isfinite(value.detach()), NEVER, step)
            self._first[name] = torch.minimum(self._first[name], bad) if name in self._first else bad

    def on_train_begin(self, args, state, control, **kwargs):
        self._first = {}

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        return self.on_step_end(args, state, control)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """
        Raises:
            NonFiniteLoss: when a term that is trained on is NaN or infinite; on all processes alike.
        """
        logs = logs or {}
        # The baseline only measures alignment. `loss` itself may have been filtered by Trainer
        terms = [name for name in self._first if name != "loss_align" or args.align_weight > 0]
        if all(math.isfinite(logs.get(name, 0.0)) for name in terms):
            return
        # Every process has the same sums in its logs, so all of them come here
        steps = {name: int(gather_counts(self._first[name].reshape(1)).min()) for name in terms}
        first = min(steps.values())
        bad = [name for name in sorted(terms) if steps[name] == first]
        if self.before_raising is not None:
            self.before_raising()
        raise NonFiniteLoss(self._message(bad, first, args, state))

    @staticmethod
    def _message(bad: list[str], step: int, args, state) -> str:
        if len(bad) > 1:  # the features already were, so it was the step before that went too far
            what, remedy = f"{' and '.join(bad)} became", REMEDIES["loss_ce"]
        else:
            what, remedy = f"the term {bad[0]} became", REMEDIES.get(bad[0], REMEDIES["loss_ce"])
        checkpoint = get_last_checkpoint(args.output_dir)
        kept = f" {checkpoint} is from before that." if checkpoint is not None else ""
        return (
            f"In step {step} of {state.max_steps} {what} NaN or infinite, so training ended.{kept} Try {remedy}; "
            "or train on regardless with stop_on_nan false."
        )
