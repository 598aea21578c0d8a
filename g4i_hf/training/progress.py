"""What a user sees of training: where its time goes, a bar or lines with the terms of the loss, and a summary."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_utils import IntervalStrategy, has_length

from ..data.stream_batches import StreamedImages
from ..losses import UNLABELLED
from ..modeling import AlignedImageClassification
from ..modeling.lora import is_adapter
from ..options import OWN_MODULE
from .arguments import AlignmentArguments
from .callbacks import BAD_IMAGES_FILE
from .run_folder import tracker_places

logger = logging.getLogger(__name__)

PARTS = ("data", "step", "evaluation", "saving", "other")
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
# Endings of what a line leaves to the trackers and trainer_state.json
NOT_SHOWN = ("_runtime", "_samples_per_second", "_steps_per_second", "total_flos", "epoch", "align_weight")
NOT_SHOWN += ("grad_norm", "cosine_positive", "cosine_negative", "retrieval_top1")
LABEL_WIDTH = 13
RUN_FILES = ("model.safetensors", "ema.safetensors", "train.yaml", "all_results.json")


def knows_epochs(state: TrainerState) -> bool:
    """False for a stream of unknown length: Trainer then takes the whole training for one epoch."""
    return state.num_train_epochs != sys.maxsize


class Stopwatch(TrainerCallback):
    """
    Divides the time since training began, or went on, into `PARTS`, by the clock of this process and without waiting
    for the device: on a GPU `step` is the time until the host is free again, and a device that is behind shows at the
    next log. `data` is what the process spent on fetching batches, with workers the wait for them.
    """

    def __init__(self):
        self._start(TrainerState(epoch=0.0))

    def _start(self, state: TrainerState) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.first_step = self.last_step = state.global_step
        self.first_epoch = self.last_epoch = float(state.epoch or 0.0)
        self.images = 0.0
        self._images_an_epoch: int | None = None
        self._knows_epochs = knows_epochs(state)
        self._last = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since training began or went on."""
        return sum(self.seconds.values())

    @property
    def images_per_second(self) -> float | None:
        """Images of all processes, without the time of evaluation and saving; None before the first step."""
        busy = self.seconds["data"] + self.seconds["step"]
        return self.images / busy if busy > 0 and self.images else None

    @property
    def seconds_per_epoch(self) -> float | None:
        """With evaluation and saving; None before the first step, and where nobody knows what an epoch is."""
        epochs = self.last_epoch - self.first_epoch
        return self.total / epochs if epochs > 0 and self._knows_epochs else None

    def remaining(self, max_steps: int) -> float | None:
        """Seconds left if everything goes on as fast as until now, evaluation and saving included."""
        steps = self.last_step - self.first_step
        return self.total / steps * (max_steps - self.last_step) if steps else None

    def metrics(self) -> dict[str, float]:
        """
        For `all_results.json`: `train_{data,step,evaluation,saving}_seconds`, `train_seconds_per_epoch`,
        `train_images_per_second`, and `train_resumed_from_step` (0: from the start). Of a resumed run only the times
        after the resumption are known.
        """
        found = {f"train_{part}_seconds": round(self.seconds[part], 3) for part in PARTS if part != "other"}
        found["train_resumed_from_step"] = self.first_step
        rates = {
            "train_seconds_per_epoch": self.seconds_per_epoch,
            "train_images_per_second": self.images_per_second,
        }
        return found | {name: round(rate, 3) for name, rate in rates.items() if rate is not None}

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self._start(state)
        dataset: Any = getattr(train_dataloader, "dataset", None)
        if dataset is not None and has_length(dataset):
            self._images_an_epoch = len(dataset)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._lap("other")

    def on_step_begin(self, args, state, control, **kwargs):
        self._lap("data")

    def on_step_end(self, args, state, control, **kwargs):
        self._lap("step")
        self.last_step, self.last_epoch = state.global_step, float(state.epoch)
        if self._images_an_epoch is not None:  # exact also where the last batch of an epoch is a small one
            self.images = (self.last_epoch - self.first_epoch) * self._images_an_epoch
        else:
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            self.images = (self.last_step - self.first_step) * batch

    def on_epoch_end(self, args, state, control, **kwargs):
        self._lap("step")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self._lap("step")

    def on_evaluate(self, args, state, control, **kwargs):
        self._lap("evaluation")

    def on_save(self, args, state, control, **kwargs):
        self._lap("saving")

    def on_train_end(self, args, state, control, **kwargs):
        self._lap("other")


# --- Lines and bar ---------------------------------------------------------------------------------------------------


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


# --- Summary ---------------------------------------------------------------------------------------------------------


def as_block(rows: dict[str, list[str]]) -> str:
    """label -> lines, as a block with the labels in a column; labels without lines are left out."""
    lines = []
    for label, texts in rows.items():
        lines += [f"{label if number == 0 else '':{LABEL_WIDTH}}{text}" for number, text in enumerate(texts)]
    return "\n".join(lines)


