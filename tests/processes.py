"""Waits for what processes of a test do."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from doors import WAIT


def happens(event: Callable[[], object], process: subprocess.Popen) -> bool:
    """Whether it happens before the process ends, and within WAIT seconds."""
    deadline = time.monotonic() + WAIT
    while not event() and process.poll() is None and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    return bool(event())
