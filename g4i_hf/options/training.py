"""Options of `g4i train` and `g4i fit`."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..files import wrong_choice
from .data import DEFAULT_TEXT_ENCODER
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
    option,
)

Strategy = Literal["no", "steps", "epoch"]
ALIGN_LOSSES = ("clip", "infonce", "siglip", "cosine")
OWN_OBJECTIVES: dict[str, Any] = {}  # by name, those of [`~g4i_hf.register_objective`]


@dataclass
class FitArguments:
    """Fit"""

    output_dir: str | None = option(None, "Folder for everything; runs/NAME of the dataset by default.")
    captioner: str | None = option(
        None,
        "Write captions for images without: a VLM's Hub id or folder, or a server's address with captioner_model.",
    )
    captioner_model: str | None = option(None, "The model's name on the server at captioner.")
    text_encoder: str = option(DEFAULT_TEXT_ENCODER, "Hub id or folder of the text encoder.")
    student: str | None = option(None, "Pretrained timm or transformers model; a small EfficientNet by default.")
    pretrained: bool = option(True, "Start from the student's weights; false trains all its layers from scratch.")
    image_size: Count | None = option(None, "Image size in pixels; chosen by the images by default.")
    views: list[str] | None = option(
        None,
        "What tells the class: caption, answer, image:student, image:NAME of an encoder; all but the last by default.",
    )
    finetune: Literal["auto", "true", "false"] = option(
        "auto", "Train all layers after the last one: true, false, or auto (where minutes allow enough of it)."
    )
    finetune_epochs: Positive = option(20.0, "Epochs of training all layers, at most.")
    learning_rate: Positive | None = option(
        None, "Peak learning rate of training all layers; by default 1e-4, and 1e-3 from scratch."
    )
    minutes: Positive | None = option(
        None, "Minutes for training all layers; by default 30 with a GPU, and none on a CPU."
    )
    release: Literal["auto", "labels_only", "with_views"] = option(
        "auto", "What classifier/ holds: labels_only, with_views, or auto (with views, unless they are judged worse)."
    )
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report them).")
    overwrite: bool = option(False, "Replace a result that output_dir already holds.")
    seed: int = option(0, "Random seed.")
    dry_run: bool = option(False, "Print the decisions; write nothing.")

    def __post_init__(self):
        check_values(self)
        for view in self.views or []:
            if view not in ("caption", "answer") and (not view.startswith("image:") or view == "image:"):
                raise ValueError(
                    f"There is no view {view!r} (views): caption, image:student, or image:NAME of an encoder."
                )
        if not self.pretrained and (not self.student or self.finetune == "false"):
            raise ValueError("pretrained is false: name a student, and do not set finetune to false.")
        if self.captioner and is_address(self.captioner) and not self.captioner_model:
            raise ValueError("captioner is a server: name its model with captioner_model.")
        if self.captioner_model and not (self.captioner and is_address(self.captioner)):
            raise ValueError("captioner_model is the name of a model on a server: give its address with captioner.")


def is_address(captioner: str) -> bool:
    return captioner.startswith(("http://", "https://"))


@dataclass
class LoraOptions:
    """LoRA"""

    use_peft: bool = option(False, "Train LoRA adapters instead of the pretrained backbone.")
    lora_r: Count = option(16, "Rank of the adapters.")
    lora_alpha: Count = option(32, "Scale: the output of an adapter is multiplied by lora_alpha / lora_r.")
    lora_dropout: BelowOne = option(0.05, "Dropout in front of an adapter.")


@dataclass
class StudentArguments(LoraOptions):
    """Student"""

    student: str = option("resnet50", "timm model name, folder or Hub id of a checkpoint, or transformers model type.")
    student_args: dict | str | None = option(None, "JSON: arguments of timm.create_model, or configuration fields.")
    student_revision: str | None = option(None, "Branch, tag or commit of a Hub checkpoint.")
    pretrained: bool = option(False, "Start from the checkpoint's weights.")
    projector_type: Literal["mlp", "linear"] = option("mlp", "Projector from feature to text embedding space.")
    projector_hidden_size: Count | None = option(None, "Hidden size of the MLP; 2 D by default.")
    projector_norm: Literal["none", "batch", "layer"] = option("none", "Normalization layer of the MLP.")

    def __post_init__(self):
        if isinstance(self.student_args, str):
            try:
                self.student_args = json.loads(self.student_args)
            except json.JSONDecodeError as error:
                raise ValueError(f"student_args is {self.student_args!r}, which is not JSON: {error}") from error
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

    image_size: Count | None = option(None, "Input size in pixels; by default the checkpoint's, or 224.")
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] | None = option(
        None, "Interpolation for resizing; bicubic by default."
    )
    crop_pct: Fraction | None = option(None, "Center crop ratio of evaluation; 1 by default.")
    train_crop: Literal["resized", "pad", "none"] = option(
        "resized",
        "resized (random resized crop), pad (pad and random crop, for small images) or none (as at inference: no "
        "augmentation at all).",
    )
    crop_min_scale: Fraction = option(0.08, "Minimum area of a random resized crop, as a share of the image.")
    crop_padding: Number | None = option(None, "Padding of `pad` in pixels; image_size / 8 by default.")
    hflip: Share = option(0.5, "Probability of a horizontal flip.")
    color_jitter: NotNegative = option(0.0, "Strength of random changes of brightness, contrast and saturation.")
    auto_augment: str | None = option(None, "timm policy, such as rand-m9-mstd0.5-inc1.")
    random_erasing: Share = option(0.0, "Probability of random erasing.")

    @property
    def image_settings(self) -> dict[str, Any]:
        """The settings of resizing that were given, by timm's names."""
        chosen = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass
