"""Digests by which an answer is found again: after a stop or a move of the images, and never for another prompt."""

import hashlib
import json
import os
from typing import Any

DIGEST_BYTES = 16
# Digests of different kinds never meet. A change of what goes into them needs another number
_KEY, _PLACE = b"g4i_hf key 1", b"g4i_hf place 1"


class Keys:
    """
    Keys and places of the answers of one captioner.

    A *key* says what was asked: the bytes of an image, the prompt and the captioner. A *place* says where the image
    lay, so that a known answer is found without opening the image. A place is only a shortcut: where it is unknown,
    the image is read and its key decides, so that images that were moved or renamed are not asked about again.

    Args:
        provenance: of the captioner: preprocessing, model, revision, decoding, as JSON values. The order of its fields
            does not matter, nor whether a whole number is written as 1 or 1.0.

    Raises:
        TypeError, ValueError: for a provenance that is not JSON.
    """

    def __init__(self, provenance: dict[str, Any]):
        canonical = json.dumps(_plain(provenance), sort_keys=True, separators=(",", ":"), allow_nan=False)
        self._key, self._place = (
            hashlib.blake2b(canonical.encode(), digest_size=DIGEST_BYTES, person=kind) for kind in (_KEY, _PLACE)
        )

    def key(self, source_digest: str, prompt: str) -> str:
        """
        Args:
            source_digest: of the image's bytes, see [`source_digest`].
            prompt: filled in.

        Returns:
            32 hex digits.
        """
        return _digest(self._key, [source_digest, prompt])

    def place(self, image_id: str, size: int | None, mtime: int | None, prompt: str, table: str | None = None) -> str:
        """
        Args:
            image_id: the row's.
            size: of the image in bytes.
            mtime: of its file in nanoseconds; None where the bytes lie in a table.
            prompt: filled in.
            table: what the row belongs to. For files the name of the split, as `image_id` is unique in a split only;
                for bytes in a table the fingerprint of the split, which is another one when the table changes.

        Returns:
            32 hex digits. Empty without both mtime and table: then nothing but the bytes shows that they have
            changed, so that there is no shortcut, and the journal finds nothing under it.
        """
        if mtime is None and table is None:
            return ""
        return _digest(self._place, [image_id, size, mtime, table, prompt])


def source_digest(image: dict[str, Any] | None) -> tuple[str, int, int | None]:
    """
    Reads an image.

    Args:
        image: `{"bytes", "path"}`, as `datasets.Image(decode=False)` gives it.

    Returns:
        Digest of its bytes (32 hex digits), their number, and the mtime of the file in nanoseconds, None for bytes.

    Raises:
        ValueError: for a null.
        OSError: when the file cannot be read.
    """
    content, path = _parts(image)
    if content is not None:
        return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest(), len(content), None
    if _is_remote(path):
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            content = file.read()
        return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest(), len(content), None
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())  # before reading: a file that changes meanwhile is seen as changed next time
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES))
    return digest.hexdigest(), found.st_size, found.st_mtime_ns


def _digest(state: Any, parts: list) -> str:
    """A JSON list after the JSON object of the provenance: neither can be cut differently and give the same text."""
    state = state.copy()
    state.update(json.dumps(parts).encode())
    return state.hexdigest()


def _plain(value: Any) -> Any:
    """The same JSON value with whole floats as integers: `temperature: 0` in a YAML file equals 0.0."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parts(image: dict[str, Any] | None) -> tuple[bytes | None, str | None]:
    if image is None or (image.get("bytes") is None and not image.get("path")):
        raise ValueError("null")
    return image.get("bytes"), image.get("path")


def _is_remote(path: str) -> bool:
    """Also a file inside an archive: `zip://image.png::pictures.zip`."""
    return "://" in path