def describe_training(
    student: str,
    model: AlignedImageClassification,
    dataset: Any,
    args: AlignmentArguments,
    uses: Sequence[str] = (),
) -> list[str]:
    """
    Args:
        student: what the user called it.
        model: the aligned model.
        dataset: [`~g4i_hf.data.dataset.CaptionedImages`] or [`~g4i_hf.data.stream_batches.StreamedImages`] that is
            trained on.
        args: of the training.
        uses: what captions are used for beside alignment.
    """
    adapters = sum(p.numel() for name, p in model.student.named_parameters() if is_adapter(name))
    student_size, projector_size = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (model.student, model.projector)
    )
    alignment = "none: a baseline"
    if args.aligns:
        alignment = f"{args.align_loss}, weight {args.align_weight:g}; projector of {projector_size:,} parameters"
    if uses:
        alignment = f"{alignment.removesuffix(': a baseline')}; {', '.join(uses)}"
    return [
        f"{student}, {student_size - adapters:,} parameters",
        *_lora(model),
        _images(dataset, len(model.config.id2label)),
        f"alignment: {alignment}",
    ]


def _images(dataset: Any, num_classes: int) -> str:
    number = f"{len(dataset):,} images" if has_length(dataset) else "images"
    if isinstance(dataset, StreamedImages):
        return f"{number} of {num_classes} classes, streamed from {dataset.stream.rows.num_shards:,} shards"
    shares = f"{(dataset.caption_weight > 0).mean():.0%} with a caption"
    labelled = (dataset.labels != UNLABELLED).sum()
    shares += f", {labelled:,} with a label" if labelled < len(dataset) else ""
    return f"{number} of {num_classes} classes, {shares}"


def _lora(model: AlignedImageClassification) -> list[str]:
    lora = model.config.lora
    if lora is None:
        return []
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return [
        f"LoRA of rank {lora['r']} in {len(lora['target_modules'])} layers; {trained:,} trainable parameters, with "
        "classifier and projector"
    ]


def summary_of_run(
    described: list[str], args: AlignmentArguments, state: TrainerState, stopwatch: Stopwatch, metrics: dict[str, Any]
) -> dict[str, list[str]]:
    """
    Args:
        described: see [`describe_training`].
        metrics: those of `all_results.json`.

    Returns:
        Rows of the block about a finished run; [`next_steps`] come after it.
    """
    steps = [f"{state.global_step} steps" + (f", {state.epoch or 0:.3g} epochs" if knows_epochs(state) else "")]
    if stopwatch.first_step:
        steps.append(
            f"resumed from checkpoint-{stopwatch.first_step} (epoch {stopwatch.first_epoch:.3g}): the times are those "
            f"of the {state.global_step - stopwatch.first_step} steps since then"
        )
    if metrics.get("train_nan_steps"):
        steps.append(f"{metrics['train_nan_steps']} steps left out, whose loss or gradient was NaN or infinite")
    if metrics.get("train_bad_images"):
        steps.append(f"{metrics['train_bad_images']} images left out, which could not be read: {BAD_IMAGES_FILE}")
    return {
        "Trained": [*described, *steps],
        "Result": _results(metrics),
        "Time": _times(stopwatch, metrics),
        "Run": _places(args),
    }


def next_steps(args: AlignmentArguments) -> list[str]:
    """The commands that follow a run."""
    words = ["--run", shlex.quote(args.output_dir)]
    if module := os.environ.get(OWN_MODULE):
        words += ["--module", shlex.quote(module)]
    return [f"g4i {command} {' '.join(words)}" for command in ("evaluate", "release")]


def _results(metrics: dict[str, Any]) -> list[str]:
    found = []
    for name in (key.removesuffix("_samples") for key in metrics if key.endswith("_samples")):
        shares = {"accuracy": f"{name}_accuracy", "caption retrieval R@5": f"{name}_recall_at_5"}
        parts = [f"{what} {metrics[key]:.1%}" for what, key in shares.items() if key in metrics]
        if parts:
            found.append(f"{name}: {', '.join(parts)} ({metrics[f'{name}_samples']:,} images)")
    loss = f"mean loss {metrics['train_loss']:.4g}" if "train_loss" in metrics else ""
    return found or ([loss] if loss else [])


def _times(stopwatch: Stopwatch, metrics: dict[str, Any]) -> list[str]:
    took = f"{tqdm.format_interval(metrics['train_runtime'])} in all"
    if stopwatch.seconds_per_epoch is not None:
        took += f", {stopwatch.seconds_per_epoch:.3g} s an epoch"
    if stopwatch.images_per_second is not None:
        took += f", {stopwatch.images_per_second:.0f} images/s"
    parts = {"loading data": "data", "steps": "step", "evaluation": "evaluation", "saving": "saving"}
    return [took, ", ".join(f"{what} {stopwatch.seconds[part]:.1f} s" for what, part in parts.items())]


def _places(args: AlignmentArguments) -> list[str]:
    run = Path(args.output_dir)
    files = [name for name in RUN_FILES if (run / name).is_file()]
    checkpoints = sorted((path.name for path in run.glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))
    return [str(run), ", ".join([*files, *checkpoints]), *tracker_places(args)]
