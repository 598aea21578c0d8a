"""What a user sees of a training: its plan, a bar or lines with the terms of the loss, and a summary."""

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
from ..modeling.lora import is_adapter
from ..options import OWN_MODULE
from .arguments import AlignmentArguments
from .callbacks import BAD_IMAGES_FILE
from .run_folder import tracker_places

# Endings of what a line leaves to the trackers and trainer_state.json
NOT_SHOWN = (
    *("_runtime", "_samples_per_second", "_steps_per_second", "total_flos", "epoch", "align_weight", "grad_norm"),
    *("cosine_positive", "cosine_negative", "retrieval_top1"),
)
LABEL_WIDTH = 13
TIMED_STEPS = 6  # of a dry run; the first one or two are slower and do not count in the median
RUN_FILES = ("model.safetensors", "ema.safetensors", "train.yaml", "all_results.json")


# --- Lines and bar ---------------------------------------------------------------------------------------------------


class AlignmentProgress(ProgressCallback):
    """
    In a terminal Trainer's bar with the last loss and its terms, and a line an evaluation. Without one, or with
    `disable_tqdm`, a line a log and evaluation, with the time left. Only the main process shows anything.
    """

    begun, first_step = 0.0, 0  # of the training, if there is one

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun, self.first_step = time.monotonic(), state.global_step
        if shows_bars(args):
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if shows_bars(args):
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        if self.training_bar is None:
            print(self._line(logs, state), flush=True)
        elif "loss" in logs:
            self.training_bar.set_postfix_str(_loss(logs))
        elif "train_runtime" not in logs:
            self.training_bar.write(self._line(logs, state))

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Ends the bar, so that what is printed next stands on a line of its own."""
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()
        self.prediction_bar = self.training_bar = None

    def _line(self, logs: dict[str, Any], state: TrainerState) -> str:
        steps = state.global_step - self.first_step
        if "train_runtime" in logs:
            took = tqdm.format_interval(logs["train_runtime"])
            return f"trained {_counted(steps, 'step')} in {took}, mean loss {_number(logs['train_loss'])}"
        place = f"epoch {state.epoch or 0:.1f}/{state.num_train_epochs}  step {state.global_step}/{state.max_steps}"
        if "loss" not in logs:
            return "  ".join([place, "evaluation", *_others(logs)])
        shown = {name: value for name, value in logs.items() if not name.startswith(("loss", "learning_rate"))}
        rate = [f"lr {logs['learning_rate']:.3g}"] if "learning_rate" in logs else []
        left = (time.monotonic() - self.begun) / max(steps, 1) * (state.max_steps - state.global_step)
        return "  ".join([place, _loss(logs), *_others(shown), *rate, f"{tqdm.format_interval(left)} left"])


def shows_bars(args) -> bool:
    """Whether a bar is wanted, and stderr is a terminal."""
    return not args.disable_tqdm and sys.stderr.isatty()


def _loss(logs: dict[str, Any]) -> str:
    """`loss 3.912 (loss_ce 3.701, loss_align 0.703 x 0.3)`, without terms that add nothing."""
    terms = []
    for name in sorted((name for name in logs if name.startswith("loss_")), key=lambda name: name != "loss_ce"):
        factor = logs["align_weight"] if name == "loss_align" else 1
        if factor * logs[name]:
            terms.append(f"{name} {_number(logs[name])}" + (f" x {factor:.3g}" if name == "loss_align" else ""))
    return f"loss {_number(logs['loss'])}" + (f" ({', '.join(terms)})" if terms else "")


def _others(logs: dict[str, Any]) -> list[str]:
    """The values that are shown beside the loss, without `eval_`; shares as percentages."""
    shown = []
    for name, value in logs.items():
        if name.endswith(NOT_SHOWN):
            continue
        is_share = name.endswith(("accuracy", "top1", "top5")) or "recall_at" in name
        text = f"{value:.1%}" if is_share else _number(value) if isinstance(value, float) else str(value)
        shown.append(f"{name.removeprefix('eval_')} {text}")
    return shown


def _number(value: float) -> str:
    """Three decimals, so that lines align; three digits where that would show nothing or too much."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"


# --- Summary ---------------------------------------------------------------------------------------------------------


def as_block(rows: Mapping[str, Sequence[str]]) -> str:
    """label -> lines, as a block with the labels in a column."""
    lines = []
    for label, texts in rows.items():
        lines += [f"{label if number == 0 else '':{LABEL_WIDTH}}{text}" for number, text in enumerate(texts)]
    return "\n".join(lines)


