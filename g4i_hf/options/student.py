"""Options of the student and of its images."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from .fields import Count, NotNegative, Number, Share, check_values, option


@dataclass
class LoraOptions:
    """LoRA"""

    use_peft: bool = option(False, "Train LoRA adapters instead of the pretrained backbone.")
    lora_r: Count = option(16, "Rank of the adapters.")
    lora_alpha: Count = option(32, "Scale: the output of an adapter is multiplied by lora_alpha / lora_r.")
    lora_dropout: Annotated[float, "[0, 1)"] = option(0.05, "Dropout in front of an adapter.")
    lora_target_modules: list[str] | None = option(None, "Suffixes or patterns of layer names; all Linear and Conv2d.")


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
            raise ValueError(
                "use_peft adapts pretrained weights, but pretrained is false: LoRA on random weights would leave them "
                "random. Set pretrained to true, or leave use_peft out."
            )
        if self.lora_target_modules and not self.use_peft:
            raise ValueError("lora_target_modules is set, but use_peft is false: set it to true.")

    def lora(self) -> dict[str, Any] | None:
        """The adapters for [`~g4i_hf.AlignedImageClassification.from_student`]; None without LoRA."""
        adapters = {"r": self.lora_r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout}
        return adapters | {"target_modules": self.lora_target_modules} if self.use_peft else None


@dataclass
class AugmentationArguments:
    """Augmentation"""

    image_size: Count | None = option(None, "Input size in pixels; by default the checkpoint's, or 224.")
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] | None = option(
        None, "Interpolation for resizing; bicubic by default."
    )
    crop_pct: Annotated[float, "(0, 1]"] | None = option(None, "Center crop ratio of evaluation; 1 by default.")
    train_crop: Literal["resized", "pad"] = option(
        "resized", "resized (random resized crop) or pad (pad and random crop, for small images)."
    )
    crop_min_scale: Annotated[float, "(0, 1]"] = option(
        0.08, "Minimum area of a random resized crop, as a share of the image."
    )
    crop_padding: Number | None = option(None, "Padding of `pad` in pixels; image_size / 8 by default.")
    hflip: Share = option(0.5, "Probability of a horizontal flip.")
    color_jitter: NotNegative = option(0.0, "Strength of random changes of brightness, contrast and saturation.")
    auto_augment: str | None = option(None, "timm policy, such as rand-m9-mstd0.5-inc1.")
    random_erasing: Share = option(0.0, "Probability of random erasing.")

    def __post_init__(self):
        check_values(self)

    @property
    def image_settings(self) -> dict[str, Any]:
        """The settings of resizing that were given, by timm's names."""
        chosen = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
        return {name: value for name, value in chosen.items() if value is not None}
