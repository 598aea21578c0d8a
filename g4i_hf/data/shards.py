"""
Images in shards, on a disk or in a bucket: a Parquet of results for each, which is there as a whole or not at all.

Any number of tasks share the shards and need nothing else of each other. A result that exists is done, whoever made
it: its metadata hold digests of its shard and of the options. What another shard or other options have made is an
error. A killed task loses the shard that it was at.
"""

import contextlib
import json
import os
import re
import tarfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from .. import columns
from ..files import replacing_file
from ..names import require, without_private
from ..options import ShardOptions
from ..output import progress_bar
from .images import IMAGE_SUFFIXES
from .record import content_digest

Stored = dict[str, Any] | None  # `{"bytes", "path"}`, where the path is None: a shard leads to no other file
Images = Iterator[tuple[str, Stored]]  # name and image, as they are read
FILE_NAME, KEY_OF_TAR = "file_name", "__key__"
KEYS = KEY_OF_TAR, columns.IMAGE_ID  # with the first, columns of a shard that its results have too
OF_SHARD, OF_OPTIONS = b"g4i_hf_shard", b"g4i_hf_options"  # digests in the metadata of a result
KINDS = ".parquet", ".tar"
VERSIONS = "ETag", "etag", "md5Hash", "xet_hash", "blob_id", "mtime"  # of a file, as file systems call them
ROWS_AT_ONCE, READ_AT_ONCE = 64, 4 << 20  # rows and bytes of a shard in memory, however long it is
THREADS = 8  # that look at results


class ShardError(ValueError):
    """Some shards have no result, and why."""


