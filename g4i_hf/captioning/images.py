"""Images for captioners: decoded and shrunk, or as JPEGs without metadata."""

import base64
import io
import math
from typing import Any

from PIL import Image as PILImage

from ..data.images import content_of as stored_content
from ..data.images import open_image, to_rgb, why_unreadable

# Up to this longest side in pixels, colour keeps its full resolution (4:4:4), as half of it spoils an icon
TINY = 64
JPEG_QUALITY = 90


class UndecodableImage(ValueError):
    """The image cannot be read; the message is the reason."""


def content_of(image: dict[str, Any] | None) -> bytes:
    """The encoded bytes of an image, from its row or file; opens no URL. Raises ValueError or OSError without any."""
    if image is None or (image.get("bytes") is None and not image.get("path")):
        raise ValueError((image or {}).get("why", "null"))
    return stored_content(image)


def decode(image: dict[str, Any], max_side: int) -> PILImage.Image:
    """The upright RGB image, shrunk to a longest side of at most `max_side` pixels. Raises UndecodableImage."""
    try:
        return _shrunk(to_rgb(open_image({"bytes": content_of(image), "path": None})), max_side)
    except Exception as error:  # Pillow's readers raise almost anything for a damaged file
        raise UndecodableImage(_reason(error)) from None


def _shrunk(image: PILImage.Image, max_side: int) -> PILImage.Image:
    """With a longest side of at most `max_side` pixels; never enlarged."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, PILImage.Resampling.LANCZOS)


def _reason(error: Exception) -> str:
    if isinstance(error, PILImage.DecompressionBombError):
        return "it has more pixels than can be opened safely"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return why_unreadable(error)[:100]


def data_uri(image: dict[str, Any] | None, max_side: int) -> str:
    """[`clean_jpeg`] as a data URI, for chat completions."""
    return "data:image/jpeg;base64," + base64.b64encode(clean_jpeg(image, max_side)).decode("ascii")


def clean_jpeg(image: dict[str, Any] | None, max_side: int) -> bytes:
    """
    An upright 8-bit JPEG without EXIF, GPS, XMP, colour profile, comment or thumbnail, shrunk to a longest side of
    `max_side` pixels. Raises UndecodableImage.
    """
    try:
        opened = open_image({"bytes": content_of(image), "path": None})
        if opened.format in ("JPEG", "MPO") and max(opened.size) > max_side:
            # It can be decoded at a half, a quarter or an eighth, if that is not below the requested size
            scale = max_side / max(opened.size)
            opened.draft(None, (math.ceil(opened.width * scale), math.ceil(opened.height * scale)))
        upright = _shrunk(to_rgb(opened), max_side)
        upright.info = {}  # Pillow writes comment, XMP and others from here
        buffer = io.BytesIO()
        subsampling = "4:4:4" if max(upright.size) < TINY else "4:2:0"
        upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
    except Exception as error:
        raise UndecodableImage(_reason(error)) from None
    return buffer.getvalue()
