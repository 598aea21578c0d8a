"""
Training killed by SIGKILL, one process of two or all of them, between steps and while a checkpoint is written: the
same command goes on from the newest whole checkpoint and ends, bit for bit, as if nothing had happened.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import DatasetDict, Image
from test_caption_kills import workers_of
from test_checkpoint import split_of
from test_recipes import ACCELERATE, ROOT, TWO_PROCESSES

from g4i_hf.training.checkpoint import STAGING, missing_of, newest_checkpoint

WAIT = 600  # seconds until something hangs
WRITES = 3  # kills while a checkpoint is written
STEPS = 100  # 12 rows in batches of 4: 3 steps an epoch, a checkpoint every 2, in the middle of an epoch or not
OPTIONS = {
    "student": "vit_tiny_patch16_224",
    "student_args": '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_rate": 0.1}',
    "image_size": 32,
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 5,
    "learning_rate": "1e-3",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "color_jitter": 0.3,
    "mixup_alpha": 0.2,
    "ema_decay": 0.9,
    "align_schedule": "cosine",
    "align_warmup_epochs": 3,
    "align_off_epochs": 2,
    "align_text_bank": 5,
    "align_loss": "siglip",  # with a temperature that is learned
    "supervision": "soft",
    "soft_label_weight": 0.5,
    "use_cpu": "true",
}


def start(folder: Path, run: str, processes: int) -> subprocess.Popen:
    launcher = [ACCELERATE, "launch", *TWO_PROCESSES] if processes == 2 else [sys.executable]
    options = OPTIONS | {"dataset_name": folder / "data", "output_dir": folder / run}
    options["per_device_train_batch_size"] = 4 // processes
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    (folder / "empty.yaml").write_text("dataset_name: .\n")
    log = (folder / f"{run}.log").open("a")
    command = [*launcher, "recipes/train.py", "--config", str(folder / "empty.yaml"), *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def finish(process: subprocess.Popen, folder: Path, run: str) -> None:
    assert process.wait(timeout=WAIT) == 0, (folder / f"{run}.log").read_text()[-4000:]


def number_of(run: Path) -> int:
    newest = newest_checkpoint(run)
    return int(newest.rsplit("-", 1)[1]) if newest else 0


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline, "training ended before it could be killed"
        time.sleep(0.001)


def a_checkpoint_more(run: Path) -> Callable[[], bool]:
    known = number_of(run) + 4

    def is_there() -> bool:
        numbers = [int(path.name.rsplit("-", 1)[1]) for path in run.glob("checkpoint-*")]
        return max(numbers, default=0) >= known

    return is_there


def kill_all(process: subprocess.Popen) -> None:
    for number in [*workers_of(process.pid), process.pid]:
        os.kill(number, signal.SIGKILL)
    process.wait(timeout=WAIT)


def is_running(number: int) -> bool:
    """A process that is dead but not yet waited for does not run."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again_a_run_ends_as_if_nothing_had_happened(tmp_path, processes):
    split = split_of(tmp_path / "images").cast_column("image", Image())
    DatasetDict({"train": split}).save_to_disk(tmp_path / "data")
    run = tmp_path / "killed"
    finish(start(tmp_path, "undisturbed", processes), tmp_path, "undisturbed")

    # All processes, between two checkpoints or wherever they are
    process = start(tmp_path, "killed", processes)
    wait_for(process, a_checkpoint_more(run))
    kill_all(process)
    assert number_of(run) >= 4

    if processes == 2:  # One of two: the other does not wait for it for ever, and the launcher says that it failed
        process = start(tmp_path, "killed", processes)
        wait_for(process, a_checkpoint_more(run))
        workers = workers_of(process.pid)
        assert len(workers) == 2
        os.kill(random.choice(workers), signal.SIGKILL)
        assert process.wait(timeout=120) != 0
        assert not any(map(is_running, workers))

    # All, while a checkpoint is written
    cut = 0
    for _ in range(3 * WRITES):
        process, happened = start(tmp_path, "killed", processes), a_checkpoint_more(run)
        wait_for(process, lambda happened=happened: happened() and (run / STAGING).exists())
        kill_all(process)
        cut += (run / STAGING).exists()  # else it was renamed in the last moment
        whole = [path for path in run.glob("checkpoint-*") if missing_of(path) is None]
        assert str(max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]))) == newest_checkpoint(run)
        if cut == WRITES:
            break
    assert cut == WRITES

    before = number_of(run)
    assert before < STEPS
    finish(start(tmp_path, "killed", processes), tmp_path, "killed")
    assert f"Resuming from {run}/checkpoint-{before}\n" in (tmp_path / "killed.log").read_text()
    assert not (run / STAGING).exists()
    for name in ("model.safetensors", "ema.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
