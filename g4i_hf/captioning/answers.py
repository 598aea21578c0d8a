"""
What all captioners share: questions, answers and the interface `Captioner`. Stored answers are durable before they
count, and are found again after a restart or when images were moved.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import filelock

OK = "ok"
# Why a row has no caption. `empty`, and mostly `refused`, are found in the answer, the others while asking
FAILURES = {
    "undecodable": "the image cannot be read",
    "rejected": "the server refused this request (400, 413, 422)",
    "timeout": "no answer in time, after all attempts",
    "failed": "an error at every attempt",
    "empty": "an answer without text",
    "refused": "the model declined to describe the image",
}
TRANSIENT = {"timeout", "failed"}  # another attempt may succeed


@dataclass(frozen=True)
class Question:
    """One prompt about one image. `key` and `place` are those of [`Keys`]."""

    image_id: str  # for messages
    image: dict[str, Any]  # `{"bytes", "path"}`, as `datasets.Image(decode=False)` gives it; the path is for messages
    prompt: str  # filled in
    key: str
    place: str = ""
    choices: tuple[str, ...] = ()  # one of which is the answer; none: any text


@dataclass
class Answer:
    """The answer to a question. The store keeps all fields."""

    status: str  # `ok` or one of [`FAILURES`]
    text: str | None = None  # as the model gave it
    reason: str | None = None  # of a failure, in a sentence
    finish_reason: str | None = None  # `stop`, or `length` when the model was cut off
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None  # from the first attempt to the answer
    attempts: int = 1  # requests; 0 for an image that could not be sent


Deliver = Callable[[list[tuple[Question, Answer]]], None]


class Captioner(Protocol):
    """Answers questions with a model or a server."""

    # What an answer depends on beside image and prompt, as JSON values: part of every key and of `stage.json`, so it
    # must hold no host, path or token
    provenance: dict[str, Any]
    hosts: Sequence[str] = ()  # with ports, that images are sent to
    why_open: str = ""  # after `run`: why questions have no answer yet, and the remedy

    def check(self, store: "AnswerStore", deliver: Deliver, allow: Callable[[], bool]) -> None:
        """Before the first question of [`run`]: CaptionerError if answers will not be about the images."""
        return

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """
        Answers questions in any order, read only as fast as they are asked. One that fails gets an answer that says
        so. `allow` is called before every request; after False nothing more is sent. `deliver` takes answers as they
        come. All three are perhaps called from other threads.
        """


class CaptionerError(ValueError):
    """The captioner as a whole does not work: wrong token, no such model, a server that is gone."""


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, as servers send when they cut an emoji in two."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# --- The store -------------------------------------------------------------------------------------------------------


DIGEST_BYTES = 16
MOST_TOGETHER = 500  # digests in a query; up to SQLite 3.31 there may be 999
# Keys and places never collide. If their content changes, the number must change too
_KEY, _PLACE = b"g4i_hf key 2", b"g4i_hf place 2"

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, ok INTEGER, time REAL, record TEXT);
CREATE TABLE IF NOT EXISTS places (place BLOB PRIMARY KEY, key BLOB) WITHOUT ROWID;
COMMIT;
"""
# A failure does not replace a caption; otherwise the later answer counts
_PUT = """
INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
SET ok = excluded.ok, time = excluded.time, record = excluded.record
WHERE (excluded.ok, excluded.time) >= (answers.ok, answers.time)
"""


class Keys:
    """
    Keys and places of the answers of one captioner. A *key* is a digest of the bytes of an image, the prompt and the
    captioner's provenance. A *place* is a digest of the location of the image, which identifies an answer without
    reading the image. For an unknown place, the image is read and its key counts, as it may have been moved.
    """

    def __init__(self, provenance: dict[str, Any]):
        canonical = json.dumps(_plain(provenance), sort_keys=True, separators=(",", ":"), allow_nan=False)
        self._key, self._place = (
            hashlib.blake2b(canonical.encode(), digest_size=DIGEST_BYTES, person=kind) for kind in (_KEY, _PLACE)
        )

    def key(self, image_digest: str, prompt: str) -> str:
        """32 hex digits of an image, by the digest of its bytes, and the prompt with its columns filled in."""
        return _digest(self._key, [image_digest, prompt])

    def place(self, image_id: str, size: int | None, mtime: int | None, prompt: str, table: str) -> str:
        """
        32 hex digits, with `mtime` in nanoseconds. For files, `table` is the name of the split, since `image_id` is
        unique within a split only. For bytes in a table, which have no `mtime`, it is the fingerprint of the split,
        which changes with the table. An image that is not there has neither `size` nor `mtime`.
        """
        return _digest(self._place, [image_id, size, mtime, table, prompt])


def _digest(state: Any, parts: list) -> str:
    state = state.copy()
    state.update(json.dumps(parts).encode())
    return state.hexdigest()


