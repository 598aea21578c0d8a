"""Options of `g4i train` and `g4i fit`."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ..files import wrong_choice
from ..views.kinds import VIEW_FORMS
from .data import DEFAULT_TEXT_ENCODER, check_views
from .fields import (
    BadImages,
    BelowOne,
    Checked,
    Count,
    Fraction,
    NotNegative,
    Number,
    Positive,
    Share,
    check_values,
    from_json,
    option,
)

Strategy = Literal["no", "steps", "epoch"]
ALIGN_LOSSES = ("clip", "infonce", "siglip", "cosine")
OWN_OBJECTIVES: dict[str, Any] = {}  # by name, from [`~g4i_hf.register_objective`]


@dataclass
class FitArguments:
    """Fit"""

    output_dir: str | None = option(None, "Output folder; runs/NAME of the dataset by default.", about="running")
    captioner: str | None = option(
        None,
        "VLM that describes images without captions, and names their class: Hub id, folder, or a server's address.",
        about="data",
    )
    captioner_model: str | None = option(None, "Name of the model on that server.", about="data")
    api_key_env: str | None = option(None, "Environment variable that holds the server's token.", about="call")
    questions: list[Literal["describe", "choose"]] = option(
        ["describe", "choose"], "Questions to the captioner: describe (captions), choose (the class).", about="data"
    )
    price_input: NotNegative | None = option(None, "Price of a million input tokens.", about="call")
    price_output: NotNegative | None = option(None, "Price of a million output tokens.", about="call")
    yes: bool = option(False, "Send more than 1,000 requests to a server without confirmation.", about="call")
    text_encoder: str = option(DEFAULT_TEXT_ENCODER, "Hub id or folder of the text encoder.", in_card=True)
    student: str | None = option(
        None, "Pretrained timm or transformers model; a small EfficientNet by default.", in_card=True
    )
    pretrained: bool = option(True, "Start from pretrained weights; false trains all layers from scratch.")
    image_size: Count | None = option(
        None, "Image size in pixels; by default that of the student, or less for small images.", in_card=True
    )
    views: list[str] | None = option(
        None,
        f"Views to use: {VIEW_FORMS}, or folders of g4i embed; by default the first three, and those in "
        "output_dir/views.",
    )
    finetune: Literal["auto", "true", "false"] = option(
        "auto",
        "Also train all layers: true, false, or auto (with a GPU, or within minutes).",
        in_card=True,
    )
    minutes: Positive | None = option(
        None, "Train all layers for so many minutes, also on a CPU; by default as long as they usually need."
    )
    release: Literal["auto", "labels_only", "with_views"] = option(
        "auto",
        "What classifier/ holds: labels_only, with_views, or auto (with views, unless they hurt).",
        about="running",
    )
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report them).")
    sample: Count | None = option(
        None, "Number of training images, labelled ones first; by default all, or 300,000 where there are more."
    )
    overwrite: bool = option(False, "Replace a result that output_dir already holds.", about="running")
    seed: int = option(0, "Random seed.", in_card=True)
    dry_run: bool = option(False, "Print the decisions; write nothing.", about="call")

    def __post_init__(self):
        check_values(self)
        check_views(self.views)
        if not self.pretrained and (not self.student or self.finetune == "false"):
            raise ValueError("pretrained is false: name a student, and do not set finetune to false.")
        if self.minutes and self.finetune == "false":
            raise ValueError("minutes is the time for all layers, and finetune is false: leave one of both out.")
        if self.captioner and is_address(self.captioner) and not self.captioner_model:
            raise ValueError("captioner is a server: name its model with captioner_model.")
        if self.captioner_model and not (self.captioner and is_address(self.captioner)):
            raise ValueError("captioner_model is the name of a model on a server: give its address with captioner.")


def is_address(captioner: str) -> bool:
    return captioner.startswith(("http://", "https://"))


@dataclass(kw_only=True)
class LoraOptions:
    """LoRA"""

    rare = True
    use_peft: bool = option(False, "Train LoRA adapters instead of the pretrained backbone.")
    lora_r: Count = option(16, "Rank of the adapters.")
    lora_alpha: Count = option(32, "Scale: the output of an adapter is multiplied by lora_alpha / lora_r.")
    lora_dropout: BelowOne = option(0.05, "Dropout in front of an adapter.")


@dataclass(kw_only=True)
class StudentDetails:
    """Student, details"""

    about, rare = "captions", True
    student_args: dict | str | None = option(
        None, "JSON: arguments of timm.create_model, or configuration fields.", about="training"
    )
    student_revision: str | None = option(None, "Branch, tag or commit of a Hub checkpoint.", about="training")
    projector_hidden_size: Count | None = option(None, "Hidden size of the MLP; 2 D by default.")
    projector_norm: Literal["none", "batch", "layer"] = option("none", "Normalization layer of the MLP.")


@dataclass
class StudentArguments(StudentDetails, LoraOptions):
    """Student"""

    student: str = option("resnet50", "timm model, Hub id, folder or model type.", path=True, in_card=True)
    pretrained: bool = option(False, "Start from the checkpoint's weights.", in_card=True)

    def __post_init__(self):
        if isinstance(self.student_args, str):
            self.student_args = from_json("student_args", self.student_args)
        if self.student_args is not None and not isinstance(self.student_args, dict):
            raise ValueError(f"student_args is {self.student_args!r}; it must be a JSON object.")
        check_values(self)
        if self.use_peft and not self.pretrained:
            raise ValueError("use_peft adapts pretrained weights, but pretrained is false. Set pretrained to true.")

    def lora(self) -> dict[str, Any] | None:
        """The adapters for [`~g4i_hf.AlignedImageClassification.from_student`]; None without LoRA."""
        adapters = {"r": self.lora_r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout}
        return adapters if self.use_peft else None


@dataclass
class AugmentationArguments(Checked):
    """Augmentation"""

    rare = True
    image_size: Count | None = option(None, "Input size in pixels; by default the checkpoint's, or 224.", in_card=True)
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] | None = option(
        None, "Interpolation for resizing; bicubic by default."
    )
    crop_pct: Fraction | None = option(None, "Center crop ratio of evaluation; 1 by default.")
    train_crop: Literal["resized", "pad", "none"] = option(
        "resized",
        "resized (random resized crop), pad (pad and crop, for small images) or none (as at inference).",
        in_card=True,
    )
    crop_min_scale: Fraction = option(0.08, "Minimum area of a random resized crop, as a share of the image.")
    crop_padding: Number | None = option(None, "Padding of `pad` in pixels; image_size / 8 by default.")
    hflip: Share = option(0.5, "Probability of a horizontal flip.", in_card=True)
    color_jitter: NotNegative = option(0.0, "Strength of random changes of brightness, contrast and saturation.")
    auto_augment: str | None = option(None, "timm policy, such as rand-m9-mstd0.5-inc1.")
    random_erasing: Share = option(0.0, "Probability of random erasing.")

    @property
    def image_settings(self) -> dict[str, Any]:
        """The given settings of resizing, by timm's names."""
        settings = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
        return {name: value for name, value in settings.items() if value is not None}


