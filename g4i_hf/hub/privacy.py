"""Search for what must not be published: paths, host names, tokens, pickles; and names and texts without it."""

import functools
import json
import os
import re
import socket
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import get_token

from ..captioning.stage import PRIVATE
from ..data.stage import read_stage
from ..extras import require
from ..names import run_of
from ..training.run_folder import OPTIONS_FILE, read_options

SECRETS = "The search for secrets before a push"
NEVER_PUBLISHED = {"__pycache__", ".cache", ".git", ".gradio"}  # folders
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
# What files of gzip, bzip2, xz, zip, Zstandard, 7z and RAR begin with; no release of ours holds one
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
# Beside those of detect-secrets (1.5), which knows neither Hugging Face nor Anthropic nor Google
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\b(github_pat_|ghp_|sk-|AIza)[A-Za-z0-9_-]{30,}")
NOISY = {"ArtifactoryDetector", "IPPublicDetector"}  # these find ordinary words and version numbers
SECRET_NAME = re.compile(
    r"(\w*(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)|(\w+_)?(PASS|AUTH)|SSHPASS|\w+_PWD)(_\w*)?"
)
SHORTEST_SECRET, SHORTEST_HOST = 12, 6  # shorter ones are ordinary words
SHORT_PATH = 8  # bytes; shorter ones come by chance in the gigabytes of a graph, so only in text
IN_TEXT = r"(?=[\s!-~]{3}|[\s!-~]{0,2}\Z)"
EVERYWHERE = {Path("/"), Path("/usr"), Path("/usr/local")}  # these say nothing of a machine
BLOCK, OVERLAP = 1 << 24, 4096

LOCAL = re.compile(r"\.{1,2}/|~/|/|[A-Za-z]:\\")
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
        if path.is_file() and not NEVER_PUBLISHED & set(name.parts) and name.suffix.lower() != ".pyc":
            found.append((name.as_posix(), path.stat().st_size))
    return sorted(found)


def check_publishable(folder: str | Path, folders: Collection[str | Path] = ()) -> None:
    """
    Searches every file that is published: all bytes, or the header of safetensors, and texts and bytes of Parquet in
    columns of any type. What is encoded otherwise (UTF-16, base64, escapes) is not found. ImportError without
    detect-secrets.

    Args:
        folders: of this machine, whose paths are looked for as well as home, working and temporary folder.

    Raises:
        ValueError: when one holds a folder of this machine, its name or a secret, or is a pickle or compressed. The
            message names file and kind, and does not repeat a secret.
    """
    patterns = local_patterns(folders)
    for name, _ in list_files(folder):
        with (Path(folder) / name).open("rb") as file:
            head = file.read(16)
            file.seek(0)
            if Path(name).suffix.lower() in PICKLES or _is_pickle(head):
                raise ValueError(f"{name} is or may be a pickle, which runs code when opened: it is not published.")
            if head.startswith(COMPRESSED):
                raise ValueError(f"{name} is compressed, and cannot be looked through: it is not published.")
            try:
                texts = _parquet(file) if head.startswith(b"PAR1") else _blocks(file, head)
                kind = next((kind for text in texts if (kind := _kind(text, patterns)) is not None), None)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{name} cannot be looked through ({error}): it is not published.") from error
        if kind is not None:
            raise ValueError(
                f"{name} holds {kind}, which would be published. Nothing was pushed. Remove it where it comes from "
                "and release again."
            )


def local_patterns(folders: Collection[str | Path] = ()) -> dict[str, re.Pattern[bytes]]:
    """Kinds of findings on this machine (paths, its name, secrets of the environment), each with its expression."""
    places = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), *map(Path, map(os.path.abspath, folders))}
    places |= {place.resolve() for place in places}
    patterns = {"a path of this machine": _of_places(places - EVERYWHERE)}
    host = socket.gethostname()
    # One without digit, dot or hyphen is an ordinary word too, as in laptop or student
    if len(host) >= SHORTEST_HOST and re.search(r"[\d.-]", host) and not host.startswith("localhost"):
        patterns["the name of this machine"] = re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])".encode())
    secrets = {name: value for name, value in os.environ.items() if SECRET_NAME.fullmatch(name.upper())}
    for name, value in {**secrets, "of the Hub": get_token() or ""}.items():
        if len(value) >= SHORTEST_SECRET:
            kind = f"a token or password of this environment ({name})"
            patterns[kind] = re.compile(re.escape(os.fsencode(value)))
    return patterns


def _of_places(places: set[Path]) -> re.Pattern[bytes]:
    """Paths as they are written in text, in JSON and in addresses; not within a longer path or name."""
    names = {name for place in places for name in (str(place), json.dumps(str(place))[1:-1], quote(place.as_posix()))}
    ways = [re.escape(name) + r"(?![\w-]|\.\w)" + IN_TEXT * (len(name.encode()) < SHORT_PATH) for name in names]
    return re.compile(rf"(?<![\w.~-])(?:{'|'.join(sorted(ways))})".encode())


def _is_pickle(head: bytes) -> bool:
    """Since protocol 2, of 2003; safetensors begin with the length of their header, which may be the same bytes."""
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5") and head[8:9] != b"{"


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

    return {
        kind: each()
        for kind, each in kinds.items()
        if issubclass(each, RegexBasedDetector) and each.__name__ not in NOISY
    }


def _blocks(file: BinaryIO, head: bytes) -> Iterator[bytes]:
    """A file in overlapping blocks; of safetensors the header alone."""
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header < BLOCK:
        yield file.read(8 + header)[8:]
        return
    tail = b""
    while block := file.read(BLOCK):
        yield tail + block
        tail = block[-OVERLAP:]


def _parquet(file: BinaryIO) -> Iterator[bytes]:
    """Metadata of a Parquet file, and its texts and bytes, within lists, structs, maps and dictionaries too."""
    with pq.ParquetFile(file) as table:
        yield b"\n".join(word for pair in (table.metadata.metadata or {}).items() for word in pair)
        yield str(table.schema_arrow.names).encode()
        leaves = [table.schema.column(i) for i in range(len(table.schema))]
        wanted = [
            leaf.path
            for leaf in leaves
            if leaf.physical_type.endswith("BYTE_ARRAY") and str(leaf.logical_type) != "Float16"
        ]
        for batch in table.iter_batches(batch_size=50, columns=wanted) if wanted else ():
            yield b"\n".join(_texts(batch.to_pylist()))


def _texts(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, (str, bytes)):
        yield value.encode(errors="replace") if isinstance(value, str) else value


def private_places(*folders: str | Path | None) -> set[Path]:
    """Folders of runs, stages and releases, those that their options and sources name, and those that these name."""
    places: set[Path] = set()
    waiting = [Path(os.path.abspath(folder)) for folder in folders if folder]
    while waiting:
        if (place := waiting.pop()) in places:
            continue
        places.add(place)
        for base in {place, run_of(place)}:
            options = read_options(base) if (base / OPTIONS_FILE).is_file() else {}
            named = {**options, **(read_stage(base) or {})}.values()
            waiting += [found for value in named if (found := _place(value, base)) is not None]
    return places


def _place(value: Any, base: Path) -> Path | None:
    """The folder that an option names, seen from `base`; None for one that names none."""
    if not isinstance(value, str) or not LOCAL.match(value):
        return None
    place = Path(os.path.abspath(base / Path(value).expanduser()))
    # One that is gone has left its path all the same; what is no path is a prompt, as in `/no_think Describe it`
    if os.path.exists(place) or (len(place.parts) > 2 and not re.search(r"\s", value)):
        return place.parent if os.path.isfile(place) else place
    return None
