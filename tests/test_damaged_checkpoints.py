"""A checkpoint with a damaged file is left out and the one before it is taken; two trainings never share a folder."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import DatasetDict, Image
from students import aligned_model
from test_checkpoint import split_of
from test_recipes import ACCELERATE, ROOT, TWO_PROCESSES
from test_trainer import arguments, rows

from g4i_hf.running import main
from g4i_hf.training import AlignmentTrainer

STUDENT = {"student": "vit_tiny_patch16_224", "image_size": 32, "use_cpu": "true", "disable_tqdm": "true"}
STUDENT["student_args"] = '{"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2, "drop_rate": 0.1}'
OPTIONS = STUDENT | {"per_device_train_batch_size": 4, "learning_rate": "1e-2", "save_total_limit": 10}
OPTIONS |= {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


def words(folder: Path, run: Path, **options) -> list[str]:
    options = OPTIONS | {"dataset_name": folder / "data", "output_dir": run} | options
    return ["train", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run of 6 steps with a checkpoint every 2, and of its data."""
    folder = tmp_path_factory.mktemp("trained")
    split = split_of(folder / "images").cast_column("image", Image())
    DatasetDict({"train": split}).save_to_disk(folder / "data")
    main(words(folder, folder / "run"))
    return folder


@pytest.fixture
def interrupted(trained, tmp_path) -> Path:
    """The run as it was when a kill ended it after its fourth step."""
    run = trained / tmp_path.name
    shutil.copytree(trained / "run", run)
    shutil.rmtree(run / "checkpoint-6")
    for name in ("all_results.json", "model.safetensors", "trainer_state.json"):
        (run / name).unlink()
    return run


def as_version_0_1(run: Path) -> None:
    """Checkpoints whose record holds sizes alone."""
    for checkpoint in run.glob("checkpoint-*"):
        path = checkpoint / "checkpoint.json"
        record = json.loads(path.read_text())
        record["files"] = {
            name: (checkpoint / name).stat().st_size for name in record["files"] if name != "checkpoint.json"
        }
        path.write_text(json.dumps(record))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-4000:-2000] = random.Random(0).randbytes(2000)
    path.write_bytes(content)


def take_the_earlier_one(path: Path) -> None:
    shutil.copyfile(path.parent.with_name("checkpoint-2") / path.name, path)


DAMAGES = {
    "flipped bit": ("model.safetensors", flip_a_bit),
    "file of an earlier step": ("model.safetensors", take_the_earlier_one),
    "random bytes": ("optimizer.pt", scribble),
    "zeros in the weights": ("model.safetensors", fill_with_zeros),
    "zeros in the optimizer": ("optimizer.pt", fill_with_zeros),
    "zeros in the schedule": ("scheduler.pt", fill_with_zeros),
    "zeros in the random state": ("rng_state.pth", fill_with_zeros),
    "zeros in the state": ("trainer_state.json", fill_with_zeros),
}


def same_weights(trained: Path, run: Path) -> bool:
    return (run / "model.safetensors").read_bytes() == (trained / "run" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_left_out(trained, interrupted, capsys, caplog, damage):
    name, spoil = DAMAGES[damage]
    size = (interrupted / "checkpoint-4" / name).stat().st_size
    spoil(interrupted / "checkpoint-4" / name)
    assert (interrupted / "checkpoint-4" / name).stat().st_size == size
    main(words(trained, interrupted))
    assert f"Resuming from {interrupted}/checkpoint-2\n" in capsys.readouterr().out
    assert f"checkpoint-4 is not whole and is left out: {name} " in caplog.text
    assert same_weights(trained, interrupted)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name.startswith("zeros")])
def test_one_of_sizes_alone_that_cannot_be_read_is_left_out(trained, interrupted, capsys, caplog, damage):
    as_version_0_1(interrupted)
    name, spoil = DAMAGES[damage]
    spoil(interrupted / "checkpoint-4" / name)
    main(words(trained, interrupted))
    assert f"Resuming from {interrupted}/checkpoint-2\n" in capsys.readouterr().out
    assert f"checkpoint-4 is not whole and is left out: {name} cannot be read" in caplog.text
    assert same_weights(trained, interrupted)


def test_one_of_sizes_alone_resumes(trained, interrupted, capsys):
    as_version_0_1(interrupted)
    main(words(trained, interrupted))
    assert f"Resuming from {interrupted}/checkpoint-4\n" in capsys.readouterr().out
    assert same_weights(trained, interrupted)


def trainer_of(folder: Path, **options) -> AlignmentTrainer:
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 10} | options
    return AlignmentTrainer(aligned_model("vit"), arguments(folder, **options), train_dataset=rows(8))


def test_the_trainer_itself_takes_the_newest_whole_one(tmp_path, caplog):
    trainer_of(tmp_path).train()
    flip_a_bit(tmp_path / "checkpoint-6" / "optimizer.pt")
    trainer = trainer_of(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.stopwatch.first_step == 4 and "checkpoint-6 is not whole and is left out" in caplog.text
    with pytest.raises(FileNotFoundError, match="checkpoint-7 is no folder"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


# --- Two trainings in one folder ------------------------------------------------------------------------------------


def start(command: list[str], log: Path) -> subprocess.Popen:
    return subprocess.Popen(command, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT)


def wait_for(process: subprocess.Popen, path: Path, log: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.01)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.slow
def test_a_second_training_in_the_folder_is_refused(trained, tmp_path, capsys, processes):
    run, log = tmp_path / "run", tmp_path / "log"
    launcher = [ACCELERATE, "launch", *TWO_PROCESSES] if processes == 2 else [sys.executable]
    long = {"max_steps": 100_000, "dataloader_num_workers": 1, "per_device_train_batch_size": 4 // processes}
    process = start([*launcher, "-m", "g4i_hf", *words(trained, run, **long)], log)
    try:
        wait_for(process, run / "checkpoint-2", log)
        for more in ({}, {"overwrite": "true"}):
            with pytest.raises(SystemExit) as error:
                main(words(trained, run, **long | more))
            assert error.value.code == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert line.startswith(f"error: Another training writes to {run}")
        with pytest.raises(OSError, match="Another training writes to"):
            trainer_of(run).train()
        assert list(run.glob("checkpoint-*")), "it is still there"
    finally:
        process.send_signal(signal.SIGKILL if processes == 1 else signal.SIGTERM)
        process.wait(timeout=60)
    if processes == 1:  # a lock dies with its process, though the process that reads images may live on for a while
        main(words(trained, run, **long | {"max_steps": 4, "overwrite": "true"}))
        assert (run / "all_results.json").is_file() and not list(run.glob(".*"))


def test_a_mistake_leaves_no_folder(trained, tmp_path):
    with pytest.raises(SystemExit):
        main(words(trained, tmp_path / "runs" / "run", train_split="nowhere"))
    assert not os.listdir(tmp_path)
