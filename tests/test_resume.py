"""
Training killed by SIGKILL, between steps and while a checkpoint is written: the same command goes on from the newest
whole checkpoint and ends, bit for bit, as if nothing had happened.
"""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Image
from loaded import PYTHON
from students import ID2LABEL, STUDENTS, lora_model
from test_checkpoint import split_of
from tiny_training import TEXT_DIM, StopAfter, arguments, rows, same

from g4i_hf import AlignedImageClassification
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.training import AlignmentTrainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    split = split_of().cast_column("image", Image())
    split = with_labels(split, np.where(np.arange(len(split)) % 4 == 3, -1, labels_of(split)))
    DatasetDict({"train": split}).save_to_disk(folder / "data")
    return folder


STUDENT_ARGS = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_rate": 0.1, "drop_path_rate": 0.1}
OPTIONS = {"student": "vit_tiny_patch16_224", "student_args": json.dumps(STUDENT_ARGS), "image_size": 32}
OPTIONS |= {"train_crop": "pad", "color_jitter": 0.3, "mixup_alpha": 0.2, "ema_decay": 0.9, "learning_rate": "1e-3"}
OPTIONS |= {"num_train_epochs": 3, "per_device_train_batch_size": 3, "save_strategy": "steps", "save_steps": 3}
OPTIONS |= {"save_total_limit": 10, "lr_scheduler_type": "cosine", "align_loss": "siglip", "use_cpu": "true"}
OPTIONS |= {"align_schedule": "cosine", "align_warmup_epochs": 1, "require_labels": "false"}
OPTIONS |= {"repeated_augmentation": 2}
# What is called when the process ends, and at which call: before the first checkpoint; between two; then the
# delicate moments of writing the second one
MOMENTS = {"step 2": ("training_step", 3), "step 7": ("training_step", 8), "no average yet": ("save", 2)}
MOMENTS |= {"weights written": ("_save_optimizer_and_scheduler", 2), "not yet renamed": ("finalize_checkpoint", 2)}
KILLED = """
import os, signal, sys
from g4i_hf.running import main
from g4i_hf.training import trainer
from g4i_hf.training.callbacks import EmaCallback
name, left = sys.argv[1], int(sys.argv[2])
owner = next(each for each in (EmaCallback, trainer.AlignmentTrainer, trainer) if hasattr(each, name))
original = getattr(owner, name)
def deadly(*args, **more):
    global left
    left -= 1
    return original(*args, **more) if left else os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, deadly)
main(sys.argv[3:])
"""


def train(folder: Path, run: Path, *killed: object) -> subprocess.CompletedProcess:
    options = OPTIONS | {"dataset_name": folder / "data", "output_dir": run}
    words = ["train", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    start = ["-c", KILLED, *map(str, killed)] if killed else ["-m", "g4i_hf"]
    return subprocess.run([PYTHON, *start, *words], capture_output=True, text=True, cwd=folder)


@pytest.fixture(scope="module")
def undisturbed(folder) -> Path:
    done = train(folder, folder / "undisturbed")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "undisturbed"


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_process_killed_at_any_moment(folder, undisturbed, tmp_path, moment):
    run = tmp_path / "run"
    assert train(folder, run, *MOMENTS[moment]).returncode == -signal.SIGKILL
    if not moment.startswith("step"):
        (whole,) = run.glob("checkpoint-*")
        assert whole.name == "checkpoint-3" and (whole / "ema.safetensors").is_file()
    done = train(folder, run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("Resuming from" in done.stdout) == (moment != "step 2") and not list(run.glob(".tmp*"))
    for name in ("model.safetensors", "ema.safetensors"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name


TIMMS = {"optim": "timm:lamb", "layer_decay": 0.7, "weight_decay": 0.1, "warmup_steps": 2}
TIMMS |= {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}}


def with_dropout() -> AlignedImageClassification:
    name, student_args = STUDENTS["timm-vit"]
    build = {"id2label": ID2LABEL, "text_embed_dim": TEXT_DIM, "student_args": student_args | {"drop_rate": 0.5}}
    return AlignedImageClassification.from_student(name, **build)


def with_adapters() -> AlignedImageClassification:
    return lora_model("timm-resnet", lora_dropout=0.3)


@pytest.mark.parametrize(
    ("student", "options", "workers"),
    [
        pytest.param(with_dropout, {}, 2, id="workers"),
        pytest.param(with_dropout, TIMMS, 0, id="timm's optimizer"),
        pytest.param(with_dropout, {"optim": "timm:nadamw"}, 0, id="more than tensors", marks=pytest.mark.slow),
        pytest.param(with_adapters, {"ema_decay": 0.5}, 0, id="adapters, average", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, student, options, workers):
    """
    In the middle of an epoch; dropout draws the same, though workers take from torch's randomness too. The resumed run
    saves at its own steps.
    """
    options = options | {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4}

    def trained(run: str, *callbacks, workers: int = workers, resume: bool = False, **more) -> list[dict]:
        torch.manual_seed(0)
        args = arguments(tmp_path / run, **options | more, dataloader_num_workers=workers)
        trainer = AlignmentTrainer(student(), args, rows(8, classes=3), callbacks=list(callbacks))
        trainer.train(resume or None)
        models = [trainer.model, trainer.ema.averaged] if trainer.ema else [trainer.model]
        return [model.state_dict() for model in models]

    whole = trained("whole", workers=0)
    trained("parts", StopAfter(3))
    resumed = trained("parts", resume=True, save_steps=5, save_total_limit=3)
    assert all(map(same, resumed, whole)) and len(resumed) == len(whole)
    assert (tmp_path / "parts" / "checkpoint-5").is_dir()
