"""Fingerprint of the training data, to refuse a resume on different data."""

import hashlib
from typing import Any

import numpy as np
from PIL import Image as PILImage

from .. import columns
from .dataset import CaptionedImages
from .images import content_of
from .stage import ids_digest
from .stream import RowStream
from .stream_batches import StreamedImages
from .texts import numbered, values_of

SAMPLE = 4096  # images whose bytes are read, evenly spaced
BATCH = 10_000  # rows or vectors read together
PARTS = {
    "rows": "number of rows",
    "files": "files of the stream (names, sizes, rows) or their order",
    "image_ids": "image ids or their order",
    "labels": "labels",
    "captions": "which captions are equal",
    "text_embeds": "text embeddings",
    "caption_weight": "caption weights",
    "images": "bytes of the images",
}


def fingerprint(dataset: Any) -> dict[str, int | str]:
    """
    Digests of the training data in the order of the rows, after controls such as `label_fraction`.

    All but the images is read whole. Of more than `SAMPLE` images so many are read: one that was replaced may be
    missed.

    Args:
        dataset: [`CaptionedImages`]; of [`~g4i_hf.data.stream_batches.StreamedImages`] only files and rows, or ids,
            are known; of anything else the length.

    Returns:
        A digest by part, see `PARTS`.
    """
    if isinstance(dataset, StreamedImages):
        return _of_stream(dataset.stream)
    if not isinstance(dataset, CaptionedImages):
        return {"rows": len(dataset)} if hasattr(dataset, "__len__") else {}
    found: dict[str, int | str] = {"rows": len(dataset)}
    found["image_ids"] = ids_digest(values_of(dataset.image_ids, columns.IMAGE_ID))
    found["labels"] = _digest_of_array(dataset.labels)
    if dataset.texts is not None:
        found["captions"] = _digest_of_array(numbered(dataset.caption_keys))
        found["text_embeds"] = _digest_of_array(dataset.texts.embeds)
        found["caption_weight"] = _digest_of_array(dataset.caption_weight)
    return found | {"images": _digest_of_images(dataset.images)}


def _of_stream(stream: RowStream) -> dict[str, int | str]:
    found = {} if stream.num_rows is None else {"rows": stream.num_rows}
    if stream.image_ids is not None:
        return found | {"image_ids": ids_digest(values_of(stream.image_ids, columns.IMAGE_ID))}
    return found | {"files": hashlib.blake2b("\0".join(stream.files).encode(), digest_size=16).hexdigest()}


def _digest_of_array(array: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    for start in range(0, len(array), BATCH):
        digest.update(np.ascontiguousarray(array[start : start + BATCH]).view(np.uint8))
    return digest.hexdigest()


def _digest_of_images(rows: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int).tolist():
        content = _content(rows[row][columns.IMAGE])
        digest.update(f"{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _content(image: dict[str, Any] | PILImage.Image | None) -> bytes:
    """As stored; empty where there is none."""
    if image is None:
        return b""
    if isinstance(image, PILImage.Image):
        return image.tobytes()
    try:
        return content_of(image)
    except OSError:  # training will report it
        return b""
