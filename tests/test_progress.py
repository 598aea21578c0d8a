"""What is seen of a training: lines or a bar, trackers, the summary, a dry run; a loss that becomes NaN ends it."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from students import ID2LABEL, aligned_model
from tiny_training import Spoil, arguments, rows

from g4i_hf import AlignedImageClassification
from g4i_hf.data.record import RECORD_FILE
from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.callbacks import NonFiniteLoss
from g4i_hf.training.progress import TIMED_STEPS, plan_of, summary_of_run, trial_arguments

NAMES = {"loss", "loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1"}
NAMES |= {"learning_rate", "grad_norm", "epoch"}


def accuracy(predictions) -> dict[str, float]:
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


def trainer_of(folder: Path, model=None, callbacks=None, **options) -> AlignmentTrainer:
    """10 rows, 4 a step: 3 steps an epoch, 2 epochs, evaluated after each."""
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_strategy": "epoch"} | options
    torch.manual_seed(0)
    data, bare = rows(10), [{name: row[name] for name in ("pixel_values", "labels")} for row in rows(10)]
    more = {"eval_dataset": bare, "compute_metrics": accuracy, "callbacks": callbacks}
    return AlignmentTrainer(model or aligned_model("vit"), arguments(folder, **options), data, **more)


@pytest.mark.parametrize("terminal", [False, True])
def test_there_is_a_line_an_event_and_in_a_terminal_a_bar_below_the_lines(tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    trainer = trainer_of(tmp_path, disable_tqdm=not terminal, logging_steps=3)
    trainer.train()
    printed, errors = capsys.readouterr()
    lines, history = [line for line in printed.splitlines() if line.strip()], trainer.state.log_history
    assert len(lines) == 4 and "{" not in printed
    assert lines[0].startswith(f"epoch 1.0/2  step 3/6  loss {history[0]['loss']:.4g}  ") and "  lr " in lines[0]
    assert all(f"  {name} {history[0][name]:.4g}  " in lines[0] for name in ("loss_ce", "loss_align"))
    assert re.search(r"  \d\d:\d\d left$", lines[0]) and "cosine" not in lines[0]
    shown = f"evaluation  loss {history[1]['eval_loss']:.4g}  accuracy {history[1]['eval_accuracy']:.4g}"
    assert lines[1].endswith(shown)
    bars = [part for part in errors.split("\r") if "/6 [" in part]
    assert bars[-1].startswith("100%|") and " 6/6" in bars[-1] if terminal else not errors
    trainer.log({"note": "no number", "loss": 1.0})  # by a user


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_term_and_a_resumed_run_goes_on(tmp_path):
    run, options = tmp_path / "my run", {"report_to": "tensorboard", "save_strategy": "steps", "save_steps": 2}
    trainer_of(run, **options, save_total_limit=10).train()
    trainer = trainer_of(run, **options, save_total_limit=10)
    result = trainer.train(resume_from_checkpoint=str(run / "checkpoint-4"))
    found, history = scalars(run / "tensorboard"), trainer.state.log_history
    for name in NAMES - {"epoch"}:
        logged = {entry["step"]: pytest.approx(entry[name]) for entry in history if "loss" in entry}
        assert dict(found[f"train/{name}"]) == logged and len(logged) == 6
    assert {step for step, _ in found["eval/accuracy"]} == {3, 6}
    for file in (run / "tensorboard").iterdir():
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content and b'"output_dir": "my run"' in content

    said = summary_of_run(trainer, ["vit"], result.metrics)
    assert re.search(r"Time +\d\d:\d\d since checkpoint-4\n", said)


def test_trackers_and_weights_name_no_folder_of_this_machine(tmp_path, monkeypatch):
    """Runs are named after their folder; Weights & Biases has the project of Trackio, unless it is set."""
    aligned_model("vit").student.save_pretrained(tmp_path / "vit")
    build = {"id2label": ID2LABEL, "text_embed_dim": 12, "pretrained": True}
    model = AlignedImageClassification.from_student(str(tmp_path / "vit"), **build)
    monkeypatch.setenv("WANDB_PROJECT", "taken")
    trainer = trainer_of(tmp_path / "run", model, report_to="wandb")
    trainer.save_model()
    assert os.environ["WANDB_PROJECT"] == "taken"
    assert (trainer.args.run_name, trainer.args.project) == ("run", "g4i_hf")
    saved = model.config.to_json_string() + (tmp_path / "run" / "config.json").read_text()
    assert str(tmp_path) not in saved + trainer.args.to_json_string()
    monkeypatch.delenv("WANDB_PROJECT")
    mine = trainer_of(tmp_path / "run", report_to="wandb", run_name="mine", project="birds")
    assert mine.args.run_name == "mine" and os.environ["WANDB_PROJECT"] == "birds"


def test_the_summary_has_steps_time_results_and_the_next_commands(tmp_path):
    trainer = trainer_of(tmp_path / "my run", save_strategy="epoch")
    result = trainer.train()
    said = summary_of_run(trainer, ["vit"], result.metrics)
    assert f"g4i evaluate --run '{tmp_path}/my run'\n" in said
    assert "6 steps, 2 epochs, 4 images a step, in one process\n" in said
    assert re.search(r"Time +\d\d:\d\d\n", said)
    found = {"validation_samples": 10, "validation_accuracy": 0.5, "validation_recall_at_5": 0.7}
    said = summary_of_run(trainer, ["vit"], result.metrics | found)
    assert "accuracy 50.0%, caption retrieval R@5 70.0%" in said
    assert f"g4i evaluate --run '{tmp_path}/my run' --splits validation\n" in said  # `test` is for the end
    trainer.args.align_weight = 0.0  # a projector that learned nothing
    assert "R@5" not in summary_of_run(trainer, ["vit"], result.metrics | found)


@pytest.mark.parametrize(
    ("options", "steps"), [({"max_steps": 7}, 7), ({"num_train_epochs": 4, "gradient_accumulation_steps": 2}, 8)]
)
def test_a_plan_counts_what_training_would_do_and_writes_nothing(tmp_path, capsys, options, steps):
    args = arguments(tmp_path / "run", per_device_train_batch_size=4, **options)
    (tmp_path / "trial").mkdir()
    trial = trial_arguments(args, str(tmp_path / "trial"))
    trainer = AlignmentTrainer(aligned_model("vit"), trial, train_dataset=rows(10))
    plan = plan_of(trainer, args)
    assert plan["Steps"][0].startswith(f"{steps}: ") and plan["Steps"][0].endswith(" images a step, in one process")
    assert plan["Run"] == [f"{tmp_path}/run"] and " s a step" in plan["Time"][0]
    assert trainer.state.global_step == TIMED_STEPS
    assert not (tmp_path / "run").exists() and list((tmp_path / "trial").iterdir()) == []
    assert capsys.readouterr().out == ""


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
    with pytest.raises(NonFiniteLoss, match=f"In step 3 of 6 {named} NaN or infinite.*{remedy}") as error:
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", RECORD_FILE]
    assert "checkpoint-2 is from before that" in str(error.value)