@dataclass
class SupervisionOptions:
    """Labels from captions"""

    about = "captions"
    supervision: Literal["none", "auto"] = option(
        "none",
        "auto: class probabilities from captions for unlabelled rows and doubted labels; none: alignment alone.",
    )
    unlabelled: Literal["error", "keep", "drop"] = option(
        "error", "Rows without a label: an error, keep (for their captions) or drop."
    )


@dataclass
class RunArguments(SupervisionOptions, Checked):
    """Run"""

    overwrite: bool = option(False, "Replace a run that output_dir already holds.", about="running")
    dry_run: bool = option(False, "Time a few steps and print the plan; write nothing.", about="call")
    train_split: str = option("train", "Training split.")
    eval_split: str = option("validation", "Split to evaluate during training.")
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report).", about="running")
    labels_only: bool = option(False, "Also train on the labels alone, and compare both.", about="call")


@dataclass
class AlignmentOptions:
    """Alignment"""

    about = "captions"
    align_weight: NotNegative = option(0.3, "Weight lambda of the alignment loss; 0 is the baseline.", in_card=True)
    align_loss: str = option(
        "clip",
        "clip (symmetric InfoNCE over the global batch), infonce (image to text only), siglip (pairwise sigmoid), "
        "cosine (no negatives) or a custom one, registered by module.",
        in_card=True,
    )
    align_temperature: Positive = option(
        0.2, "Temperature tau, learned by siglip; the paper uses 0.05 for DeiT.", in_card=True
    )
    align_captions: Literal["sample", "mean", "all"] = option(
        "sample", "Several captions per image: sample one each epoch, their mean, or all."
    )


