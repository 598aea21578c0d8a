"""Image processors: from images to `pixel_values` at inference."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm.data
import torch
from PIL.Image import Image, Resampling
from transformers import (
    AutoImageProcessor,
    BaseImageProcessor,
    BitImageProcessor,
    PreTrainedConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
)

from ..names import loading

logger = logging.getLogger(__name__)

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
INTERPOLATIONS = {name: Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}


@dataclass
class ImageSettings:
    """Size in pixels, normalisation, and the share of the shorter side within the centre crop."""

    size: int
    mean: tuple[float, ...] = timm.data.IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = timm.data.IMAGENET_DEFAULT_STD
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    @classmethod
    def of(
        cls, student_config: PreTrainedConfig, size: int | None, settings: dict[str, Any] | None = None
    ) -> "ImageSettings":
        """The settings of a timm student, or `size`, the `chosen` settings and defaults for others."""
        if isinstance(student_config, TimmWrapperConfig):
            return cls.from_pretrained_cfg(student_config.pretrained_cfg)
        return cls(size, **(settings or {}))

    @classmethod
    def from_pretrained_cfg(cls, pretrained_cfg: dict[str, Any]) -> "ImageSettings":
        config = timm.data.resolve_data_config(pretrained_cfg, verbose=False)
        size, interpolation = config["input_size"][-1], config["interpolation"]
        return cls(size, tuple(config["mean"]), tuple(config["std"]), interpolation, config["crop_pct"])

    @classmethod
    def from_processor(cls, processor: BaseImageProcessor) -> "ImageSettings":
        """Raises ValueError if the processor does not resize to a fixed square."""
        if isinstance(processor, TimmWrapperImageProcessor):
            return cls.from_pretrained_cfg(processor.data_config)
        cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
        size = processor.crop_size if cropped else processor.size
        side = size["height"] if size.get("height") else size.get("shortest_edge")
        if not side or side != (size.get("width") or side):
            raise ValueError(f"{type(processor).__name__} resizes to {size}, but training needs a fixed square.")
        names = {int(value): name for name, value in INTERPOLATIONS.items()}
        interpolation = names.get(int(getattr(processor, "resample", Resampling.BILINEAR)), "bilinear")
        mean, std = processor.image_mean or (0.0,) * 3, processor.image_std or (1.0,) * 3
        resized = processor.size.get("shortest_edge") or processor.size.get("height")
        crop_pct = side / resized if cropped and resized else getattr(processor, "crop_pct", None) or 1.0
        return cls(int(side), tuple(mean), tuple(std), interpolation, crop_pct)

    def pretrained_cfg(self) -> dict[str, Any]:
        """As timm's `pretrained_cfg`, for the config.json of a student."""
        normalization = {"mean": list(self.mean), "std": list(self.std)}
        resizing = {"interpolation": self.interpolation, "crop_pct": self.crop_pct, "crop_mode": "center"}
        return {"input_size": [3, self.size, self.size], **normalization, **resizing}


def image_size_of(student_config: PreTrainedConfig, default: int | None = 224) -> int | None:
    """Side in pixels of the images of a configuration, or the default."""
    known = getattr(student_config, "pretrained_cfg", None) or {}  # of timm
    size = known.get("input_size") or getattr(student_config, "image_size", None) or default
    return size[-1] if isinstance(size, (list, tuple)) else size


def pretrained_processor(
    name: str, revision: str | None = None, wanted: dict[str, Any] | None = None
) -> BaseImageProcessor:
    """The processor of a transformers checkpoint. Raises ValueError if it differs from the `wanted` settings."""
    with loading(f"The image processor of {name!r}"):
        processor = AutoImageProcessor.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    settings = ImageSettings.from_processor(processor)
    actual: dict[str, Any] = vars(settings) | {"image_size": settings.size}
    for option, value in (wanted or {}).items():
        is_close = isinstance(value, float) and math.isclose(value, actual[option], abs_tol=0.005)  # whole pixels
        if value is not None and value != actual[option] and not is_close:
            what = f"the image processor of the pretrained checkpoint {name} has {actual[option]!r}"
            raise ValueError(f"{option} is {value!r}, but {what}. Leave {option} out.")
    return processor


def student_processor(student_config: PreTrainedConfig, fallback: BaseImageProcessor) -> BaseImageProcessor:
    """The processor of the released student: timm's transforms for a timm student, otherwise `fallback`."""
    if isinstance(student_config, TimmWrapperConfig):
        return TimmWrapperImageProcessor(student_config.pretrained_cfg, architecture=student_config.architecture)
    return fallback


def saved_processor(folder: str | Path, student_config: PreTrainedConfig) -> BaseImageProcessor:
    """The processor saved with a model, or [`default_processor`], as after a trainer without `processing_class`."""
    if any((Path(folder) / name).is_file() for name in PROCESSOR_FILES):
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return default_processor(student_config)


def default_processor(student_config: PreTrainedConfig, warn: bool = False) -> BaseImageProcessor:
    """By the configuration of a student: its image size, and the normalisation of timm or ImageNet; `warn` says so."""
    size = image_size_of(student_config, default=None)
    if size is None:
        raise ValueError(
            f"The configuration of the student ({student_config.model_type}) does not say how large its images are: "
            "give the trainer a processing_class, such as "
            "g4i_hf.modeling.processing.generic_processor(ImageSettings(224))."
        )
    if warn and not isinstance(student_config, TimmWrapperConfig):
        logger.warning(
            "There is no processing_class: the students that are pushed will say that their images have %d pixels "
            "and ImageNet's normalisation. Give the trainer the image processor of its data where that is wrong.",
            size,
        )
    return generic_processor(ImageSettings.of(student_config, size))


def generic_processor(settings: ImageSettings) -> BaseImageProcessor:
    """A transformers image processor with the steps of timm's evaluation transform: resize, crop, normalise."""
    return BitImageProcessor(
        do_resize=True,
        size={"shortest_edge": int(settings.size / settings.crop_pct)},
        resample=INTERPOLATIONS[settings.interpolation],
        do_center_crop=True,
        crop_size={"height": settings.size, "width": settings.size},
        do_rescale=True,
        do_normalize=True,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        do_convert_rgb=True,
    )


def timm_pretrained_cfg(
    student: TimmWrapperForImageClassification, image_size: int | None, settings: dict[str, Any] | None
) -> dict[str, Any]:
    """The entries of `pretrained_cfg` that an image processor reads; the size is by default the student's."""
    known = getattr(student.config, "pretrained_cfg", None) or {}
    usual = known or getattr(student.timm_model, "pretrained_cfg", None) or {}
    own_size = image_size or (student.config.model_args or {}).get("img_size")
    size = own_size or usual.get("input_size", 224)
    size = size if isinstance(size, int) else size[-1]
    sized = {"input_size": [3, size, size]} if own_size else {}
    return {**ImageSettings(size).pretrained_cfg(), **known, **sized, **(settings or {})}


@dataclass
class EvalTransform:
    """PIL image -> (3, H, W), one at a time as in a pipeline, for equal bits. Workers pickle it."""

    processor: BaseImageProcessor

    def __call__(self, image: Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]
