"""A file of predictions, written row by row, so that a start after a kill resumes it."""

import base64
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import replacing_file, spreadsheet_text

ROWS_AT_ONCE = 10_000
FLUSHED = 256  # rows
THREADS, CHECKED_AT_ONCE = 8, 1_000
DIGEST = "digest"  # of an image, in the rows of a file that is not finished
SAMPLED = "sampled"  # there too, of some images: float32 numbers in base64


class Predictions:
    """
    Rows gather in `NAME.part`, lines of JSON whose first one says of what they are; at the end they become the file,
    without their `digest`, that of the image, and what is sampled.

    Args:
        made_of: what the rows depend on, by its name in words.
    """

    def __init__(self, file: str | Path, made_of: dict[str, Any]):
        self.file, self.made_of = Path(file), made_of
        self.part = self.file.with_name(f"{self.file.name}.part")

    def begin(self, overwrite: bool, digest_of: Callable[[int], str | None]) -> tuple[int, list[str]]:
        """
        How many rows are there, up to the first one whose image has another digest now; and what else has changed, so
        that none counts. Raises ValueError for a file that is finished.
        """
        if self.file.exists() and not overwrite:
            raise ValueError(f"{self.file} is there. Give another name with -o, or replace it with --overwrite true.")
        changed = []
        if self.part.is_file():
            with self.part.open("rb") as file:
                before = _read(file.readline())
                changed = [name for name, value in self.made_of.items() if before.get(name) != value]
                end, lines = file.tell(), _unchanged(file, digest_of) if not changed and before else ()
                sizes = [len(line) for line in lines]
            if not changed and before:
                with self.part.open("r+b") as file:
                    file.truncate(end + sum(sizes))
                return len(sizes), []
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self.part.write_text(json.dumps(self.made_of) + "\n", encoding="utf-8")
        return 0, changed

    def add(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Writes rows, and yields each."""
        with self.part.open("a", encoding="utf-8") as file:
            for number, row in enumerate(rows, 1):
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                if number % FLUSHED == 0:
                    file.flush()
                yield row

    def rows(self) -> Iterator[dict[str, Any]]:
        """With their `digest`."""
        with self.part.open(encoding="utf-8") as file:
            next(file)
            yield from map(json.loads, file)

    def finish(self) -> None:
        write = {".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_jsonl}[self.file.suffix]
        with replacing_file(self.file) as staging:
            write(staging, map(as_written, self.rows()))
        self.part.unlink()


def _unchanged(lines: Iterable[bytes], digest_of: Callable[[int], str | None]) -> Iterator[bytes]:
    """Up to a line that a kill cut, or one whose image has another digest."""
    numbered = enumerate(lines)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(itertools.islice(numbered, CHECKED_AT_ONCE)):
            digests = pool.map(digest_of, [row for row, _ in batch])
            for (_, line), digest in zip(batch, digests, strict=True):
                if not line.endswith(b"\n") or _read(line).get(DIGEST) != digest:
                    return
                yield line


def _read(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def as_written(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in (DIGEST, SAMPLED)}


def numbers_of(row: dict[str, Any]) -> np.ndarray:
    """(K + C,) of a row with what is sampled."""
    return np.frombuffer(base64.b64decode(row[SAMPLED]), dtype=np.float32)


def _write_csv(place: Path, rows: Iterator[dict[str, Any]]) -> None:
    with place.open("w", encoding="utf-8", newline="") as file:
        writer = None
        for row in rows:
            row = {name: spreadsheet_text(value) if isinstance(value, str) else value for name, value in row.items()}
            if writer is None:
                writer = csv.DictWriter(file, row)
                writer.writeheader()
            writer.writerow(row)


def _write_jsonl(place: Path, rows: Iterator[dict[str, Any]]) -> None:
    with place.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def schema_of(names: Iterable[str]) -> pa.Schema:
    return pa.schema([(name, pa.float64() if name.startswith("probability") else pa.string()) for name in names])


def _write_parquet(place: Path, rows: Iterator[dict[str, Any]]) -> None:
    first = next(rows)
    schema = schema_of(first)
    with pq.ParquetWriter(place, schema) as writer:
        chunk = [first]
        for row in rows:
            chunk.append(row)
            if len(chunk) == ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(chunk, schema))
                chunk = []
        if chunk:
            writer.write_table(pa.Table.from_pylist(chunk, schema))
