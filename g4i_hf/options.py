"""
The options of all commands.

Imports nothing heavy, so that `--help` and a message about a wrong option need no torch. `--help` groups the
options by the class that declares them, under its docstring. `Literal` lists choices; `__post_init__` checks the rest.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from .files import wrong_choice

LORA = ("merged", "adapter")
MEASURES = ("text_to_image", "calibration", "zero_shot", "probe", "robustness", "speed")
CHEAP_MEASURES = MEASURES[:3]  # no further pass over the images

# Options of the machine: they are not written into files
NOT_RECORDED = {"use_cpu", "dataloader_pin_memory", "local_rank", "dry_run"}
# Environment variable with the module of `--module`, for processes that start again
OWN_MODULE = "G4I_HF_MODULE"

BadImages = Literal["error", "skip"]
Strategy = Literal["no", "steps", "epoch"]


# A number and the interval of its values, which `check_values` looks at
Count = Annotated[int, "[1, inf)"]
Number = Annotated[int, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
NotNegative = Annotated[float, "[0, inf)"]
Share = Annotated[float, "[0, 1]"]


def option(default: Any, help: str) -> Any:
    """A field of an options class; a list or dict as `default` is copied for each instance."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def recorded_options(cls: type) -> set[str]:
    """Options that a run records whatever their value; others of Trainer are recorded where it is not the default."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("g4i_hf") and TrainerGroup not in base.__bases__]
    always = {*OWN_DEFAULTS, "optim", "lr_scheduler_type"}
    return {name for base in own for name in inspect.get_annotations(base)} | always


def is_secret(name: str) -> bool:
    return name.endswith(("token", "api_key", "password", "secret"))


def choices_of(hint: Any) -> list[str]:
    """The choices of a type that is a `Literal`, or a union with one."""
    return [
        choice for member in (hint, *get_args(hint)) for choice in get_args(member) if get_origin(member) is Literal
    ]


def check_values(options: Any) -> None:
    """
    Raises:
        ValueError: when a `Literal` field holds none of its choices, or a number lies outside of its interval. None
            is unset, and in any interval.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        choices, value = choices_of(hint), getattr(options, name, None)
        members = (hint, *get_args(hint))
        interval = next((member.__metadata__[0] for member in members if get_origin(member) is Annotated), None)
        if choices and isinstance(value, str) and value not in choices:
            raise ValueError(wrong_choice(name, value, choices))
        if isinstance(interval, str) and value is not None:
            low, high = map(float, interval[1:-1].split(","))
            above = value > low if interval[0] == "(" else value >= low
            below = value < high if interval[-1] == ")" else value <= high
            if not (above and below):
                words = f"{'above' if interval[0] == '(' else 'at least'} {low:g}"
                words += "" if high == inf else f" and {'below' if interval[-1] == ')' else 'at most'} {high:g}"
                raise ValueError(f"{name} is {value}; it must be {words}.")


# --- Data ------------------------------------------------------------------------------------------------------------


@dataclass
class DataArguments:
    """Data"""

    dataset_name: str | None = option(None, "Hub id, image folder, folder of Parquet files, or a stage.")
    dataset_config_name: str | None = option(None, "Configuration of a Hub dataset.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of a Hub dataset.")
    captions_name: str | None = option(None, "Hub id or folder of captions or embeddings, joined by image_id.")
    captions_revision: str | None = option(None, "Branch, tag or commit of the captions.")
    image_column: str | None = option(None, "The dataset's name for the column `image`.")
    label_column: str | None = option(None, "The dataset's name for the column `label`.")
    image_id_column: str | None = option(None, "The dataset's name for the column `image_id`.")
    caption_column: str | None = option(None, "The dataset's name for the column `caption`.")
    text_embeds_column: str | None = option(None, "The dataset's name for the column `text_embeds`.")
    caption_weight_column: str | None = option(None, "The dataset's name for the column `caption_weight`.")
    class_names_file: str | None = option(None, "One class name a line: for labels or text labels without names.")

    def __post_init__(self):
        if not self.dataset_name:
            raise ValueError("dataset_name is missing: give a Hub id or a folder with --dataset_name.")
        if self.captions_revision and not self.captions_name:
            raise ValueError("captions_revision is set, but captions_name is not: name the captions.")


@dataclass
class EncoderArguments:
    """Text encoder"""

    text_encoder: str | None = option(None, "Hub id or folder: sentence-transformers, CLIP, SigLIP, SigLIP 2.")
    text_encoder_revision: str | None = option(None, "Branch, tag or commit of the encoder.")
    text_encoder_prompt: str | None = option(None, "Text put before every caption, as in 'passage: '; empty for none.")
    text_encoder_prompt_name: str | None = option(None, "A prompt of the sentence-transformers model, by name.")
    text_encoder_batch_size: Count = option(64, "Captions per batch.")
    long_captions: Literal["truncate", "chunk_mean"] = option(
        "truncate", "Captions beyond the encoder's window: truncate, or chunk_mean: mean of chunks."
    )
    embeddings_dir: str | None = option(None, "Folder of the embeddings; `embeddings` beside the run by default.")
    with_images: bool = option(False, "Write the images and all other columns too, for a dataset of its own.")

    def __post_init__(self):
        check_values(self)
        if self.text_encoder_prompt is not None and self.text_encoder_prompt_name is not None:
            raise ValueError("text_encoder_prompt and text_encoder_prompt_name are both given; give one of them.")


