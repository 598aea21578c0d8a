"""Training augmentation, by timm, in 8 bits as far as it goes."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image as PILImage
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.transforms import MaybeToTensor, RandomResizedCropAndInterpolation, str_to_interp_mode
from torchvision import transforms
from torchvision.transforms import functional as F

from ..options import AugmentationArguments
from .images import open_image, to_rgb
from .jpeg import StoredJpeg, open_for_crop
from .normalization import Normalization


class TrainTransform:
    """
    Called with an image, it gives a float tensor (3, H, W), normalised. In parts, for
    [`~g4i_hf.data.dataset.CaptionedImages`]: `open_stored`, `fixed`, `drawn` and, once a batch, `normalization`.

    Args:
        open_stored: what the data set holds of an image -> what the first step takes.
        fixed: first steps. They draw nothing, so what they give may be kept.
        drawn: further steps, to (3, H, W): uint8, or with `normalization` None floats that are normalised already.
        normalization: of 8-bit pixels.
    """

    def __init__(
        self,
        fixed: list[Callable],
        drawn: list[Callable],
        normalization: Normalization | None = None,
        open_stored: Callable[[Any], Any] | None = None,
    ):
        self.open_stored = open_stored or open_rgb
        self.fixed = transforms.Compose(fixed)
        self.drawn = transforms.Compose(drawn)
        self.normalization = normalization

    def __call__(self, image: PILImage.Image) -> Any:
        pixels = self.drawn(self.fixed(image))
        return pixels if self.normalization is None else self.normalization(pixels)


class CropOfStored:
    """timm's random resized crop, box drawn by timm, also of JPEGs that are not decoded yet."""

    def __init__(self, crop: RandomResizedCropAndInterpolation):
        self.crop = crop

    def __call__(self, image: StoredJpeg | PILImage.Image) -> torch.Tensor | PILImage.Image:
        if not isinstance(image, StoredJpeg):
            return self.crop(image)
        sized = torch.empty((image.height, image.width), device="meta")  # timm asks an image for nothing but its size
        box = self.crop.get_params(sized, self.crop.scale, self.crop.ratio)
        interpolation = self.crop.interpolation
        if isinstance(interpolation, tuple):
            interpolation = random.choice(interpolation)
        return image.resized_crop(*box, self.crop.size[0], interpolation)


def open_rgb(stored: dict[str, Any] | PILImage.Image | None) -> PILImage.Image:
    return to_rgb(open_image(stored))


def to_pixels(image: torch.Tensor | PILImage.Image) -> torch.Tensor:
    """(3, H, W) uint8, in memory of its own."""
    if isinstance(image, torch.Tensor):
        return image.clone(memory_format=torch.contiguous_format)
    return F.pil_to_tensor(image).contiguous()


def to_picture(image: torch.Tensor | PILImage.Image) -> PILImage.Image:
    return F.to_pil_image(image) if isinstance(image, torch.Tensor) else image


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
    end = next(place for place, step in enumerate(steps) if isinstance(step, MaybeToTensor))
    crop, *changes = steps[:end]
    erasing = [step for step in steps[end + 1 :] if not isinstance(step, transforms.Normalize)]
    in_pillow = not all(isinstance(step, transforms.RandomHorizontalFlip) for step in changes)
    normalization = Normalization(mean, std)
    # Erasing draws values that are normalised already
    last = [to_pixels, normalization, *erasing] if erasing else [to_pixels]
    drawn = [*([to_picture] if in_pillow else []), *changes, *last]
    parts = {"normalization": None if erasing else normalization}
    if args.train_crop != "pad":
        return TrainTransform([], [CropOfStored(crop), *drawn], **parts, open_stored=open_for_crop)
    padding = size // 8 if args.crop_padding is None else args.crop_padding
    resize = transforms.Resize((size, size), interpolation=str_to_interp_mode(interpolation))
    pad = transforms.Pad(padding, padding_mode="edge")
    fixed = [resize, pad, *([] if in_pillow else [to_pixels])]
    return TrainTransform(fixed, [transforms.RandomCrop(size), *drawn], **parts)


def _operations(transform: transforms.Compose) -> list[Any]:
    """The AugmentOps of timm's policies: RandAugment and AugMix have a list of them, AutoAugment lists of lists."""
    flat = [operation for step in transform.transforms for operation in getattr(step, "ops", ())]
    return flat + [op for step in transform.transforms for policy in getattr(step, "policy", ()) for op in policy]


def _at_least_one_bit(level_fn: Callable, level: float, hparams: dict[str, Any]) -> tuple[int]:
    """timm goes down to 0 bits, which Pillow 13 refuses; earlier versions made the picture black."""
    return (max(1, level_fn(level, hparams)[0]),)
