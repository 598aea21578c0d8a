"""
Stored images: decoded to upright 8-bit RGB, or reported as unreadable; and the files that rows of the Hub may name.
"""

import base64
import contextlib
import functools
import io
import logging
import math
import os
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.config import DOWNLOADED_DATASETS_PATH, HF_CACHE_HOME, HF_DATASETS_CACHE
from datasets.features.features import require_storage_embed
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError

from .. import columns
from ..files import printable
from ..names import how_to_install

logger = logging.getLogger(__name__)

# What is an image, whatever its file is called: Pillow decodes these itself, while it starts Ghostscript for EPS.
# TGA is last, as it has no signature
FORMATS: tuple[str, ...] = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM"),
    *("ICO", "ICNS", "PSD", "PCX", "SGI", "SUN", "DDS", "QOI", "TGA"),
)
# Photographs of phones, which Pillow opens with the package of an extra
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
HEIC_STARTS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
HEIC_REMEDY = f"To open HEIC: {how_to_install('heic')}."
if opens_heic := find_spec("pillow_heif") is not None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS = "HEIF", *FORMATS
UNOPENED_SUFFIXES = frozenset() if opens_heic else HEIC_SUFFIXES
_OPENED = {suffix for suffix, kind in PILImage.registered_extensions().items() if kind in FORMATS}
IMAGE_SUFFIXES = frozenset({*_OPENED, ".mpo"}) - UNOPENED_SUFFIXES  # MPO is several JPEGs in a file
ROWS_AT_ONCE = 10_000


def open_image(image: dict[str, Any] | PILImage.Image | None) -> PILImage.Image:
    """A PIL image, not yet decoded, from `{"bytes", "path"}` or a PIL image. Raises ValueError for None."""
    if image is None:
        raise ValueError("null")
    if isinstance(image, PILImage.Image):
        return image
    try:
        stored = io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]
        return PILImage.open(stored, formats=FORMATS)
    except UnidentifiedImageError:
        with io.BytesIO(image["bytes"]) if image["bytes"] is not None else open(image["path"], "rb") as file:
            if file.read(12)[4:] in HEIC_STARTS:  # as phones send it, perhaps named .jpg
                raise ValueError(f"it is HEIC. {HEIC_REMEDY}") from None
        raise


def content_of(image: dict[str, Any] | None) -> bytes:
    """The encoded bytes of an image, from its row or file; raises ValueError or OSError without any."""
    if image is None or (image["bytes"] is None and not image["path"]):
        raise ValueError((image or {}).get("why", "null"))
    if image["bytes"] is not None:
        return image["bytes"]
    with open(image["path"], "rb") as file:
        return file.read()


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """
    Upright and RGB, by the steps of `transformers.image_utils.load_image`: the pixels that a released student gets in
    a pipeline. That clips 16 bits to 0-255 whatever is released, so a warning says it. Raises ValueError for 32 bits.
    """
    has_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not has_16_bits:
        raise ValueError(
            f"mode {image.mode} has 32 bits, which a pipeline clips to 0-255: scale the values to that range and save "
            "them in mode L"
        )
    if has_16_bits and np.asarray(image).max() > 255:
        _warn_of_clipping()
    image = ImageOps.exif_transpose(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.cache
def _warn_of_clipping() -> None:
    """Once in a process."""
    logger.warning(
        "Images of 16 bits have values above 255, which a pipeline of transformers makes white, so training sees them "
        "white too. Convert these images to 8 bits, as docs/guides/troubleshooting.md shows, also when you classify."
    )


class Turns:
    """Lets threads decode as many pixels at once as Pillow allows for one image, 179 million; others wait."""

    def __init__(self) -> None:
        self.pixels = 0
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, image: PILImage.Image) -> Iterator[None]:
        most, pixels = 2 * (PILImage.MAX_IMAGE_PIXELS or math.inf), image.width * image.height
        with self.changed:
            self.changed.wait_for(lambda: not self.pixels or self.pixels + pixels <= most)
            self.pixels += pixels
        try:
            yield
        finally:
            with self.changed:
                self.pixels -= pixels
                self.changed.notify_all()


TURNS = Turns()
# glibc keeps blocks of up to 32 MB that a thread has freed for its next image, and those of Pillow have 16
PILImage.core.set_block_size(64 << 20)


# --- Images that cannot be read --------------------------------------------------------------------------------------


class BadImageError(ValueError):
    """An image cannot be read, or too many cannot. Drops the traceback that a worker process prepends."""

    def __init__(self, message: str):
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