@dataclass
class VerifyArguments:
    """Verification"""

    verify: Number = option(0, "Embed nothing; compare this many captions with their embeddings.")

    def __post_init__(self):
        check_values(self)


# --- Captioning ------------------------------------------------------------------------------------------------------


@dataclass
class PromptOptions:
    """Model and prompts"""

    captioner_model: str | None = option(None, "Hub id or folder of a VLM; with base_url, the server's name for it.")
    captioner_revision: str | None = option(None, "Branch, tag or commit of the model.")
    prompt: list[str] | None = option(
        None,
        "What is asked about each image: text, `plain` (the paper's) or `class` (names the class). Columns in braces, "
        "as in {label}, are filled in. Several prompts give several captions per image.",
    )
    max_new_tokens: Count = option(128, "Longest answer in tokens.")
    temperature: NotNegative = option(0.0, "Sampling temperature; 0 decodes greedily.")
    top_p: float | None = option(None, "Sample from the tokens of this total probability.")
    image_max_side: Count = option(768, "Longest side in pixels; larger images are shrunk first.")
    train_splits: list[str] | None = option(None, "Splits whose prompts may name the class; train by default.")


@dataclass
class ResumeOptions:
    """Resuming and limits"""

    journal_dir: str | None = option(None, "Where answers are saved as they arrive; `<captions_dir>.journal`.")
    retry_failed: bool = option(False, "Ask again for images whose caption failed, was refused or is empty.")
    dry_run: Number = option(0, "Caption this many images only; project time and cost of all.")
    partial: bool = option(False, "Write the captions that exist when a limit ends the run; other rows have none.")
    max_requests: Number | None = option(None, "Stop after this many requests.")
    max_cost: NotNegative | None = option(None, "Stop before this cost; needs both prices.")
    price_input: NotNegative | None = option(None, "Price of a million input tokens.")
    price_output: NotNegative | None = option(None, "Price of a million output tokens.")


@dataclass
class CaptionArguments(PromptOptions, ResumeOptions):
    """Captions"""

    captioner: Literal["local", "endpoint", "column", "file", "list"] | None = option(
        None,
        "local (a vision-language model in this process), endpoint (an OpenAI-compatible server), column (of the "
        "dataset), file (JSONL or CSV with a key) or list (in file order). By default what the other options imply.",
    )
    captions_dir: str | None = option(None, "Folder for the captions.")
    caption_splits: list[str] | None = option(None, "Splits to caption; all of them by default.")
    streaming: bool = option(False, "Read the dataset as a stream instead of downloading it first.")
    overwrite: bool = option(False, "Replace captions in captions_dir that were made with other options.")
    with_images: bool = option(False, "Write the images and all other columns too, for a dataset of its own.")

    def __post_init__(self):
        check_values(self)
        if not self.captions_dir:
            raise ValueError("captions_dir is missing: give a folder for the captions with --captions_dir.")
        if self.max_cost is not None and (self.price_input is None or self.price_output is None):
            raise ValueError("max_cost needs the prices of a million tokens: give --price_input and --price_output.")

    @property
    def journal(self) -> str:
        """Folder of the answers; beside the captions, which are replaced as a whole."""
        return self.journal_dir or f"{self.captions_dir.rstrip('/')}.journal"

    def kind(self, base_url: str | None, captions_file: str | None, caption_column: str | None) -> str | None:
        """
        Where captions come from: a choice of `captioner`, or None where the captions file shows whether it is a list.

        Raises:
            ValueError: when no option says it.
        """
        if self.captioner is not None:
            return self.captioner
        if captions_file is not None:
            return None
        if base_url is not None:
            return "endpoint"
        if self.captioner_model is not None:
            return "local"
        if caption_column is not None:
            return "column"
        raise ValueError(
            "Nothing says where captions come from. Give a model with --captioner_model, a server with --base_url as "
            "well, a file with --captions_file, or a column of the data with --captioner column."
        )


@dataclass
class LocalCaptionerArguments:
    """Captioner in this process"""

    caption_batch_size: Count = option(8, "Images per batch.")
    captioner_adapter: str | None = option(None, "Hub id or folder of a LoRA adapter for the model.")
    trust_remote_code: bool = option(False, "Run code that comes with the model: only if you have read it.")

    def __post_init__(self):
        check_values(self)


@dataclass
class EndpointArguments:
    """OpenAI-compatible server: vLLM, TGI, `transformers serve`, or a hosted provider"""

    base_url: str | None = option(None, "Address up to /v1, where images are sent; several with commas between them.")
    api_key_env: str | None = option(
        None, "Variable with the API key; unset: a Hugging Face token, for its hosts alone."
    )
    max_concurrency: Count = option(384, "Most concurrent requests of this process.")
    request_timeout: Positive = option(120.0, "Seconds until a request counts as failed.")
    max_attempts: Count = option(8, "Attempts per request.")
    batch_api: bool = option(
        False, "Send files of questions to /v1/batches: half the price at most hosts, within a day."
    )
    jpeg_quality: Annotated[int, "[1, 100]"] = option(90, "JPEG quality of images that have to be re-encoded.")

    def __post_init__(self):
        check_values(self)


