"""A loss that becomes NaN ends training with its step and term."""

import json
import math
import subprocess
from pathlib import Path

import pytest
from processes import environment, launched
from test_progress import NAMES, trainer_of
from tiny_training import Spoil

from g4i_hf.data.record import RECORD_FILE
from g4i_hf.training.callbacks import NonFiniteLoss

WORKER = Path(__file__).parent / "workers" / "terms_of_processes.py"


@pytest.mark.parametrize(
    "part, named, remedy, logging_steps",
    [
        ("student.classifier", "loss_ce became", "learning_rate", 6),
        ("projector", "loss_align became", "align_temperature", 1),
        ("student", "loss_align and loss_ce became", "learning_rate", 1),
    ],
)
def test_training_ends_with_the_step_and_the_term(tmp_path, part, named, remedy, logging_steps):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "logging_steps": logging_steps}
    trainer = trainer_of(tmp_path, callbacks=[Spoil(3, part)], **options)
    with pytest.raises(NonFiniteLoss, match=f"In step 3 of 6 {named} NaN or infinite.*{remedy}.*stop_on_nan") as error:
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", RECORD_FILE]
    assert "checkpoint-2 is from before that" in str(error.value)


@pytest.mark.parametrize("options", [{"stop_on_nan": False}, {"align_weight": 0.0}])
def test_training_goes_on_where_that_was_asked_for_and_where_alignment_is_only_measured(tmp_path, options):
    trainer = trainer_of(tmp_path, callbacks=[Spoil(3, "projector")], **options)
    trainer.train()
    last = [entry for entry in trainer.state.log_history if "loss_align" in entry][-1]
    assert trainer.state.global_step == 6 and math.isnan(last["loss_align"])


@pytest.mark.slow
def test_processes_report_the_same_terms_and_end_together(tmp_path):
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
    assert first["error"] == second["error"] and first["error"].startswith("In step 2 of 4 loss_align became")
    assert not list((tmp_path / "spoiled").iterdir())