def why_unreadable(error: Exception) -> str:
    """A line without the address of a buffer or the path of the file."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, PILImage.DecompressionBombError):
        return "it has more pixels than can be opened safely"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return ((str(error).splitlines() or [""])[0] or type(error).__name__)[:150]


def why_unnamable(file: str | Path) -> str | None:
    """Datasets and Parquet hold names in UTF-8."""
    try:
        str(file).encode()
    except UnicodeError:
        return f"the file name {os.fsencode(file)!r} is not UTF-8. Rename the file, as convmv does."
    return None


def why_bad(stored: dict[str, Any] | PILImage.Image | None) -> str | None:
    """Decode a stored image. Returns why it cannot be decoded, or None."""
    try:
        opened = open_image(stored)
        with TURNS.of(opened):
            to_rgb(opened)
    except Exception as error:  # Pillow's readers raise almost anything for a damaged file
        return why_unreadable(error)
    return None


def bad_image(images: Dataset, image_ids: Dataset, row: int, reason: str) -> str:
    """For messages: `image_id`, the file unless the bytes are in a table, and the reason."""
    image = images[row][columns.IMAGE]
    file = image.get("path") if isinstance(image, dict) and image.get("bytes") is None else None
    return f"{image_ids[row][columns.IMAGE_ID]!r}" + (f" ({printable(file)})" if file else "") + f": {reason}"


def error_of(bad: str) -> BadImageError:
    """The error for what [`bad_image`] says."""
    return BadImageError(
        f"An image cannot be decoded: {bad}. Replace the file or remove the row, or leave such images out with "
        "--on_bad_images skip."
    )


# --- Images of a split -----------------------------------------------------------------------------------------------


def image_paths(split: Dataset) -> Iterator[tuple[str | None, bool]]:
    """Path of each image, and whether its bytes are in the table, which are not read."""
    images = split.select_columns([columns.IMAGE]).with_format("arrow")
    for start in range(0, len(split), ROWS_AT_ONCE):
        values = images[start : start + ROWS_AT_ONCE][columns.IMAGE]
        has_bytes = pc.struct_field(values, "bytes").is_valid().to_pylist()
        yield from zip(pc.struct_field(values, "path").to_pylist(), has_bytes, strict=True)


def check_files(split: Dataset, split_name: str, hub_id: str) -> None:
    """
    Raise ValueError for the first image of a split of the Hub that is a local file or a URL. Files in the caches of
    `datasets` and `huggingface_hub` are allowed, as the dataset itself is there.
    """
    caches = [os.path.abspath(cache) for cache in (HF_CACHE_HOME, HF_DATASETS_CACHE, DOWNLOADED_DATASETS_PATH)]
    caches.append(os.path.abspath(HF_HUB_CACHE))
    for row, (path, has_bytes) in enumerate(image_paths(split)):
        if has_bytes or not path:
            continue
        if "://" in path or not any(Path(os.path.abspath(path)).is_relative_to(cache) for cache in caches):
            where = f"{hub_id}, split {split_name!r}, column {columns.IMAGE!r}, row {row}"
            what = f"{where}: names the file {path!r} in place of an image, which is not part of the dataset"
            raise ValueError(f"{what}. If you trust it, download the images into a folder and open that.")


def file_columns(split: Dataset) -> list[str]:
    """Columns of images, audio or other files, which `datasets` opens with any row."""
    return [column for column, feature in split.features.items() if require_storage_embed(feature)]


# --- Images for captioners and pages: small, upright and without metadata --------------------------------------------


# Up to this longest side in pixels, colour keeps its full resolution (4:4:4), as half of it spoils an icon
TINY = 64
JPEG_QUALITY = 90


class UndecodableImage(ValueError):
    """The image cannot be read; the message is the reason."""


def decode(image: dict[str, Any] | None, max_side: int) -> PILImage.Image:
    """The upright RGB image, shrunk to a longest side of at most `max_side` pixels. Raises UndecodableImage."""
    try:
        opened = open_image({"bytes": content_of(image), "path": None})
        with TURNS.of(opened):
            if opened.format in ("JPEG", "MPO"):  # which can be decoded at a half, a quarter or an eighth of its size
                opened.thumbnail((max_side, max_side), PILImage.Resampling.LANCZOS)
            upright = to_rgb(opened)
            upright.thumbnail((max_side, max_side), PILImage.Resampling.LANCZOS)  # never enlarges
        return upright
    except Exception as error:  # Pillow's readers raise almost anything for a damaged file
        raise UndecodableImage(why_unreadable(error)) from None


def data_uri(image: dict[str, Any] | None, max_side: int) -> str:
    """[`clean_jpeg`] as a data URI, for chat completions."""
    return "data:image/jpeg;base64," + base64.b64encode(clean_jpeg(image, max_side)).decode("ascii")


def clean_jpeg(image: dict[str, Any] | None, max_side: int) -> bytes:
    """An upright JPEG of pixels alone, of at most `max_side` pixels a side. Raises UndecodableImage."""
    upright, buffer = decode(image, max_side), io.BytesIO()
    upright.info = {}  # Pillow writes comment, XMP and others from here
    subsampling = "4:4:4" if max(upright.size) < TINY else "4:2:0"
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
    return buffer.getvalue()