class SupervisionOptions:
    """Labels from captions"""

    supervision: Literal["none", "auto"] = option(
        "none",
        "none (alignment alone) or auto (class probabilities from captions for unlabelled rows and doubted labels, "
        "weighted by estimates).",
    )
    image_features: str | None = option(None, "Image features beside captions: a column, or student (pretrained).")
    unlabelled: Literal["keep", "drop"] = option("keep", "Rows without a label: keep (for their captions) or drop.")


@dataclass
class RunArguments(SupervisionOptions, Checked):
    """Run"""

    overwrite: bool = option(False, "Replace a run that output_dir already holds.")
    dry_run: bool = option(False, "Check data and options, time a few steps and print the plan; write nothing.")
    train_split: str = option("train", "Training split.")
    eval_split: str = option("validation", "Split to evaluate during training.")
    require_labels: bool = option(True, "Unlabelled rows are an error; if false, they train on their captions.")
    on_bad_images: BadImages = option("error", "Unreadable images: error, or skip (and report them).")
    labels_only: bool = option(False, "Then train on the labels alone, in output_dir/labels_only, and compare both.")


@dataclass
class AlignmentOptions:
    """Alignment"""

    align_weight: NotNegative = option(0.3, "Weight lambda of the alignment loss; 0 is the baseline.")
    align_loss: str = option(
        "clip",
        "clip (symmetric InfoNCE over the global batch), infonce (image to text only), siglip (pairwise sigmoid), "
        "cosine (no negatives) or one of yours, registered by module.",
    )
    align_temperature: Positive = option(0.2, "Temperature tau, or its initial value (paper: ResNet 0.2, DeiT 0.05).")
    align_learn_temperature: bool | None = option(None, "Learn temperature and bias; by default for siglip only.")
    align_logit_bias: float = option(-10.0, "Bias of siglip's logits, or its initial value.")
    align_mask: Literal["caption", "class", "none"] = option(
        "caption", "Rows that are no negatives of each other: same image or caption; also same class; or none."
    )
    align_mix_captions: bool = option(True, "Align mixed images with the captions of both images, not of the first.")
    align_gradient: Literal["invariant", "official"] = option(
        "invariant", "invariant to the number of processes, or official: clip's gradient is divided by that number."
    )
    align_captions: Literal["sample", "mean", "all"] = option(
        "sample", "Several captions per image: sample one each epoch, use their mean, or all as positives."
    )
    align_center: bool = option(False, "Subtract the mean training caption from all text embeddings.")
    align_schedule: Literal["constant", "cosine"] = option(
        "constant", "Schedule of align_weight after its warm-up: constant, or cosine decay to zero."
    )
    align_warmup_epochs: NotNegative = option(0.0, "Epochs of linear warm-up of align_weight.")
    align_off_epochs: NotNegative = option(0.0, "Last epochs, trained with align_weight 0.")


