"""A loss or gradient that becomes NaN ends training with step, terms and images, or its step is left out."""

import json
import math
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import environment, launched
from students import aligned_model
from test_progress import NAMES, trainer_of
from tiny_training import Spoil, arguments, rows, same
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.callbacks import LossCheck, NonFiniteLoss

WORKER = Path(__file__).parent / "workers" / "terms_of_processes.py"


@pytest.mark.parametrize(
    "part, named, remedy, logging_steps",
    [
        ("student.classifier", "the term loss_ce became", "learning_rate", 6),
        ("projector", "the term loss_align became", "align_temperature", 1),
        ("student", "loss_align and loss_ce became", "learning_rate", 1),
    ],
)
def test_training_ends_with_the_step_the_term_and_the_images(tmp_path, part, named, remedy, logging_steps):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "logging_steps": logging_steps}
    trainer = trainer_of(tmp_path, callbacks=[Spoil(3, part)], **options)
    with pytest.raises(NonFiniteLoss, match=f"In step 3 of 6 {named} NaN or infinite.*{remedy}.*stop_on_nan") as error:
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "nan_batch.json"]
    assert "checkpoint-2 is from before that" in str(error.value)
    # The third step has what is left of the ten rows in the order of the first epoch
    batch = json.loads((tmp_path / "nan_batch.json").read_text())
    last = [f"row {row}" for row in trainer.get_train_dataloader().batch_sampler.order][8:]
    assert (batch["step"], batch["image_ids"]) == (3, last)
    assert f"Its images: {last[0]}, {last[1]}." in str(error.value)


def test_training_that_logs_nothing_after_it_ends_with_an_error_too(tmp_path):
    options = {"eval_strategy": "no", "logging_strategy": "no"}
    trainer = trainer_of(tmp_path, callbacks=[Spoil(6, "student.classifier")], **options)
    with pytest.raises(NonFiniteLoss, match="In step 6 of 6 the term loss_ce became NaN"):
        trainer.train()


def test_a_long_training_that_logs_nothing_does_not_fill_the_memory():
    check, sizes = LossCheck(), []
    for step in range(4000):
        check.note_rows(np.arange(64), step)
        if step % 1999 == 0:
            sizes.append(len(pickle.dumps(check)))
    assert sizes[2] < 1.01 * sizes[1]


@pytest.mark.parametrize("options", [{"stop_on_nan": False}, {"align_weight": 0.0}])
def test_training_goes_on_where_that_was_asked_for_and_where_alignment_is_only_measured(tmp_path, options):
    trainer = trainer_of(tmp_path, callbacks=[Spoil(3, "projector")], **options)
    trainer.train()
    last = [entry for entry in trainer.state.log_history if "loss_align" in entry][-1]
    assert trainer.state.global_step == 6 and math.isnan(last["loss_align"])


def test_looking_for_nan_does_not_wait_for_the_device():
    """Reading a number back is `_local_scalar_dense`, whether by `.item()`, `bool()` or `.tolist()`."""
    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    check = LossCheck()
    with Watch():
        for step, value in enumerate((1.0, math.inf, math.nan), start=1):
            check.note("loss_ce", torch.tensor(value), step)
    assert called and not any("_local_scalar_dense" in name for name in called)
    assert {name: step.item() for name, step in check.first_steps.items()} == {"loss_ce": 2}


# --- Steps that are left out -----------------------------------------------------------------------------------------

STEADY = {"train_sampling_strategy": "sequential", "lr_scheduler_type": "constant", "optim": "sgd"}
STEADY |= {"weight_decay": 0.1, "per_device_train_batch_size": 4, "learning_rate": 0.05, "logging_steps": 3}


def with_nan(row: int) -> list[dict]:
    data = rows(12)
    data[row]["pixel_values"] = torch.full_like(data[row]["pixel_values"], math.nan)
    return data


def trained(folder: Path, data: list[dict], model: str = "timm-resnet", resume=None, **options) -> AlignmentTrainer:
    torch.manual_seed(0)
    options = STEADY | {"num_train_epochs": 1} | options
    trainer = AlignmentTrainer(aligned_model(model), arguments(folder, **options), data)
    trainer.train(resume)
    return trainer


