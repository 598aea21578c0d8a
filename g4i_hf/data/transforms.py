"""Training augmentation, by timm."""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torchvision import transforms

from .arguments import AugmentationArguments


def train_transform(
    args: AugmentationArguments,
    size: int | None = None,
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    interpolation: str = "bicubic",
) -> Callable:
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
    if args.train_crop == "pad":
        crops = [step for step in transform.transforms if isinstance(step, RandomResizedCropAndInterpolation)]
        position = transform.transforms.index(crops[0])
        padding = size // 8 if args.crop_padding is None else args.crop_padding
        transform.transforms[position : position + 1] = [
            transforms.Resize((size, size), interpolation=str_to_interp_mode(interpolation)),
            transforms.RandomCrop(size, padding=padding, padding_mode="edge"),
        ]
    return transform


def _operations(transform: transforms.Compose) -> list[Any]:
    """The AugmentOps of timm's policies: RandAugment and AugMix have a list of them, AutoAugment lists of lists."""
    flat = [operation for step in transform.transforms for operation in getattr(step, "ops", ())]
    return flat + [op for step in transform.transforms for policy in getattr(step, "policy", ()) for op in policy]


def _at_least_one_bit(level_fn: Callable, level: float, hparams: dict[str, Any]) -> tuple[int]:
    """timm goes down to 0 bits, which Pillow 13 refuses; earlier versions made the picture black."""
    return (max(1, level_fn(level, hparams)[0]),)