@dataclass
class ExistingCaptionsArguments:
    """Existing captions"""

    captions_file: str | None = option(None, "JSONL or CSV with keys, or a list: .txt, .json, .pth of strings.")
    file_key: str | None = option(None, "Field that names the image; found by its name by default.")
    file_caption: str | None = option(None, "Field that holds the caption; found by its name by default.")
    several_captions: bool = option(False, "Let a repeated key add another caption instead of being an error.")
    order_scorer: str | None = option(None, "CLIP model that checks whether a list is in the order of the images.")


@dataclass
class QualityArguments:
    """Cleaning and quality; doubtful captions get a smaller `caption_weight`"""

    clean: bool = option(True, "Remove markup, openings, loops and unfinished ends; refusals count as missing.")
    synonyms_file: str | None = option(None, "YAML file: a list of other words for each class name.")
    quality_encoder: str | None = option(None, "Text encoder that compares a caption with its class and others.")
    clip_scorer: str | None = option(None, "CLIP model that measures how well caption and image match.")
    report: bool = option(True, "Write caption_report.html and .json into captions_dir.")


# --- Training --------------------------------------------------------------------------------------------------------


@dataclass
class SupervisionOptions:
    """What captions say about classes"""

    supervision: Literal["none", "auto", "soft", "pseudo"] = option(
        "none",
        "none (alignment alone), soft (their class probabilities beside the labels), pseudo (their class where there "
        "is no label), or auto: chosen by estimates before training.",
    )
    label_noise: Literal["keep", "soften", "relabel"] | None = option(
        None,
        "Labels that captions contradict: keep (the default, or by auto), soften (soft labels instead) or relabel.",
    )
    image_features: str | None = option(
        None, "Second view beside captions: a column of features, or student: what the pretrained student sees."
    )
    unlabelled: Literal["keep", "drop"] = option(
        "keep", "Rows without a label: keep them for their captions, or drop."
    )


@dataclass
class ControlOptions:
    """Controls of studies: fewer or wrong labels, rare classes, other captions; evaluated splits stay as they are"""

    label_fraction: Annotated[float, "(0, 1]"] = option(
        1.0, "Share of each class's labels to keep; other rows lose theirs."
    )
    label_seed: int | None = option(None, "Seed of the choice of these labels; that of the run by default.")
    label_noise_rate: Annotated[float, "[0, 1)"] = option(0.0, "Share of the labels to make wrong.")
    label_noise_kind: Literal["symmetric", "confusable"] = option(
        "symmetric", "Wrong labels: any other class, or the one whose captions are most alike."
    )
    label_noise_seed: int | None = option(None, "Seed of the choice of wrong labels; that of the run by default.")
    long_tail_factor: Annotated[float, "[1, inf)"] = option(
        1.0, "Images of the first class over those of the last; those between fall off exponentially."
    )
    long_tail_seed: int | None = option(None, "Seed of the choice of rows left out; that of the run by default.")
    caption_control: Literal["none", "class_name", "random", "shuffle_class", "shuffle"] = option(
        "none", "Replace training captions: by class names, random vectors, or those of other rows (of the class)."
    )


@dataclass
class RunArguments(SupervisionOptions, ControlOptions):
    """Run"""

    overwrite: bool = option(False, "Replace a run that output_dir already holds.")
    dry_run: bool = option(False, "Check data and options, time a few steps and print the plan; write no run.")
    train_split: str = option("train", "Training split.")
    eval_split: str = option("validation", "Split that is evaluated during training.")
    streaming: bool = option(False, "Read the training split as a stream instead of downloading or copying it first.")
    shuffle_buffer_size: Number = option(1000, "Rows of a stream that are shuffled together; 0: shards only.")
    require_labels: bool = option(True, "Unlabelled rows are an error; when false they train on their caption.")
    on_bad_images: BadImages = option("error", "Images that cannot be read: an error, or skip and report them.")

    def __post_init__(self):
        check_values(self)


@dataclass
class LoraOptions:
    """LoRA"""

    use_peft: bool = option(False, "Train LoRA adapters in place of the pretrained backbone.")
    lora_r: Count = option(16, "Rank of the adapters.")
    lora_alpha: Count = option(32, "Their output is scaled by lora_alpha / lora_r.")
    lora_dropout: Annotated[float, "[0, 1)"] = option(0.05, "Dropout before an adapter.")
    lora_target_modules: list[str] | None = option(
        None, "Ends of layer names, or patterns; by default Linear and Conv2d."
    )


@dataclass
class StudentArguments(LoraOptions):
    """Student"""

    student: str = option("resnet50", "timm name, folder or Hub id of a checkpoint, or transformers model type.")
    student_args: dict | str | None = option(None, "JSON: arguments of timm.create_model, or configuration fields.")
    student_revision: str | None = option(None, "Branch, tag or commit of a Hub checkpoint.")
    pretrained: bool = option(False, "Start from the checkpoint's weights.")
    projector_type: Literal["mlp", "linear"] = option("mlp", "Projector from feature to text embedding.")
    projector_hidden_size: int | None = option(None, "Width of the MLP; 2 D by default.")
    projector_norm: Literal["none", "batch", "layer"] = option("none", "Norm within the MLP.")

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
            raise ValueError(
                "use_peft adapts pretrained weights, but pretrained is false: LoRA on random weights would leave them "
                "random. Set pretrained to true, or leave use_peft out."
            )
        if self.lora_target_modules and not self.use_peft:
            raise ValueError("lora_target_modules is set, but use_peft is false: set it to true.")

    def lora(self) -> dict[str, Any] | None:
        """The adapters for [`~g4i_hf.AlignedImageClassification.from_student`]; None without LoRA."""
        if not self.use_peft:
            return None
        return {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.lora_target_modules,
        }


