"""Writes answers down, durable before they count as done."""

import atexit
import contextlib
import errno
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ..answers import Answer, Question

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 32 << 20  # beyond this, `append` waits for the disk: memory stays flat
EXIT_SECONDS = 30  # a disk that hangs does not keep the interpreter from ending


class JournalWriter:
    """
    Appends answers to a segment of its own, `<folder>/<uuid>.jsonl`, made with the first of them.

    A line is written at once, so that a process that is killed has lost none; a thread then waits for the disk, once
    for all that was written meanwhile. To be used by several threads of one process; another process needs a writer of
    its own.

    Args:
        folder: of the journal; made when there is something to write.

    Raises:
        OSError: when the folder cannot be written to, or when writing failed: at the next call of any method. What
            was not durable by then never counts as done, and nothing more is written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / f"{uuid.uuid4().hex}.jsonl"
        _check_folder(self.folder)
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._segment: int | None = None
        self._queue: list[Callable[[], None] | None] = []  # of the lines that wait for the disk
        self._queued_bytes = self._appended = self._durable = 0
        self._error: BaseException | None = None
        self._error_is_told = self._syncing = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def append(self, question: Question, answer: Answer, on_durable: Callable[[], None] | None = None) -> None:
        """
        Returns when the line is written, though not yet durable.

        Args:
            on_durable: called from the writer's thread once the answer would survive a power cut. It must be quick
                and must not wait for this writer.
        """
        line = _line_of(question, answer)
        self._check_process()
        with self._changed:
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: self._queued_bytes < MAX_QUEUED_BYTES or self._error)
            self._check()
            try:
                if self._segment is None:
                    self._segment, folders = _create(self.path)
                    self._thread = threading.Thread(target=self._run, args=(folders,), name="journal", daemon=True)
                    self._thread.start()
                    atexit.register(self._close_at_exit)
                _write_all(self._segment, line)
            except BaseException as error:
                return self._stop_with(error)
            self._queue.append(on_durable)
            self._queued_bytes += len(line)
            self._appended += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Returns when all that was appended before is durable and its `on_durable` was called."""
        self._check_process()
        if threading.current_thread() is self._thread:
            raise RuntimeError("flush was called by on_durable; it would wait for itself.")
        with self._changed:
            self._check()
            wanted = self._appended
            self._changed.wait_for(lambda: self._durable >= wanted or self._error)
            self._check()

    def close(self) -> None:
        """Writes what is left and ends the thread. A second call does nothing."""
        if self._process != os.getpid() or self._closed:
            return
        self._end(timeout=None)
        self._check_error()

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except (OSError, RuntimeError) as failure:
            if error is None:
                raise
            if error.__cause__ is not self._error:
                logger.error("%s", failure)  # does not hide the error that ended the block

    def _end(self, timeout: float | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
            atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        """For a program that ended without `close`: what was answered by then was paid for."""
        if self._process != os.getpid():
            return
        self._end(timeout=EXIT_SECONDS)
        if self._error is not None:
            if not self._error_is_told:
                logger.error("%s", self._failure())
        elif self._thread.is_alive():
            logger.error("The journal %s could not be written within %d s; the rest is lost.", self.path, EXIT_SECONDS)

    def _check_process(self) -> None:
        """Before any lock: in a forked process it may be held by a thread that does not exist there."""
        if self._process != os.getpid():
            raise RuntimeError("A JournalWriter belongs to the process that made it. Make one in each process.")

    def _check_error(self) -> None:
        if self._error is None:
            return
        with self._changed:
            if threading.current_thread() is not self._thread:  # what it is at still counts
                self._changed.wait_for(lambda: not self._syncing)
        self._error_is_told = True
        raise self._failure() from self._error

    def _check(self) -> None:
        self._check_error()
        if self._closed:
            raise ValueError(f"The journal {self.path} is closed.")

    def _failure(self) -> Exception:
        error = self._error
        if not isinstance(error, OSError):
            return RuntimeError(f"The journal {self.path} has stopped: {type(error).__name__}: {error}")
        return OSError(
            error.errno,
            f"The journal cannot be written: {error.strerror or error} ({self.path}). The {self._durable:,} answers "
            "before that are kept, later ones are not. Make room, or see to the disk and its permissions, and start "
            "the same command again: it goes on from there.",
        )

    def _run(self, folders: list[Path]) -> None:
        try:
            for folder in folders:
                _sync_folder(folder)
            while batch := self._next_batch():
                os.fsync(self._segment)
                for on_durable in batch:
                    if on_durable is not None:
                        on_durable()
                with self._changed:
                    self._durable += len(batch)
                    self._syncing = False
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._syncing = False
                self._stop_with(error)
        finally:
            with contextlib.suppress(OSError):  # what counts as done is on the disk already
                os.close(self._segment)

    def _stop_with(self, error: BaseException) -> None:
        """Nothing more counts as done. To be called with the lock held."""
        self._error = self._error or error
        self._queue.clear()
        self._changed.notify_all()

    def _next_batch(self) -> list[Callable[[], None] | None]:
        """The lines that wait; none when the writer is closed, or has stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed or self._error)
            batch, self._queue, self._queued_bytes = self._queue, [], 0
            self._syncing = bool(batch)
            self._changed.notify_all()
            return batch


def _line_of(question: Question, answer: Answer) -> bytes:
    """One line of ASCII: texts may hold line breaks of any kind, emoji and lone surrogates."""
    record = {
        "key": question.key,
        "place": question.place,
        "image_id": question.image_id,
        "size": question.size,
        "mtime": question.mtime,
        "source": question.source,
        "prompt": question.prompt,
        **vars(answer),
        "time": time.time(),
    }
    return json.dumps(record, ensure_ascii=True).encode() + b"\n"


def _check_folder(folder: Path) -> None:
    """Fails before money is spent, not at the first answer."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"The journal cannot go to {folder}: {existing} is a file. Give another journal_dir.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"The journal cannot go to {folder}: no permission to write in {existing}. Give another journal_dir, or "
            "change the permissions."
        )


def _create(path: Path) -> tuple[int, list[Path]]:
    """
    A new segment, open for appending, and the folders whose entries must be made durable too: a file whose name is
    lost in a power cut is lost with it.
    """
    missing = [folder for folder in (path.parent, *path.parent.absolute().parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    segment = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o666)
    return segment, [path.parent, *(folder.parent for folder in missing)]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that keep folders by themselves
            raise
    finally:
        os.close(descriptor)


def _write_all(segment: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(segment, rest) :]
