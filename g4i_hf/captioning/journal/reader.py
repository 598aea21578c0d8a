"""
The journal: every answer that was ever given, in files that are only appended to.

`<folder>/<uuid>.jsonl` is a segment: one JSON object a line, written by one process (see
[`~g4i_hf.captioning.journal.writer.JournalWriter`]). Any number of processes and machines may write into one folder at
the same time, each its own segment, and what they wrote is merged when it is read.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..answers import OK, Answer, whole_characters
from .index import IS_KEY, Batch, DigestIndex, pack, unpack
from .writer import JournalWriter

__all__ = ["Entry", "Journal", "JournalWriter", "answer_of"]

logger = logging.getLogger(__name__)

SUFFIX = ".jsonl"
OPEN_FILES = 64
READ_BYTES = 4096  # holds most records
PROGRESS_BYTES = 8 << 20

Progress = Callable[[int, int], None]
_decode = json.JSONDecoder().raw_decode


class Entry(NamedTuple):
    """
    An answer that is known, without its text.

    Attributes:
        digest: the key or place by which it was found.
        ok: it is a caption; otherwise the question was asked in vain.
        segment, offset: where its line is.
        journal: that knows it.
    """

    digest: str
    ok: bool
    segment: int
    offset: int
    journal: "Journal"

    def read(self) -> dict[str, Any]:
        """The whole record, see [`Journal.read`]."""
        return self.journal.read(self)


@dataclass
class _Segment:
    name: str
    number: int
    position: int = 0  # up to here it is read
    lines: int = 0


class Journal:
    """
    Reads the journal of a folder, which need not exist. In memory is only where each answer lies: 32 bytes for its key
    and as many for its place. Lookups from several threads are safe, also during a refresh; refreshes are for one
    thread at a time. A pickled copy knows what this one knew.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._segments: dict[str, _Segment] = {}
        self._names: list[str] = []
        self._index = DigestIndex()
        self._open_files()

    @classmethod
    def load(cls, folder: str | Path, progress: Progress | None = None) -> "Journal":
        """
        Args:
            folder: of the segments; without it, the journal is empty.
            progress: called with the bytes read so far and those there are, now and then.
        """
        journal = cls(folder)
        journal.refresh(progress)
        return journal

    def refresh(self, progress: Progress | None = None) -> int:
        """
        Reads what was appended since, by this process or others.

        A last line without its end is left for later: its writer is still at it, or was killed. A line that is damaged
        is left out with a warning: its image is asked again.

        Returns:
            The number of new records, of equal questions too.
        """
        sizes = self._sizes()
        grown = [name for name, size in sizes.items() if size > self._segment(name).position]
        total, before = sum(sizes[name] - self._segment(name).position for name in grown), 0
        batch, records = Batch(), 0
        try:
            for name in grown:
                segment = self._segment(name)
                start, reported = segment.position, 0
                for offset, end, (key, place, ok, time) in self._new_records(segment):
                    packed = pack(segment.number, offset, ok)
                    batch.add(key, packed | IS_KEY, time)
                    if place and place != key:
                        batch.add(place, packed, time)
                    records += 1
                    if progress is not None and end - start - reported > PROGRESS_BYTES:
                        reported = end - start
                        progress(min(before + reported, total), total)
                before += sizes[name] - start
        finally:  # what was read before an error is not read again
            self._index.add(batch)
        if progress is not None:
            progress(total, total)
        return records

    def __len__(self) -> int:
        """Questions with an answer, captions or not."""
        return self._index.num_keys

    def find(self, digest: str) -> Entry | None:
        """
        The best answer to a question: a caption before a failure, else the later one. Opens no file.

        Args:
            digest: its key or its place; nothing is found under an empty one.
        """
        packed = self._index.find(int(digest, 16)) if digest else None
        if packed is None:
            return None
        return Entry(digest, *unpack(packed), self)

    def read(self, entry: Entry) -> dict[str, Any]:
        """
        The whole record, see [`answer_of`]. Records of earlier versions may hold halves of characters in what a server
        said, see [`~g4i_hf.captioning.answers.whole_characters`].

        Raises:
            OSError: when the segment cannot be read.
            ValueError: when another record is there: someone has changed the file.
        """
        path = self.folder / self._names[entry.segment]
        try:
            record = json.loads(self._line(entry, path))
            if entry.digest in (record["key"], record["place"]):
                said = {name: record[name] for name in ("text", "reason") if isinstance(record.get(name), str)}
                return record | {name: whole_characters(text) for name, text in said.items()}
        except (ValueError, TypeError, KeyError):
            pass
        raise ValueError(
            f"{path}, byte {entry.offset}: the answer {entry.digest} is no longer there. The file was changed while "
            "it was in use. Start again, so that the journal is read anew."
        )

    def close(self) -> None:
        """Closes the segments; a later `read` opens them again."""
        with self._reading:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("folder", "_segments", "_names", "_index")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_files()

    def __del__(self):
        for descriptor in getattr(self, "_descriptors", {}).values():
            os.close(descriptor)

    def _open_files(self) -> None:
        self._descriptors: dict[int, int] = {}
        self._reading = threading.Lock()

    def _sizes(self) -> dict[str, int]:
        """The segments by name, which is the order of the files."""
        try:
            with os.scandir(self.folder) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(SUFFIX)}
        except FileNotFoundError:
            return {}
        return dict(sorted(found.items()))

    def _segment(self, name: str) -> _Segment:
        if name not in self._segments:
            self._segments[name] = _Segment(name, len(self._names))
            self._names.append(name)
        return self._segments[name]

    def _new_records(self, segment: _Segment) -> Iterator[tuple[int, int, tuple[bytes, bytes, bool, float]]]:
        """Start and end of each new line that holds a record, and what of it goes into the index."""
        damaged: list[int] = []
        doubtful = None  # a damaged line that may be the last, and where it starts
        with open(self.folder / segment.name, "rb", buffering=1 << 20) as file:
            file.seek(segment.position)
            offset, number = segment.position, segment.lines
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if doubtful is not None:
                    damaged.append(number)
                start, offset, number = offset, offset + len(line), number + 1
                record = _parse(line)
                doubtful = (start, number - 1) if record is None else None
                if record is not None:
                    yield start, offset, record
        segment.position, segment.lines = doubtful or (offset, number)
        if damaged:
            lines = ", ".join(map(str, damaged[:5])) + (f" and {len(damaged) - 5:,} more" if len(damaged) > 5 else "")
            logger.warning(
                "%s: damaged, so these answers are lost and their images are asked again: line %s.",
                self.folder / segment.name,
                lines,
            )

    def _line(self, entry: Entry, path: Path) -> bytes:
        with self._reading:
            descriptor = self._descriptors.pop(entry.segment, None)
            if descriptor is None:
                while len(self._descriptors) >= OPEN_FILES:  # the one that was not read for the longest time
                    os.close(self._descriptors.pop(next(iter(self._descriptors))))
                descriptor = os.open(path, os.O_RDONLY)
            self._descriptors[entry.segment] = descriptor
            content = b""
            while b"\n" not in content:
                more = os.pread(descriptor, max(READ_BYTES, len(content)), entry.offset + len(content))
                if not more:
                    break
                content += more
        return content.partition(b"\n")[0]


def answer_of(record: dict[str, Any]) -> Answer:
    """The answer that a record holds."""
    return Answer(**{field.name: record[field.name] for field in fields(Answer) if field.name in record})


def _parse(line: bytes) -> tuple[bytes, bytes, bool, float] | None:
    """Key, place, whether it is a caption, and time; None for a line that is damaged."""
    try:
        text = line.decode()
        record, end = _decode(text)  # a third quicker than json.loads
        key, place = bytes.fromhex(record["key"]), bytes.fromhex(record["place"])
        status, time = record["status"], float(record["time"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if (
        len(key) != 16
        or len(place) not in (0, 16)
        or not isinstance(status, str)
        or time != time
        or text[end:].strip()
    ):
        return None
    return key, place, status == OK, time