def _plain(value: Any) -> Any:
    """The JSON value with whole floats as integers, as `temperature: 0` in a YAML file equals 0.0."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class AnswerStore:
    """
    A folder of SQLite files, one for each captioning process; each process reads all files.

    A file has one writer, which a lock next to it ensures, and SQLite's rollback journal, as its write-ahead log needs
    shared memory. Raises CaptionerError if another process writes with this number; OSError for a folder without write
    access.
    """

    def __init__(self, folder: str | Path, rank: int = 0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{rank:05d}.sqlite"
        self._lock = filelock.FileLock(self.path.with_suffix(".lock"), blocking=False)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise CaptionerError(
                f"Another process captions with the answers in {self.folder}, and both would pay for the same. Wait "
                "until it has ended, or stop it."
            ) from None
        self._using = threading.Lock()  # one thread at a time uses the connections
        self._databases: dict[Path, sqlite3.Connection] = {}
        try:
            for path in {self.path, *self.folder.glob("*.sqlite")}:
                self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        # Not read-only: after a kill, opening a file rolls back incomplete writes
        try:
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
            if path == self.path:
                database.executescript(f"PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=FULL; {_TABLES}")
            elif not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'places'").fetchone():
                return  # its process has not filled it yet
        except sqlite3.DatabaseError as error:
            raise _damaged(path, error) from error
        self._databases[path] = database

    @property
    def _own(self) -> sqlite3.Connection:
        return self._databases[self.path]

    def find(self, key: str) -> Answer | None:
        """The best answer to a question: a caption before a failure, otherwise the latest."""
        answers = self._select("SELECT ok, time, record FROM answers WHERE key", [bytes.fromhex(key)])
        return Answer(**json.loads(max(answers)[2])) if answers else None

    def find_many(self, places: list[str]) -> dict[str, Answer]:
        """The best answers by place, for known places."""
        digests = [bytes.fromhex(place) for place in places]
        # Several keys may have one place: that of an image that was unreadable at first
        places_of: dict[bytes, list[bytes]] = {}
        for place, key in self._select("SELECT place, key FROM places WHERE place", digests):
            places_of.setdefault(key, []).append(place)
        best: dict[str, tuple] = {}
        for row in self._select("SELECT key, ok, time, record FROM answers WHERE key", list(places_of)):
            key, answer = row[0], row[1:]
            for place in places_of[key]:
                best[place.hex()] = max(best.get(place.hex(), answer), answer)
        return {place: Answer(**json.loads(record)) for place, (_, _, record) in best.items()}

    def _select(self, query: str, digests: list[bytes]) -> list[tuple]:
        """The rows of some digests, from all files."""
        rows = []
        for start in range(0, len(digests), MOST_TOGETHER):
            together = digests[start : start + MOST_TOGETHER]
            for path, database in self._databases.items():
                try:
                    with self._using:
                        rows += database.execute(f"{query} IN ({','.join('?' * len(together))})", together).fetchall()
                except sqlite3.DatabaseError as error:
                    raise _damaged(path, error) from error
        return rows

    def put(self, answers: Iterable[tuple[Question, Answer]], places: Iterable[tuple[str, str]] = ()) -> None:
        """Write answers, and more pairs of place and key, in one transaction. Raises OSError if it fails."""
        answers = list(answers)
        places = [*places, *((question.place, question.key) for question, _ in answers if question.place)]
        self.put_by_key([(question.key, answer) for question, answer in answers], places)

    def put_by_key(self, answers: Iterable[tuple[str, Answer]], places: Iterable[tuple[str, str]] = ()) -> None:
        """As [`put`], without the questions."""
        now = time.time()
        rows = [(bytes.fromhex(key), answer.status == OK, now, json.dumps(vars(answer))) for key, answer in answers]
        pairs = [(bytes.fromhex(place), bytes.fromhex(key)) for place, key in places]
        try:
            with self._using, self._own:  # a transaction
                self._own.execute("BEGIN IMMEDIATE")
                self._own.executemany(_PUT, rows)
                self._own.executemany("INSERT OR REPLACE INTO places VALUES (?, ?)", pairs)
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"The answers cannot be written to {self.path}: {error}. Make room, or see to the disk and its "
                "permissions, and start the same command again: it resumes."
            ) from error

    def close(self) -> None:
        with self._using:
            for database in self._databases.values():
                database.close()
        self._lock.release()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _damaged(path: str | Path, error: sqlite3.DatabaseError) -> OSError:
    is_damaged = any(words in str(error) for words in ("malformed", "not a database"))
    remedy = "Move the file away: its images are asked about again." if is_damaged else "See to the disk and the file."
    return OSError(f"The answers in {path} cannot be read: {error}. {remedy}")