@dataclass
class AugmentationArguments:
    """Augmentation"""

    image_size: Count | None = option(None, "Input side in pixels; the checkpoint's own, or 224.")
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] | None = option(
        None, "How images are resized; bicubic by default."
    )
    crop_pct: Annotated[float, "(0, 1]"] | None = option(
        None, "Share of the shorter side in the evaluation crop; 1 by default."
    )
    train_crop: Literal["resized", "pad"] = option(
        "resized", "resized (random resized crop), or pad (pad and crop; for small images)."
    )
    crop_min_scale: float = option(0.08, "Smallest area of a random resized crop.")
    crop_padding: int | None = option(None, "Pixels of padding of `pad`; an eighth of the size by default.")
    hflip: float = option(0.5, "Probability of a horizontal flip.")
    color_jitter: float = option(0.0, "Strength of random brightness, contrast and saturation.")
    auto_augment: str | None = option(None, "timm's policy string, such as rand-m9-mstd0.5-inc1.")
    random_erasing: float = option(0.0, "Probability of erasing a rectangle.")

    def __post_init__(self):
        check_values(self)

    @property
    def image_settings(self) -> dict[str, Any]:
        """The settings of resizing that were given, by timm's names."""
        chosen = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass
class AlignmentOptions:
    """Alignment"""

    align_weight: NotNegative = option(0.3, "Weight lambda of the alignment loss; 0 is the baseline.")
    align_loss: Literal["clip", "infonce", "soft_clip", "siglip", "cosine"] = option(
        "clip",
        "clip (symmetric InfoNCE over the global batch), infonce (image to text only), soft_clip (targets from the "
        "similarity of captions), siglip (pairwise sigmoid) or cosine (no negatives).",
    )
    align_temperature: Positive = option(0.2, "Temperature tau, or its start (paper: ResNet 0.2, DeiT 0.05).")
    align_target_temperature: Positive = option(0.1, "Temperature of soft_clip's targets.")
    align_learn_temperature: bool | None = option(None, "Learn temperature and bias; by default for siglip only.")
    align_logit_bias: float = option(-10.0, "Bias of siglip's logits, or its start where learned.")
    align_mask: Literal["caption", "class", "none"] = option(
        "caption", "No negatives of each other: rows of the same image or caption; also of the same class; or none."
    )
    align_mix_captions: bool = option(True, "Align mixed images with both captions, not with their own alone.")
    align_gradient: Literal["invariant", "official"] = option(
        "invariant", "invariant to the number of processes, or as the official code: clip's is divided by it."
    )
    align_gather_texts: bool | None = option(None, "Exchange texts, or read those of all; by default on accelerators.")
    align_text_bank: Annotated[int, "[-1, inf)"] = option(
        0, "Training captions drawn each step as further negatives; -1: all."
    )
    align_captions: Literal["sample", "mean", "all"] = option(
        "sample", "Of several captions of an image: sample one each epoch, their mean, or all as positives."
    )
    align_center: bool = option(False, "Subtract the mean training caption from all text embeddings.")
    align_similarity: Literal["cosine", "dot"] = option(
        "cosine", "cosine, or dot: of features and centred texts that are not normalised (TextTeacher; temperature 1)."
    )
    align_balance: bool = option(
        False, "align_weight is a share, and both losses get gradients of equal size at the feature (TextTeacher)."
    )
    align_schedule: Literal["constant", "cosine"] = option(
        "constant", "Course of the weight after its warm-up: constant, or half a cosine to zero."
    )
    align_warmup_epochs: NotNegative = option(0.0, "Epochs in which the weight rises linearly from zero.")
    align_off_epochs: NotNegative = option(0.0, "Last epochs, trained with weight zero.")


@dataclass
class ClassificationOptions:
    """Classification"""

    soft_label_weight: NotNegative | None = option(
        None, "Weight of the cross entropy with soft labels of captions; 1 where there are any, or chosen by auto."
    )
    classification_loss: Literal["cross_entropy", "bce"] = option(
        "cross_entropy", "cross_entropy, or bce: a binary cross entropy per class (arXiv 2110.00476, 2204.07118)."
    )
    bce_target_threshold: Annotated[float, "[0, 1)"] | None = option(
        None, "Targets of bce above it become 1, others 0."
    )
    class_weights: list | str | None = option(
        None, "JSON list, one weight per class, or balanced: inverse to its images."
    )


@dataclass
class MixingOptions:
    """Repeated and mixed images"""

    repeated_augmentation: Count = option(
        1, "How often an image occurs in an epoch, augmented anew each time (DeiT: 3)."
    )
    mixup_alpha: NotNegative = option(0.0, "Beta parameter of mixup; 0: off.")
    cutmix_alpha: NotNegative = option(0.0, "Beta parameter of CutMix; 0: off.")
    mix_prob: Share = option(1.0, "Probability that a batch is mixed.")
    mix_switch_prob: Share = option(0.5, "Probability of CutMix where both are on.")