@dataclass
class AlignmentDetails:
    """Alignment, details"""

    about, rare = "captions", True
    align_mask: Literal["caption", "class", "none"] = option(
        "caption", "Rows that are never negatives: caption (same image or caption), class (also same class), or none."
    )
    align_mix_captions: bool = option(True, "Align mixed images with the captions of both images, not of the first.")
    align_gradient: Literal["invariant", "official"] = option(
        "invariant", "invariant to the number of processes, or official: clip's gradient is divided by that number."
    )


@dataclass
class ClassificationOptions:
    """Classification"""

    rare = True
    soft_label_weight: NotNegative | None = option(
        None, "Weight of the loss of soft labels; 1, or chosen by auto.", about="captions"
    )
    classification_loss: Literal["cross_entropy", "bce"] = option(
        "cross_entropy", "cross_entropy, or bce: binary cross-entropy per class (arXiv 2110.00476, 2204.07118)."
    )
    bce_target_threshold: BelowOne | None = option(None, "Targets of bce above this value become 1, others 0.")
    class_weights: list | str | None = option(None, "JSON list of a weight per class, or balanced: inverse frequency.")


@dataclass
class MixingOptions:
    """Repeated and mixed images"""

    rare = True
    repeated_augmentation: Count = option(1, "Augmented copies of an image in an epoch (DeiT: 3).")
    mixup_alpha: NotNegative = option(0.0, "Beta parameter of mixup; 0: off.")
    cutmix_alpha: NotNegative = option(0.0, "Beta parameter of CutMix; 0: off.")
    mix_prob: Share = option(1.0, "Probability of mixing a batch.")
    mix_switch_prob: Share = option(0.5, "Probability of CutMix where both are on.")


@dataclass
class OptimizationOptions:
    """Optimization"""

    rare = True
    weight_decay_on: Literal["trainer", "matrices", "all"] = option(
        "trainer", "Parameters to decay: all but biases and norms, as in Trainer; matrices, as in timm; or all."
    )
    layer_decay: Fraction | None = option(None, "Layer-wise learning-rate decay factor, for timm students.")
    freeze_backbone: bool = option(False, "Train classifier and projector only; the backbone is in evaluation mode.")
    freeze_norm_statistics: bool = option(
        False, "Batch norms of a pretrained student keep their running statistics; their scale and shift train."
    )
    ema_decay: Annotated[float, "(0, 1)"] | None = option(None, "Decay of the EMA of the weights; not with DeepSpeed.")
    sgd_momentum: BelowOne = option(0.9, "Momentum of `optim: sgd`.")
    lr_scheduler_kwargs: dict | str | None = option(None, "JSON: arguments of the schedule.")
    max_grad_norm: NotNegative = option(1.0, "Maximum gradient norm; 0: no clipping.")
    label_smoothing_factor: Share = option(0.0, "Label smoothing.")


# The usual options of transformers' TrainingArguments


@dataclass
class LengthOptions:
    """Trainer: length and batches"""

    output_dir: str | None = option(None, "Run folder: weights, checkpoints, results.", about="running", path=True)
    num_train_epochs: float = option(50.0, "Epochs.", in_card=True)
    max_steps: int = option(-1, "Optimizer steps; overrides num_train_epochs unless -1.")
    per_device_train_batch_size: Count = option(64, "Training batch size per device.", in_card=True)
    gradient_accumulation_steps: Count = option(1, "Batches per optimizer step.", in_card=True)


@dataclass
class OptimizerOptions:
    """Trainer: optimizer"""

    optim: str = option("adamw_torch_fused", "Optimizer of Trainer, or timm:NAME.", in_card=True)
    learning_rate: float = option(1e-3, "Peak learning rate; pretrained weights need less: 1e-4.", in_card=True)
    lr_scheduler_type: str = option("cosine", "Learning-rate schedule of Trainer.", in_card=True)
    warmup_steps: float = option(0.05, "Warm-up in steps or, below 1, as a share of all steps.")
    weight_decay: NotNegative = option(0.0, "Weight decay.", in_card=True)


