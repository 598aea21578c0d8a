"""What a user sees of a training: lines with the terms of the loss beside Trainer's bar, a summary, a plan."""

import copy
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback, TrainerState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..losses.classification import UNLABELLED
from ..modeling import AlignedImageClassification
from ..modeling.student import is_adapter
from ..options import OWN_MODULE
from ..output import say
from .arguments import AlignmentArguments

NO_METRICS = ("_runtime", "_per_second", "epoch")  # endings of the values of an evaluation
TIMED_STEPS = 6  # of a dry run; the first one or two are slower and do not count in the median


# --- Lines and bar ---------------------------------------------------------------------------------------------------


class LogLines(TrainerCallback):
    """Prints a line a log and evaluation, in the main process; trackers and trainer_state.json have all values."""

    begun, first_step = 0.0, 0  # of the training, if there is one

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun, self.first_step = time.monotonic(), state.global_step
        super().on_train_begin(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "train_runtime" not in logs:  # the summary has that
            with tqdm.external_write_mode():
                say(self._line(logs, state))

    def close(self) -> None:
        """Ends the bars, so that an error stands on a new line."""

    def _line(self, logs: dict[str, Any], state: TrainerState) -> str:
        place = f"epoch {state.epoch or 0:.1f}/{state.num_train_epochs}  step {state.global_step}/{state.max_steps}"
        if "loss" not in logs:
            numbers = {name: value for name, value in logs.items() if isinstance(value, (int, float))}
            metrics = {name: value for name, value in numbers.items() if not name.endswith(NO_METRICS)}
            shown = [f"{name.removeprefix('eval_')} {value:.4g}" for name, value in metrics.items()]
            return "  ".join([place, "evaluation", *shown])
        terms = {name: value for name, value in logs.items() if name.startswith("loss") and value}
        steps = max(state.global_step - self.first_step, 1)
        left = (time.monotonic() - self.begun) / steps * (state.max_steps - state.global_step)
        shown = [f"{name} {value:.4g}" for name, value in terms.items()]
        rate = f"lr {logs.get('learning_rate', 0):.3g}"
        return "  ".join([place, *shown, rate, f"{tqdm.format_interval(left)} left"])


class LinesAndBar(LogLines, ProgressCallback):
    """The lines above Trainer's bar."""

    def close(self) -> None:
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()


def progress_of(args: AlignmentArguments) -> LogLines:
    """With a bar where one is wanted, and stderr is a terminal."""
    return LinesAndBar() if not args.disable_tqdm and sys.stderr.isatty() else LogLines()


# --- Summary ---------------------------------------------------------------------------------------------------------


def as_block(rows: Mapping[str, Sequence[str]]) -> str:
    """label -> lines, as a block with the labels in a column."""
    return "\n".join(
        f"{label if i == 0 else '':13}{text}" for label, texts in rows.items() for i, text in enumerate(texts)
    )


def describe_training(
    student: str, model: AlignedImageClassification, dataset: Any, args: AlignmentArguments, uses: Sequence[str] = ()
) -> list[str]:
    """Lines on a run. `student`: its name. `uses`: what captions are used for beside alignment."""
    size = sum(p.numel() for name, p in model.student.named_parameters() if not is_adapter(name))
    lines = [f"{student}, {size:,} parameters"]
    if lora := model.config.lora:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        lines.append(f"LoRA of rank {lora['r']}; {trained:,} trainable parameters, with classifier and projector")
    labelled = (dataset.labels != UNLABELLED).sum()
    shares = f"{dataset.has_caption.mean():.0%} with a caption"
    if labelled < len(dataset) and (labelled or dataset.soft_labels is None):  # else all learn soft labels
        shares += f", {labelled:,} with a label"
    lines.append(f"{len(dataset):,} images of {len(model.config.id2label)} classes, {shares}")
    alignment = "none" if uses else "none: a baseline"
    if args.aligns:
        alignment = f"{args.align_loss}, weight {args.align_weight:g}"
    return [*lines, f"alignment: {'; '.join([alignment, *uses])}"]


def summary_of_run(trainer: Any, described: list[str], metrics: dict[str, Any]) -> str:
    """A block on what a trainer has `described`, its metrics, time and folder, and the next commands."""
    args, state = trainer.args, trainer.state
    results, splits = [], [key.removesuffix("_samples") for key in metrics if key.endswith("_samples")]
    for name in splits:
        shares = {"accuracy": "accuracy"} | ({"recall_at_5": "caption retrieval R@5"} if args.aligns else {})
        parts = [
            f"{what} {metrics[f'{name}_{key}']:.1%}" for key, what in shares.items() if f"{name}_{key}" in metrics
        ]
        results += [f"{name}: {', '.join(parts)} ({metrics[f'{name}_samples']:,} images)"] if parts else []
    since = f" since {Path(trainer.resumed_from).name}" if trainer.resumed_from else ""
    module = os.environ.get(OWN_MODULE)
    words = shlex.join(["--run", args.output_dir, *(["--module", module] if module else [])])
    rows = {
        "Trained": [*described, f"{state.global_step:,} steps, {state.epoch or 0:.3g} epochs, {batch_in_words(args)}"],
        "Result": results or [f"mean loss {metrics['train_loss']:.4g}"],
        "Time": [f"{tqdm.format_interval(metrics['train_runtime'])}{since}"],
        "Run": [args.output_dir],
        "Next": [
            " ".join(["g4i evaluate", words, *(["--splits", *splits] if splits else [])]),
            f"g4i release {words}",
        ],
    }
    return as_block(rows)


def batch_in_words(args: AlignmentArguments) -> str:
    images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    processes = "one process" if args.world_size == 1 else f"{args.world_size} processes"
    return f"{images} images a step, in {processes}"


# --- Dry run ---------------------------------------------------------------------------------------------------------


class _StepTimes(TrainerCallback):
    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())


def trial_arguments(args: AlignmentArguments, folder: str) -> AlignmentArguments:
    """The same training for a few steps, without logs, trackers and pushes; writes to `folder` alone."""
    trial = copy.copy(args)
    trial.output_dir, trial.max_steps = folder, TIMED_STEPS
    trial.save_strategy = SaveStrategy.NO
    trial.eval_strategy = trial.logging_strategy = IntervalStrategy.NO
    trial.load_best_model_at_end = trial.push_to_hub = False
    trial.report_to, trial.disable_tqdm = [], True
    return trial


def plan_of(trainer: Any, args: AlignmentArguments) -> dict[str, list[str]]:
    """Lines on a training by `args`, whose steps are timed by a trainer of [`trial_arguments`]."""
    per_epoch = max(1, math.ceil(len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps))
    max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    seconds = seconds_per_step(trainer)
    epochs = f"{max_steps / per_epoch:.3g} epochs of {per_epoch:,} steps"
    total = tqdm.format_interval(max_steps * seconds)
    return {
        "Steps": [f"{max_steps:,}: {epochs}, {batch_in_words(args)}"],
        "Time": [f"about {total} ({seconds:.3g} s a step here), plus evaluation and saving"],
        "Run": [args.output_dir],
    }


def seconds_per_step(trainer: Any) -> float:
    """Median of some steps of a trainer of [`trial_arguments`], whose weights are changed."""
    times = _StepTimes()
    trainer.remove_callback(trainer.loss_check)  # the rate may not suit these few steps
    trainer.add_callback(times)
    trainer.train()
    return statistics.median(b - a for a, b in zip(times.ends, times.ends[1:], strict=False))
