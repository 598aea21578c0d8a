"""The batch API of a server: files of questions, their answers in any order, and stops at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_caption_endpoint import Worker

from g4i_hf.captioning import batch_api

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "workers"))
from caption_server import picture_of  # noqa: E402

IMAGES = 24
CAPTION = """
import os, sys
from g4i_hf.captioning import batch_api
batch_api.POLL_SECONDS, batch_api.MOST_REQUESTS = 0.2, 10
if os.environ.get("DIE"):
    def die(*_):
        os._exit(9)
    setattr(batch_api.BatchCaptioner, os.environ["DIE"], die)
from g4i_hf.running import main
main(["caption", *sys.argv[1:]])
"""


@pytest.fixture
def pictures(tmp_path) -> Path:
    for number in range(IMAGES):
        place = tmp_path / "pictures" / "train" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        picture_of(number).save(place / f"{number}.png")
    return tmp_path


@pytest.fixture
def serve():
    workers: list[Worker] = []

    def start(*options: object) -> Worker:
        workers.append(Worker("batch_server.py", *options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


def command(folder: Path, server: Worker, *more: str) -> list[str]:
    words = ["--dataset_name", folder / "pictures", "--captions_dir", folder / "captions", "--report", "false"]
    words += ["--base_url", f"{server.url}/v1", "--captioner_model", "tiny", "--batch_api", "true", *more]
    return [sys.executable, "-c", CAPTION, *map(str, words)]


def caption(folder: Path, server: Worker, *more: str, code: int = 0, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run(command(folder, server, *more), capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == code, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def asked(server: Worker) -> dict[int, int]:
    with urllib.request.urlopen(f"{server.url}/asked") as reply:
        return {int(number): count for number, count in json.load(reply).items()}


def captions(folder: Path) -> dict[int, str | None]:
    found = pq.read_table(folder / "captions" / "train.parquet").to_pydict()
    names = [int(name.split("/")[1].removesuffix(".png")) for name in found["image_id"]]
    return dict(zip(names, found["caption"], strict=True))


ALL_RIGHT = {number: f"number {number}" for number in range(IMAGES)}


@pytest.mark.slow
def test_every_image_has_its_own_caption_and_nothing_is_asked_twice(pictures, serve):
    server = serve("--fault_rate", 0.2, "--seed", 3, "--lose", 1)
    said = caption(pictures, server)
    assert captions(pictures) == ALL_RIGHT and asked(server) == dict.fromkeys(range(IMAGES), 1)
    assert "Batch batch-2 of 4 questions was sent." in said and "in_progress" in said
    assert not list((pictures / "captions.journal" / "batches").iterdir())
    assert "All 24 answers were there already." in caption(pictures, server)
    assert asked(server) == dict.fromkeys(range(IMAGES), 1)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["_collect", "_deliver"])
def test_a_run_that_died_finds_its_batches_again(pictures, serve, moment):
    server = serve()
    caption(pictures, server, code=9, DIE=moment)
    caption(pictures, server)
    assert captions(pictures) == ALL_RIGHT and asked(server) == dict.fromkeys(range(IMAGES), 1)


@pytest.mark.slow
def test_also_where_the_id_of_a_batch_was_not_written_down(pictures, serve):
    server = serve()
    caption(pictures, server, code=9, DIE="_collect")
    for path in (pictures / "captions.journal" / "batches").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id": ""}))
    caption(pictures, server)
    assert captions(pictures) == ALL_RIGHT and asked(server) == dict.fromkeys(range(IMAGES), 1)


@pytest.mark.slow
def test_killed_while_it_waits(pictures, serve):
    server = serve("--polls", 20)
    process = subprocess.Popen(command(pictures, server), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "in_progress" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    caption(pictures, server)
    assert captions(pictures) == ALL_RIGHT and asked(server) == dict.fromkeys(range(IMAGES), 1)


@pytest.mark.slow
def test_expired_questions_are_sent_again_by_the_same_command(pictures, serve):
    server = serve("--expire", 0.3)
    said = caption(pictures, server)
    assert "questions were not answered in time" in said and not (pictures / "captions").exists()
    deadline = time.monotonic() + 60
    while not (pictures / "captions").exists() and time.monotonic() < deadline:
        caption(pictures, server)
    assert captions(pictures) == ALL_RIGHT and set(asked(server).values()) == {1}


@pytest.mark.slow
def test_a_rejected_image_has_a_reason_and_the_others_a_caption(pictures, serve):
    server = serve("--reject", 5)
    caption(pictures, server)
    assert captions(pictures) == ALL_RIGHT | {5: None}
    found = pq.read_table(pictures / "captions" / "train.parquet").to_pylist()
    [row] = [row for row in found if row["image_id"].endswith("/5.png")]
    assert (row["caption_status"], row["caption_reason"]) == ("rejected", "400: this picture is not allowed")


@pytest.mark.slow
def test_a_batch_that_is_refused_is_one_line(pictures, serve):
    said = caption(pictures, serve("--refuse", "no such model"), code=2)
    assert "error: The server refused a batch: no such model" in said and "Traceback" not in said
    said = caption(pictures, Worker("caption_server.py"), code=2)
    assert "Does it have a batch API?" in said and "Traceback" not in said


def test_lines_of_result_files():
    ok = {"response": {"status_code": 200, "body": {"choices": [{"message": {"content": "a cat"}}]}}}
    assert batch_api.answer_of_line(ok).text == "a cat"
    assert batch_api.answer_of_line({"response": {"status_code": 200, "body": {}}}).status == "failed"
    for again in ({"response": None}, {"response": {"status_code": 500}}, {"response": {"status_code": 429}}):
        assert batch_api.answer_of_line(again) is None