@dataclass
class OptimizationOptions:
    """Optimization"""

    weight_decay_on: Literal["trainer", "matrices", "all"] = option(
        "trainer", "What is decayed: all but biases and norms, as in Trainer; matrices, as in timm; or all."
    )
    layer_decay: Annotated[float, "(0, 1]"] | None = option(
        None, "Factor of the learning rate from a layer to the one below."
    )
    freeze_backbone: bool = option(False, "Train classifier and projector only; the rest stays in evaluation mode.")
    ema_decay: Annotated[float, "(0, 1)"] | None = option(
        None, "Decay of a moving average of the weights; not with DeepSpeed."
    )
    sgd_momentum: Annotated[float, "[0, 1)"] = option(0.9, "Momentum of `optim: sgd`, which has none in transformers.")
    early_stopping_patience: Count | None = option(None, "Evaluations without a better one before training ends.")
    stop_on_nan: bool = option(True, "End training with an error when a term of the loss is NaN or infinite.")
    max_nan_steps: Number = option(0, "Steps with NaN or infinite gradients to skip before the end.")


# Usual options of transformers' TrainingArguments; only these have another default here
OWN_DEFAULTS = ("save_total_limit", "hub_private_repo", "dataloader_persistent_workers")


class TrainerGroup:
    """Trainer: other options"""


@dataclass
class LengthOptions(TrainerGroup):
    """Trainer: length and batches"""

    output_dir: str | None = option(None, "Run folder: weights, checkpoints, options, results.")
    num_train_epochs: float = option(3.0, "Epochs.")
    max_steps: int = option(-1, "Optimizer steps, in place of num_train_epochs; -1: by epochs.")
    per_device_train_batch_size: int = option(8, "Training batch size per device.")
    per_device_eval_batch_size: int = option(8, "Evaluation batch size per device.")
    gradient_accumulation_steps: int = option(1, "Batches per optimizer step.")


@dataclass
class OptimizerOptions(TrainerGroup):
    """Trainer: optimizer"""

    optim: str = option("adamw_torch_fused", "Trainer's name of an optimizer, or timm's, as in timm:lamb.")
    optim_args: str | None = option(None, "Arguments of the optimizer, as in name=value,name=value.")
    learning_rate: float = option(5e-5, "Peak learning rate.")
    lr_scheduler_type: str = option("linear", "Trainer's name of a schedule, or timm's, as in timm:cosine.")
    lr_scheduler_kwargs: dict | str | None = option(None, "JSON: arguments of the schedule.")
    warmup_steps: float = option(0, "Steps of linear warm-up, or below 1 their share of all steps.")
    weight_decay: float = option(0.0, "Weight decay.")
    max_grad_norm: float = option(1.0, "Gradient clipping norm; 0: off.")
    label_smoothing_factor: float = option(0.0, "Label smoothing.")


@dataclass
class SavingOptions(TrainerGroup):
    """Trainer: evaluation and saving"""

    eval_strategy: Strategy = option("no", "When to evaluate.")
    eval_steps: float | None = option(None, "Steps between evaluations.")
    save_strategy: Literal["no", "steps", "epoch", "best"] = option("steps", "When to save a checkpoint.")
    save_steps: float = option(500, "Steps between checkpoints.")
    save_total_limit: int | None = option(2, "Checkpoints to keep.")
    load_best_model_at_end: bool = option(False, "Load the best checkpoint at the end; needs eval_strategy.")
    metric_for_best_model: str | None = option(None, "Metric of the best checkpoint: loss, accuracy.")


@dataclass
class LoggingOptions(TrainerGroup):
    """Trainer: logging and Hub"""

    logging_strategy: Strategy = option("steps", "When to log.")
    logging_steps: float = option(500, "Steps between logs.")
    report_to: list | str | None = option("none", "Tracker: tensorboard, trackio, wandb, all or none.")
    run_name: str | None = option(None, "Name of the run in the tracker.")
    disable_tqdm: bool | None = option(None, "No progress bar.")
    push_to_hub: bool = option(False, "Push the student while training and at its end.")
    hub_model_id: str | None = option(None, "Hub id of the repository.")
    hub_private_repo: bool | None = option(True, "Make a new repository private.")
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = option("every_save", "When to push.")


