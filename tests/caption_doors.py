"""What the tests of captioning share: servers in processes of their own, pictures of numbers, the command."""

import contextlib
import gc
import io
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from g4i_hf.running import main

ROOT = Path(__file__).parent.parent
WORKERS = ROOT / "tests" / "workers"
CAPTIONER = ROOT / "recipes" / "shapes" / "captioner"
sys.path.insert(0, str(WORKERS))
from caption_server import picture_of  # noqa: E402


class Worker:
    """The server of tests/workers/caption_server.py in a process of its own."""

    def __init__(self, *options: object):
        command = [sys.executable, str(WORKERS / "caption_server.py"), *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def stats(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/stats") as reply:
            return json.load(reply)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve():
    """Starts servers, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(*options: object) -> Worker:
            worker = Worker(*options)
            stack.callback(worker.stop)
            return worker

        yield start


def asking(server: Worker, *more: object) -> list[object]:
    """Words of a command that asks the server about `pictures` into `captions`."""
    options = ["--dataset_name", "pictures", "--captions_dir", "captions"]
    return [*options, "--base_url", f"{server.url}/v1", "--captioner_model", "tiny", *more]


def draw_numbers(folder: Path, count: int) -> Path:
    """Pictures of the numbers from 0 on, in folders of three classes; the server describes N as `number N`."""
    for number in range(count):
        place = folder / "train" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        picture_of(number).save(place / f"{number}.png")
    return folder


def captions_of_numbers(stage: Path) -> dict[int, str | None]:
    return {int(Path(row["image_id"]).stem): caption for row in rows_of(stage) for caption in row["caption"]}


def all_right(count: int) -> dict[int, str]:
    """What [`captions_of_numbers`] gives when every caption is in its own row."""
    return {number: f"number {number}" for number in range(count)}


def rows_of(stage: Path, split: str = "train") -> list[dict]:
    return pq.read_table(Path(stage) / f"{split}.parquet").to_pylist()


def caption(folder: Path, *options: object, fails: bool = False) -> str:
    """What `caption` prints, run in this process: starting one takes longer than most of the work."""
    printed = io.StringIO()
    gc.freeze()  # see conftest.py
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(["caption", *map(str, options)])
            code = 0
        except SystemExit as end:
            code = end.code
    said = printed.getvalue()
    assert (code != 0) == fails and (not fails or "Traceback" not in said), said[-3000:]
    return said