@dataclass
class ClassificationOptions:
    """Classification"""

    soft_label_weight: NotNegative | None = option(None, "Weight of the loss of soft labels; 1, or chosen by auto.")
    classification_loss: Literal["cross_entropy", "bce"] = option(
        "cross_entropy", "cross_entropy, or bce: binary cross-entropy per class (arXiv 2110.00476, 2204.07118)."
    )
    bce_target_threshold: BelowOne | None = option(None, "Targets of bce above this value become 1, others 0.")
    class_weights: list | str | None = option(None, "JSON list of a weight per class, or balanced: inverse frequency.")


@dataclass
class MixingOptions:
    """Repeated and mixed images"""

    repeated_augmentation: Count = option(1, "Augmented copies of an image in an epoch (DeiT: 3).")
    mixup_alpha: NotNegative = option(0.0, "Beta parameter of mixup; 0: off.")
    cutmix_alpha: NotNegative = option(0.0, "Beta parameter of CutMix; 0: off.")
    mix_prob: Share = option(1.0, "Probability of mixing a batch.")
    mix_switch_prob: Share = option(0.5, "Probability of CutMix where both are on.")


@dataclass
class OptimizationOptions:
    """Optimization"""

    weight_decay_on: Literal["trainer", "matrices", "all"] = option(
        "trainer", "Parameters to decay: all but biases and norms, as in Trainer; matrices, as in timm; or all."
    )
    layer_decay: Fraction | None = option(None, "Layer-wise learning-rate decay factor; timm students.")
    freeze_backbone: bool = option(False, "Train classifier and projector only; the backbone is in evaluation mode.")
    ema_decay: Annotated[float, "(0, 1)"] | None = option(None, "Decay of the EMA of the weights; not with DeepSpeed.")
    sgd_momentum: BelowOne = option(0.9, "Momentum of `optim: sgd`.")
    early_stopping_patience: Count | None = option(None, "Evaluations without improvement before training ends.")
    stop_on_nan: bool = option(True, "End training with an error on a NaN or infinite loss term.")


