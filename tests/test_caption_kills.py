"""Captioning killed at any moment: nothing is paid twice."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from caption_doors import ROOT, Worker, all_right, captions_of_numbers, draw_numbers
from doors import WAIT, spelled
from loaded import PYTHON, kill, real
from processes import happens

CAPTION = [PYTHON, "recipes/caption.py"]


def start(command: list[str], folder: Path, server: Worker) -> subprocess.Popen:
    options = {
        "dataset_name": folder / "pictures",
        "captions_dir": folder / "captions",
        "base_url": f"{server.url}/v1",
    }
    words = spelled((options | {"captioner_model": "tiny", "max_concurrency": 4},))
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *words], cwd=ROOT, start_new_session=True, **output)


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed[-3000:]
    return printed


@pytest.mark.slow
def test_killed_in_the_middle_it_asks_for_nothing_twice_but_what_was_under_way(tmp_path, serve):
    images, server = 36, serve("--latency", 0.2, "--capacity", 4)
    draw_numbers(tmp_path / "pictures", images)
    under_way = 4 + 2  # an answer may be there and not yet on the disk, while its place is taken again
    for answered in (7, 20):
        process = start(CAPTION, tmp_path, server)
        assert happens(lambda number=answered: server.stats()["whole"] >= number, process)
        kill(process)
        assert not (tmp_path / "captions" / "stage.json").exists()
    assert happens(lambda: server.stats()["in_flight"] == 0, server.process), "it notices which clients were killed"
    assert server.stats()["whole"] < images, "killed too late to show anything"
    before = server.stats()["requests"]
    finish(start(CAPTION, tmp_path, server))
    after = server.stats()["requests"]
    assert images <= after <= images + 2 * under_way and after - before <= images - 20 + 2 * under_way
    finish(start(CAPTION, tmp_path, server))
    assert server.stats()["requests"] == after, "whole: nothing is asked"
    assert captions_of_numbers(tmp_path / "captions") == all_right(images)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_interrupted_it_ends_at_once_and_nothing_that_it_was_told_is_asked_again(tmp_path, serve, number, code):
    images, server = 24, serve("--latency", 0.2, "--capacity", 4)
    draw_numbers(tmp_path / "pictures", images)
    process = start(CAPTION, tmp_path, server)
    assert happens(lambda: server.stats()["whole"] >= 8, process)
    os.kill(real(process.pid), number)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == code and "Traceback" not in printed
    assert ("Interrupted. Run the same command again to resume." in printed) == (number == signal.SIGINT)
    assert server.stats()["requests"] < images, "ended too late to show anything"
    finish(start(CAPTION, tmp_path, server))
    under_way = 0 if number == signal.SIGINT else 4 + 2
    assert images <= server.stats()["requests"] <= images + under_way
    assert captions_of_numbers(tmp_path / "captions") == all_right(images)