def test_a_step_that_is_left_out_leaves_nothing(tmp_path, caplog):
    """Neither weight decay nor momentum nor running statistics nor logs know of it."""
    ours, data = trained(tmp_path / "a", with_nan(5), max_nan_steps=1), rows(12)
    theirs = trained(tmp_path / "b", data[:4] + data[8:], logging_steps=2)
    assert (ours.state.global_step, theirs.state.global_step) == (3, 2)
    assert same(ours.model.state_dict(), theirs.model.state_dict())
    logs, expected = ours.state.log_history[0], theirs.state.log_history[0]
    assert logs["nan_steps"] == 1 and "nan_steps" not in expected
    assert all(logs[name] == expected[name] for name in ("loss_ce", "loss_align", "cosine_positive"))
    assert "Step 2 of 3 is left out, 1 of max_nan_steps 1: loss_align and loss_ce NaN" in caplog.text
    assert "Its images: row 4, row 5, row 6, row 7." in caplog.text


def test_a_step_that_is_left_out_right_before_a_checkpoint_is_known_after_it(tmp_path):
    """Its log has nothing but the step to tell of, and no loss."""
    options = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "max_nan_steps": 1}
    ours = trained(tmp_path, with_nan(5), "vit", **options)
    of_step = ours.state.log_history[1]
    assert of_step["nan_steps"] == 1 and math.isnan(of_step["loss"]) and "loss_ce" not in of_step
    assert all(math.isfinite(ours.state.log_history[place]["loss"]) for place in (0, 2))
    again = trained(tmp_path, with_nan(5), "vit", str(tmp_path / "checkpoint-2"), **options)
    assert again.left_out()["train_nan_steps"] == ours.left_out()["train_nan_steps"] == 1


def test_too_many_steps_that_would_be_left_out_end_training(tmp_path):
    """Those before an interruption count."""
    options = {"num_train_epochs": 3, "max_nan_steps": 2, "save_strategy": "epoch"}
    message = "In step 8 of 9 loss_align and loss_ce became NaN.*ended after 2 steps were left out .max_nan_steps."
    with pytest.raises(NonFiniteLoss, match=message):
        trained(tmp_path, with_nan(5), "vit", **options)
    with pytest.raises(NonFiniteLoss, match="after 2 steps"):
        trained(tmp_path, with_nan(5), "vit", str(tmp_path / "checkpoint-6"), **options)


class SpoilGradient(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        weight = next(model.projector.parameters())
        self.hook = weight.register_hook(lambda grad: grad * math.nan if state.global_step == 1 else grad)

    def on_step_end(self, args, state, control, **kwargs):
        self.hook.remove()


def test_a_gradient_that_is_nan_is_left_out_though_the_loss_is_not(tmp_path, caplog):
    args = arguments(tmp_path, **STEADY, num_train_epochs=1, max_nan_steps=1)
    trainer = AlignmentTrainer(aligned_model("vit"), args, rows(12), callbacks=[SpoilGradient()])
    trainer.train()
    assert "Step 2 of 3 is left out, 1 of max_nan_steps 1: the gradient NaN" in caplog.text
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


# --- Several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_report_the_same_terms_and_end_or_leave_out_a_step_together(tmp_path):
    command = launched(WORKER, tmp_path, processes=2)
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))

    logged = [[entry for entry in process["history"] if "loss" in entry] for process in (first, second)]
    assert all(set(entry) >= NAMES for entry in logged[0]) and len(logged[0]) == 4
    for name in NAMES:
        assert [entry[name] for entry in logged[0]] == pytest.approx([entry[name] for entry in logged[1]], abs=1e-6)
    assert sum(line.startswith("epoch 0.5/2  step 1/4") for line in done.stdout.splitlines()) == 1
    assert len(list((tmp_path / "whole" / "tensorboard").iterdir())) == 1

    # The gradient carries a NaN to the other process at once, so that both losses are lost in the next step
    assert first["error"] == second["error"] and first["error"].startswith("In step 2 of 4 the term loss_align became")
    assert [path.name for path in (tmp_path / "spoiled").iterdir()] == ["nan_batch.json"]

    (steps, weights), (_, others) = (process["left_out"] for process in (first, second))
    assert steps == 1 and weights == others and all(math.isfinite(value) for value in weights)