@dataclass
class MachineOptions(TrainerGroup):
    """Trainer: machine and seed"""

    seed: int = option(42, "Random seed.")
    use_cpu: bool = option(False, "Train on the CPU.")
    bf16: bool = option(False, "bfloat16 mixed precision.")
    fp16: bool = option(False, "float16 mixed precision.")
    tf32: bool | None = option(None, "TF32 on Ampere and newer GPUs.")
    activation_checkpointing: bool | None = option(None, "Recompute activations to save memory.")
    torch_compile: bool = option(False, "Compile the model.")
    dataloader_num_workers: int = option(0, "Processes that read images.")
    dataloader_persistent_workers: bool = option(True, "Keep these processes from one epoch to the next.")


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
    """
    Raises:
        ValueError: for values of the training options that make no sense.
    """
    check_values(options)
    if isinstance(options.lr_scheduler_kwargs, str):
        try:
            json.loads(options.lr_scheduler_kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"lr_scheduler_kwargs is {options.lr_scheduler_kwargs!r}, which is no JSON.") from error
    if options.bce_target_threshold == 0 and options.label_smoothing_factor > 0:
        raise ValueError("bce_target_threshold is 0: with label_smoothing_factor every class would be a target.")
    if options.max_nan_steps and not options.stop_on_nan:
        raise ValueError(f"max_nan_steps is {options.max_nan_steps}, but stop_on_nan is false: set it to true.")
    if options.align_balance and options.align_weight > 1:
        raise ValueError(f"align_weight is {options.align_weight}, but with align_balance it is a share: at most 1.")
    if options.align_balance and options.freeze_backbone:
        raise ValueError("align_balance compares gradients at the feature, where freeze_backbone has none.")
    if options.soft_label_weight and options.classification_loss != "cross_entropy":
        raise ValueError("soft_label_weight needs classification_loss: cross_entropy, whose softmax it teaches.")


def aligns(options: Mapping[str, Any]) -> bool | None:
    """Whether a run with these options (of its `train.yaml`) has an alignment loss; None where they do not say."""
    weight = options.get("align_weight")
    return None if weight is None else float(weight) > 0


def learned_from_captions(options: Mapping[str, Any]) -> str | None:
    """By what a run learned from captions, as a message shows it; None for a baseline."""
    # teacher_weight and pseudo_label are of version 0.1
    weights = {name: options.get(name) for name in ("align_weight", "teacher_weight")}
    found = [f"{name} {weight}" for name, weight in weights.items() if weight]
    found += ["unlabelled pseudo_label"] if options.get("unlabelled") == "pseudo_label" else []
    for name, without in (("supervision", "none"), ("label_noise", "keep")):
        value = options.get(name)
        found += [f"{name} {value}"] if value not in (None, without) else []
    return ", ".join(found) or None


# Options of version 0.1 that have another name now
DEPRECATED_FOR_TRAINING = ("teacher_weight", "teacher_temperature", "teacher_captions", "pseudo_label_threshold")