@dataclass
class SavingOptions:
    """Trainer: evaluation and saving"""

    about, rare = "running", True
    # An evaluation draws random numbers, so another strategy would change the result of a resumed run
    eval_strategy: Strategy = option("no", "When to evaluate; with steps, give eval_steps too.", about="training")
    save_strategy: Literal["no", "steps", "epoch", "best"] = option("steps", "When to save a checkpoint.")
    save_steps: float = option(500.0, "Steps between checkpoints.")


@dataclass
class LoggingOptions:
    """Trainer: logging, Hub, memory"""

    about, rare = "running", True
    logging_steps: float = option(0.02, "Steps between logs, or, below 1, as a share of all steps.")
    report_to: list | str | None = option("none", "Tracker: tensorboard, trackio, wandb, all or none.")
    push_to_hub: bool = option(False, "Push the student after training.")
    hub_model_id: str | None = option(None, "Hub id of the repository.")
    per_device_eval_batch_size: Count = option(64, "Evaluation batch size per device.")
    activation_checkpointing: bool | None = option(None, "Recompute activations in the backward pass to save memory.")


@dataclass
class MachineOptions:
    """Trainer: machine and seed"""

    about = "running"
    seed: int = option(42, "Random seed.", about="training", in_card=True)
    use_cpu: bool = option(False, "Train on the CPU.", about="call")
    bf16: bool = option(False, "bfloat16 mixed precision.", about="training")
    dataloader_num_workers: Number = option(0, "Worker processes that read images.")


@dataclass
class TrainingOptions(
    AlignmentOptions,
    AlignmentDetails,
    ClassificationOptions,
    MixingOptions,
    OptimizationOptions,
    LengthOptions,
    OptimizerOptions,
    SavingOptions,
    LoggingOptions,
    MachineOptions,
):
    """Training; [`~g4i_hf.AlignmentArguments`] adds these to transformers' `TrainingArguments`."""

    others: dict[str, Any] = field(default_factory=dict, init=False)  # options of `TrainingArguments`, as given

    def __post_init__(self):
        check_training(self)


def check_training(options: TrainingOptions) -> None:
    """Raise ValueError for an invalid value, or options that contradict each other."""
    check_values(options)
    if options.align_loss not in (names := [*ALIGN_LOSSES, *OWN_OBJECTIVES]):
        raise ValueError(f"{wrong_choice('align_loss', options.align_loss, names)} One of yours needs its --module.")
    if isinstance(options.lr_scheduler_kwargs, str):
        from_json("lr_scheduler_kwargs", options.lr_scheduler_kwargs)
    if options.bce_target_threshold == 0 and options.label_smoothing_factor > 0:
        raise ValueError("bce_target_threshold is 0: with label_smoothing_factor every class would be a target.")
    if options.soft_label_weight and options.classification_loss != "cross_entropy":
        raise ValueError("soft_label_weight needs classification_loss: cross_entropy, whose softmax it teaches.")


def aligns(options: Mapping[str, Any]) -> bool | None:
    """Whether a run with these options (of its `train.yaml`) has an alignment loss; None if unknown."""
    weight = options.get("align_weight")
    return None if weight is None else float(weight) > 0


def learned_from_captions(options: Mapping[str, Any]) -> str | None:
    """The options with which a run learned from captions, as text; None for a baseline."""
    parts = [f"align_weight {options['align_weight']}"] if options.get("align_weight") else []
    parts += [f"supervision {options['supervision']}"] if options.get("supervision", "none") != "none" else []
    return ", ".join(parts) or None


# Beginnings of the names of Trainer's options that do not affect what is learned
OF_TRAINER = {
    "call": ("local_rank", "dataloader_pin_memory"),
    "running": (
        *("disable_tqdm", "log", "save_", "hub_", "run_name", "project", "trackio_", "torch_compile"),
        *("dataloader_prefetch", "dataloader_persistent", "gradient_checkpointing", "activation_checkpointing"),
    ),
}


def other_trainer_options() -> list[str]:
    """Fields of transformers' `TrainingArguments` that are not ours, from its source, as the import takes seconds."""
    package = importlib.util.find_spec("transformers")
    source = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
    ours = TrainingOptions.__dataclass_fields__
    return [name for name in re.findall(r"^    (\w+): .*= field\(", source, re.MULTILINE) if name not in ours]
