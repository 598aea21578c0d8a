"""
Sharing the rows among processes that know of each other only through the journal's folder.

Describing a large data set takes days, on machines that come and go. So there is no process group: the launcher, or a
job script, tells each process its number and how many there are; each asks about its own rows and shows, by touching
a file, that it is alive. When the first is done, it waits for the others and takes over what those that are gone left.
"""

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

BEAT = 5.0  # seconds between two signs of life
GONE_AFTER = 60.0  # seconds without one


@dataclass(frozen=True)
class Share:
    """
    Attributes:
        rank: number of this process, from 0.
        processes: how many there are.
        local_rank: its number among those of this machine.
    """

    rank: int = 0
    processes: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Share":
        """
        As the launcher says it.

        Raises:
            ValueError: when RANK is no process of WORLD_SIZE.
        """
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if not 0 <= rank < processes:
            raise ValueError(f"RANK is {rank}, but WORLD_SIZE is {processes}: ranks are 0 to {processes - 1}.")
        return cls(rank, processes, int(os.environ.get("LOCAL_RANK", 0)))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self) -> str:
        """Where a model of this process runs."""
        import torch

        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if accelerator is None:
            return "cpu"
        return f"{accelerator.type}:{self.local_rank % torch.accelerator.device_count()}"

    def is_mine(self, row: int) -> bool:
        return row % self.processes == self.rank

    def part_of(self, number: int) -> int:
        """The own part of a number that all processes share."""
        return number // self.processes + (self.rank < number % self.processes)


class Heartbeat:
    """
    Shows that this process is at work, and tells which others are. All times are those of the folder's file system, so
    that the clocks of the machines need not agree. To be entered early: a process that has not shown itself yet is
    waited for.

    Args:
        folder: of the journal, shared by all.
        share: which process this is.

    Raises:
        ValueError: when the folder is a file.
    """

    def __init__(self, folder: str | Path, share: Share):
        self.folder, self.share = Path(folder) / "alive", share
        self._began = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def __enter__(self) -> "Heartbeat":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"journal_dir is {str(self.folder.parent)!r}, which is a file; name a folder.") from error
        self._done(self.share.rank).unlink(missing_ok=True)
        self._path(self.share.rank).touch()
        self._began = _time_of(self._path(self.share.rank))
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        """However it ends, it ends: others need not wait."""
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._done(self.share.rank).touch()
            self._path(self.share.rank).unlink(missing_ok=True)

    def gone(self, gone_after: float | None = None) -> set[int]:
        """
        Those of the other processes that have ended, or show no sign of life.

        Args:
            gone_after: seconds without a sign; [`GONE_AFTER`] by default.
        """
        own = self._path(self.share.rank)
        with contextlib.suppress(OSError):  # a shared folder can be away for a moment
            own.touch()
        now, limit = _time_of(own), GONE_AFTER if gone_after is None else gone_after
        found = set()
        for rank in range(self.share.processes):
            has_ended = _time_of(self._done(rank)) >= self._began
            last_sign = max(_time_of(self._path(rank)), self._began)
            if rank != self.share.rank and (has_ended or now - last_sign > limit):
                found.add(rank)
        return found

    def _path(self, rank: int) -> Path:
        return self.folder / str(rank)

    def _done(self, rank: int) -> Path:
        return self.folder / f"{rank}.done"

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT):
            with contextlib.suppress(OSError):
                self._path(self.share.rank).touch()


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