def translated(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """
    Options of training by their present names.

    Args:
        values: by the names that a user gave, of this version or of 0.1.

    Returns:
        The options, and a line for each that has another name now.
    """
    values, said = dict(values), []
    for name in DEPRECATED_FOR_TRAINING:
        if name not in values:
            continue
        value = values.pop(name)
        if name != "teacher_weight":
            said.append(f"{name} is deprecated and has no effect: probabilities are calibrated. Leave it out.")
        elif float(value) > 0:
            values |= {"supervision": "soft", "soft_label_weight": float(value)}
            said.append(
                f"teacher_weight is deprecated: use supervision: soft with soft_label_weight: {float(value):g}."
            )
    if values.get("unlabelled") == "pseudo_label":
        values |= {"unlabelled": "keep", "supervision": "pseudo"}
        said.append("unlabelled: pseudo_label is deprecated: use supervision: pseudo.")
    return values, said


# The other fields of transformers' TrainingArguments, which training takes as they are; a test compares the two lists.
# With a newer transformers, an option that is in neither is looked for there before it is called unknown.
OTHER_TRAINER_OPTIONS_OF = "5.24"
OTHER_TRAINER_OPTIONS = """
accelerator_config activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size
average_tokens_across_devices batch_eval_metrics bf16_full_eval data_seed dataloader_drop_last
dataloader_in_order dataloader_multiprocessing_context dataloader_pin_memory dataloader_prefetch_factor
ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout
debug deepspeed do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay
eval_do_concat_batches eval_on_start eval_use_gather_object fp16_full_eval fsdp fsdp_config full_determinism
gradient_checkpointing gradient_checkpointing_kwargs greater_is_better hub_always_push hub_revision hub_token
ignore_data_skip include_for_metrics include_num_input_tokens_seen label_names length_column_name
liger_kernel_config local_rank log_level log_level_replica log_on_each_node logging_first_step
logging_nan_inf_filter neftune_noise_alpha optim_target_modules parallelism_config prediction_loss_only
project remove_unused_columns restore_callback_states_from_checkpoint resume_from_checkpoint save_on_each_node
save_only_model skip_memory_metrics torch_compile_backend torch_compile_mode torch_empty_cache_steps
trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy use_cache use_liger_kernel
"""


# --- Checks ----------------------------------------------------------------------------------------------------------


@dataclass
class CheckArguments:
    """Check"""

    split: str = option("train", "Split whose labels are checked.")
    check_dir: str = option("label_check", "Folder for the page and the CSV file.")
    num_pictures: Count = option(100, "Most suspicious labels that are shown with their picture.")

    def __post_init__(self):
        check_values(self)


# --- Evaluation, release, studies ------------------------------------------------------------------------------------


@dataclass
class EvaluateArguments:
    """Evaluation"""

    run: str | None = option(None, "Run folder of an aligned student, or of any run.")
    baseline: str | None = option(None, "Run folder of its baseline, evaluated beside it.")
    splits: list[str] | None = option(None, "Splits to evaluate; by default all but the training split.")
    train_split: str = option("train", "Training split.")
    on_bad_images: BadImages = option("error", "Images that cannot be read: an error, or skip and report them.")
    weights: Literal["raw", "ema"] = option("raw", "raw, or ema: the moving average of ema_decay.")
    measures: list[str] | None = option(
        None,
        "Beside accuracy and caption retrieval: text_to_image (images by their captions), calibration, zero_shot "
        "(classes by their texts), probe (k-NN and a linear probe on the feature), robustness (corrupted images, 20 "
        "more passes), speed (parameters, multiply-adds, and milliseconds on this CPU in PyTorch and ONNX Runtime, in "
        "float32 and int8); all; or none. By default the first three.",
    )
    probe_samples: Count | None = option(None, "Random training images for the probes; all by default.")
    report: str | None = option(None, "HTML file for the comparison and its pictures.")
    eval_batch_size: int = option(64, "Images per batch, on each process.")
    eval_num_workers: int = option(0, "Processes that read images.")

    def __post_init__(self):
        if not self.run:
            raise ValueError("run is missing: give the run folder with --run.")
        check_values(self)
        given = CHEAP_MEASURES if self.measures is None else self.measures
        words = [name for word in given for name in word.split(",") if name]
        known = (*MEASURES, "all", "none")
        if unknown := [word for word in words if word not in known]:
            raise ValueError(wrong_choice("measures", unknown[0], known))
        if "none" in words and len(words) > 1:
            raise ValueError("measures has none beside others: give none alone, or leave it out.")
        self.measures = [measure for measure in MEASURES if measure in words or "all" in words]


@dataclass
class ReleasedStudentOptions:
    """Student"""

    student_dir: str | None = option(None, "Folder for the student; <run>/student by default.")
    weights: Literal["raw", "ema"] = option("raw", "raw, or ema: the moving average of ema_decay.")
    aligned: bool = option(True, "Add the aligned model with its projector in aligned/, for use with text.")
    onnx: bool = option(False, "Add onnx/model.onnx, checked against PyTorch.")
    lora: Literal["merged", "adapter"] = option(
        "merged", "Of a run with use_peft: merged into the weights, or the adapter alone."
    )
    card_pictures: bool = option(True, "Show evaluated images in the student's card; they are published with it.")


@dataclass
class ReleasedDatasetOptions:
    """Dataset"""

    dataset_dir: str | None = option(None, "Folder for the dataset; <stage>-dataset by default.")
    with_images: bool = option(False, "Publish the images too, without EXIF; else they are joined by image_id.")
    images_id: str | None = option(None, "Hub id of the images, where the stage knows them as a local folder.")
    max_shard_size: str = option("500MB", "Largest Parquet file, as in 500MB or 5GB.")


@dataclass
class SpaceOptions:
    """Space"""

    space: bool = option(False, "Make a Gradio app of the student as well.")
    space_repo_id: str | None = option(None, "Hub id of the app; <repo_id>-space by default.")


@dataclass
class PushOptions:
    """Card and Hub"""

    license: str | None = option(None, "Licence of what is released; `other` by default.")
    repo_id: str | None = option(None, "Hub id, as in me/my-student.")
    push_to_hub: bool = option(False, "Push to repo_id.")
    private: bool = option(True, "Make a new repository private.")
    hub_revision: str | None = option(None, "Branch to push to; main by default.")
    replace: bool = option(False, "Push into a repository of other files too, replacing those of the same name.")
    dry_run: bool = option(False, "Write what would be pushed, list it with sizes, and push nothing.")


@dataclass
class ReleaseArguments(ReleasedStudentOptions, ReleasedDatasetOptions, SpaceOptions, PushOptions):
    """Release"""

    run: str | None = option(None, "Run folder whose student is released.")
    baseline: str | None = option(None, "Run folder of its baseline, for the card's table.")
    seed_runs: list[str] | None = option(None, "The same run with other seeds, for the spread in the card.")
    seed_baselines: list[str] | None = option(None, "Their baselines, in the same order.")
    stage: str | None = option(None, "Folder of captions or embeddings, released as a dataset instead of a run.")

    def __post_init__(self):
        if self.stage and self.run:
            raise ValueError(
                f"run is {self.run} and stage is {self.stage}: one of them is released at a time, a run as a student "
                "or a stage as a dataset. Leave the other out."
            )
        if not self.stage and not self.run:
            raise ValueError("run is missing: give the run folder with --run, or a stage's with --stage.")
        self._check_kind()
        check_values(self)
        for name in ("repo_id", "space_repo_id", "images_id"):
            if getattr(self, name) is not None:
                check_repo_id(name, getattr(self, name), with_namespace=name != "images_id")  # `mnist` can be read
        if self.push_to_hub and not self.repo_id:
            raise ValueError("push_to_hub needs repo_id: give the Hub id with --repo_id, as in me/my-student.")

    def _check_kind(self) -> None:
        """Options of the other kind would have no effect."""
        of_student = {"baseline", "seed_runs", "seed_baselines"}
        of_student |= {each.name for group in (ReleasedStudentOptions, SpaceOptions) for each in fields(group)}
        of_dataset = {each.name for each in fields(ReleasedDatasetOptions)}
        others, kind, other = (of_student, "stage", "run") if self.stage else (of_dataset, "run", "stage")
        given = [
            each.name for each in fields(self) if each.name in others and getattr(self, each.name) != each.default
        ]
        if given:
            what = "students, which are released with --run" if self.stage else "datasets, released with --stage"
            raise ValueError(
                f"{given[0]} is an option of {what}, and {kind} is {getattr(self, kind)}. Leave {given[0]} out, or "
                f"give --{other} in place of --{kind}."
            )


def check_repo_id(name: str, repo_id: str, with_namespace: bool) -> None:
    """
    Raises:
        ValueError: when it is no Hub id; an address of a page is none, as cards hold the id as it stands.
    """
    from huggingface_hub.utils import validate_repo_id

    parts = repo_id.split("/")
    if len(parts) > 2 or not all(parts):
        raise ValueError(
            f"{name} is {repo_id}, which is an address or a path and no Hub id: write it as me/my-student."
        )
    if with_namespace and len(parts) < 2:
        raise ValueError(
            f"{name} is {repo_id}, without the user or organisation that it belongs to: write it as NAME/{repo_id}; "
            "`hf auth whoami` prints your name."
        )
    validate_repo_id(repo_id)


@dataclass
class ScoringOptions:
    """Scoring"""

    splits: list[str] = option(["validation"], "Splits whose labels may be used for choices.")
    final_splits: list[str] = option([], "Splits predicted by every cell, and scored with --final only.")
    final: bool = option(False, "Score final_splits, and note it in the file of `openings`.")
    openings: str | None = option(None, "File that gets a line whenever labels of final_splits are used.")
    cluster_column: str | None = option(None, "Column of images that belong together, such as several of one object.")


@dataclass
class StudyFileOptions:
    """Work and output"""

    results: str = option("runs/compare.jsonl", "File that gets a line when a cell ends.")
    summary: str | None = option(None, "JSON file for the figures; kept where it has some that are not scored now.")
    plot: str | None = option(None, "PNG file for differences and their intervals.")
    curves: str | None = option(None, "PNG file for accuracies against label_fraction.")
    processes: Count = option(1, "Cells trained at a time; on GPUs, one each in turn.")
    threads: Count = option(1, "Threads of each process.")
    dry_run: bool = option(False, "Print the plan and how long it takes; train nothing.")
    check_cell: str | None = option(None, "student/variant/seed: train it again and compare every prediction.")


@dataclass
class CompareArguments(ScoringOptions, StudyFileOptions):
    """Grid"""

    train_config: str | None = option(None, "YAML file of `train` that every cell starts from.")
    options: dict = option({}, "Training options for all cells.")
    students: dict = option({}, "name: options, such as student, student_args and learning_rate.")
    variants: dict = option({}, "name: options that make the difference, such as align_weight.")
    baseline: str | None = option(None, "Variant that the others are compared with; the first one by default.")
    against: dict = option({}, "variant: another one that it is compared with in place of baseline.")
    seeds: list[int] = option([0, 1, 2, 3, 4], "Seeds of every pair.")
    only_students: list[str] | None = option(None, "Of the students, these only.")
    only_variants: list[str] | None = option(None, "Of the variants, these only.")

    def __post_init__(self):
        check_values(self)
        if not self.train_config or not self.students or not self.variants:
            raise ValueError("A comparison needs train_config, students and variants: give them in a file (--config).")
        for name, group in (("students", self.students), ("variants", self.variants)):
            wrong = [key for key, options in group.items() if options is not None and not isinstance(options, dict)]
            if wrong:
                raise ValueError(f"{name}: {wrong[0]} must hold options, name: value.")
        for group in ({"options": self.options}, self.students, self.variants):
            for name, options in group.items():
                for unset in (key for key, value in (options or {}).items() if value is None or value == []):
                    raise ValueError(
                        f"{name}: {unset} has no value, and what train_config sets cannot be unset here: leave it "
                        "out there, and give it where it is wanted."
                    )
        self.baseline = self.baseline or next(iter(self.variants))
        named = {"baseline": [self.baseline], "against": [*self.against, *self.against.values()]}
        for name, variants in (named | {"only_variants": self.only_variants or []}).items():
            check_named(name, variants, self.variants)
        check_named("only_students", self.only_students or [], self.students)
        if set(self.splits) & set(self.final_splits):
            raise ValueError("A split is in both splits and final_splits: its labels are open, or they are not.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be different numbers, one or more.")

    def reference_of(self, variant: str) -> str | None:
        """The variant that this one is compared with; None for the baseline, unless `against` names another."""
        other = self.against.get(variant, self.baseline)
        return None if other == variant or self.against.get(other) == variant else other


def check_named(option_name: str, names: list[str], known: dict) -> None:
    """
    Raises:
        ValueError: for a name that is not known.
    """
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"{option_name} names {wrong[0]!r}, which is none of {', '.join(known)}.")


# The classes of each command, in the order in which it is given their instances
OPTIONS_OF = {
    "caption": (
        *(CaptionArguments, DataArguments, LocalCaptionerArguments, EndpointArguments),
        *(ExistingCaptionsArguments, QualityArguments),
    ),
    "embed": (DataArguments, EncoderArguments, VerifyArguments),
    "train": (
        *(RunArguments, DataArguments, EncoderArguments, StudentArguments),
        *(AugmentationArguments, TrainingOptions),
    ),
    "check": (CheckArguments, DataArguments, EncoderArguments),
    "evaluate": (EvaluateArguments, DataArguments, EncoderArguments),
    "compare": (CompareArguments,),
    "release": (ReleaseArguments,),
}
