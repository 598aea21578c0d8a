"""Training augmentation, by timm."""

from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image as PILImage
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torchvision import transforms

from .arguments import AugmentationArguments


class TrainTransform:
    """
    Args:
        fixed: first steps, PIL image -> PIL image. They draw nothing, so what they give may be kept.
        drawn: further steps, PIL image -> float tensor (3, H, W).
    """

    def __init__(self, fixed: list[Callable], drawn: list[Callable]):
        self.fixed = transforms.Compose(fixed)
        self.drawn = transforms.Compose(drawn)

    def __call__(self, image: PILImage.Image) -> Any:
        return self.drawn(self.fixed(image))


def train_transform(
    args: AugmentationArguments,
    size: int | None = None,
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    interpolation: str = "bicubic",
) -> TrainTransform:
    """
    PIL image -> float tensor (3, `size`, `size`), normalised; `size` is `args.image_size`, or 224, by default.

    Images of 32-64 px lose too much to a random resized crop from 8% of their area, so `train_crop: pad` resizes them
    to `size` and takes a random crop after padding, as is usual for CIFAR.
    """
    size = size or args.image_size or 224
    transform = create_transform(
        input_size=size,
        is_training=True,
        scale=(args.crop_min_scale, 1.0),
        hflip=args.hflip,
        color_jitter=args.color_jitter or None,
        auto_augment=args.auto_augment,
        interpolation=interpolation,
        mean=mean,
        std=std,
        re_prob=args.random_erasing,
        re_mode="pixel",
    )
    for operation in _operations(transform):
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    steps = transform.transforms
    if args.train_crop != "pad":
        return TrainTransform([], steps)
    crop = next(place for place, step in enumerate(steps) if isinstance(step, RandomResizedCropAndInterpolation))
    padding = size // 8 if args.crop_padding is None else args.crop_padding
    resize = transforms.Resize((size, size), interpolation=str_to_interp_mode(interpolation))
    pad = transforms.Pad(padding, padding_mode="edge")
    return TrainTransform([*steps[:crop], resize, pad], [transforms.RandomCrop(size), *steps[crop + 1 :]])


def _operations(transform: transforms.Compose) -> list[Any]:
    """The AugmentOps of timm's policies: RandAugment and AugMix have a list of them, AutoAugment lists of lists."""
    flat = [operation for step in transform.transforms for operation in getattr(step, "ops", ())]
    return flat + [op for step in transform.transforms for policy in getattr(step, "policy", ()) for op in policy]


def _at_least_one_bit(level_fn: Callable, level: float, hparams: dict[str, Any]) -> tuple[int]:
    """timm goes down to 0 bits, which Pillow 13 refuses; earlier versions made the picture black."""
    return (max(1, level_fn(level, hparams)[0]),)
