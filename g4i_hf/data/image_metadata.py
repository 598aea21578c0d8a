"""
Remove metadata from image files: EXIF, GPS, XMP, comments, thumbnails, second pictures.

Of JPEG only the parts on a list are kept, without encoding pixels anew: those that a decoder needs, and those that say
how the image is shown, such as colour profile and orientation. Other formats become PNG as Pillow reads them, 8 bits a
colour and upright, with their colour profile alone.
"""

import contextlib
import io
import re
import struct
from typing import Any

from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from .images import content_of, why_unreadable

ORIENTATION = ExifTags.Base.Orientation
SOI, EOI, SOS, APP0, APP1, APP2, APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
# Tables, frames and scans; 0xC8 and 0xF0 to 0xFD are reserved
JPEG_KEPT = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)} - {0xC8, 0xDE, 0xDF}
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
END_OF_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


class Malformed(ValueError):
    """A file that does not follow its format; it may be decodable all the same."""


def without_metadata(image: dict[str, Any] | None) -> dict[str, Any]:
    """
    The image `{"bytes", "path"}` without metadata, with the same pixels, under a bare file name. JPEG keeps its coded
    pixels; of any other format the first frame becomes a PNG. ValueError for an image that is null, missing, damaged
    or of a mode that PNG does not hold.
    """
    if image is None or (image["bytes"] is None and not image["path"]):
        raise ValueError("null")
    try:
        content = content_of(image)
    except OSError as error:
        raise ValueError(f"its file cannot be read ({error.strerror})") from error
    name = re.split(r"[\\/]", image["path"])[-1] if image["path"] else None
    picture = _decoded(content)
    if content.startswith(b"\xff\xd8"):
        with contextlib.suppress(Malformed, struct.error, IndexError):
            stripped = jpeg_without_metadata(content)
            if stripped == content or _is_same(picture, stripped):
                return {"bytes": stripped, "path": name}
    return {"bytes": _as_png(picture), "path": name and re.sub(r"(\.\w+)?$", ".png", name, count=1)}


# --- Pictures ----------------------------------------------------------------------------------------------------


def _decoded(content: bytes) -> PILImage.Image:
    """As `datasets` does it."""
    try:
        image = PILImage.open(io.BytesIO(content))
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise all sorts
        raise ValueError(f"cannot be decoded ({why_unreadable(error)})") from error


def _is_same(picture: PILImage.Image, content: bytes) -> bool:
    """Whether a file holds this very picture, and its colour profile."""
    try:
        written = _decoded(content)
    except ValueError:
        return False
    about = (picture.mode, picture.size, picture.info.get("icc_profile"))
    return (
        about == (written.mode, written.size, written.info.get("icc_profile"))
        and written.tobytes() == picture.tobytes()
    )


def _as_png(picture: PILImage.Image) -> bytes:
    if picture.mode not in PNG_MODES:
        raise ValueError(f"PNG does not hold its mode {picture.mode} without loss: convert it to RGB")
    plain = picture.copy()  # not of its format's class, which would hand its tags on
    plain.info = {name: picture.info[name] for name in ("transparency",) if name in picture.info}
    buffer = io.BytesIO()
    plain.save(buffer, "PNG", icc_profile=picture.info.get("icc_profile"))
    return buffer.getvalue()


def _orientation(content: bytes) -> int | None:
    """2 to 8 where `datasets` turns the picture: Pillow also finds it in XMP."""
    turned = PILImage.open(io.BytesIO(content)).getexif().get(ORIENTATION)
    return turned if turned in range(2, 9) else None


def _exif(orientation: int) -> bytes:
    """TIFF with one tag."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)


# --- JPEG: ITU T.81, annex B -------------------------------------------------------------------------------------


def jpeg_without_metadata(content: bytes) -> bytes:
    """
    The file, also without what follows its end marker (a second picture, a film). A Malformed, IndexError or
    struct.error for one that does not follow its format.
    """
    kept, place, has_dropped = [b"\xff\xd8"], 2, False
    while True:
        start = place
        if content[place] != 0xFF:
            raise Malformed("a segment does not start with a marker")
        while content[place] == 0xFF:  # any number of them may come first
            place += 1
        marker, place = content[place], place + 1
        if marker == EOI:
            break
        if marker == SOI or marker == 0x00 or 0xD0 <= marker <= 0xD7 or marker == 0x01:
            raise Malformed("a marker where no segment can start")
        (length,) = struct.unpack_from(">H", content, place)
        end = place + length
        if length < 2 or end > len(content):
            raise Malformed("a segment is longer than the file")
        body, place = content[place + 2 : end], end
        segment = _segment(marker, body)
        has_dropped = has_dropped or segment != content[start:end]
        kept.append(segment)
        if marker == SOS:
            found = END_OF_SCAN.search(content, place)
            if found is None:
                raise Malformed("the end is missing")
            kept.append(content[place : found.start()])
            place = found.start()
    kept.append(b"\xff\xd9")
    orientation = _orientation(content) if has_dropped else None
    if orientation is not None:
        body = b"Exif\0\0" + _exif(orientation)
        # After JFIF, which wants to be the first
        first = 2 if kept[1].startswith(b"\xff\xe0") else 1
        kept.insert(first, b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body)
    return b"".join(kept)


def _segment(marker: int, body: bytes) -> bytes:
    """A segment as it is kept; empty where it is not."""
    if marker == APP0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        body = body[:12] + b"\0\0"  # version and density, without the thumbnail
    elif marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        body = body[:12]  # how colours are to be read
    elif marker not in JPEG_KEPT and not (marker == APP2 and body.startswith(b"ICC_PROFILE\0")):
        return b""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
