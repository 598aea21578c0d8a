"""Trainer callbacks: moving average, NaN losses."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import nn
from transformers import TrainerCallback

from ..files import give_usual_permissions
from ..losses.gather import gather_counts
from ..names import EMA_FILE
from .checkpoint import newest_checkpoint

NEVER = torch.iinfo(torch.int64).max
REMEDIES = {
    "loss_ce": "a smaller learning_rate, a longer warm-up (warmup_steps), max_grad_norm 1, or bf16 instead of fp16",
    "loss_align": "a larger align_temperature, a smaller align_weight or learning_rate, or bf16 instead of fp16",
}


class StepsOfOptions(TrainerCallback):
    """A resumed run logs and saves at the steps of its options. Trainer would take those of the checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)


class EmaCallback(TrainerCallback):
    """Moving average of the student by timm's ModelEmaV3, saved in each checkpoint and loaded on resume."""

    def __init__(self, student: nn.Module, decay: float):
        self.student = student
        self.ema = ModelEmaV3(student, decay=decay)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ema.update(self.student, step=state.global_step)

    @property
    def averaged(self) -> nn.Module:
        return self.ema.module

    def save(self, folder: str | Path) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.averaged.state_dict().items()}
        save_file(tensors, Path(folder) / EMA_FILE, metadata={"format": "pt"})
        give_usual_permissions(folder)

    def load(self, folder: str | Path) -> None:
        path = Path(folder) / EMA_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} was written without ema_decay: resume without it, or start afresh.")
        with torch.no_grad():
            self.averaged.load_state_dict(load_file(path))


# --- NaN and infinite losses -----------------------------------------------------------------------------------------


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite."""


class LossCheck(TrainerCallback):
    """
    Stops training with [`NonFiniteLoss`] if a term of the loss became NaN or infinite: at the next log, and before a
    checkpoint or the final weights are written. The step is recorded on the device, to avoid a synchronisation.
    """

    def __init__(self):
        self.first_steps: dict[str, torch.Tensor] = {}  # term -> () int64, its first bad step on this process

    def note(self, name: str, value: torch.Tensor, step: int) -> None:
        """Record a term of an optimizer step, () on the device; only names `loss_...` are checked."""
        if name.startswith("loss_"):
            bad = torch.where(torch.isfinite(value.detach()), NEVER, step)
            known = self.first_steps.get(name)
            self.first_steps[name] = bad if known is None else torch.minimum(known, bad)

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_steps = {}

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        return self.on_step_end(args, state, control)

    def on_log(self, args, state, control, logs=None, **kwargs):
        # Trainer may have filtered `loss` itself. Every process has the same sums in its logs
        if "loss" in (logs or {}) and not all(math.isfinite(logs.get(name, 0.0)) for name in self.first_steps):
            self._check(args, state)

    def on_train_end(self, args, state, control, **kwargs):
        if self.first_steps:
            self._check(args, state)

    def _check(self, args, state) -> None:
        """Raise NonFiniteLoss if a term became NaN or infinite on any process; all processes must call it."""
        names = sorted(self.first_steps)
        steps = gather_counts(torch.stack([self.first_steps[name] for name in names])).amin(0).tolist()
        if (step := min(steps)) == NEVER:
            return
        terms = [name for name, first in zip(names, steps, strict=True) if first == step]
        # If several terms did, the features were NaN before: the previous step was too large
        remedy = REMEDIES.get(terms[0] if len(terms) == 1 else "", REMEDIES["loss_ce"])
        checkpoint = newest_checkpoint(args.output_dir)
        kept = f" {checkpoint} is from before that." if checkpoint is not None else ""
        raise NonFiniteLoss(
            f"In step {step} of {state.max_steps} {' and '.join(terms)} became NaN or infinite, so training ended."
            f"{kept} Try {remedy}."
        )
