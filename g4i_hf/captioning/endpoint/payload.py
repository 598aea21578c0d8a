"""An image as it is sent to a server: small enough, and with nothing in it but its pixels."""

import base64
import io
import math
import re
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from ...data.images import open_image, to_rgb

TINY = 64  # longest side in pixels up to which colour keeps its full resolution
ORIENTATION = 0x0112  # EXIF tag

# Marker after entropy-coded data: neither a stuffed 0xFF, nor a restart, nor a fill byte
_NEXT_MARKER = re.compile(rb"\xff(?![\x00\xd0-\xd7\xff])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, all Huffman-coded
_OTHER_FRAMES = {0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}  # lossless, arithmetic and so on
_TABLES = {0xC4, 0xDB, 0xDD}  # Huffman, quantisation, restart interval


class UndecodableImage(ValueError):
    """The image cannot be read; the message is the reason."""


class _NotPlain(Exception):
    """A JPEG that cannot be passed through as it is."""


def data_uri(image: dict[str, Any], max_side: int, jpeg_quality: int = 90) -> str:
    """
    Args:
        image: `{"bytes", "path"}`, as `datasets.Image(decode=False)` gives.
        max_side: longest side in pixels; larger images are shrunk, smaller ones stay as they are.
        jpeg_quality: of images that are encoded anew.

    Returns:
        `data:image/jpeg;base64,...`: upright, 8 bits, without EXIF, GPS, XMP, colour profile, comment or thumbnail.
        A JPEG that is like that already but for such segments keeps its coded pixels.

    Raises:
        UndecodableImage: broken, no image, too large to be opened safely, or a file that is not there.
    """
    return "data:image/jpeg;base64," + base64.b64encode(clean_jpeg(image, max_side, jpeg_quality)).decode("ascii")


def clean_jpeg(image: dict[str, Any], max_side: int, jpeg_quality: int = 90) -> bytes:
    """The file inside of [`data_uri`]; same arguments and errors."""
    try:
        data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        opened = open_image({"bytes": data, "path": None})
        width, height = opened.size
        fits = max(width, height) <= max_side
        if fits and opened.format in ("JPEG", "MPO") and opened.getexif().get(ORIENTATION, 1) == 1:
            try:
                plain = without_metadata(data)
            except _NotPlain:
                pass
            else:
                # An eighth of the brightness alone: reads all of the file for a fraction of the work
                opened.draft("L", (max(1, width // 8), max(1, height // 8)))
                opened.load()
                return plain
        return _encoded(opened, max_side, jpeg_quality)
    except PILImage.DecompressionBombError:
        raise UndecodableImage("it has more pixels than can be opened safely") from None
    except FileNotFoundError:
        raise UndecodableImage("its file is not there") from None
    except MemoryError:
        raise UndecodableImage("it does not fit into memory") from None
    # Pillow's readers raise whatever a broken file trips over: struct.error, SyntaxError, IndexError and more
    except Exception as error:
        raise UndecodableImage(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, PILImage.UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, PermissionError):
        return "its file may not be read"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)  # without the file's path
    return f"it cannot be decoded ({said[:100] or type(error).__name__})"


def _encoded(image: PILImage.Image, max_side: int, jpeg_quality: int) -> bytes:
    width, height = image.size
    turned = image.getexif().get(ORIENTATION, 1) > 4  # by a quarter
    scale = min(1.0, max_side / max(width, height))
    if scale < 1:
        # A JPEG can be decoded at a half, a quarter or an eighth, as long as that is not below what is wanted
        image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
    image.load()
    upright = to_rgb(image)
    if scale < 1:
        wide, high = (height, width) if turned else (width, height)
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        upright = upright.resize(size, PILImage.Resampling.LANCZOS)
    upright.info = {}  # Pillow writes comment, XMP and others from here
    buffer = io.BytesIO()
    # Halved colour would leave little of an icon
    subsampling = "4:4:4" if max(upright.size) < TINY else "4:2:0"
    upright.save(buffer, "JPEG", quality=jpeg_quality, subsampling=subsampling)
    return buffer.getvalue()


def without_metadata(data: bytes) -> bytes:
    """
    A JPEG with only the segments that its pixels need, up to its end marker: what follows (a second picture, a film)
    goes too.

    Raises:
        _NotPlain: neither grey nor YCbCr of 8 bits, or not laid out as expected.
    """
    if data[:2] != b"\xff\xd8":
        raise _NotPlain("no start")
    kept, place = [data[:2]], 2
    while True:
        marker, place = _marker(data, place)
        if marker == _END_OF_IMAGE:
            return b"".join([*kept, b"\xff\xd9"])
        length = int.from_bytes(data[place : place + 2], "big")
        segment = data[place : place + length]
        if length < 2 or len(segment) != length:
            raise _NotPlain("a segment is cut off")
        place += length
        if _needed(marker, segment):
            kept.append(bytes((0xFF, marker)) + segment)
        if marker == _START_OF_SCAN:
            following = _NEXT_MARKER.search(data, place)
            if following is None:
                raise _NotPlain("no end")
            kept.append(data[place : following.start()])
            place = following.start()


def _marker(data: bytes, place: int) -> tuple[int, int]:
    """The marker at a place, and where its segment begins."""
    if data[place : place + 1] != b"\xff":
        raise _NotPlain("no marker where one must be")
    while data[place : place + 1] == b"\xff":
        place += 1
    if place >= len(data):
        raise _NotPlain("no end")
    return data[place], place + 1


def _needed(marker: int, segment: bytes) -> bool:
    if marker in _FRAMES:
        components = segment[7] if len(segment) > 7 else 0
        names = segment[8 : 8 + 3 * components : 3]
        if segment[2] != 8 or components not in (1, 3) or names == b"RGB":
            raise _NotPlain("neither grey nor YCbCr of 8 bits")
        return True
    if marker in _OTHER_FRAMES:
        raise _NotPlain("an unusual coding")
    if marker == 0xE0:
        return segment[2:7] == b"JFIF\0" and len(segment) == 16  # a longer one holds a thumbnail
    if marker == 0xEE:
        if segment[2:7] == b"Adobe" and (len(segment) != 14 or segment[13] != 1):
            raise _NotPlain("colours other than YCbCr")
        return segment[2:7] == b"Adobe"
    return marker == _START_OF_SCAN or marker in _TABLES
