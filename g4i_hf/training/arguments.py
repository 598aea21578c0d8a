"""`AlignmentArguments`: the options of training, including all `TrainingArguments` of transformers."""

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch
from transformers import SchedulerType, Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames

from ..files import did_you_mean, wrong_choice
from ..options import (
    AugmentationArguments,
    DataArguments,
    EncoderArguments,
    FitArguments,
    StudentArguments,
    SupervisionOptions,
    TrainingOptions,
    check_training,
    names_of,
)
from ..options.fields import typed
from .optimization import TIMM, timm_optimizer

OUTPUT_DIR = "runs/classifier"
_PARENT = TrainingArguments.__dataclass_fields__
TRAINER_ARGUMENTS = [*inspect.signature(Trainer.__init__).parameters][1:]


def option_groups(with_student: bool = True) -> list[set[str]]:
    """What `AlignmentTrainer` takes beside arguments of Trainer: names of the student, of augmentation, of labels."""
    student, images, labels = (
        {*names_of(cls)} for cls in (StudentArguments, AugmentationArguments, SupervisionOptions)
    )
    if with_student:
        return [student - {"student"}, images, labels]
    return [set(), images - {"image_size", "interpolation", "crop_pct"}, labels]  # the model is built


def check_keywords(given: Iterable[str], taker: str, takes: Iterable[str]) -> None:
    """A TypeError for a keyword argument that belongs elsewhere, which names the place, or is mistyped."""
    places = {
        "AlignmentArguments": names_of(AlignmentArguments),
        "AlignmentTrainer, as model": ["student"],
        "AlignmentTrainer": [*TRAINER_ARGUMENTS, "text_encoder", *set.union(*option_groups(with_student=False))],
        "AlignmentTrainer, with the name of a student as model": set.union(*option_groups()),
        "load_images": names_of(DataArguments),
        "embed_captions": names_of(EncoderArguments),
        "fit": names_of(FitArguments),
    }
    takes = {*takes}
    for name in (name for name in given if name not in takes):
        place = next((place for place, names in places.items() if name in names), None)
        where = did_you_mean(name, takes) if place is None else f" Pass it to {place}."
        raise TypeError(f"{taker} takes no {name!r} here.{where}")


@dataclass
class AlignmentArguments(TrainingOptions, TrainingArguments):
    r"""
    [`~transformers.TrainingArguments`] plus the options of alignment.

    Its defaults train an image classifier from scratch. They differ from those of its parent: `num_train_epochs=50.0`,
    `per_device_train_batch_size=64`, `per_device_eval_batch_size=64`, `learning_rate=0.001`,
    `lr_scheduler_type=cosine`, `warmup_steps=0.05` (5% of all steps), `logging_steps=0.02` (2% of all steps) and
    `save_total_limit=2`. Pretrained weights need a smaller learning rate, such as 1e-4.

    Other defaults that differ: `remove_unused_columns=False`, as our own dataset reads the rows;
    `ddp_find_unused_parameters=False`, as every parameter takes part in every step;
    `dataloader_persistent_workers=True` with workers; `hub_private_repo=True`; `hub_strategy=end`, the only choice;
    `project=g4i_hf`, for Trackio and Weights & Biases; `use_cpu=True` without an accelerator;
    `optim=adamw_torch_fused`, the parent's default from torch 2.8.

    `optim` also takes the optimizers of timm, such as `timm:lamb`, with `optim_args`.

    Args:
        output_dir (`str`): the run folder; `runs/classifier` by default.
        kwargs: the options of [`~g4i_hf.options.TrainingOptions`], described there, and of `TrainingArguments`.

    Raises:
        ValueError: for an invalid value; the message names the option.
    """

    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows are read by our own dataset."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter takes part in every step."}
    )
    dataloader_persistent_workers: bool = field(default=True, metadata={"help": "Keep the workers between epochs."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    hub_private_repo: bool | None = field(default=True, metadata={"help": "Make a new repository private."})
    hub_strategy: HubStrategy | str = field(default="end", metadata={"help": "The student is pushed at the end."})
    project: str = field(default="g4i_hf", metadata={"help": "Project in Trackio and Weights & Biases."})

    def __new__(cls, *args: Any, **kwargs: Any):
        check_keywords(kwargs, "AlignmentArguments", {*names_of(cls), *inspect.signature(cls.__init__).parameters})
        return super().__new__(cls)

    def __post_init__(self):
        self.output_dir = self.output_dir or OUTPUT_DIR
        # Without a GPU, processes only connect over gloo if use_cpu is set
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        # A data loader without workers rejects it
        self.dataloader_persistent_workers = self.dataloader_persistent_workers and self.dataloader_num_workers > 0
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            try:
                self.class_weights = [float(weight) for weight in json.loads(self.class_weights)]
            except (json.JSONDecodeError, TypeError, ValueError) as error:
                what = f"class_weights is {self.class_weights!r}"
                raise ValueError(f"{what}; give 'balanced' or a JSON list of numbers.") from error
        optim, is_timms = self.optim, str(self.optim).startswith(TIMM)
        for name, enumeration in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
            names = [member.value for member in enumeration]
            if getattr(self, name) not in names and not (name == "optim" and is_timms):
                raise ValueError(wrong_choice(name, getattr(self, name), names))
        if is_timms:  # the parent only takes members of its enumeration
            self.optim = _PARENT["optim"].default
        check_training(self)
        if self.hub_strategy != HubStrategy.END:
            message = f"hub_strategy is {self.hub_strategy}; a student is pushed at the end alone: leave it out."
            raise ValueError(message)
        if self.hub_revision is not None:
            raise ValueError(f"hub_revision is {self.hub_revision}; a student is pushed to main: leave it out.")
        TrainingArguments.__post_init__(self)
        if is_timms:
            self.optim = optim
            timm_optimizer(self)  # raises for invalid arguments
        if self.optim == "sgd" and "momentum" not in (self.optim_args or ""):
            momentum = f"momentum={self.sgd_momentum}"
            self.optim_args = f"{self.optim_args},{momentum}" if self.optim_args else momentum

    @classmethod
    def from_options(cls, options: TrainingOptions) -> "AlignmentArguments":
        """From the options of a command; those in `others` may be strings. Raises ValueError for wrong types."""
        values = {name: getattr(options, name) for name in names_of(TrainingOptions)}
        hints = get_type_hints(TrainingArguments)
        try:
            return cls(**values, **{name: typed(hints[name], value, name) for name, value in options.others.items()})
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ValueError(" ".join(str(error).split())) from error

    @property
    def aligns(self) -> bool:
        """Whether there is an alignment loss; a baseline has none."""
        return self.align_weight > 0

    def to_dict(self) -> dict[str, Any]:
        """For trackers: without the path of the run on this machine."""
        return super().to_dict() | {"output_dir": Path(self.output_dir).resolve().name}