class Shards:
    """
    The shards of a task. Before any work, ValueError or OSError for a pattern without a match, two shards of one name,
    and an `out` that holds shards.
    """

    def __init__(self, args: ShardOptions, image_column: str | None = None):
        self.args, self.image_column = args, image_column or columns.IMAGE
        self.source, pattern = _opened(args.shards, "shards")
        self.target, self.out = _opened(args.out, "out")
        with _reaching(f"shards is {_shown(args.shards)!r}, which cannot be listed"):
            listed = self.source.glob(pattern, detail=True)
        self.files = {path: listed[path] for path in sorted(listed) if listed[path]["type"] == "file"}
        if not self.files:
            raise FileNotFoundError(f"shards is {_shown(args.shards)!r}, but there is no such file.")
        names: dict[str, str] = {}
        for path in self.files:
            place = PurePosixPath(path)
            if place.suffix not in KINDS:
                raise ValueError(f"shards names {place.name!r}: a shard is one of {', '.join(KINDS)}.")
            if type(self.source) is type(self.target) and place.is_relative_to(self.out):
                raise ValueError(f"out is {_shown(args.out)!r}, which holds the shard {place.name!r}: name another.")
            if place.stem in names:
                both = f"{names[place.stem]} and {path}"
                raise ValueError(f"shards names {both}, whose results have one name. Take one folder at a time.")
            names[place.stem] = path
        # Processes of a launcher, such as one a GPU, share those of the task
        if args.world_size > 1 and "WORLD_SIZE" in os.environ and "LOCAL_RANK" not in os.environ:
            raise ValueError(
                "world_size is given, and the environment has WORLD_SIZE too, so that shards would be shared out "
                "twice. Leave rank and world_size out, or unset RANK and WORLD_SIZE for this command."
            )
        rank, processes = (int(os.environ.get(name, at_least)) for name, at_least in (("RANK", 0), ("WORLD_SIZE", 1)))
        self.mine = list(self.files)[args.rank * processes + rank :: args.world_size * processes]

    def run(
        self,
        options: dict[str, Any],
        work: Callable[[Images], pa.Table],
        say: Callable[[str], object],
        overwrite: bool = False,
    ) -> None:
        """
        Make the results that are missing.

        Args:
            options: what a result depends on beside its shard, as JSON.
            work: makes the table of a shard, a row an image, in their order.

        Raises:
            ValueError: for results of other shards or options, before any work.
            OSError: where results cannot be written, or access ends. What is done stays.
            ShardError: at the end, for shards that cannot be read.
        """
        digest = content_digest(json.dumps(options, sort_keys=True).encode())
        others = sorted(self.files.keys() - {*self.mine})[:1]  # a task with another model shows
        with ThreadPoolExecutor(THREADS) as pool:
            done = [*pool.map(lambda path: self._is_done(path, digest, overwrite), [*self.mine, *others])]
        missing = [path for path, is_done in zip(self.mine, done, strict=False) if not is_done]
        if missing:
            self._check_writable()
        faults, rows, written = [], 0, 0
        for path in progress_bar(missing, unit="shard", desc="Shards", leave=False):
            if self._is_done(path, digest, overwrite):  # by another task meanwhile
                continue
            reader = Reader(self.source, path, self.image_column)
            try:
                table = reader.table(work)
            except Exception as error:
                if reader.fault is None:
                    raise
                why = f"{PurePosixPath(path).name}: {_why(reader.fault)}"
                if self._ends_access(reader.fault):
                    raise OSError(f"{why}. {written:,} shards are done. Run the same command again.") from error
                faults.append(why)
                continue
            self._write(path, table.replace_schema_metadata({OF_SHARD: self._digest(path), OF_OPTIONS: digest}))
            rows, written = rows + len(table), written + 1
        there = len(self.mine) - written - len(faults)
        say(f"Shards: {written:,} made with {rows:,} images; {there:,} were there. Results: {_shown(self.args.out)}")
        if faults:
            named = "; ".join([*faults[:3], *["..."] * (len(faults) > 3)])
            raise ShardError(f"{len(faults):,} of {len(self.mine):,} shards cannot be read: {named}")

    def _digest(self, path: str) -> str:
        about = self.files[path]
        return content_digest(f"{about['size']} {[about[name] for name in VERSIONS if about.get(name)][:1]}".encode())

    def _result(self, path: str) -> str:
        return f"{self.out}/{PurePosixPath(path).stem}.parquet"

    def _is_done(self, path: str, digest: str, overwrite: bool) -> bool:
        """Whether the result is there. ValueError for another one, unless it may be replaced."""
        place = self._result(path)
        name = PurePosixPath(place).name
        self.target.invalidate_cache(self.out)
        try:
            with _reaching(f"The result {name} in {_shown(self.args.out)} cannot be looked at"):
                if not self.target.exists(place):
                    return False
                with self.target.open(place, "rb", cache_type="none") as file:
                    made_of = pq.read_metadata(file).metadata or {}
        except OSError as error:
            if not isinstance(error.__cause__, pa.ArrowInvalid):
                raise
            made_of = {}
        wanted = {OF_SHARD: self._digest(path), OF_OPTIONS: digest}
        other = [what for what in wanted if made_of.get(what) != wanted[what].encode()]
        if not other:
            return True
        if overwrite:
            return False
        why = "with another model or other options" if OF_OPTIONS in other else "of another version of its shard"
        raise ValueError(f"{name} in {_shown(self.args.out)} was made {why}. Name another out, or pass --overwrite.")

    def _check_writable(self) -> None:
        if isinstance(self.target, LocalFileSystem):
            with _reaching(f"out is {self.args.out!r}, which cannot be made"):
                Path(self.out).mkdir(parents=True, exist_ok=True)
        place = f"{self.out}/.{uuid.uuid4().hex}.tmp"
        with _reaching(f"out is {_shown(self.args.out)!r}, which cannot be written to"):
            self.target.pipe_file(place, b"g4i_hf")
        with contextlib.suppress(Exception):  # whoever may write may perhaps not delete
            self.target.rm_file(place)

    def _write(self, path: str, table: pa.Table) -> None:
        buffer, place = pa.BufferOutputStream(), self._result(path)
        pq.write_table(table, buffer)
        content = buffer.getvalue().to_pybytes()
        with _reaching(f"The result {PurePosixPath(place).name} cannot be written to {_shown(self.args.out)}"):
            if isinstance(self.target, LocalFileSystem):
                with replacing_file(place) as staging:
                    staging.write_bytes(content)
            else:
                self.target.pipe_file(place, content)  # one PUT

    def _ends_access(self, error: Exception) -> bool:
        is_refused = isinstance(error, PermissionError) and not isinstance(self.source, LocalFileSystem)
        return is_refused or re.search("Credential|Token|Auth", type(error).__name__) is not None