# The usual options of transformers' TrainingArguments follow; only these have another default here
OWN_DEFAULTS: tuple[str, ...] = ("save_total_limit", "hub_private_repo", "dataloader_persistent_workers")
OWN_DEFAULTS += ("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "learning_rate")
OWN_DEFAULTS += ("lr_scheduler_type", "warmup_steps", "logging_steps")


class TrainerGroup:
    """Trainer: other options"""


@dataclass
class LengthOptions(TrainerGroup):
    """Trainer: length and batches"""

    output_dir: str | None = option(None, "Run folder: weights, checkpoints, options, results.")
    num_train_epochs: float = option(50.0, "Epochs.")
    max_steps: int = option(-1, "Optimizer steps; overrides num_train_epochs unless -1.")
    per_device_train_batch_size: Count = option(64, "Training batch size per device.")
    per_device_eval_batch_size: Count = option(64, "Evaluation batch size per device.")
    gradient_accumulation_steps: Count = option(1, "Batches per optimizer step.")


@dataclass
class OptimizerOptions(TrainerGroup):
    """Trainer: optimizer"""

    optim: str = option("adamw_torch_fused", "Optimizer by Trainer's name, or timm's, such as timm:lamb.")
    learning_rate: float = option(1e-3, "Peak learning rate; pretrained weights need less, such as 1e-4.")
    lr_scheduler_type: str = option("cosine", "Schedule by Trainer's name.")
    lr_scheduler_kwargs: dict | str | None = option(None, "JSON: arguments of the schedule.")
    warmup_steps: float = option(0.05, "Warm-up in steps or, below 1, as a share of all steps.")
    weight_decay: NotNegative = option(0.0, "Weight decay.")
    max_grad_norm: NotNegative = option(1.0, "Maximum gradient norm; 0: no clipping.")
    label_smoothing_factor: Share = option(0.0, "Label smoothing.")


@dataclass
class SavingOptions(TrainerGroup):
    """Trainer: evaluation and saving"""

    eval_strategy: Strategy = option("no", "When to evaluate.")
    eval_steps: float | None = option(None, "Steps between evaluations.")
    save_strategy: Literal["no", "steps", "epoch", "best"] = option("steps", "When to save a checkpoint.")
    save_steps: float = option(500, "Steps between checkpoints.")
    save_total_limit: int | None = option(2, "Checkpoints to keep.")


@dataclass
class LoggingOptions(TrainerGroup):
    """Trainer: logging and Hub"""

    logging_strategy: Strategy = option("steps", "When to log.")
    logging_steps: float = option(0.02, "Steps between logs, or, below 1, as a share of all steps.")
    report_to: list | str | None = option("none", "Tracker: tensorboard, trackio, wandb, all or none.")
    push_to_hub: bool = option(False, "Push the student after training.")
    hub_model_id: str | None = option(None, "Hub id of the repository.")
    hub_private_repo: bool | None = option(True, "Make a new repository private.")


@dataclass
class MachineOptions(TrainerGroup):
    """Trainer: machine and seed"""

    seed: int = option(42, "Random seed.")
    use_cpu: bool = option(False, "Train on the CPU.")
    bf16: bool = option(False, "bfloat16 mixed precision.")
    activation_checkpointing: bool | None = option(None, "Recompute activations in the backward pass to save memory.")
    dataloader_num_workers: Number = option(0, "Worker processes that read images.")
    dataloader_persistent_workers: bool = option(True, "Keep the workers between epochs.")


@dataclass
class TrainingOptions(
    AlignmentOptions,
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

    def __post_init__(self):
        check_training(self)


def check_training(options: TrainingOptions) -> None:
    """A ValueError for a value that is no choice, outside its interval, or contradicts another option."""
    check_values(options)
    if options.align_loss not in (names := [*ALIGN_LOSSES, *OWN_OBJECTIVES]):
        raise ValueError(wrong_choice("align_loss", options.align_loss, names))
    if isinstance(options.lr_scheduler_kwargs, str):
        try:
            json.loads(options.lr_scheduler_kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"lr_scheduler_kwargs is {options.lr_scheduler_kwargs!r}, which is no JSON.") from error
    if options.bce_target_threshold == 0 and options.label_smoothing_factor > 0:
        raise ValueError("bce_target_threshold is 0: with label_smoothing_factor every class would be a target.")
    if options.soft_label_weight and options.classification_loss != "cross_entropy":
        raise ValueError("soft_label_weight needs classification_loss: cross_entropy, whose softmax it teaches.")


def recorded_options(cls: type) -> set[str]:
    """Options that a run records whatever their value; others of Trainer are recorded where it is not the default."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("g4i_hf") and TrainerGroup not in base.__bases__]
    always = {*OWN_DEFAULTS, "optim"}
    return {name for base in own for name in inspect.get_annotations(base)} | always


def aligns(options: Mapping[str, Any]) -> bool | None:
    """Whether a run with these options (of its `train.yaml`) has an alignment loss; None where they do not say."""
    weight = options.get("align_weight")
    return None if weight is None else float(weight) > 0


def learned_from_captions(options: Mapping[str, Any]) -> str | None:
    """The options by which a run learned from captions, as text; None for a baseline."""
    found = [f"align_weight {options['align_weight']}"] if options.get("align_weight") else []
    found += [f"supervision {options['supervision']}"] if options.get("supervision", "none") != "none" else []
    return ", ".join(found) or None


# The other fields of transformers' TrainingArguments, which training takes as they are; a test compares the two lists.
# With a newer transformers, an option that is in neither is looked for there before it is called unknown.
OTHER_TRAINER_OPTIONS_OF = "5.24"
OTHER_TRAINER_OPTIONS = """
accelerator_config activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size
average_tokens_across_devices batch_eval_metrics bf16_full_eval data_seed dataloader_drop_last dataloader_in_order
dataloader_multiprocessing_context dataloader_pin_memory dataloader_prefetch_factor ddp_backend
ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed
disable_tqdm do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay
eval_do_concat_batches eval_on_start eval_use_gather_object fp16 fp16_full_eval fsdp fsdp_config full_determinism
gradient_checkpointing gradient_checkpointing_kwargs greater_is_better hub_always_push hub_revision hub_strategy
hub_token ignore_data_skip include_for_metrics include_num_input_tokens_seen label_names length_column_name
liger_kernel_config load_best_model_at_end local_rank log_level log_level_replica log_on_each_node
logging_first_step logging_nan_inf_filter metric_for_best_model neftune_noise_alpha optim_args optim_target_modules
parallelism_config prediction_loss_only project remove_unused_columns restore_callback_states_from_checkpoint
resume_from_checkpoint run_name save_on_each_node save_only_model skip_memory_metrics tf32 torch_compile
torch_compile_backend torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id
trackio_static_space_id train_sampling_strategy use_cache use_liger_kernel
"""
