"""Search for content that must not be published: paths, host names, tokens, pickles."""

import functools
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import get_token

from ..extras import require
from ..names import TOKEN

SECRETS = "The search for secrets before a push"
NEVER_PUBLISHED = {"__pycache__", ".cache", ".git"}  # folders
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
NOISY = {"ArtifactoryDetector", "IPPublicDetector"}  # these match ordinary words and version numbers
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(_|$)|(^|_)(PASS|AUTH)(_|$)")
SHORTEST_SECRET, SHORTEST_HOST = 12, 6  # shorter ones are ordinary words


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """Name and size in bytes of every file of a released folder that is published, sorted by name."""
    root, files = Path(folder), []
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if path.is_file() and not NEVER_PUBLISHED & set(name.parts):
            files.append((name.as_posix(), path.stat().st_size))
    return sorted(files)


def check_publishable(folder: str | Path) -> None:
    """
    Search every file that is published: all bytes, or the header of safetensors, and texts and bytes of Parquet in
    columns of any type. Other encodings (UTF-16, base64, escapes, compression) are not searched. Raises ImportError
    without detect-secrets.

    Raises:
        ValueError: if a file holds the home or working folder, the name of this machine or a secret, or has the suffix
            of a pickle. The message names file and kind, without the secret.
    """
    patterns = local_patterns()
    for name, _ in list_files(folder):
        path = Path(folder) / name
        if path.suffix.lower() in PICKLES:
            raise ValueError(f"{name} may be a pickle, which runs code when opened: it is not published.")
        kind = next(filter(None, (_kind(text, patterns) for text in _texts_of(path))), None)
        if kind is not None:
            raise ValueError(
                f"{name} holds {kind}, which would be published. Nothing was pushed. Remove it where it comes from "
                "and release again."
            )


def local_patterns() -> dict[str, re.Pattern[bytes]]:
    """Kinds of matches on this machine (paths, its name, secrets of the environment), each with its pattern."""
    folders = {str(way) for place in (Path.home(), Path.cwd()) for way in (place, place.resolve())} - {"/"}
    ways = "|".join(map(re.escape, sorted(folders)))
    # Not as a part of a longer path or name
    patterns = {"a path of this machine": re.compile(rf"(?<![\w.~-])(?:{ways})(?![\w-]|\.\w)".encode())}
    host = socket.gethostname()
    # A name without digit, dot or hyphen may be an ordinary word, such as laptop or student
    if len(host) >= SHORTEST_HOST and re.search(r"[\d.-]", host) and not host.startswith("localhost"):
        patterns["the name of this machine"] = re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])".encode())
    secrets = {name: value for name, value in os.environ.items() if SECRET_NAME.search(name.upper())}
    for name, value in {**secrets, "of the Hub": get_token() or ""}.items():
        if len(value) >= SHORTEST_SECRET:
            patterns[f"a token or password of this environment ({name})"] = re.compile(re.escape(os.fsencode(value)))
    return patterns


def _kind(text: bytes, patterns: dict[str, re.Pattern[bytes]]) -> str | None:
    """The kind of the first match in a text."""
    for kind, pattern in patterns.items():
        if pattern.search(text):
            return kind
    printable = b"\n".join(re.findall(rb"[ -~\t\r\n]{12,}", text)).decode("ascii")
    if TOKEN.search(printable):
        return "what looks like a token"
    for kind, detector in _detectors().items():
        if any(True for _ in detector.analyze_string(printable)):
            return f"what looks like a secret ({kind})"
    return None


@functools.cache
def _detectors() -> dict[str, Any]:
    """Detectors of detect-secrets for tokens, private keys and passwords in URLs."""
    kinds = require("detect_secrets.core.plugins.util", "hub", SECRETS).get_mapping_from_secret_type_to_class()
    from detect_secrets.plugins.base import RegexBasedDetector

    classes = {kind: cls for kind, cls in kinds.items() if issubclass(cls, RegexBasedDetector)}
    return {kind: cls() for kind, cls in classes.items() if cls.__name__ not in NOISY}


def _texts_of(path: Path) -> Iterator[bytes]:
    """All bytes of a file, or the header of safetensors; metadata and cells of a Parquet file."""
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"PAR1"):
            yield from _parquet(path)
        else:
            yield head + file.read(int.from_bytes(head, "little") if path.suffix == ".safetensors" else -1)


def _parquet(path: Path) -> Iterator[bytes]:
    """Metadata of a Parquet file, and its texts and bytes, also within lists, structs, maps and dictionaries."""
    with pq.ParquetFile(path) as table:
        yield b"\n".join(word for pair in (table.metadata.metadata or {}).items() for word in pair)
        yield str(table.schema_arrow.names).encode()
        leaves = map(table.schema.column, range(len(table.schema)))
        texts = (leaf for leaf in leaves if leaf.physical_type.endswith("BYTE_ARRAY"))
        paths = [leaf.path for leaf in texts if str(leaf.logical_type) != "Float16"]  # embeddings
        for batch in table.iter_batches(batch_size=50, columns=paths) if paths else ():
            yield b"\n".join(_texts(batch.to_pylist()))


def _texts(value: Any) -> Iterator[bytes]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _texts(item)
    if isinstance(value, (str, bytes)):
        yield value.encode(errors="replace") if isinstance(value, str) else value
