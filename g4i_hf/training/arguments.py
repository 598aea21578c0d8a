"""Options of a run and of its student; those of training are in `alignment_arguments`."""

import json
from dataclasses import dataclass, field
from typing import Any

from ..cli import wrong_choice
from ..data.bad_images import ON_BAD_IMAGES
from ..modeling.configuration_aligned import PROJECTOR_NORMS, PROJECTOR_TYPES

CAPTION_CONTROLS = ("none", "class_name", "random", "shuffle_class", "shuffle")


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
    # --- LoRA ---
    use_peft: bool = field(
        default=False,
        metadata={
            "help": "Train LoRA adapters of the pretrained backbone in its place; classifier and projector in full."
        },
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "Their output is multiplied by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout of what enters an adapter."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Layers with an adapter: ends of names (attn.qkv) or regular expressions. By default every Linear "
            "and ungrouped Conv2d of the backbone but the first convolution."
        },
    )

    def __post_init__(self):
        if isinstance(self.student_args, str):
            try:
                self.student_args = json.loads(self.student_args)
            except json.JSONDecodeError as error:
                raise ValueError(f"student_args is {self.student_args!r}, which is not JSON: {error}") from error
        one_of(self, "projector_type", PROJECTOR_TYPES)
        one_of(self, "projector_norm", PROJECTOR_NORMS)
        if self.use_peft and not self.pretrained:
            raise ValueError(
                "use_peft adapts pretrained weights, but pretrained is false: LoRA on random weights would leave them "
                "random. Set pretrained to true, or leave use_peft out."
            )
        if self.lora_target_modules and not self.use_peft:
            raise ValueError("lora_target_modules is set, but use_peft is false: set it to true.")
        if self.lora_r < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"lora_r ({self.lora_r}) and lora_alpha ({self.lora_alpha}) must be positive, lora_dropout "
                f"({self.lora_dropout}) from 0 to below 1."
            )

    def lora(self) -> dict[str, Any] | None:
        """What [`~g4i_hf.AlignedImageClassification.from_student`] wants to know of LoRA; None without it."""
        if not self.use_peft:
            return None
        return {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.lora_target_modules,
        }


@dataclass
class RunArguments:
    """What to do about an earlier run, and which splits are used."""

    overwrite: bool = field(default=False, metadata={"help": "Replace a run that output_dir already holds."})
    dry_run: bool = field(
        default=False,
        metadata={"help": "Check data and options, time a few steps, say what would be done; write no run."},
    )
    train_split: str = field(default="train", metadata={"help": "Split that is trained on."})
    eval_split: str = field(default="validation", metadata={"help": "Split that is evaluated during training."})
    require_labels: bool = field(
        default=True,
        metadata={"help": "Unlabelled rows (null or -1) are an error; when false they train on their caption."},
    )
    on_bad_images: str = field(
        default="error",
        metadata={"help": "Images that cannot be read: error, or skip, which leaves them out and reports them."},
    )
    # --- Streaming ---
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the training split from start to end, instead of downloading or copying it first."},
    )
    shuffle_buffer_size: int = field(
        default=1000, metadata={"help": "Streamed rows that are shuffled together; 0 shuffles shards alone."}
    )
    # --- Few labels, and controls ---
    label_fraction: float = field(
        default=1.0,
        metadata={"help": "Share of the training labels of each class that is kept; other rows become unlabelled."},
    )
    label_seed: int | None = field(
        default=None, metadata={"help": "Seed of which are kept; that of the run by default."}
    )
    unlabelled: str = field(
        default="keep",
        metadata={
            "help": "Training rows without label: keep them for their captions; drop them, as for a baseline on "
            "labelled rows alone (max_steps then gives it as many steps); or pseudo_label them by their captions."
        },
    )
    pseudo_label_threshold: float = field(
        default=0.0,
        metadata={"help": "Probability below which captions give no pseudo-label, and a row is kept for its caption."},
    )
    caption_control: str = field(
        default="none",
        metadata={
            "help": "Training captions replaced by a control: class_name, random (a vector for each caption), "
            "shuffle_class (among rows of a class), shuffle (among all rows), or none."
        },
    )

    def __post_init__(self):
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction is {self.label_fraction}; it must be above 0 and at most 1.")
        one_of(self, "on_bad_images", ON_BAD_IMAGES)
        if self.shuffle_buffer_size < 0:
            raise ValueError(f"shuffle_buffer_size is {self.shuffle_buffer_size}; it must not be negative.")
        one_of(self, "unlabelled", ("keep", "drop", "pseudo_label"))
        if not 0 <= self.pseudo_label_threshold < 1:
            raise ValueError(f"pseudo_label_threshold is {self.pseudo_label_threshold}; it must be from 0 to below 1.")
        one_of(self, "caption_control", CAPTION_CONTROLS)


def one_of(args: Any, name: str, choices: tuple[str, ...]) -> None:
    """
    Raises:
        ValueError: when the field of that name holds none of the choices; it names the nearest.
    """
    if getattr(args, name) not in choices:
        raise ValueError(wrong_choice(name, getattr(args, name), choices))
