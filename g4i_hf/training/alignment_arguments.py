"""`AlignmentArguments`: the options of training."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from ..losses import OBJECTIVES
from .arguments import one_of
from .optimization import TIMM, check_timm_options

ALIGN_MASKS = ("caption", "class", "none")
ALIGN_CAPTIONS = ("sample", "mean", "all")
ALIGN_SCHEDULES = ("constant", "cosine")
CLASSIFICATION_LOSSES = ("cross_entropy", "bce")
WEIGHT_DECAY_GROUPS = ("trainer", "matrices", "all")
_PARENT = TrainingArguments.__dataclass_fields__


@dataclass
class AlignmentArguments(TrainingArguments):
    r"""
    [`~transformers.TrainingArguments`] and what alignment needs.

    Differs from its parent in these defaults: `remove_unused_columns=False`, as rows are read by our own data set;
    `ddp_find_unused_parameters=False`, as every parameter takes part in every step;
    `dataloader_persistent_workers=True`, as far as there are workers; `save_total_limit=2`;
    `hub_private_repo=True`; `project=g4i_hf`, for Trackio and Weights & Biases; `use_cpu=True` where there is no
    accelerator. `optim` and `lr_scheduler_type` also take names of timm's, as in `timm:lamb` (with `optim_args`) and
    `timm:cosine` (with `lr_scheduler_kwargs`, the arguments of `timm.scheduler.create_scheduler_v2`).

    Args:
        align_weight (`float`, *optional*, defaults to 0.3):
            Weight lambda of the alignment loss; 0 gives the baseline. The default is the paper's.
        align_loss (`str`, *optional*, defaults to `"clip"`):
            `"clip"` (symmetric InfoNCE over the global batch), `"infonce"` (image to text only), `"soft_clip"`
            (targets from the similarity of captions), `"siglip"` (pairwise sigmoid) or `"cosine"` (no negatives).
        align_temperature (`float`, *optional*, defaults to 0.2):
            Temperature tau, or its start where it is learned. The default is the paper's for ResNet; it has 0.05 for
            DeiT.
        align_target_temperature (`float`, *optional*, defaults to 0.1):
            Temperature of the targets of `soft_clip`.
        align_learn_temperature (`bool`, *optional*):
            Whether the temperature, and the bias of `siglip`, are parameters of the model. By default those of
            `siglip` are, as in its paper (arXiv 2303.15343), others are fixed.
        align_logit_bias (`float`, *optional*, defaults to -10.0):
            Bias of the logits of `siglip`, or its start where it is learned.
        align_mask (`str`, *optional*, defaults to `"caption"`):
            Which rows are no negatives of each other: those with the same image or `"caption"`, those and rows of the
            same `"class"`, or `"none"` but the row itself, as in the official code.
        align_mix_captions (`bool`, *optional*, defaults to `True`):
            Mixed images are aligned with both captions, by their shares; `False` aligns them with the row's own alone,
            as in the official code.
        align_gradient (`str`, *optional*, defaults to `"invariant"`):
            `"invariant"`: the gradient does not depend on the number of processes. `"official"`: that of `clip` is
            divided by it, as in the official code.
        align_gather_texts (`bool`, *optional*):
            Whether processes exchange texts, or each reads those of all; by default the first on accelerators alone.
        align_text_bank (`int`, *optional*, defaults to 0):
            Captions of the training set drawn every step as further negatives of every image; -1 for all of them.
        align_captions (`str`, *optional*, defaults to `"sample"`):
            Of several captions of an image: `"sample"` one each epoch, their `"mean"`, or `"all"` as positives.
        align_center (`bool`, *optional*, defaults to `False`):
            Subtracts the mean embedding of the training captions from all text embeddings.
        align_schedule (`str`, *optional*, defaults to `"constant"`):
            Course of the weight after the warm-up: `"constant"`, or half a `"cosine"` to zero.
        align_warmup_epochs (`float`, *optional*, defaults to 0.0):
            Epochs in which the weight rises linearly from zero.
        align_off_epochs (`float`, *optional*, defaults to 0.0):
            Last epochs, trained with weight zero.
        teacher_weight (`float`, *optional*, defaults to 0.0):
            Weight of a cross entropy between the student's logits and soft labels from captions: the classes whose
            captions are like the image's own. Pays where labels are few, as unlabelled images learn a class from what
            their captions say: 3 with an `align_weight` of 1 helped from scratch. With all labels nothing was gained.
        teacher_temperature (`float`, *optional*, defaults to 0.05):
            Temperature of the similarities of captions in these soft labels; lower is harder.
        teacher_captions (`int`, *optional*, defaults to 16384):
            Captions of labelled images that each caption is compared with; of more a sample is taken.
        classification_loss (`str`, *optional*, defaults to `"cross_entropy"`):
            `"cross_entropy"`, or `"bce"`: a binary cross entropy a class, as in "ResNet strikes back" and DeiT III.
        bce_target_threshold (`float`, *optional*):
            Targets of `bce` above it become 1, others 0 ("ResNet strikes back" has 0.2 with mixing, DeiT III 0).
        class_weights (`list`, *optional*):
            Weight of each class in the classification loss, or `"balanced"`: in inverse proportion to its number of
            images, 1 on average over the training set.
        repeated_augmentation (`int`, *optional*, defaults to 1):
            How often an image occurs in an epoch, each time augmented anew; the epoch keeps its length (DeiT has 3).
        mixup_alpha (`float`, *optional*, defaults to 0.0):
            Beta parameter of mixup; 0 turns it off.
        cutmix_alpha (`float`, *optional*, defaults to 0.0):
            Beta parameter of CutMix; 0 turns it off.
        mix_prob (`float`, *optional*, defaults to 1.0):
            Probability that a batch is mixed.
        mix_switch_prob (`float`, *optional*, defaults to 0.5):
            Probability of CutMix rather than mixup where both are on.
        weight_decay_on (`str`, *optional*, defaults to `"trainer"`):
            What is decayed: as in `"trainer"` (all but biases and norms), `"matrices"` (parameters of two or more
            dimensions that the student does not exempt, as in timm), or `"all"`. The learned temperature never is.
        layer_decay (`float`, *optional*):
            Factor of the learning rate from one layer of the student to the one below; none by default. The classifier
            and the projector have the whole rate, which is the one logged.
        freeze_backbone (`bool`, *optional*, defaults to `False`):
            Trains the classifier and the projector alone. The rest stays as it is, in evaluation mode: running
            statistics do not move, and nothing is dropped out.
        ema_decay (`float`, *optional*):
            Decay of the moving average of the student's weights, kept beside the raw ones; none by default, nor with
            DeepSpeed.
        sgd_momentum (`float`, *optional*, defaults to 0.9):
            Momentum of `optim: sgd`, which has none in transformers unless `optim_args` gives it.
        early_stopping_patience (`int`, *optional*):
            Evaluations without a better `metric_for_best_model` after which training ends; never by default. Needs
            `load_best_model_at_end` and an `eval_strategy`; the metric is then `accuracy` unless another is named.
        stop_on_nan (`bool`, *optional*, defaults to `True`):
            Whether training ends with an error when a term of the loss is NaN or infinite, found at the next log.
        max_nan_steps (`int`, *optional*, defaults to 0):
            Steps whose loss or gradient is NaN or infinite that are left out, on all processes alike, before training
            ends. Needs `stop_on_nan`, and waits for the device once a step.
    """

    # --- Alignment ---
    align_weight: float = field(default=0.3, metadata={"help": "Weight lambda of the alignment loss; 0: baseline."})
    align_loss: str = field(
        default="clip", metadata={"help": "Objective: clip, infonce, soft_clip, siglip or cosine."}
    )
    align_temperature: float = field(default=0.2, metadata={"help": "Temperature tau, or its start where learned."})
    align_target_temperature: float = field(default=0.1, metadata={"help": "Temperature of soft_clip's targets."})
    align_learn_temperature: bool | None = field(
        default=None, metadata={"help": "Learn temperature and bias; by default for siglip only."}
    )
    align_logit_bias: float = field(default=-10.0, metadata={"help": "siglip's bias, or its start where learned."})
    align_mask: str = field(
        default="caption", metadata={"help": "No negatives of each other: rows of equal caption, class, or none."}
    )
    align_mix_captions: bool = field(default=True, metadata={"help": "Mixed images are aligned with both captions."})
    align_gradient: str = field(
        default="invariant",
        metadata={"help": "invariant, or official: clip's gradient divided by the number of processes."},
    )
    align_gather_texts: bool | None = field(default=None, metadata={"help": "Exchange texts, or each reads all."})
    align_text_bank: int = field(
        default=0, metadata={"help": "Training captions drawn every step as further negatives; -1: all."}
    )
    align_captions: str = field(
        default="sample", metadata={"help": "Of several captions of an image: sample one, mean, or all."}
    )
    align_center: bool = field(default=False, metadata={"help": "Subtract the mean of the training captions."})
    align_schedule: str = field(default="constant", metadata={"help": "Course of the weight: constant or cosine."})
    align_warmup_epochs: float = field(default=0.0, metadata={"help": "Epochs in which the weight rises from zero."})
    align_off_epochs: float = field(default=0.0, metadata={"help": "Last epochs, trained with weight zero."})
    # --- Captions as a teacher of the classifier ---
    teacher_weight: float = field(default=0.0, metadata={"help": "Weight of the soft labels from captions; 0: none."})
    teacher_temperature: float = field(default=0.05, metadata={"help": "Of the similarities of captions in them."})
    teacher_captions: int = field(
        default=16384, metadata={"help": "Captions of labelled images that each caption is compared with, at most."}
    )
    # --- Classification ---
    classification_loss: str = field(default="cross_entropy", metadata={"help": "cross_entropy or bce."})
    bce_target_threshold: float | None = field(
        default=None, metadata={"help": "Targets of bce above it become 1, others 0."}
    )
    class_weights: list | str | None = field(
        default=None, metadata={"help": "JSON list of a weight a class, or balanced."}
    )
    # --- Repeating and mixing of images ---
    repeated_augmentation: int = field(default=1, metadata={"help": "How often an image occurs in an epoch."})
    mixup_alpha: float = field(default=0.0, metadata={"help": "Beta parameter of mixup; 0: off."})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "Beta parameter of CutMix; 0: off."})
    mix_prob: float = field(default=1.0, metadata={"help": "Probability that a batch is mixed."})
    mix_switch_prob: float = field(default=0.5, metadata={"help": "Probability of CutMix where both are on."})
    # --- Optimisation ---
    optim: str = field(
        default=_PARENT["optim"].default, metadata={"help": "Trainer's name of an optimizer, or timm's: timm:lamb."}
    )
    lr_scheduler_type: str = field(
        default="linear", metadata={"help": "Trainer's name of a schedule, or timm's: timm:cosine."}
    )
    weight_decay_on: str = field(
        default="trainer", metadata={"help": "What is decayed: trainer (no biases, norms), matrices, or all."}
    )
    layer_decay: float | None = field(
        default=None, metadata={"help": "Factor of the learning rate from one layer to the one below."}
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "Train classifier and projector alone."})
    ema_decay: float | None = field(default=None, metadata={"help": "Decay of the average of the student's weights."})
    sgd_momentum: float = field(default=0.9, metadata={"help": "Momentum of optim: sgd."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better metric before training ends."}
    )
    stop_on_nan: bool = field(default=True, metadata={"help": "End training when the loss is NaN or infinite."})
    max_nan_steps: int = field(
        default=0, metadata={"help": "Steps with a NaN loss or gradient that are left out before training ends."}
    )
    # --- Defaults that differ from the parent's ---
    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows are read by our own data set."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter takes part in every step."}
    )
    dataloader_persistent_workers: bool = field(
        default=True, metadata={"help": "Whether workers live on from one epoch to the next."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Whether a repository that push_to_hub makes is private."}
    )
    project: str = field(default="g4i_hf", metadata={"help": "Project in Trackio and Weights & Biases."})

    def __post_init__(self):
        # Without a GPU, processes only find each other over gloo when they are told to use the CPU
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        # A data loader without workers refuses it
        self.dataloader_persistent_workers = self.dataloader_persistent_workers and self.dataloader_num_workers > 0
        self._read_class_weights()
        timm_names = {name: getattr(self, name) for name in ("optim", "lr_scheduler_type")}
        timm_names = {name: value for name, value in timm_names.items() if str(value).startswith(TIMM)}
        for name, names in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
            if name not in timm_names:
                one_of(self, name, tuple(member.value for member in names))
        for name in timm_names:  # the parent takes members of its enumerations only
            setattr(self, name, _PARENT[name].default)
        if self.early_stopping_patience is not None:
            self._prepare_early_stopping()
        super().__post_init__()
        for name, value in timm_names.items():
            setattr(self, name, value)
        check_timm_options(self)
        self._check_choices()
        self._check_numbers()
        if self.optim == "sgd" and "momentum" not in (self.optim_args or ""):
            momentum = f"momentum={self.sgd_momentum}"
            self.optim_args = f"{self.optim_args},{momentum}" if self.optim_args else momentum

    @property
    def learns_temperature(self) -> bool:
        if self.align_learn_temperature is not None:
            return self.align_learn_temperature
        return self.align_loss == "siglip"

    def to_dict(self) -> dict[str, Any]:
        """What trackers are given: without the path of the run on this machine."""
        return super().to_dict() | {"output_dir": Path(self.output_dir).resolve().name}

    def _read_class_weights(self) -> None:
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            try:
                self.class_weights = [float(weight) for weight in json.loads(self.class_weights)]
            except (json.JSONDecodeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"class_weights is {self.class_weights!r}; give 'balanced' or a JSON list of numbers."
                ) from error

    def _prepare_early_stopping(self) -> None:
        """
        Raises:
            ValueError: when nothing is evaluated, or the best weights would not be kept.
        """
        patience = f"early_stopping_patience is {self.early_stopping_patience}, but"
        if str(getattr(self.eval_strategy, "value", self.eval_strategy)) == "no":
            raise ValueError(f"{patience} eval_strategy is no: set it, and save_strategy, to epoch or steps.")
        if not self.load_best_model_at_end:
            raise ValueError(
                f"{patience} load_best_model_at_end is false: set it to true, or training ends with weights that are "
                "not the best."
            )
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "accuracy"
        # A run that goes on from a checkpoint still knows how long it has waited
        self.restore_callback_states_from_checkpoint = True

    def _check_choices(self) -> None:
        one_of(self, "align_loss", tuple(OBJECTIVES))
        one_of(self, "align_mask", ALIGN_MASKS)
        one_of(self, "align_gradient", ("invariant", "official"))
        one_of(self, "align_captions", ALIGN_CAPTIONS)
        one_of(self, "align_schedule", ALIGN_SCHEDULES)
        one_of(self, "classification_loss", CLASSIFICATION_LOSSES)
        one_of(self, "weight_decay_on", WEIGHT_DECAY_GROUPS)

    def _check_numbers(self) -> None:
        never_negative = (
            "align_weight",
            "teacher_weight",
            "align_warmup_epochs",
            "align_off_epochs",
            "max_nan_steps",
            "mixup_alpha",
            "cutmix_alpha",
        )
        for name in never_negative:
            self._check(name, getattr(self, name) >= 0, "must not be negative")
        for name in ("align_temperature", "align_target_temperature", "teacher_temperature", "teacher_captions"):
            self._check(name, getattr(self, name) > 0, "must be positive")
        for name in ("mix_prob", "mix_switch_prob"):
            self._check(name, 0 <= getattr(self, name) <= 1, "must lie between 0 and 1")
        threshold = self.bce_target_threshold
        self._check("bce_target_threshold", threshold is None or 0 <= threshold < 1, "must be at least 0 and below 1")
        if threshold == 0 and self.label_smoothing_factor > 0:
            raise ValueError("bce_target_threshold is 0: with label_smoothing_factor every class would be a target.")
        if self.max_nan_steps and not self.stop_on_nan:
            raise ValueError(
                f"max_nan_steps is {self.max_nan_steps}, but stop_on_nan is false, so that none would be left out: "
                "set it to true."
            )
        if self.teacher_weight > 0 and self.classification_loss != "cross_entropy":
            raise ValueError("teacher_weight needs classification_loss: cross_entropy, whose softmax it teaches.")
        self._check("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "must lie between 0 and 1")
        self._check("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "must lie between 0 and 1")
        self._check("align_text_bank", self.align_text_bank >= -1, "must be -1 (all) or a number of captions")
        self._check("repeated_augmentation", self.repeated_augmentation >= 1, "must be at least 1")
        self._check("sgd_momentum", 0 <= self.sgd_momentum < 1, "must be at least 0 and below 1")
        patience = self.early_stopping_patience
        self._check("early_stopping_patience", patience is None or patience >= 1, "must be at least 1")

    def _check(self, name: str, is_right: bool, what: str) -> None:
        if not is_right:
            raise ValueError(f"{name} is {getattr(self, name)}; it {what}.")
