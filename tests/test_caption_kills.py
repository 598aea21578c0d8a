"""The captioning stage killed at any moment, on one process and on two, against a real server on loopback."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_recipes import ACCELERATE, ROOT, TWO_PROCESSES

sys.path.insert(0, str(ROOT / "tests" / "workers"))
from caption_server import picture_of

IMAGES, KILLS = 240, 10
CONCURRENCY = 8
LATENCY = 0.2
WAIT = 120  # seconds for what takes a few


@contextlib.contextmanager
def caption_server() -> Iterator[str]:
    """Its address; it answers `number N` for the picture of N, so that an answer in another row is seen."""
    command = [sys.executable, str(ROOT / "tests" / "workers" / "caption_server.py")]
    command += ["--latency", str(LATENCY), "--capacity", str(CONCURRENCY)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.kill()
        process.wait()


def stats(server: str) -> dict:
    with urllib.request.urlopen(f"{server}/stats") as reply:
        return json.load(reply)


def command(folder: Path, server: str, processes: int) -> list[str]:
    launcher = [ACCELERATE, "launch", *TWO_PROCESSES] if processes == 2 else [sys.executable]
    options = {
        "dataset_name": folder / "pictures",
        "captions_dir": folder / "captions",
        "base_url": f"{server}/v1",
        "captioner_model": "tiny",
        "max_concurrency": CONCURRENCY // processes,
        "report": "false",
    }
    return [
        *launcher,
        "recipes/caption.py",
        *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
    ]


def start(folder: Path, server: str, processes: int) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return subprocess.Popen(
        command(folder, server, processes),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed[-3000:]
    return printed


def workers_of(launcher: int) -> list[int]:
    """The processes that ask, children of the launcher."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == launcher:
                found.append(int(path.parent.name))
    return found


def kill(process: subprocess.Popen, one_of_two: bool) -> None:
    """SIGKILL for all processes at once, or for one that asks: the launcher then ends the other."""
    workers = workers_of(process.pid)
    for number in [random.choice(workers)] if one_of_two else [process.pid, *workers]:
        os.kill(number, signal.SIGKILL)
    process.communicate(timeout=WAIT)


def answers_in(journal: Path) -> int:
    """In all files, each of which is one process's."""
    keys = set()
    for path in journal.glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            keys |= {key for (key,) in database.execute("SELECT key FROM answers")}
    return len(keys)


def rows(folder: Path) -> dict[str, list]:
    return pq.read_table(folder / "captions" / "train.parquet").to_pydict()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Pictures of the numbers 0 to 239, in a folder for each class, captioned without a stop."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for number in range(IMAGES):
        place = folder / "pictures" / "train" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        picture_of(number).save(place / f"{number}.png")
    with caption_server() as server:
        finish(start(folder, server, 1))
        assert stats(server)["requests"] == IMAGES
    found = rows(folder)
    assert found["caption"] == [f"number {name.split('/')[1].removesuffix('.png')}" for name in found["image_id"]]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_ten_moments_nothing_is_lost_and_nothing_paid_twice(undisturbed, tmp_path, processes):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # of the moments; pytest shows it when the test fails
    draw = random.Random(seed)
    moments = sorted(draw.uniform(0, IMAGES) for _ in range(KILLS))
    shutil.copytree(undisturbed / "pictures", tmp_path / "pictures")
    journal = tmp_path / "captions.journal"
    lost, while_in_flight = 0, 0
    with caption_server() as server:
        for number, moment in enumerate(moments):
            moment = max(moment, stats(server)["whole"] + 1)  # the one before may have gone further
            process = start(tmp_path, server, processes)
            deadline = time.monotonic() + WAIT
            while stats(server)["whole"] < moment and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, LATENCY))  # replies come in waves; not only right after one
            if process.poll() is None:
                kill(process, one_of_two=processes == 2 and number % 2 == 0)
            time.sleep(LATENCY)  # the server notices which clients are gone
            asked, known = stats(server)["requests"], answers_in(journal)
            in_flight = asked - known - lost  # asked, but not written down
            assert 0 <= in_flight <= CONCURRENCY, (number, moment, in_flight)
            lost += in_flight
            while_in_flight += in_flight > 0
        finish(start(tmp_path, server, processes))
        assert stats(server)["requests"] == IMAGES + lost
    assert while_in_flight >= 3
    assert rows(tmp_path) == rows(undisturbed)
