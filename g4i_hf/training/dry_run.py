"""Dry run of training: the number of steps and checkpoints, and the time, without a run folder."""

import copy
import math
import statistics
import time

import torch
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType, has_length

from .arguments import AlignmentArguments
from .optimization import TimmSchedule, timm_name
from .progress import AlignmentProgress
from .trainer import AlignmentTrainer

TIMED_STEPS = 6  # the first one or two are slower and do not count in the median


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
    trial.stop_on_nan, trial.max_nan_steps = False, 0  # times alone count
    if timm_name(args.lr_scheduler_type) is not None:  # whose warm-up and cool-down may be longer than the trial
        trial.lr_scheduler_type, trial.lr_scheduler_kwargs = SchedulerType.CONSTANT, {}
    return trial


def plan_of(trainer: AlignmentTrainer, args: AlignmentArguments) -> dict[str, list[str]]:
    """
    Times some steps with a trainer of [`trial_arguments`], whose weights change, and counts those of the training by
    `args`. Returns lines for a user: `Steps`, `Time` and `Run`.
    """
    batches, per_epoch = trainer.get_train_dataloader(), None
    if has_length(batches):
        per_epoch = max(1, math.ceil(len(batches) / args.gradient_accumulation_steps))
    max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    if per_epoch is not None and timm_name(args.lr_scheduler_type) is not None:  # refuses what it must
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], args.learning_rate)
        TimmSchedule(optimizer, args, max_steps, per_epoch)
    trainer.check_batches(batches, max_steps)
    seconds = seconds_per_step(trainer)
    epochs = f": {max_steps / per_epoch:.3g} epochs of {per_epoch:,} steps" if per_epoch else ""
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    total = tqdm.format_interval(max_steps * seconds)
    return {
        "Steps": [f"{max_steps:,}{epochs}, {batch} images a step"],
        "Time": [
            f"about {total} ({seconds:.3g} s a step, median of {TIMED_STEPS - 1} here), and what evaluation and "
            "saving take"
        ],
        "Run": [f"{args.output_dir}: {_checkpoints(args, max_steps, per_epoch)}"],
    }


def seconds_per_step(trainer: AlignmentTrainer) -> float:
    """Median of some steps of a trainer of [`trial_arguments`], whose weights are changed."""
    times = _StepTimes()
    trainer.add_callback(times)
    trainer.pop_callback(AlignmentProgress)
    trainer.train()
    return statistics.median(b - a for a, b in zip(times.ends, times.ends[1:], strict=False))


def _checkpoints(args: AlignmentArguments, max_steps: int, per_epoch: int | None) -> str:
    """How many would be written and kept."""
    if args.save_strategy == SaveStrategy.BEST:
        return "a checkpoint for each better evaluation"
    if args.save_strategy == SaveStrategy.NO:
        return "no checkpoints"
    every = args.save_steps if args.save_steps >= 1 else math.ceil(max_steps * args.save_steps)
    number = math.ceil(max_steps / (per_epoch if args.save_strategy == SaveStrategy.EPOCH else every))
    kept = args.save_total_limit
    return f"{number} checkpoints" + (f", of which the last {kept} are kept" if kept and kept < number else "")
