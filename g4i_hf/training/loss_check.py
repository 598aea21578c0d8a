"""Training ends when its loss is no number any more."""

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..losses.gather import gather_counts
from .checkpoint import newest_checkpoint

NEVER = torch.iinfo(torch.int64).max
BATCH_FILE = "nan_batch.json"
SHOWN = 8  # image ids in a message; the file has all
REMEDIES = {
    "loss_ce": "a smaller learning_rate, a longer warm-up (warmup_steps), max_grad_norm 1, or bf16 instead of fp16",
    "loss_align": "a larger align_temperature, a smaller align_weight or learning_rate, or bf16 instead of fp16",
}


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite."""


class LossCheck(TrainerCallback):
    """
    Notes on the device in which step a term of the loss became NaN or infinite, and looks at it when the terms are
    logged and when training ends, so that it makes no step wait for the device. Logs before every checkpoint: none is
    written of weights that are lost, and a resumed run has the log of the uninterrupted one.

    Args:
        dataset: whose rows are trained on; with `image_ids`, as [`~g4i_hf.data.dataset.CaptionedImages`] has them,
            images are named by these, else by their rows.
        before_raising: called before the error, to end a progress bar.
    """

    def __init__(self, dataset: Any = None, before_raising: Callable[[], None] | None = None):
        self.dataset = dataset
        self.before_raising = before_raising
        self.first_steps: dict[str, torch.Tensor] = {}  # term -> () int64, its first bad step on this process
        self._rows: dict[int, list[np.ndarray]] = {}  # step -> rows of its batches on this process, since the last log

    def note(self, name: str, value: torch.Tensor, step: int) -> None:
        """
        Args:
            name: of the term; only those called `loss_...` are looked at.
            value: (), on the device.
            step: the optimizer step that it belongs to.
        """
        if name.startswith("loss_"):
            bad = torch.where(torch.isfinite(value.detach()), NEVER, step)
            known = self.first_steps.get(name)
            self.first_steps[name] = bad if known is None else torch.minimum(known, bad)

    def note_rows(self, rows: np.ndarray | None, step: int) -> None:
        """Rows (n,) of a batch, negative for padding, or ids, empty for it; None where nothing is known of them."""
        if rows is not None:
            self._rows.setdefault(step, []).append(rows[rows != ""] if rows.dtype.kind == "U" else rows[rows >= 0])

    def is_bad(self, step: int, args) -> torch.Tensor:
        """(), bool, on the device: whether a term became NaN or infinite on this process in that step."""
        return torch.stack([self.first_steps[name] == step for name in self._terms(args)]).any()

    def found(self, step: int, args) -> tuple[list[str], list[str]]:
        """
        The terms that were bad in a step, and the images of the batches of those processes where they were; of all
        processes where only the gradient was. To be called by all processes.
        """
        terms = sorted(self._terms(args))
        here = torch.stack([self.first_steps[name] == step for name in terms]).long()
        anywhere = gather_counts(here).sum(0).tolist()
        mine = np.concatenate(self._rows.get(step, [np.zeros(0, dtype=np.int64)]))
        mine = mine if here.any() or not any(anywhere) else mine[:0]
        image_ids = gather_object(self._names(mine))
        return [name for name, count in zip(terms, anywhere, strict=True) if count], image_ids

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_steps, self._rows = {}, {}

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
        # `loss` itself may have been filtered by Trainer
        terms = self._terms(args)
        if all(math.isfinite(logs.get(name, 0.0)) for name in terms):
            if "loss" in logs:
                self._rows = {}
            return
        # Every process has the same sums in its logs, so all of them come here
        self._raise(self._first_step(args), args, state)

    def on_train_end(self, args, state, control, **kwargs):
        """
        Looks at the steps since the last log, if there was any: what is saved next are the weights.

        Raises:
            NonFiniteLoss: as in [`on_log`].
        """
        if self.first_steps and (step := self._first_step(args)) != NEVER:
            self._raise(step, args, state)

    def _first_step(self, args) -> int:
        """In which a term that is trained on became bad on any process; to be called by all of them."""
        return min(int(gather_counts(self.first_steps[name].reshape(1)).min()) for name in self._terms(args))

    def _raise(self, step: int, args, state) -> None:
        bad, image_ids = self.found(step, args)
        if self.before_raising is not None:
            self.before_raising()
        raise NonFiniteLoss(self.message(bad, step, image_ids, args, state))

    def message(self, terms: list[str], step: int, image_ids: list[str], args, state, left_out: int = 0) -> str:
        """What became of a step, and what to do; the first process writes all its images to `nan_batch.json`."""
        if args.should_save:
            found = {"step": step, "terms": terms, "image_ids": image_ids}
            with contextlib.suppress(OSError):
                (Path(args.output_dir) / BATCH_FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if len(terms) == 1:
            what, remedy = f"the term {terms[0]} became", REMEDIES.get(terms[0], REMEDIES["loss_ce"])
        else:  # of several terms the features already were, so it was the step before that went too far
            what, remedy = f"{' and '.join(terms) or 'the gradient'} became", REMEDIES["loss_ce"]
        more = f" and {len(image_ids) - SHOWN} more, all in {BATCH_FILE}" if len(image_ids) > SHOWN else ""
        batch = f" Its images: {', '.join(image_ids[:SHOWN])}{more}." if image_ids else ""
        earlier = f" after {left_out} steps were left out (max_nan_steps)" if left_out else ""
        checkpoint = newest_checkpoint(args.output_dir)
        kept = f" {checkpoint} is from before that." if checkpoint is not None else ""
        return (
            f"In step {step} of {state.max_steps} {what} NaN or infinite, so training ended{earlier}.{batch}{kept} "
            f"Try {remedy}; leave out such steps with max_nan_steps; or train on regardless with stop_on_nan false."
        )

    def _terms(self, args) -> list[str]:
        """The baseline only measures alignment."""
        return [name for name in self.first_steps if name != "loss_align" or args.align_weight > 0]

    def _names(self, rows: np.ndarray) -> list[str]:
        if rows.dtype.kind == "U":
            return rows.tolist()
        ids = getattr(self.dataset, "image_ids", None)
        return [f"row {row}" for row in rows] if ids is None else list(ids[rows.tolist()]["image_id"])
