"""How a test's processes end: as those of the scripts do, and seen to leave nothing of their group behind."""

from contextlib import suppress
from pathlib import Path

from g4i_hf.cli import end_processes


def end_and_look() -> None:
    """
    Raises AssertionError where the process group lives on, in its threads: one that lets go of a tensor while Python
    ends aborts the process (torch 2.13, gloo), which happens now and then, most on a busy machine.
    """
    end_processes()
    threads = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            threads.append((task / "comm").read_text().strip())
    assert not [name for name in threads if "gloo" in name], f"the process group lives on: {threads}"
