"""A view made by many tasks of an executor: killed, or with a task lost, it is the one that a single process makes."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from caption_doors import ROOT
from datasets import DatasetDict
from loaded import PYTHON, real
from processes import happens
from test_caption_kills import FORK, environment, finish
from test_encoders_as_views import images_of, saved

from g4i_hf import embed_view
from g4i_hf.scale import EmbedShare, WriteView

IMAGES, TASKS = 60, 6
SCALE = [PYTHON, "recipes/scale/embed.py", "--executor"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Holds images, an encoder, and the view that one process makes, in `alone`."""
    folder = tmp_path_factory.mktemp("scale")
    DatasetDict(train=images_of(IMAGES)).save_to_disk(folder / "images")
    encoder = saved("vit", folder / "vit")
    embed_view(images_of(IMAGES), f"image:{encoder}", folder / "alone", source=str(folder / "images"))
    return folder


def options(place: Path, out: str) -> dict[str, str]:
    data = {"dataset_name": str(place / "images"), "embeddings_dir": str(place / out)}
    return data | {"view": f"image:{place / 'vit'}"}


def start(place: Path, out: str, *words: object):
    given = [str(word) for name, value in options(place, out).items() for word in (f"--{name}", value)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen([*map(str, words), *given], cwd=ROOT, env=environment(), **pipes)


def check_as_alone(place: Path, out: str) -> None:
    for name in ("train.parquet", "stage.json"):
        made, alone = (place / folder / "views" / "image_vit" / name for folder in (out, "alone"))
        assert made.read_bytes() == alone.read_bytes(), name


def parts(place: Path, out: str) -> list[Path]:
    return list((place / out).glob("features/*/*.parquet"))


def test_what_a_lost_task_has_left_out_is_computed_at_the_end(place):
    for rank in (0, 2, 3):
        list(EmbedShare(**options(place, "lost")).run(rank=rank, world_size=4))
    assert len(parts(place, "lost")) == 3
    list(WriteView(**options(place, "lost")).run())
    check_as_alone(place, "lost")
    assert not parts(place, "lost")


@pytest.mark.slow
def test_killed_and_run_again_tasks_write_what_one_process_does(place):
    of_executor = [FORK[0], '{"start_method": "fork", "workers": 2}']
    process = start(place, "killed", *SCALE, "local", "--tasks", TASKS, *of_executor)
    assert happens(lambda: parts(place, "killed"), process)
    os.killpg(real(process.pid), signal.SIGKILL)
    process.communicate()
    assert 0 < len(parts(place, "killed")) < TASKS
    finish(start(place, "killed", *SCALE, "local", "--tasks", 3, *of_executor))
    check_as_alone(place, "killed")