def describe_training(
    student: str, model: AlignedImageClassification, dataset: Any, args: AlignmentArguments, uses: Sequence[str] = ()
) -> list[str]:
    """Lines on a run. `student`: its name. `uses`: what captions are used for beside alignment."""
    size = sum(p.numel() for name, p in model.student.named_parameters() if not is_adapter(name))
    lines = [f"{student}, {size:,} parameters"]
    if lora := model.config.lora:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        layers = f"LoRA of rank {lora['r']} in {len(lora['target_modules'])} layers"
        lines.append(f"{layers}; {trained:,} trainable parameters, with classifier and projector")
    labelled = (dataset.labels != UNLABELLED).sum()
    shares = f"{dataset.has_caption.mean():.0%} with a caption"
    if labelled < len(dataset) and (labelled or dataset.soft_labels is None):  # else all learn soft labels
        shares += f", {labelled:,} with a label"
    lines.append(f"{len(dataset):,} images of {len(model.config.id2label)} classes, {shares}")
    alignment = "none" if uses else "none: a baseline"
    if args.aligns:
        projector = sum(parameter.numel() for parameter in model.projector.parameters())
        alignment = f"{args.align_loss}, weight {args.align_weight:g}; projector of {projector:,} parameters"
    return [*lines, f"alignment: {'; '.join([alignment, ', '.join(uses)] if uses else [alignment])}"]


def summary_of_run(trainer: Any, described: list[str], metrics: dict[str, Any]) -> str:
    """
    A block on what an [`~g4i_hf.AlignmentTrainer`] has trained, as [`describe_training`] says it: its metrics (those
    of `all_results.json`), time and files, and the next commands.
    """
    args, state = trainer.args, trainer.state
    steps = [f"{_counted(state.global_step, 'step')}, {_counted(state.epoch or 0, 'epoch')}"]
    if number := metrics.get("train_bad_images"):
        steps.append(f"{_counted(number, 'image')} left out, which could not be read: {BAD_IMAGES_FILE}")
    since = f" since {Path(trainer.resumed_from).name}" if trainer.resumed_from else ""
    run = Path(args.output_dir)
    files = [name for name in RUN_FILES if (run / name).is_file()]
    files += sorted((path.name for path in run.glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))
    module = os.environ.get(OWN_MODULE)
    words = shlex.join(["--run", args.output_dir, *(["--module", module] if module else [])])
    rows = {
        "Trained": [*described, *steps],
        "Result": _results(metrics, args.aligns),
        "Time": [f"{tqdm.format_interval(metrics['train_runtime'])}{since}"],
        "Run": [str(run), ", ".join(files), *tracker_places(args)],
        "Next": [f"g4i {command} {words}" for command in ("evaluate", "release")],
    }
    return as_block(rows)


def _counted(number: float, what: str) -> str:
    """`1 step`, `1.5 epochs`"""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:.3g}"
    return f"{shown} {what}{'' if shown == '1' else 's'}"


def _results(metrics: dict[str, Any], aligned: bool) -> list[str]:
    found = []
    for name in (key.removesuffix("_samples") for key in metrics if key.endswith("_samples")):
        shares = {"accuracy": f"{name}_accuracy"}
        if aligned:  # else the projector has learned nothing
            shares["caption retrieval R@5"] = f"{name}_recall_at_5"
        parts = [f"{what} {metrics[key]:.1%}" for what, key in shares.items() if key in metrics]
        if parts:
            found.append(f"{name}: {', '.join(parts)} ({metrics[f'{name}_samples']:,} images)")
    return found or [f"mean loss {metrics['train_loss']:.4g}"]


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
    trial.early_stopping_patience, trial.report_to = None, []
    trial.stop_on_nan = False  # times alone count
    return trial


def plan_of(trainer: Any, args: AlignmentArguments) -> dict[str, list[str]]:
    """
    Times some steps with a trainer of [`trial_arguments`], whose weights change, and counts those of the training by
    `args`. Returns lines for a user: `Steps`, `Time` and `Run`.
    """
    batches = trainer.get_train_dataloader()
    per_epoch = max(1, math.ceil(len(batches) / args.gradient_accumulation_steps))
    max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    seconds = seconds_per_step(trainer)
    epochs = f"{max_steps / per_epoch:.3g} epochs of {per_epoch:,} steps"
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    total = tqdm.format_interval(max_steps * seconds)
    timed = f"{seconds:.3g} s a step, median of {TIMED_STEPS - 1} here"
    return {
        "Steps": [f"{max_steps:,}: {epochs}, {batch} images a step"],
        "Time": [f"about {total} ({timed}), and what evaluation and saving take"],
        "Run": [f"{args.output_dir}: {_checkpoints(args, max_steps, per_epoch)}"],
    }


def seconds_per_step(trainer: Any) -> float:
    """Median of some steps of a trainer of [`trial_arguments`], whose weights are changed."""
    times = _StepTimes()
    trainer.add_callback(times)
    trainer.pop_callback(AlignmentProgress)
    trainer.train()
    return statistics.median(b - a for a, b in zip(times.ends, times.ends[1:], strict=False))


def _checkpoints(args: AlignmentArguments, max_steps: int, per_epoch: int) -> str:
    """How many would be written and kept."""
    if args.save_strategy == SaveStrategy.BEST:
        return "a checkpoint for each better evaluation"
    if args.save_strategy == SaveStrategy.NO:
        return "no checkpoints"
    every = args.save_steps if args.save_steps >= 1 else math.ceil(max_steps * args.save_steps)
    number = math.ceil(max_steps / (per_epoch if args.save_strategy == SaveStrategy.EPOCH else every))
    kept = args.save_total_limit
    return f"{number} checkpoints" + (f", of which the last {kept} are kept" if kept and kept < number else "")
