"""Commands on several processes of this machine, started by accelerate's launcher."""

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from loaded import ACCELERATE, real

ROOT = Path(__file__).parent.parent
WAIT = 300  # seconds for what takes a few
ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def launched(*command: str | Path, processes: int) -> list[str]:
    # `--cpu` starts one process, whatever --num_processes says; `--multi_gpu` starts several, also without any GPU
    kind = ["--cpu"] if processes == 1 else ["--multi_gpu", "--main_process_port", "0"]
    counts = ["--num_processes", str(processes), "--num_machines", "1", "--num_cpu_threads_per_process", "1"]
    launcher = [ACCELERATE, "launch", *kind, *counts]
    return [*launcher, "--mixed_precision", "no", "--dynamo_backend", "no", *map(str, command)]


def environment() -> dict[str, str]:
    """Of processes that find each other over gloo."""
    return os.environ | ON_CPU


def children_of(number: int) -> list[int]:
    """The processes that a launcher has started: it is run by a client, and starts clients."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # of a process that has just ended
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == real(number):
                found.append(real(int(stat.parent.name)))
    return found


def happens(event: Callable[[], object], process: subprocess.Popen) -> bool:
    """Whether it happens before the process ends, and within WAIT seconds."""
    deadline = time.monotonic() + WAIT
    while not event() and process.poll() is None and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    return bool(event())
