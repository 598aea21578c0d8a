"""Pictures that are part of a page: data URIs, so that the page is one file."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage

from .. import columns
from ..data.images import open_image, to_rgb

SMALL = 64  # pixels: up to here an image is kept to the pixel, and shown enlarged
LARGEST = 192  # pixels of a side of others
ENLARGED = 144  # pixels of a side, at least, of a picture with colours over it


@dataclass
class Picture:
    """
    Attributes:
        uri: `data:image/...`.
        alt: what it shows, in words.
        is_small: whether its pixels should be seen as squares.
    """

    uri: str
    alt: str
    is_small: bool = False


def row_picture(split: Dataset, row: int, alt: str) -> Picture:
    """The image of a row, at most [`LARGEST`] wide or high."""
    image = open_image(split[int(row)][columns.IMAGE])
    image.draft("RGB", (2 * LARGEST, 2 * LARGEST))  # a large JPEG is decoded small
    image = to_rgb(image)
    if max(image.size) <= SMALL:
        return Picture(_data_uri(image, "PNG"), alt, is_small=True)
    image.thumbnail((LARGEST, LARGEST))
    return Picture(_data_uri(image, "JPEG"), alt)


def heat_picture(pixels: np.ndarray, heat: np.ndarray, alt: str) -> Picture:
    """
    A map over its image, whose colours are taken away.

    Args:
        pixels: (H, W, 3) in [0, 1].
        heat: (h, w) in [0, 1].
        alt: what it shows.
    """
    image = _enlarged(pixels)
    grey = np.asarray(image.convert("L").convert("RGB")) / 255
    heat = np.asarray(PILImage.fromarray(heat.astype(np.float32)).resize(image.size, PILImage.Resampling.BILINEAR))
    heat = heat.clip(0, 1)[..., None]
    # From yellow to red, the more opaque the warmer
    color = np.concatenate([np.ones_like(heat), 0.85 * (1 - heat), np.zeros_like(heat)], axis=-1)
    opacity = 0.75 * heat
    mixed = (1 - opacity) * (0.25 + 0.75 * grey) + opacity * color
    return Picture(_data_uri(PILImage.fromarray((255 * mixed).round().astype(np.uint8)), "JPEG"), alt)


def pixel_picture(pixels: np.ndarray, alt: str) -> Picture:
    """pixels (H, W, 3) in [0, 1], as large as [`heat_picture`] makes them."""
    return Picture(_data_uri(_enlarged(pixels), "JPEG"), alt)


def png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _enlarged(pixels: np.ndarray) -> PILImage.Image:
    image = PILImage.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))
    factor = -(-ENLARGED // max(image.size))
    image = image.resize((factor * image.width, factor * image.height), PILImage.Resampling.NEAREST)
    image.thumbnail((2 * ENLARGED, 2 * ENLARGED))
    return image


def _data_uri(image: PILImage.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 85}))
    if kind == "PNG":
        return png_uri(buffer.getvalue())
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