class Reader:
    """The rows of a shard; `fault` is why it cannot be read."""

    def __init__(self, files: fsspec.AbstractFileSystem, path: str, image_column: str):
        self.files, self.path, self.image_column = files, path, image_column
        self.fault: Exception | None = None
        self.keys: dict[str, list[str | None]] = {}  # columns

    def table(self, work: Callable[[Images], pa.Table]) -> pa.Table:
        """The keys of the rows, and what `work` makes of their images."""
        made = work(self._images())
        keys = {name: pa.array(values, pa.string()) for name, values in self.keys.items()}
        return pa.table(keys | {name: made[name] for name in made.column_names if name not in keys})

    def _images(self) -> Images:
        is_tar = self.path.endswith(".tar")
        try:
            with self.files.open(self.path, "rb", cache_type="readahead" if is_tar else "none") as file:
                for keys, image in _rows_of_tar(file) if is_tar else _rows_of_parquet(file, self.image_column):
                    for name, value in keys.items():
                        self.keys.setdefault(name, []).append(value)
                    yield keys[FILE_NAME], image
                if not self.keys:  # without images
                    present = [KEY_OF_TAR] if is_tar else pq.read_schema(file).names
                    self.keys = {name: [] for name in (FILE_NAME, *KEYS) if name in (FILE_NAME, *present)}
        except GeneratorExit:
            raise
        except Exception as error:
            self.fault = error
            raise


def _rows_of_parquet(file: Any, image_column: str) -> Iterator[tuple[dict[str, Any], Stored]]:
    # By itself pyarrow (26) reads a row group at once, which may be the shard
    parquet = pq.ParquetFile(file, buffer_size=READ_AT_ONCE, pre_buffer=False)
    present = parquet.schema_arrow.names
    if image_column not in present:
        raise ValueError(f"no column {image_column!r}. {columns.its_columns(columns.IMAGE, present)}")
    keys, row = [name for name in (FILE_NAME, *KEYS) if name in present], 0
    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=[image_column, *keys]):
        images = batch.column(image_column)
        if not pa.types.is_struct(images.type) and not _is_binary(images.type):
            raise ValueError(f"column {image_column!r} holds {images.type}, not images: bytes, or bytes and path")
        for image, *values in zip(images.to_pylist(), *(batch.column(name).to_pylist() for name in keys), strict=True):
            image = image if isinstance(image, dict) else {"bytes": image}
            named = {name: None if value is None else str(value) for name, value in zip(keys, values, strict=True)}
            name = named.pop(FILE_NAME, None) or image.get("path") or f"row {row}"
            stored = None if image.get("bytes") is None else {"bytes": image["bytes"], "path": None}
            yield {FILE_NAME: name} | named, stored
            row += 1


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _rows_of_tar(file: Any) -> Iterator[tuple[dict[str, Any], Stored]]:
    """Members that are images; others, such as pickles, are not read."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            folder, slash, name = member.name.rpartition("/")
            if member.isfile() and not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                content = archive.extractfile(member).read()
                keys = {FILE_NAME: member.name, KEY_OF_TAR: f"{folder}{slash}{name.partition('.')[0]}"}
                yield keys, {"bytes": content, "path": None}
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # where tarfile ends without a word
            raise ValueError(f"the archive is cut off or damaged at byte {archive.offset:,}")


# --- File systems ----------------------------------------------------------------------------------------------------


def _opened(url: str, option: str) -> tuple[fsspec.AbstractFileSystem, str]:
    protocol = url.partition("://")[0] if "://" in url else "file"
    if protocol in ("s3", "s3a"):
        require("s3fs", "s3", f"{option} in S3")
    try:
        files, path = fsspec.url_to_fs(url)
    except ValueError as error:
        raise ValueError(f"{option} is {_shown(url)!r}: {str(error).splitlines()[0]}") from error
    return files, path.rstrip("/")


@contextlib.contextmanager
def _reaching(what: str) -> Iterator[None]:
    """Any error of a file system, of which each has its own, as an OSError of one line."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{what}: {_why(error)}.") from error


def _why(error: Exception) -> str:
    """Without addresses, which may hold keys."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_private(text.splitlines()[0]).rstrip(".")[:200]


def _shown(url: str) -> str:
    """Without a password."""
    return re.sub(r"(?<=://)[^/@]*@", "", url.partition("?")[0] if url.startswith("http") else url)
