"""
Remove metadata from image files: EXIF, GPS, XMP, comments, thumbnails, second images.

A JPEG keeps its coded pixels and the segments on a list. A decoder needs them, or they affect how the image is shown,
as colour profile and orientation do. Other formats become PNG with 8 bits a channel, upright, with their colour
profile only.
"""

import contextlib
import io
import re
import struct
from typing import Any

from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from .images import TURNS, content_of, open_image, why_unreadable

ORIENTATION = ExifTags.Base.Orientation
SOI, EOI, SOS, APP0, APP1, APP2, APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
# Tables, frames and scans; 0xC8 and 0xF0 to 0xFD are reserved
JPEG_KEPT = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)} - {0xC8, 0xDE, 0xDF}
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
END_OF_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def without_metadata(image: dict[str, Any] | None) -> dict[str, Any]:
    """
    The image `{"bytes", "path"}` without metadata, with the same pixels and a bare file name. JPEG keeps its coded
    pixels; the first frame of any other format becomes a PNG. Raises ValueError for an image that is null, missing,
    damaged or of a mode that PNG lacks.
    """
    try:
        content = content_of(image)
    except OSError as error:
        raise ValueError(f"its file cannot be read ({error.strerror})") from error
    name = re.split(r"[\\/]", image["path"])[-1] if image["path"] else None
    decoded = _decoded(content)
    if content.startswith(b"\xff\xd8"):
        with contextlib.suppress(ValueError, struct.error, IndexError):  # it violates its format
            stripped = jpeg_without_metadata(content)
            if stripped == content or _is_same(decoded, stripped):
                return {"bytes": stripped, "path": name}
    return {"bytes": _as_png(decoded), "path": name and re.sub(r"(\.\w+)?$", ".png", name, count=1)}


# --- Pixels ------------------------------------------------------------------------------------------------------


def _decoded(content: bytes) -> PILImage.Image:
    """Decode as `datasets` does."""
    try:
        image = open_image({"bytes": content, "path": None})
        with TURNS.of(image):
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise almost anything
        raise ValueError(f"cannot be decoded ({why_unreadable(error)})") from error


def _is_same(decoded: PILImage.Image, content: bytes) -> bool:
    """Whether a file has the pixels and the colour profile of the image."""
    try:
        written = _decoded(content)
    except ValueError:
        return False
    about = (decoded.mode, decoded.size, decoded.info.get("icc_profile"))
    return (
        about == (written.mode, written.size, written.info.get("icc_profile"))
        and written.tobytes() == decoded.tobytes()
    )


def _as_png(decoded: PILImage.Image) -> bytes:
    if decoded.mode not in PNG_MODES:
        raise ValueError(f"PNG does not hold its mode {decoded.mode} without loss: convert it to RGB")
    plain = decoded.copy()  # not of the class of its format, which would keep its tags
    plain.info = {name: decoded.info[name] for name in ("transparency",) if name in decoded.info}
    buffer = io.BytesIO()
    plain.save(buffer, "PNG", icc_profile=decoded.info.get("icc_profile"))
    return buffer.getvalue()


def _orientation(content: bytes) -> int | None:
    """2 to 8 if `datasets` transposes the image: Pillow also reads the orientation from XMP."""
    orientation = open_image({"bytes": content, "path": None}).getexif().get(ORIENTATION)
    return orientation if orientation in range(2, 9) else None


def _exif(orientation: int) -> bytes:
    """TIFF with a single tag."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)


# --- JPEG: ITU T.81, annex B -------------------------------------------------------------------------------------


def jpeg_without_metadata(content: bytes) -> bytes:
    """The file up to its end marker. Raises ValueError, IndexError or struct.error if it violates its format."""
    kept, place, has_dropped = [b"\xff\xd8"], 2, False
    while True:
        start = place
        if content[place] != 0xFF:
            raise ValueError("a segment does not start with a marker")
        while content[place] == 0xFF:  # any number of fill bytes
            place += 1
        marker, place = content[place], place + 1
        if marker == EOI:
            break
        if marker == SOI or marker == 0x00 or 0xD0 <= marker <= 0xD7 or marker == 0x01:
            raise ValueError("a marker where no segment can start")
        (length,) = struct.unpack_from(">H", content, place)
        end = place + length
        if length < 2 or end > len(content):
            raise ValueError("a segment is longer than the file")
        body, place = content[place + 2 : end], end
        segment = _segment(marker, body)
        has_dropped = has_dropped or segment != content[start:end]
        kept.append(segment)
        if marker == SOS:
            end_of_scan = END_OF_SCAN.search(content, place)
            if end_of_scan is None:
                raise ValueError("the end is missing")
            kept.append(content[place : end_of_scan.start()])
            place = end_of_scan.start()
    kept.append(b"\xff\xd9")
    orientation = _orientation(content) if has_dropped else None
    if orientation is not None:
        body = b"Exif\0\0" + _exif(orientation)
        # After JFIF, which must be first
        first = 2 if kept[1].startswith(b"\xff\xe0") else 1
        kept.insert(first, b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body)
    return b"".join(kept)


def _segment(marker: int, body: bytes) -> bytes:
    """A segment without metadata; empty if it is dropped."""
    if marker == APP0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        body = body[:12] + b"\0\0"  # version and density, without the thumbnail
    elif marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        body = body[:12]  # the colour transform
    elif marker not in JPEG_KEPT and not (marker == APP2 and body.startswith(b"ICC_PROFILE\0")):
        return b""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
