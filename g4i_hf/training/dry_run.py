"""What a run would be: its steps, and a few of them timed, without a run folder."""

import copy
import math
import statistics
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType, has_length

from .arguments import AlignmentArguments
from .optimization import TimmSchedule, timm_name
from .progress import AlignmentProgress
from .trainer import AlignmentTrainer

TIMED_STEPS = 6  # the first one or two are slower and do not count in the median


@dataclass
class Plan:
    """
    Args:
        steps_per_epoch: optimizer steps; None for a stream of unknown length.
        max_steps: optimizer steps in all.
        num_epochs: may be a fraction.
        global_batch: images a step, of all processes.
        seconds_per_step: median of a few steps, on this machine.
    """

    steps_per_epoch: int | None
    max_steps: int
    num_epochs: float | None
    global_batch: int
    seconds_per_step: float

    def steps(self) -> list[str]:
        if self.steps_per_epoch is None:
            return [f"{self.max_steps:,}, {self.global_batch} images a step"]
        return [
            f"{self.max_steps:,}: {self.num_epochs:.3g} epochs of {self.steps_per_epoch:,} steps, "
            f"{self.global_batch} images a step"
        ]

    def time(self) -> list[str]:
        total = tqdm.format_interval(self.max_steps * self.seconds_per_step)
        return [
            f"about {total} ({self.seconds_per_step:.3g} s a step, median of {TIMED_STEPS - 1} here), and what "
            "evaluation and saving take"
        ]

    def saves(self, args: AlignmentArguments) -> str:
        """How many checkpoints would be written and kept."""
        if args.save_strategy == SaveStrategy.EPOCH:
            number = math.ceil(self.num_epochs)
        elif args.save_strategy == SaveStrategy.STEPS:
            every = args.save_steps if args.save_steps >= 1 else math.ceil(self.max_steps * args.save_steps)
            number = math.ceil(self.max_steps / every)  # one of the last step comes with it
        elif args.save_strategy == SaveStrategy.BEST:
            return "a checkpoint for each better evaluation"
        else:
            return "no checkpoints"
        kept = args.save_total_limit
        return f"{number} checkpoints" + (f", of which the last {kept} are kept" if kept and kept < number else "")


class _StepTimes(TrainerCallback):
    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())


def trial_arguments(args: AlignmentArguments, folder: str) -> AlignmentArguments:
    """The same training for a few steps, which tells nobody and leaves nothing outside `folder`."""
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


def make_plan(trainer: AlignmentTrainer, args: AlignmentArguments) -> Plan:
    """
    Trains some steps and counts those of the whole training.

    Args:
        trainer: made with [`trial_arguments`] of `args`; its weights are changed.
        args: of the training that would be.
    """
    batches, steps_per_epoch = trainer.get_train_dataloader(), None
    if has_length(batches):
        steps_per_epoch = max(1, math.ceil(len(batches) / args.gradient_accumulation_steps))
    max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    if steps_per_epoch is not None and timm_name(args.lr_scheduler_type) is not None:  # refuses what it must
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], args.learning_rate)
        TimmSchedule(optimizer, args, max_steps, steps_per_epoch)
    trainer.check_batches(batches, max_steps)
    times = _StepTimes()
    trainer.add_callback(times)
    trainer.pop_callback(AlignmentProgress)
    trainer.train()
    return Plan(
        steps_per_epoch=steps_per_epoch,
        max_steps=max_steps,
        num_epochs=None if steps_per_epoch is None else max_steps / steps_per_epoch,
        global_batch=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        seconds_per_step=statistics.median(b - a for a, b in zip(times.ends, times.ends[1:], strict=False)),
    )
