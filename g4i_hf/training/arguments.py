"""Options of training."""

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from ..losses import OBJECTIVES
from ..modeling.configuration_aligned import PROJECTOR_NORMS, PROJECTOR_TYPES


@dataclass
class StudentArguments:
    """Which student is trained, and the projector it is given."""

    student: str = field(
        default="resnet50",
        metadata={"help": "timm name, folder or Hub id of a checkpoint, or transformers model type."},
    )
    student_args: dict | str | None = field(
        default=None, metadata={"help": "JSON: arguments of timm.create_model, or fields of the configuration."}
    )
    student_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub checkpoint."})
    pretrained: bool = field(default=False, metadata={"help": "Start from the checkpoint's weights."})
    projector_type: str = field(default="mlp", metadata={"help": "mlp or linear."})
    projector_hidden_size: int | None = field(default=None, metadata={"help": "Width of the MLP; 2 D by default."})
    projector_norm: str = field(default="none", metadata={"help": "Norm within the MLP: batch, layer or none."})

    def __post_init__(self):
        if isinstance(self.student_args, str):
            try:
                self.student_args = json.loads(self.student_args)
            except json.JSONDecodeError as error:
                raise ValueError(f"student_args is {self.student_args!r}, which is not JSON: {error}") from error
        _one_of(self, "projector_type", PROJECTOR_TYPES)
        _one_of(self, "projector_norm", PROJECTOR_NORMS)


@dataclass
class RunArguments:
    """What to do about an earlier run, and which splits are used."""

    overwrite: bool = field(default=False, metadata={"help": "Replace a run that output_dir already holds."})
    train_split: str = field(default="train", metadata={"help": "Split that is trained on."})
    eval_split: str = field(default="validation", metadata={"help": "Split that is evaluated during training."})


@dataclass
class AlignmentArguments(TrainingArguments):
    r"""
    [`~transformers.TrainingArguments`] and what alignment needs.

    Differs from its parent in these defaults: `remove_unused_columns=False`, as rows are read by our own data set;
    `ddp_find_unused_parameters=False`, as every parameter takes part in every step;
    `save_total_limit=2`; `use_cpu=True` where there is no accelerator.

    Args:
        align_weight (`float`, *optional*, defaults to 0.3):
            Weight lambda of the alignment loss; 0 gives the baseline. The default is the paper's.
        align_loss (`str`, *optional*, defaults to `"clip"`):
            `"clip"` (symmetric InfoNCE over the global batch) or `"cosine"`.
        align_temperature (`float`, *optional*, defaults to 0.2):
            Temperature tau. The default is the paper's for ResNet; it has 0.05 for DeiT.
        align_gradient (`str`, *optional*, defaults to `"invariant"`):
            `"invariant"`: the gradient does not depend on the number of processes. `"official"`: that of `clip` is
            divided by it, as in the official code.
        mixup_alpha (`float`, *optional*, defaults to 0.0):
            Beta parameter of mixup; 0 turns it off.
        cutmix_alpha (`float`, *optional*, defaults to 0.0):
            Beta parameter of CutMix; 0 turns it off.
        mix_prob (`float`, *optional*, defaults to 1.0):
            Probability that a batch is mixed.
        mix_switch_prob (`float`, *optional*, defaults to 0.5):
            Probability of CutMix rather than mixup where both are on.
        ema_decay (`float`, *optional*):
            Decay of the moving average of the student's weights, kept beside the raw ones; none by default.
        sgd_momentum (`float`, *optional*, defaults to 0.9):
            Momentum of `optim: sgd`, which has none in transformers unless `optim_args` gives it.
    """

    # --- Alignment ---
    align_weight: float = field(default=0.3, metadata={"help": "Weight lambda of the alignment loss; 0: baseline."})
    align_loss: str = field(default="clip", metadata={"help": "Objective: clip or cosine."})
    align_temperature: float = field(default=0.2, metadata={"help": "Temperature tau of the alignment loss."})
    align_gradient: str = field(
        default="invariant",
        metadata={"help": "invariant, or official: clip's gradient divided by the number of processes."},
    )
    # --- Mixing of images, labels and captions ---
    mixup_alpha: float = field(default=0.0, metadata={"help": "Beta parameter of mixup; 0: off."})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "Beta parameter of CutMix; 0: off."})
    mix_prob: float = field(default=1.0, metadata={"help": "Probability that a batch is mixed."})
    mix_switch_prob: float = field(default=0.5, metadata={"help": "Probability of CutMix where both are on."})
    # --- Optimisation ---
    ema_decay: float | None = field(default=None, metadata={"help": "Decay of the average of the student's weights."})
    sgd_momentum: float = field(default=0.9, metadata={"help": "Momentum of optim: sgd."})
    # --- Defaults that differ from the parent's ---
    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows are read by our own data set."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter takes part in every step."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})

    def __post_init__(self):
        # Without a GPU, processes only find each other over gloo when they are told to use the CPU
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        _one_of(self, "align_loss", tuple(OBJECTIVES))
        _one_of(self, "align_gradient", ("invariant", "official"))
        for name, low in (("align_weight", 0), ("mixup_alpha", 0), ("cutmix_alpha", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.align_temperature <= 0:
            raise ValueError(f"align_temperature is {self.align_temperature}; it must be positive.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must lie between 0 and 1.")
        if not 0 <= self.sgd_momentum < 1:
            raise ValueError(f"sgd_momentum is {self.sgd_momentum}; it must be at least 0 and below 1.")
        for name in ("mix_prob", "mix_switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        if self.optim == "sgd" and "momentum" not in (self.optim_args or ""):
            momentum = f"momentum={self.sgd_momentum}"
            self.optim_args = f"{self.optim_args},{momentum}" if self.optim_args else momentum


def _one_of(args: Any, name: str, choices: tuple[str, ...]) -> None:
    if getattr(args, name) not in choices:
        raise ValueError(f"{name} is {getattr(args, name)!r}; choose one of {', '.join(choices)}.")
