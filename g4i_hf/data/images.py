"""Decoding: whatever a collection holds becomes an upright 8-bit RGB image, the way transformers' pipelines do it."""

import io
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps


def open_image(image: dict[str, Any] | PILImage.Image | None) -> PILImage.Image:
    """
    Args:
        image: `{"bytes", "path"}`, as `datasets.Image(decode=False)` gives, or a PIL image.

    Returns:
        The image as it is stored: any mode, not yet decoded.

    Raises:
        ValueError: for a null.
    """
    if image is None:
        raise ValueError("null")
    if isinstance(image, PILImage.Image):
        return image
    return PILImage.open(io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"])


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """
    Upright and RGB. The steps are those of `transformers.image_utils.load_image`, so that a released student sees the
    same pixels in a pipeline; 16-bit images, which Pillow would clip to white, are scaled to 8 bits first.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = PILImage.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def unusual(image: PILImage.Image) -> list[str]:
    """Why an image is not an upright 8-bit RGB image: the empty list when it is."""
    kinds = {"L": "grey", "LA": "grey", "1": "grey", "RGBA": "RGBA", "P": "palette", "PA": "palette", "CMYK": "CMYK"}
    reasons = []
    if image.mode != "RGB":
        reasons.append("16-bit" if image.mode.startswith("I") else kinds.get(image.mode, image.mode))
    if image.getexif().get(0x0112, 1) != 1:
        reasons.append("EXIF-rotated")
    return reasons
