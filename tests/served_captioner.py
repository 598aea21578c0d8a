"""The shapes captioner behind the real `transformers serve` on loopback, for every test that needs a server."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CAPTIONER = Path(__file__).parent.parent / "recipes" / "shapes" / "captioner"
STARTING = 180  # seconds; it takes about 6 on an idle machine
ATTEMPTS = 3  # another process may take the port before the server does


@dataclass(frozen=True)
class Server:
    """
    Attributes:
        base_url: up to /v1, for a client.
        model: what requests have to call the model.
        log: file of what the server prints, one line a request.
    """

    base_url: str
    model: str
    log: Path


@pytest.fixture(scope="session")
def served_captioner(tmp_path_factory) -> Iterator[Server]:
    """One server for all tests of a process."""
    with serving(CAPTIONER, tmp_path_factory.mktemp("serve") / "log.txt") as server:
        yield server


@contextlib.contextmanager
def serving(model: Path, log: Path) -> Iterator[Server]:
    """
    Starts a server, waits until it answers, and stops it at the end.

    Raises:
        RuntimeError: when it does not start; with its last lines.
    """
    for _ in range(ATTEMPTS):
        port = free_port()
        process = start(model, port, log)
        try:
            if wait_until_ready(process, f"http://127.0.0.1:{port}/health"):
                yield Server(f"http://127.0.0.1:{port}/v1", str(model), log)
                return
        finally:
            stop(process)
        if "address already in use" not in log.read_text().lower():
            break
    raise RuntimeError(f"transformers serve did not start:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(model: Path, port: int, log: Path) -> subprocess.Popen:
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--host", "127.0.0.1", "--port", port]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as output:
        return subprocess.Popen(
            [str(word) for word in [*command, "--device", "cpu"]],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_until_ready(process: subprocess.Popen, url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to loopback
    limit = time.monotonic() + STARTING
    while process.poll() is None and time.monotonic() < limit:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=5) as reply:
            return reply.status == 200
        time.sleep(0.1)
    return False


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
