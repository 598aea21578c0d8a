"""Search for what must not be published: paths, host names, tokens, pickles; and names and texts without it."""

import functools
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import get_token

from ..captioning.stage import PRIVATE
from ..extras import require

SECRETS = "The search for secrets before a push"
NEVER_PUBLISHED = {"__pycache__", ".cache", ".git"}  # folders
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
# What a pickle begins with since protocol 2, of 2003, and an archive, in which torch.save puts one
PICKLED = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")
# Beside those of detect-secrets (1.5), which knows neither Hugging Face nor Anthropic nor Google
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\b(github_pat_|ghp_|sk-|AIza)[A-Za-z0-9_-]{30,}")
NOISY = {"ArtifactoryDetector", "IPPublicDetector"}  # these find ordinary words and version numbers
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(_|$)|(^|_)(PASS|AUTH)(_|$)")
SHORTEST_SECRET, SHORTEST_HOST = 12, 6  # shorter ones are ordinary words

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
MODEL_NAME = re.compile(rf"(hf-hub:)?{HUB_ID.pattern}(:[\w.-]+)?")  # also of a version, as in llava:7b
WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\[^\s,;'\"]+")


def bare_name(name: str) -> str:
    """A Hub id as it is; of a path or an address the last part alone."""
    if not MODEL_NAME.fullmatch(name):
        parts = [part for part in re.split(r"[\\/]", name.split("?")[0]) if part not in ("", ".", "..", "~")]
        name = parts[-1] if parts else ""
    return without_private(name)


def without_private(text: str) -> str:
    """A text with `...` in place of addresses, paths and tokens."""
    for private in (PRIVATE, WINDOWS_PATH, TOKEN):
        text = private.sub("...", text)
    return text


def list_files(folder: str | Path) -> list[tuple[str, int]]:
    """Name and size in bytes of every file of a released folder that is published, sorted by name."""
    root, found = Path(folder), []
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if path.is_file() and not NEVER_PUBLISHED & set(name.parts):
            found.append((name.as_posix(), path.stat().st_size))
    return sorted(found)


def check_publishable(folder: str | Path) -> None:
    """
    Searches every file that is published: all bytes, or the header of safetensors, and texts and bytes of Parquet in
    columns of any type. What is encoded otherwise (UTF-16, base64, escapes, compressed) is not found. ImportError
    without detect-secrets.

    Raises:
        ValueError: when one holds the home or the working folder, the name of this machine or a secret, or is a
            pickle. The message names file and kind, and does not repeat a secret.
    """
    patterns = local_patterns()
    for name, _ in list_files(folder):
        path = Path(folder) / name
        if _is_pickle(path):
            raise ValueError(f"{name} is or may be a pickle, which runs code when opened: it is not published.")
        try:
            kind = next(filter(None, (_kind(text, patterns) for text in _texts_of(path))), None)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{name} cannot be looked through ({error}): it is not published.") from error
        if kind is not None:
            raise ValueError(
                f"{name} holds {kind}, which would be published. Nothing was pushed. Remove it where it comes from "
                "and release again."
            )


def local_patterns() -> dict[str, re.Pattern[bytes]]:
    """Kinds of findings on this machine (paths, its name, secrets of the environment), each with its expression."""
    folders = {str(way) for place in (Path.home(), Path.cwd()) for way in (place, place.resolve())} - {"/"}
    ways = "|".join(map(re.escape, sorted(folders)))
    # Not within a longer path or name
    patterns = {"a path of this machine": re.compile(rf"(?<![\w.~-])(?:{ways})(?![\w-]|\.\w)".encode())}
    host = socket.gethostname()
    # One without digit, dot or hyphen is an ordinary word too, as in laptop or student
    if len(host) >= SHORTEST_HOST and re.search(r"[\d.-]", host) and not host.startswith("localhost"):
        patterns["the name of this machine"] = re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])".encode())
    secrets = {name: value for name, value in os.environ.items() if SECRET_NAME.search(name.upper())}
    for name, value in {**secrets, "of the Hub": get_token() or ""}.items():
        if len(value) >= SHORTEST_SECRET:
            patterns[f"a token or password of this environment ({name})"] = re.compile(re.escape(os.fsencode(value)))
    return patterns


def _kind(text: bytes, patterns: dict[str, re.Pattern[bytes]]) -> str | None:
    """The kind of the first finding in a text."""
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
    """Detectors of detect-secrets for tokens, private keys and passwords in addresses."""
    kinds = require("detect_secrets.core.plugins.util", "hub", SECRETS).get_mapping_from_secret_type_to_class()
    from detect_secrets.plugins.base import RegexBasedDetector

    found = {kind: each for kind, each in kinds.items() if issubclass(each, RegexBasedDetector)}
    return {kind: each() for kind, each in found.items() if each.__name__ not in NOISY}


def _is_pickle(path: Path) -> bool:
    """By its name or its first bytes; those of safetensors are the length of their header, and may be the same."""
    with path.open("rb") as file:
        is_pickled = PICKLED.match(file.read(4)) is not None
    return path.suffix.lower() in PICKLES or (is_pickled and path.suffix != ".safetensors")


def _texts_of(path: Path) -> Iterator[bytes]:
    """All bytes of a file, of safetensors the header; metadata and cells of a Parquet file."""
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"PAR1"):
            yield from _parquet(path)
        else:
            yield head + file.read(int.from_bytes(head, "little") if path.suffix == ".safetensors" else -1)


def _parquet(path: Path) -> Iterator[bytes]:
    """Metadata of a Parquet file, and its texts and bytes, within lists, structs, maps and dictionaries too."""
    with pq.ParquetFile(path) as table:
        yield b"\n".join(word for pair in (table.metadata.metadata or {}).items() for word in pair)
        yield str(table.schema_arrow.names).encode()
        leaves = map(table.schema.column, range(len(table.schema)))
        texts = (leaf for leaf in leaves if leaf.physical_type.endswith("BYTE_ARRAY"))
        wanted = [leaf.path for leaf in texts if str(leaf.logical_type) != "Float16"]  # embeddings
        for batch in table.iter_batches(batch_size=50, columns=wanted) if wanted else ():
            yield b"\n".join(_texts(batch.to_pylist()))


def _texts(value: Any) -> Iterator[bytes]:
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _texts(each)
    if isinstance(value, (str, bytes)):
        yield value.encode(errors="replace") if isinstance(value, str) else value
