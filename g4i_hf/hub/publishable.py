"""Looking through a folder for what must not be published: local paths, host names, tokens, pickles."""

import os
import re
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import get_token

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
TOKENS = re.compile(rb"\b(hf|github_pat|ghp|sk|sk-proj|sk-ant)[_-][A-Za-z0-9_-]{30,}")
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY")
SHORTEST_SECRET, SHORTEST_HOST = 12, 6  # shorter ones are ordinary words
BLOCK, OVERLAP = 1 << 24, 4096


def check_publishable(folder: str | Path) -> None:
    """
    Looks through every file: text and other bytes as they are, the header of safetensors, and schema and strings of
    Parquet.

    Raises:
        ValueError: when one holds a folder of this machine, its name or a secret of its environment, or is a pickle.
            The message names file and kind, and does not repeat a secret.
    """
    patterns = local_patterns()
    for path in sorted(Path(folder).rglob("*")):
        if not path.is_file() or path.suffix == ".pyc":
            continue
        name = path.relative_to(folder).as_posix()
        if path.suffix in PICKLES:
            raise ValueError(f"{name} may be a pickle, which runs code when it is opened: it is not published.")
        for text in _searched(path):
            kind = _found(text, patterns)
            if kind is not None:
                raise ValueError(
                    f"{name} holds {kind}, which would be published. Nothing was pushed. Make the folder again "
                    "without it, or take it out by hand."
                )


def local_patterns() -> dict[str, re.Pattern[bytes]]:
    """What is looked for on this machine: the kind of finding, and its expression."""
    places = {Path.home(), Path.cwd(), Path(sys.prefix), Path(tempfile.gettempdir())}
    places |= {place.resolve() for place in places}
    folders = sorted(str(place) for place in places if len(place.parts) > 1)
    patterns = {"a path of this machine": _any_of(folders, after=r"(?=[/\"'\s\\]|$)", before=r"(?<![\w./-])")}
    host = socket.gethostname()
    if len(host) >= SHORTEST_HOST and not host.startswith("localhost"):
        patterns["the name of this machine"] = _any_of([host])
    secrets = [value for name, value in os.environ.items() if SECRET_NAMES.search(name.upper())] + [get_token() or ""]
    secrets = [value for value in secrets if len(value) >= SHORTEST_SECRET]
    if secrets:
        patterns["a token or password of this environment"] = _any_of(secrets, before="", after="")
    return patterns | {"what looks like a token": TOKENS}


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
