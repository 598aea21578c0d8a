"""Trainer callbacks: moving average, NaN losses, unreadable images."""

import contextlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import nn
from transformers import TrainerCallback

from ..data.images import bad_image, check_not_too_many, warn_of
from ..files import give_usual_permissions, replace_text
from ..losses.gather import gather_counts, reduce_sum
from ..names import EMA_FILE
from .checkpoint import newest_checkpoint

logger = logging.getLogger(__name__)

BATCH_FILE = "nan_batch.json"
BAD_IMAGES_FILE = "bad_images.json"
NEVER = torch.iinfo(torch.int64).max
SHOWN = 8  # image ids in a message; the file has all
STEPS_KEPT = 1000  # whose images are known, where nothing is logged in between
REMEDIES = {
    "loss_ce": "a smaller learning_rate, a longer warm-up (warmup_steps), max_grad_norm 1, or bf16 instead of fp16",
    "loss_align": "a larger align_temperature, a smaller align_weight or learning_rate, or bf16 instead of fp16",
}


class StepsOfOptions(TrainerCallback):
    """A resumed run logs and saves at the steps of its own options; Trainer takes those of the checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)


class EmaCallback(TrainerCallback):
    """
    Moving average of the student's parameters and buffers, by timm's ModelEmaV3: updated after every optimizer step,
    written into each checkpoint and read back on resuming.
    """

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
    Ends training with [`NonFiniteLoss`] when a term of the loss became NaN or infinite. The step is noted on the
    device, and read with every log and at the end, so that no step waits. Logs before every checkpoint, so that none
    is written of weights that are lost.

    Images are named by the `image_ids` of the dataset, or by their rows where it has none. The alignment counts where
    it `aligns`: a baseline only measures it.
    """

    def __init__(self, dataset: Any = None, aligns: bool = True):
        self.dataset, self.aligns = dataset, aligns
        self.first_steps: dict[str, torch.Tensor] = {}  # term -> () int64, its first bad step on this process
        self._rows: dict[int, list[np.ndarray]] = {}  # step -> rows of its batches on this process, since the last log

    def note(self, name: str, value: torch.Tensor, step: int) -> None:
        """A term of an optimizer step, () on the device; only those called `loss_...` are checked."""
        if name.startswith("loss_") and (self.aligns or name != "loss_align"):
            bad = torch.where(torch.isfinite(value.detach()), NEVER, step)
            known = self.first_steps.get(name)
            self.first_steps[name] = bad if known is None else torch.minimum(known, bad)

    def note_rows(self, rows: np.ndarray | None, step: int) -> None:
        """Rows (n,) of a batch, negative for padding; None where they are not known."""
        if rows is not None:
            self._rows.setdefault(step, []).append(rows[rows >= 0])
            if len(self._rows) > STEPS_KEPT:
                del self._rows[min(self._rows)]

    def found(self, step: int) -> tuple[list[str], list[str]]:
        """
        The terms that were NaN or infinite in a step, and the images of those processes where they were; of all
        processes where only the gradient was. All processes must call it.
        """
        terms = sorted(self.first_steps)
        here = torch.stack([self.first_steps[name] == step for name in terms]).long()
        anywhere = gather_counts(here).sum(0).tolist()
        rows = np.concatenate(self._rows.get(step, [np.zeros(0, dtype=np.int64)]))
        names = gather_object(self._names(rows) if here.any() or not any(anywhere) else [])
        return [name for name, count in zip(terms, anywhere, strict=True) if count], names

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_steps, self._rows = {}, {}

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        return self.on_step_end(args, state, control)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """A NonFiniteLoss when a term that is trained on is NaN or infinite; on all processes alike."""
        if "loss" not in (logs or {}):
            return
        # `loss` itself may have been filtered by Trainer. Every process has the same sums in its logs
        if not all(math.isfinite(logs.get(name, 0.0)) for name in self.first_steps):
            self._check(args, state)
        self._rows = {}

    def on_train_end(self, args, state, control, **kwargs):
        """Checks the steps since the last log: what is saved next are the weights."""
        if self.first_steps:
            self._check(args, state)

    def _check(self, args, state) -> None:
        """Raises when a term became NaN or infinite on any process; all must call it."""
        step = int(gather_counts(torch.stack(list(self.first_steps.values()))).min())
        if step != NEVER:
            raise self.error(step, *self.found(step), args, state)

    def error(self, step: int, terms: list[str], image_ids: list[str], args, state, after: str = "") -> NonFiniteLoss:
        """The message for a step; the first process writes all its images to `nan_batch.json`."""
        if args.should_save:
            found = {"step": step, "terms": terms, "image_ids": image_ids}
            with contextlib.suppress(OSError):
                (Path(args.output_dir) / BATCH_FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        what = f"the term {terms[0]}" if len(terms) == 1 else " and ".join(terms) or "the gradient"
        # Of several terms the features already were, so it was the step before that went too far
        remedy = REMEDIES.get(terms[0] if len(terms) == 1 else "", REMEDIES["loss_ce"])
        more = f" and {len(image_ids) - SHOWN} more, all in {BATCH_FILE}" if len(image_ids) > SHOWN else ""
        images = f" Its images: {', '.join(image_ids[:SHOWN])}{more}." if image_ids else ""
        checkpoint = newest_checkpoint(args.output_dir)
        kept = f" {checkpoint} is from before that." if checkpoint is not None else ""
        return NonFiniteLoss(
            f"In step {step} of {state.max_steps} {what} became NaN or infinite, so training ended{after}."
            f"{images}{kept} Try {remedy}; leave out such steps with max_nan_steps; or train on regardless with "
            "stop_on_nan false."
        )

    def _names(self, rows: np.ndarray) -> list[str]:
        ids = getattr(self.dataset, "image_ids", None)
        return [f"row {row}" for row in rows] if ids is None else list(ids[rows.tolist()]["image_id"])


class SkipNanSteps(TrainerCallback):
    """
    Takes back a step whose loss or gradient is NaN or infinite on any process: its gradient, running statistics and
    logged terms. It still counts as a step for data and schedules. Waits for the device once a step. With fp16, whose
    loss scaling leaves out overflowing steps itself, only the loss counts. At `most` so many steps are left out, those
    before an interruption included.
    """

    def __init__(self, trainer: Any, most: int):
        self.trainer, self.check, self.most = trainer, trainer.loss_check, most
        self.steps = 0

    def on_train_begin(self, args, state, control, **kwargs):
        logged = [entry["nan_steps"] for entry in state.log_history if "nan_steps" in entry]
        self.steps = logged[-1] if logged else 0

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Keeps what the step may change."""
        self._buffers = [buffer.clone() for buffer in model.buffers()]
        self._sums, self._first_steps = dict(self.trainer.terms.sums), dict(self.check.first_steps)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """A NonFiniteLoss when too many steps would be left out."""
        step, has_scaler = state.global_step + 1, self.trainer.accelerator.scaler is not None
        bad = (torch.stack(list(self.check.first_steps.values())) == step).any()  # on the device, of this process
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if gradients and not has_scaler:
            bad = bad | ~torch.isfinite(nn.utils.get_total_norm(gradients))
        if reduce_sum(bad.to(torch.float32)).item() == 0:
            return
        terms, image_ids = self.check.found(step)
        if self.steps == self.most:
            after = f" after {self.steps} steps were left out (max_nan_steps)"
            raise self.check.error(step, terms, image_ids, args, state, after)
        self.trainer.terms.sums, self.check.first_steps = self._sums, self._first_steps
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        if not has_scaler:  # optimizers pass over parameters without a gradient
            model.zero_grad(set_to_none=True)
        self.steps += 1
        if args.process_index == 0:
            logger.warning(
                "Step %d of %d is left out, %d of max_nan_steps %d: %s NaN or infinite. Its images: %s.",
                *(step, state.max_steps, self.steps, self.most, " and ".join(terms) or "the gradient"),
                ", ".join(image_ids),
            )


# --- Data ------------------------------------------------------------------------------------------------------------


class SkippedImages(TrainerCallback):
    """
    Lists the training images that cannot be read, over all processes and interruptions, in `bad_images.json` of the
    run folder: with every checkpoint and at the end.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.known: dict[int, dict[str, Any]] = {}  # row -> entry of the file, on this process
        self.total = 0  # of all processes

    def note(self, bad: dict[int, str] | None) -> None:
        """bad: row -> why its image cannot be read. Raises BadImageError when there are too many."""
        for row, reason in (bad or {}).items():
            if row in self.known:
                continue
            self.known[row] = bad_image(self.dataset.images, self.dataset.image_ids, row, reason)
            check_not_too_many(len(self.known), len(self.dataset), self.known[row])
            if len(self.known) == 1:  # the others are told of at the end
                warn_of("Training data", [self.known[row]], len(self.dataset))

    def on_save(self, args, state, control, **kwargs):
        self._write(args)

    def on_train_end(self, args, state, control, **kwargs):
        bad = self._write(args)
        if bad and args.process_index == 0:
            warn_of("Training data", bad, len(self.dataset), f" ({Path(args.output_dir) / BAD_IMAGES_FILE})")

    def _write(self, args: Any) -> list[dict[str, Any]]:
        path = Path(args.output_dir) / BAD_IMAGES_FILE
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        found = {each["image_id"]: each for each in (*earlier, *gather_object(list(self.known.values())))}
        bad, self.total = [found[image_id] for image_id in sorted(found)], len(found)
        if bad != earlier and args.should_save:
            replace_text(path, json.dumps(bad, indent=2, ensure_ascii=False) + "\n")
        return bad
