"""What a user sees of training: a bar with the terms of the loss, or a line an event where there is no terminal."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy

from .stopwatch import Stopwatch, knows_epochs

logger = logging.getLogger(__name__)

BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
# Endings of what a line leaves to the trackers and trainer_state.json
NOT_SHOWN = ("_runtime", "_samples_per_second", "_steps_per_second", "total_flos", "epoch", "align_weight")
NOT_SHOWN += ("grad_norm", "cosine_positive", "cosine_negative", "retrieval_top1")


class AlignmentProgress(ProgressCallback):
    """
    In a terminal a bar that carries the last loss and its terms, the last accuracy, speed and time left, and a line
    for every evaluation. Without a terminal, or with `disable_tqdm`, a line for every log and evaluation. Only the
    main process shows anything.

    Args:
        stopwatch: called before this callback; speed and time left are taken from it.
    """

    def __init__(self, stopwatch: Stopwatch):
        super().__init__()
        self.stopwatch = stopwatch
        self._last: dict[str, float] = {}  # the last values logged of training
        self._accuracy: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = state.global_step
        self._last, self._accuracy = {}, None
        if state.is_world_process_zero:
            _tell_what_comes_late(args, state)
        if state.is_world_process_zero and shows_bars(args):
            self.training_bar = tqdm(
                desc=f"epoch {_epoch(state)}",
                total=state.max_steps,
                initial=state.global_step,
                dynamic_ncols=True,
                bar_format=BAR,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            self._refresh(state)
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if shows_bars(args):
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        is_training = "loss" in logs
        if is_training:
            self._last = dict(logs)
        self._accuracy = logs.get("eval_accuracy", self._accuracy)
        if self.training_bar is None:
            print(self._line(logs, state), flush=True)
            return
        self._refresh(state)
        self.training_bar.refresh()
        if not is_training and "train_runtime" not in logs:  # what the bar shows now is gone with the next log
            self.training_bar.write(self._line(logs, state, [_loss(self._last)] if self._last else []))

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Ends the bar, so that what is printed next stands on a line of its own."""
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()
        self.prediction_bar = self.training_bar = None

    # --- Words -------------------------------------------------------------------------------------------------------

    def _refresh(self, state) -> None:
        self.training_bar.set_description_str(f"epoch {_epoch(state)}", refresh=False)
        # The last is the first to be cut off in a narrow terminal
        *speed, left = self._pace(state) or [""]
        parts = [left] if left else []
        if self._last:
            parts.append(_loss(self._last, is_short=True))
        if self._accuracy is not None:
            parts.append(f"accuracy {self._accuracy:.1%}")
        parts += [f"lr {self._last['learning_rate']:.2g}"] if "learning_rate" in self._last else []
        self.training_bar.set_postfix_str(", ".join([*parts, *speed]), refresh=False)

    def _pace(self, state) -> list[str]:
        """Images a second and time left, as far as they are known."""
        speed, left = self.stopwatch.images_per_second, self.stopwatch.remaining(state.max_steps)
        pace = [f"{speed:.{0 if speed >= 10 else 1}f} images/s"] if speed is not None else []
        return [*pace, f"{tqdm.format_interval(left)} left"] if left is not None else pace

    def _line(self, logs: dict[str, Any], state, before: Sequence[str] = ()) -> str:
        if "train_runtime" in logs:
            took = tqdm.format_interval(logs["train_runtime"])
            steps = state.global_step - self.stopwatch.first_step
            return f"trained {steps} steps in {took}, mean loss {_number(logs['train_loss'])}"
        where = f"epoch {_epoch(state)}" + (f"  step {state.global_step}/{state.max_steps}" if state.max_steps else "")
        if "loss" not in logs:
            return "  ".join([where, *before, *_others(logs)])
        rate = [f"lr {logs['learning_rate']:.3g}"] if "learning_rate" in logs else []
        shown = {"loss", "learning_rate"} | {name for name in logs if name.startswith("loss_")}
        others = _others({name: value for name, value in logs.items() if name not in shown})
        return "  ".join([where, _loss(logs), *others, *rate, *self._pace(state)])


def _tell_what_comes_late(args, state) -> None:
    """A kill of a training that is shorter than `save_steps` loses all of it, and nobody sees how it goes."""
    due = {"checkpoint": ("save", state.save_steps), "log": ("logging", state.logging_steps)}
    for what, (option, steps) in due.items():
        if getattr(args, f"{option}_strategy") == IntervalStrategy.STEPS and steps >= state.max_steps > 1:
            logger.info(
                "%s_steps is %d, and training has %d: there is no %s before the end. --%s_strategy epoch gives one an "
                "epoch.",
                *(option, steps, state.max_steps, what, option),
            )


def shows_bars(args) -> bool:
    """Whether anybody would see a bar move."""
    return not args.disable_tqdm and sys.stderr.isatty()


def replace_progress(trainer, stopwatch: Stopwatch) -> AlignmentProgress | None:
    """Puts [`AlignmentProgress`] in the place of Trainer's own; a notebook keeps its table."""
    if not any(trainer.pop_callback(kind) for kind in (ProgressCallback, PrinterCallback)):
        return None
    progress = AlignmentProgress(stopwatch)
    trainer.add_callback(progress)
    return progress


def _epoch(state) -> str:
    total = state.num_train_epochs
    if not knows_epochs(state):
        return "?"
    return f"{state.epoch or 0:.1f}" + (f"/{total}" if total else "")


def _loss(logs: dict[str, Any], is_short: bool = False) -> str:
    """`loss 3.912 (loss_ce 3.701, loss_align 0.703 x 0.3)`, in short `loss 3.91 (ce 3.7, align 0.703)`"""
    terms = []
    for name in sorted((name for name in logs if name.startswith("loss_")), key=lambda name: name != "loss_ce"):
        if is_short:
            terms.append(f"{name.removeprefix('loss_')} {logs[name]:.3g}")
            continue
        weight = f" x {logs['align_weight']:.3g}" if name == "loss_align" and "align_weight" in logs else ""
        terms.append(f"{name} {_number(logs[name])}{weight}")
    total = f"{logs['loss']:.3g}" if is_short else _number(logs["loss"])
    return f"loss {total}" + (f" ({', '.join(terms)})" if terms else "")


def _others(logs: dict[str, Any]) -> list[str]:
    """Every other value: rates between 0 and 1 as percentages, the words of an evaluation without `eval_`."""
    shown = ["evaluation"] if any(name.startswith("eval_") for name in logs) else []
    for name, value in logs.items():
        if name.endswith(NOT_SHOWN):
            continue
        is_share = name.endswith(("accuracy", "top1", "top5")) or "recall_at" in name
        text = f"{value:.1%}" if is_share else _number(value) if isinstance(value, float) else str(value)
        shown.append(f"{name.removeprefix('eval_')} {text}")
    return shown


def _number(value: float) -> str:
    """Three decimals, so that lines stand under each other, unless that would show nothing or too much."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"
