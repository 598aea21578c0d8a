"""From a stored image to pixels for training: JPEG decoding, augmentation by timm, normalization."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import ExifTags
from PIL import Image as PILImage
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.transforms import MaybeToTensor, RandomResizedCropAndInterpolation, str_to_interp_mode
from torch.nn import functional
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from ..options import AugmentationArguments
from .images import content_of, open_image, to_rgb

SIDES_SWAPPED = (5, 6, 7, 8)  # EXIF orientations that rotate the image by 90 degrees
LEFT_IS_END, TOP_IS_END = (2, 3, 6, 7), (3, 4, 7, 8)  # those whose left or top is an end of the stored image
REDUCTIONS = (8, 4)  # a JPEG can be decoded at 1/8, 1/4 or 1/2 of its size; 1/2 saves no time
MARGIN = 1.5  # pixels of a reduced crop for a pixel of the result, along each side: errors are below 1/255
SMOOTH = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
PILLOW = {mode: PILImage.Resampling[mode.name] for mode in (*SMOOTH, InterpolationMode.LANCZOS)}


class Normalization:
    """(pixels / 255 - mean) / std in float32: bit for bit torchvision's `ToTensor` and `Normalize`, on any device."""

    def __init__(self, mean: tuple[float, ...] | torch.Tensor, std: tuple[float, ...] | torch.Tensor):
        self.mean = torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) uint8 -> the same shape in float32, on the device of the pixels."""
        values = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        mean, std = self.mean.to(pixels.device), self.std.to(pixels.device)
        # On a CPU, a single image stays in the cache, which halves the time
        parts = zip(pixels, values, strict=True) if pixels.dim() == 4 and pixels.is_cpu else [(pixels, values)]
        for part, out in parts:
            torch.div(part, 255, out=out).sub_(mean).div_(std)
        return values


# --- JPEGs -----------------------------------------------------------------------------------------------------------


class StoredJpeg:
    """
    A JPEG that is decoded on demand, depending on the crop:

    - a crop much larger than the result is decoded at a reduced size (Pillow's `draft`);
    - an upright RGB or grey image is decoded by torchvision, to the pixels of Pillow, and resized by torch, where some
      values in a thousand differ by 1 of 255;
    - others (CMYK, rotated by EXIF) are decoded by Pillow.

    `width` and `height` are in pixels, upright.
    """

    def __init__(self, data: bytes, opened: PILImage.Image):
        self.data = data
        self.orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
        self.width, self.height = opened.size[::-1] if self.orientation in SIDES_SWAPPED else opened.size
        self.is_plain = opened.mode in ("RGB", "L") and self.orientation not in range(2, 9)
        self._pixels: torch.Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """In memory, when decoded."""
        return len(self.data) + 3 * self.width * self.height

    def resized_crop(
        self, top: int, left: int, height: int, width: int, size: int, interpolation: InterpolationMode
    ) -> torch.Tensor | PILImage.Image:
        """(3, size, size) uint8, or an image, of a crop of the upright image; raises OSError for a damaged file."""
        reduction = next((part for part in REDUCTIONS if min(height, width) >= MARGIN * part * size), 1)
        if reduction > 1 and interpolation != InterpolationMode.NEAREST:
            return self._reduced(top, left, height, width, size, interpolation, reduction)
        if self.is_plain and interpolation in SMOOTH:
            try:
                part = self.pixels()[:, top : top + height, left : left + width]
            except RuntimeError:  # not supported by torchvision, or damaged
                self.is_plain = False
            else:
                return _resized(part, size, SMOOTH[interpolation])
        return F.resized_crop(to_rgb(self._open()), top, left, height, width, [size, size], interpolation)

    def pixels(self) -> torch.Tensor:
        """(3, H, W) uint8, as stored."""
        if self._pixels is None:
            encoded = torch.from_numpy(np.frombuffer(self.data, dtype=np.uint8).copy())
            self._pixels = decode_jpeg(encoded, ImageReadMode.RGB)
        return self._pixels

    def _open(self) -> PILImage.Image:
        return open_image({"bytes": self.data, "path": None})

    def _reduced(
        self, top: int, left: int, height: int, width: int, size: int, interpolation: InterpolationMode, part: int
    ) -> PILImage.Image:
        stored = self._open()
        stored.draft(None, (stored.width // part, stored.height // part))
        upright = to_rgb(stored)
        # The last stored columns and rows may represent fewer than `part`; some orientations put them first
        first_x = upright.width - self.width / part if self.orientation in LEFT_IS_END else 0
        first_y = upright.height - self.height / part if self.orientation in TOP_IS_END else 0
        x, y = first_x + left / part, first_y + top / part
        box = (x, y, min(x + width / part, upright.width), min(y + height / part, upright.height))
        return upright.resize((size, size), PILLOW[interpolation], box)


def _resized(pixels: torch.Tensor, size: int, mode: str) -> torch.Tensor:
    """(3, H, W) uint8 -> (3, size, size), antialiased. Channels last are faster by a third."""
    batch = pixels[None].contiguous(memory_format=torch.channels_last)
    return functional.interpolate(batch, (size, size), mode=mode, antialias=True)[0]


def open_for_crop(stored: dict | PILImage.Image | None) -> StoredJpeg | PILImage.Image:
    """A JPEG that is not decoded yet; any other image upright in RGB."""
    if isinstance(stored, dict):
        stored = {"bytes": content_of(stored), "path": stored["path"]}
    image = open_image(stored)
    if isinstance(stored, dict) and image.format == "JPEG":
        return StoredJpeg(stored["bytes"], image)
    return to_rgb(image)


# --- Augmentation ----------------------------------------------------------------------------------------------------


class TrainTransform:
    """
    PIL image -> float tensor (3, H, W), normalised. [`~g4i_hf.data.dataset.CaptionedImages`] calls its parts:
    `open_stored`, the `fixed` steps, whose result may be cached, and the `drawn` steps. They return uint8 (3, H, W),
    which is normalised once a batch, or normalised floats if `normalization` is None.
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
    """timm's random resized crop, including JPEGs that are not decoded yet."""

    def __init__(self, crop: RandomResizedCropAndInterpolation):
        self.crop = crop

    def __call__(self, image: StoredJpeg | PILImage.Image) -> torch.Tensor | PILImage.Image:
        if not isinstance(image, StoredJpeg):
            return self.crop(image)
        sized = torch.empty((image.height, image.width), device="meta")  # timm only needs the size
        box = self.crop.get_params(sized, self.crop.scale, self.crop.ratio)
        interpolation = self.crop.interpolation
        if isinstance(interpolation, tuple):
            interpolation = random.choice(interpolation)
        return image.resized_crop(*box, self.crop.size[0], interpolation)


class Shrink:
    """An image -> the same, or smaller, with `side` pixels along its shorter side."""

    def __init__(self, side: int):
        self.side = side

    def __call__(self, image: PILImage.Image) -> PILImage.Image:
        return image if min(image.size) <= self.side else F.resize(image, self.side, InterpolationMode.BICUBIC)


def shrunk_once(transform: Any) -> TrainTransform:
    """Random crops of images that are decoded once, to 8/7 of the size of the result, so that many fit into memory."""
    crop, *others = transform.drawn.transforms
    side = crop.crop.size[0] * 8 // 7
    return TrainTransform([Shrink(side)], [crop, *others], transform.normalization)


def open_rgb(stored: dict[str, Any] | PILImage.Image | None) -> PILImage.Image:
    return to_rgb(open_image(stored))


def to_pixels(image: torch.Tensor | PILImage.Image) -> torch.Tensor:
    """(3, H, W) uint8, a contiguous copy."""
    if isinstance(image, torch.Tensor):
        return image.clone(memory_format=torch.contiguous_format)
    return F.pil_to_tensor(image).contiguous()


def to_pil(image: torch.Tensor | PILImage.Image) -> PILImage.Image:
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

    `train_crop: pad` resizes to `size` and takes a random crop after padding, as is usual for CIFAR. A random resized
    crop from 8% of the area loses too much of images of 32-64 px.
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
    # Erasing draws normalised values
    last = [to_pixels, normalization, *erasing] if erasing else [to_pixels]
    drawn = [*([to_pil] if in_pillow else []), *changes, *last]
    parts = {"normalization": None if erasing else normalization}
    if args.train_crop != "pad":
        return TrainTransform([], [CropOfStored(crop), *drawn], **parts, open_stored=open_for_crop)
    padding = size // 8 if args.crop_padding is None else args.crop_padding
    resize = transforms.Resize((size, size), interpolation=str_to_interp_mode(interpolation))
    pad = transforms.Pad(padding, padding_mode="edge")
    fixed = [resize, pad, *([] if in_pillow else [to_pixels])]
    return TrainTransform(fixed, [transforms.RandomCrop(size), *drawn], **parts)


def _operations(transform: transforms.Compose) -> list[Any]:
    """The AugmentOps of timm's policies: a list in RandAugment and AugMix, lists of lists in AutoAugment."""
    flat = [operation for step in transform.transforms for operation in getattr(step, "ops", ())]
    return flat + [op for step in transform.transforms for policy in getattr(step, "policy", ()) for op in policy]


def _at_least_one_bit(level_fn: Callable, level: float, hparams: dict[str, Any]) -> tuple[int]:
    """timm goes down to 0 bits, which is an error in Pillow 13 and a black image in earlier versions."""
    return (max(1, level_fn(level, hparams)[0]),)
