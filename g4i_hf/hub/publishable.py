"""Looking through a folder for what must not be published: local paths, host names, tokens, pickles."""

import json
import os
import re
import socket
import struct
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import get_token

from ..data.stage import read_stage
from ..training.run_folder import OPTIONS_FILE, read_options
from .manifest import list_files

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
TOKENS = re.compile(rb"\b(hf|github_pat|ghp|sk|sk-proj|sk-ant)[_-][A-Za-z0-9_-]{30,}")
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY")
SHORTEST_SECRET, SHORTEST_HOST = 12, 6  # shorter ones are ordinary words
SHORT_PATH = 8  # bytes; shorter ones come by chance in the gigabytes of a graph
BLOCK, OVERLAP = 1 << 24, 4096
# Where a path begins, seen from behind its first slash, which is quick to find: not within another path or an address,
# but after `file://`, `-I` or another slash
BEGINS = (
    r"(?:(?<![\w./-]/)|(?<=:///)|(?<=://localhost/)|(?<=(?<![\w./:-])//)|(?<=(?<![\w.-])-[A-Za-z]/)|(?<=-isystem/))"
)
ENDS = r"(?![\w-]|\.\w)"  # else another name begins with this one
IN_TEXT = r"(?=[\s!-~]{3}|[\s!-~]{0,2}\Z)"
LOCAL = re.compile(r"\.{1,2}/|~/|/|[A-Za-z]:\\")
EVERYWHERE = {Path("/"), Path("/usr"), Path("/usr/local")}  # these say nothing of a machine
MOST_STAGES, LONGEST_PATH = 8, 4096


def check_publishable(folder: str | Path, folders: Collection[str | Path] = ()) -> None:
    """
    Looks through every file that is published: text and other bytes as they are, the header of safetensors, and schema
    and strings of Parquet.

    Args:
        folder: a released folder.
        folders: of this machine, whose paths are looked for as well as those of home, temporary files and the like.

    Raises:
        ValueError: when one holds a folder of this machine, its name or a secret of its environment, or is a pickle.
            The message names file and kind, and does not repeat a secret.
    """
    patterns = local_patterns(folders)
    for name, _ in list_files(folder):
        path = Path(folder) / name
        if path.suffix.lower() in PICKLES:
            raise ValueError(f"{name} may be a pickle, which runs code when it is opened: it is not published.")
        for text in _searched(path):
            kind = _found(text, patterns)
            if kind is not None:
                raise ValueError(
                    f"{name} holds {kind}, which would be published. Nothing was pushed. Make the folder again "
                    "without it, or take it out by hand."
                )


def local_patterns(folders: Collection[str | Path] = ()) -> dict[str, re.Pattern[bytes]]:
    """What is looked for on this machine: the kind of finding, and its expression."""
    places = {Path.home(), Path.cwd(), Path(sys.prefix), Path(tempfile.gettempdir())}
    places |= {Path(os.path.abspath(folder)) for folder in folders}
    places |= {place.resolve() for place in places}
    patterns = {"a path of this machine": _of_places({place for place in places if place.name} - EVERYWHERE)}
    host = socket.gethostname()
    # One without digit, dot or hyphen is an ordinary word too, as in laptop or student
    if len(host) >= SHORTEST_HOST and re.search(r"[\d.-]", host) and not host.startswith("localhost"):
        patterns["the name of this machine"] = _any_of([host])
    secrets = [value for name, value in os.environ.items() if SECRET_NAMES.search(name.upper())] + [get_token() or ""]
    secrets = [value for value in secrets if len(value) >= SHORTEST_SECRET]
    if secrets:
        patterns["a token or password of this environment"] = _any_of(secrets, before="", after="")
    return patterns | {"what looks like a token": TOKENS}


def private_places(*folders: str | Path | None) -> set[Path]:
    """
    Args:
        folders: of runs, stages and releases; None stands for none.

    Returns:
        They, and the folders that their options or sources name, and that stages there name again.
    """
    places = {Path(os.path.abspath(folder)) for folder in folders if folder}
    for place in list(places):
        run = place.parent if place.name.startswith("checkpoint-") else place
        for base in {place, run}:
            options = read_options(base) if (base / OPTIONS_FILE).is_file() else {}
            places |= _named({**options, **(read_stage(base) or {})}, base)
    return places


def _named(options: dict[str, Any], base: Path, depth: int = MOST_STAGES) -> set[Path]:
    """The folders that options name, relative ones seen from `base`."""
    found: set[Path] = set()
    for value in options.values():
        if not isinstance(value, str) or len(value) > LONGEST_PATH or not LOCAL.match(value):
            continue
        place = Path(os.path.abspath(base / Path(value).expanduser()))
        # One that is gone has left its path all the same; what is no path is a prompt, as in `/no_think Describe it`
        if os.path.exists(place) or (len(place.parts) > 2 and not re.search(r"\s", value)):
            found.add(place.parent if os.path.isfile(place) else place)
        if depth and os.path.isdir(place):
            found |= _named(read_stage(place) or {}, place, depth - 1)
    return found


def _of_places(places: set[Path]) -> re.Pattern[bytes]:
    """Paths as they are written in text, in JSON and in addresses."""
    names = {name for place in places for name in (str(place), json.dumps(str(place))[1:-1], quote(place.as_posix()))}
    ways = [
        re.escape(name.removeprefix("/")) + ENDS + (IN_TEXT if len(name.encode()) < SHORT_PATH else "")
        for name in sorted(names)
        if name.startswith("/")
    ]
    others = [rf"(?<![\w./-]){re.escape(name)}{ENDS}" for name in sorted(names) if not name.startswith("/")]
    return re.compile("|".join([*([f"/{BEGINS}(?:{'|'.join(ways)})"] if ways else []), *others]).encode())


def _any_of(words: list[str], before: str = r"(?<![\w-])", after: str = r"(?![\w-])") -> re.Pattern[bytes]:
    return re.compile((before + "(?:" + "|".join(map(re.escape, words)) + ")" + after).encode())


def _found(text: bytes, patterns: dict[str, re.Pattern[bytes]]) -> str | None:
    return next((kind for kind, pattern in patterns.items() if pattern.search(text)), None)


def _searched(path: Path) -> Iterator[bytes]:
    """The parts of a file that can hold words."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            yield file.read(length)
    elif path.suffix == ".parquet":
        yield from _strings(path)
    else:
        yield from _blocks(path)


def _blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks that overlap, so that nothing hides between two of them."""
    with path.open("rb") as file:
        tail = b""
        while block := file.read(BLOCK):
            yield tail + block
            tail = block[-OVERLAP:]


def _strings(path: Path) -> Iterator[bytes]:
    """Metadata and strings of a Parquet file, those within lists and structs too; bytes of images are left out."""
    with pq.ParquetFile(path) as file:
        yield from (file.schema_arrow.metadata or {}).values()
        # Leaf columns by their path: the bytes of images would be gigabytes
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        wanted = [leaf.path for leaf in leaves if str(leaf.logical_type) == "String"]
        for batch in file.iter_batches(batch_size=10_000, columns=wanted) if wanted else ():
            for column in batch.columns:
                yield from _of_array(column)


def _of_array(array: pa.Array) -> Iterator[bytes]:
    if pa.types.is_struct(array.type):
        for field in array.flatten():
            yield from _of_array(field)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        yield from _of_array(array.flatten())
    elif len(array) and (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        yield "\n".join(pc.drop_null(array).to_pylist()).encode()
