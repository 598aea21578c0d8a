"""Images for captioners: decoded and shrunk, or as JPEGs without metadata."""

import base64
import io
import math
import struct
from typing import Any

from PIL import ExifTags
from PIL import Image as PILImage

from ..data.image_metadata import Malformed, jpeg_without_metadata
from ..data.images import content_of as stored_content
from ..data.images import open_image, to_rgb, why_unreadable

# Up to this longest side in pixels, colour keeps its full resolution (4:4:4): halved, it would leave little of an icon
TINY = 64


class UndecodableImage(ValueError):
    """The image cannot be read; the message is the reason."""


def content_of(image: dict[str, Any] | None) -> bytes:
    """The encoded bytes of an image, from its row or file; no address is opened. ValueError or OSError without any."""
    if image is None or (image.get("bytes") is None and not image.get("path")):
        raise ValueError((image or {}).get("why", "null"))
    return stored_content(image)


def decode(image: dict[str, Any], max_side: int) -> PILImage.Image:
    """The upright RGB image, shrunk to a longest side of at most `max_side` pixels. Raises UndecodableImage."""
    try:
        return _shrunk(to_rgb(open_image({"bytes": content_of(image), "path": None})), max_side)
    except Exception as error:  # whatever a broken file makes Pillow's readers raise
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


def data_uri(image: dict[str, Any] | None, max_side: int, jpeg_quality: int = 90) -> str:
    """[`clean_jpeg`] as a data URI, as chat completions take images."""
    return "data:image/jpeg;base64," + base64.b64encode(clean_jpeg(image, max_side, jpeg_quality)).decode("ascii")


def clean_jpeg(image: dict[str, Any] | None, max_side: int, jpeg_quality: int = 90) -> bytes:
    """
    An upright 8-bit JPEG without EXIF, GPS, XMP, colour profile, comment or thumbnail. The pixels of a JPEG that is
    upright and small enough are not encoded again; others are shrunk to a longest side of `max_side` pixels. Raises
    UndecodableImage.
    """
    try:
        content = content_of(image)
        opened = open_image({"bytes": content, "path": None})
        plain = _without_metadata(content, opened) if max(opened.size) <= max_side else None
        return _encoded(opened, max_side, jpeg_quality) if plain is None else plain
    except Exception as error:
        raise UndecodableImage(_reason(error)) from None


def _without_metadata(content: bytes, opened: PILImage.Image) -> bytes | None:
    """The same coded pixels and nothing else; None for an image that has to be encoded again."""
    if opened.format not in ("JPEG", "MPO") or opened.mode not in ("L", "RGB"):
        return None
    is_upright = opened.getexif().get(ExifTags.Base.Orientation, 1) == 1
    components = bytes(layer[0] for layer in opened.layer)
    if not is_upright or components == b"RGB" or opened.info.get("adobe_transform", 1) != 1:  # else grey or YCbCr
        return None
    try:
        plain = jpeg_without_metadata(content, keep_profile=False)
    except (Malformed, struct.error, IndexError):
        return None
    # Decodes the brightness at an eighth of the size: all of the file is checked, for a fraction of the work
    opened.draft("L", (max(1, opened.width // 8), max(1, opened.height // 8)))
    opened.load()
    return plain


def _encoded(opened: PILImage.Image, max_side: int, jpeg_quality: int) -> bytes:
    if opened.format in ("JPEG", "MPO") and max(opened.size) > max_side:
        # It can be decoded at a half, a quarter or an eighth, as long as that is not below what is wanted
        scale = max_side / max(opened.size)
        opened.draft(None, (math.ceil(opened.width * scale), math.ceil(opened.height * scale)))
    upright = _shrunk(to_rgb(opened), max_side)
    upright.info = {}  # Pillow writes comment, XMP and others from here
    buffer = io.BytesIO()
    subsampling = "4:4:4" if max(upright.size) < TINY else "4:2:0"
    upright.save(buffer, "JPEG", quality=jpeg_quality, subsampling=subsampling)
    return buffer.getvalue()
