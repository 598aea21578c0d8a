"""JPEGs, decoded as finely as a crop of them needs."""

import io

import numpy as np
import torch
from PIL import Image as PILImage
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from .images import open_image, to_rgb

ORIENTATION = 0x0112
SIDES_SWAPPED = (5, 6, 7, 8)  # orientations that turn the image by 90 degrees
LEFT_IS_END, TOP_IS_END = (2, 3, 6, 7), (3, 4, 7, 8)  # orientations whose left or top is an end of the stored image
# A JPEG can be decoded at one part in 8, 4 or 2 of its size. At a half it takes as long as the whole, as most of the
# time goes into its entropy code.
REDUCTIONS = (8, 4)
MARGIN = 1.5  # the reduced crop has so many pixels a pixel that is wanted: less than 1/255 from the exact result
SMOOTH = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
PILLOW = {mode: PILImage.Resampling[mode.name] for mode in (*SMOOTH, InterpolationMode.LANCZOS)}


class StoredJpeg:
    """
    A JPEG before it is decoded. What becomes of it depends on the crop alone, never on what was kept in memory:

    - a crop of many more pixels than are wanted is decoded at a part of its size (Pillow's `draft`);
    - an upright RGB or grey image is decoded by torchvision, to the same pixels as by Pillow, and resized by torch:
      the same filters, some values in a thousand differ by one step of 255;
    - others (CMYK, rotated by EXIF) go through Pillow.

    Args:
        data: the file.
        opened: the same, opened by Pillow.

    Attributes:
        width, height: in pixels, upright.
    """

    def __init__(self, data: bytes, opened: PILImage.Image):
        self.data = data
        self.orientation = opened.getexif().get(ORIENTATION, 1)
        self.width, self.height = opened.size[::-1] if self.orientation in SIDES_SWAPPED else opened.size
        self.is_plain = opened.mode in ("RGB", "L") and self.orientation not in range(2, 9)
        self._pixels: torch.Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, decoded."""
        return len(self.data) + 3 * self.width * self.height

    def resized_crop(
        self, top: int, left: int, height: int, width: int, size: int, interpolation: InterpolationMode
    ) -> torch.Tensor | PILImage.Image:
        """
        Args:
            top, left, height, width: of the crop, in pixels of the upright image.
            size: side of the square that it becomes.

        Returns:
            (3, size, size) uint8, or the same as an image.

        Raises:
            OSError: when the file is damaged, with Pillow's words.
        """
        reduction = next((part for part in REDUCTIONS if min(height, width) >= MARGIN * part * size), 1)
        if reduction > 1 and interpolation != InterpolationMode.NEAREST:
            return self._reduced(top, left, height, width, size, interpolation, reduction)
        if self.is_plain and interpolation in SMOOTH:
            try:
                part = self.pixels()[:, top : top + height, left : left + width]
            except RuntimeError:  # what torchvision does not read; Pillow reads it, or says what is wrong
                self.is_plain = False
            else:
                return _resized(part, size, SMOOTH[interpolation])
        return F.resized_crop(to_rgb(self._open()), top, left, height, width, [size, size], interpolation)

    def pixels(self) -> torch.Tensor:
        """(3, H, W) uint8, of an image that is upright as it is."""
        if self._pixels is None:
            encoded = torch.from_numpy(np.frombuffer(self.data, dtype=np.uint8).copy())
            self._pixels = decode_jpeg(encoded, ImageReadMode.RGB)
        return self._pixels

    def _open(self) -> PILImage.Image:
        return PILImage.open(io.BytesIO(self.data))

    def _reduced(
        self, top: int, left: int, height: int, width: int, size: int, interpolation: InterpolationMode, part: int
    ) -> PILImage.Image:
        stored = self._open()
        stored.draft(None, (stored.width // part, stored.height // part))
        upright = to_rgb(stored)
        # The last of its columns and rows may stand for fewer than `part`, and these may come first
        first_x = upright.width - self.width / part if self.orientation in LEFT_IS_END else 0
        first_y = upright.height - self.height / part if self.orientation in TOP_IS_END else 0
        box = (first_x + left / part, first_y + top / part)
        box += (min(box[0] + width / part, upright.width), min(box[1] + height / part, upright.height))
        return upright.resize((size, size), PILLOW[interpolation], box)


def _resized(pixels: torch.Tensor, size: int, mode: str) -> torch.Tensor:
    """(3, H, W) uint8 -> (3, size, size), antialiased. Channels last, for which torch is faster by a third."""
    batch = pixels[None].contiguous(memory_format=torch.channels_last)
    return functional.interpolate(batch, (size, size), mode=mode, antialias=True)[0]


def open_for_crop(stored: dict | PILImage.Image | None) -> StoredJpeg | PILImage.Image:
    """A JPEG not yet decoded; anything else, and an image that is decoded, upright in RGB."""
    if isinstance(stored, dict) and stored["bytes"] is None:
        with open(stored["path"], "rb") as file:
            stored = {"bytes": file.read(), "path": stored["path"]}
    image = open_image(stored)
    if isinstance(stored, dict) and image.format == "JPEG":
        return StoredJpeg(stored["bytes"], image)
    return to_rgb(image)
