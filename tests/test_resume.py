"""
Training killed by SIGKILL, between steps and while a checkpoint is written: the same command goes
on from the newest whole checkpoint and ends, bit for bit, as if nothing had happened.
"""

import json
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

WORKER = Path(__file__).parent / "workers" / "kill_and_resume.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    split = split_of(folder / "images").cast_column("image", Image())
    split = with_labels(split, np.where(np.arange(len(split)) % 4 == 3, -1, labels_of(split)))
    DatasetDict({"train": split}).save_to_disk(folder / "data")
    return folder


# --- One process, at chosen moments ----------------------------------------------------------------------------------

# Before the first checkpoint; between two; then the delicate moments of writing one
MOMENTS = {"step 2": "step:2", "step 7": "step:7", "weights written": "write", "no average yet": "ema"}
MOMENTS |= {"not yet renamed": "rename"}


@pytest.mark.slow
def test_one_process_killed_at_any_moment(folder, tmp_path):
    command = [PYTHON, str(WORKER), str(tmp_path), str(folder / "data"), *MOMENTS.values()]
    command += ["--", "--require_labels", "false", "--per_device_train_batch_size", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for moment, outcome in zip(MOMENTS, outcomes, strict=True):
        assert outcome["killed"] and outcome["resumed"] == 0, (moment, outcome)
        assert outcome["went_on_from"] == (moment != "step 2"), moment
        assert outcome["same"] == {"model.safetensors": True, "ema.safetensors": True}, moment
        if not moment.startswith("step"):
            assert outcome["checkpoints"] == ["checkpoint-3"] and outcome["whole"] and not outcome["leftovers"], moment


TIMMS = {"optim": "timm:lamb", "layer_decay": 0.7, "weight_decay": 0.1, "warmup_steps": 2}
TIMMS |= {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}}
NADAMW = {"optim": "timm:nadamw"}  # whose state has more than tensors of the size of the weights


def with_dropout() -> AlignedImageClassification:
    name, student_args = STUDENTS["timm-vit"]
    build = {"id2label": ID2LABEL, "text_embed_dim": TEXT_DIM, "student_args": student_args | {"drop_rate": 0.5}}
    return AlignedImageClassification.from_student(name, **build)


RESUMED = {
    "workers": (with_dropout, {}, 2),
    "timm's optimizer": (with_dropout, TIMMS, 0),
    "timm:nadamw": (with_dropout, NADAMW, 0),
    "average": (with_dropout, {"ema_decay": 0.5}, 0),
    "adapters": (lambda: lora_model("timm-resnet", lora_dropout=0.3), {"ema_decay": 0.5}, 0),
}


SLOW = {"timm:nadamw", "average", "adapters"}
CASES = [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in RESUMED]


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, case):
    """
    In the middle of an epoch; dropout draws the same, though workers take from torch's randomness too. The resumed run
    saves at its own steps.
    """
    student, options, workers = RESUMED[case]
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


# --- Two processes, at random moments --------------------------------------------------------------------------------
