"""What is seen of a training: lines, bar, trackers, summary, dry run, and its end when the loss is no number."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from students import ID2LABEL, aligned_model
from test_trainer import arguments, rows
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from g4i_hf import AlignedImageClassification
from g4i_hf.running import main
from g4i_hf.training import AlignmentTrainer
from g4i_hf.training.callbacks import LossCheck, NonFiniteLoss
from g4i_hf.training.dry_run import TIMED_STEPS, plan_of, trial_arguments
from g4i_hf.training.progress import AlignmentProgress, shows_bars, summary_of_run
from g4i_hf.training.run_folder import TENSORBOARD_DIR

ROOT = Path(__file__).parent.parent
ACCELERATE = str(Path(sys.executable).parent / "accelerate")
TWO_PROCESSES = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
TWO_PROCESSES += ["--dynamo_backend", "no", "--main_process_port", "0"]
NAMES = {"loss", "loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1"}
NAMES |= {"learning_rate", "grad_norm", "epoch"}


def accuracy(predictions) -> dict[str, float]:
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


def trainer_of(folder: Path, model=None, callbacks=None, **options) -> AlignmentTrainer:
    """10 rows, 4 a step: 3 steps an epoch, 2 epochs, evaluated after each."""
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "eval_strategy": "epoch"} | options
    torch.manual_seed(0)
    return AlignmentTrainer(
        model or aligned_model("vit"),
        arguments(folder, **options),
        train_dataset=rows(10),
        eval_dataset=[{name: row[name] for name in ("pixel_values", "labels")} for row in rows(10)],
        compute_metrics=accuracy,
        callbacks=callbacks,
    )


# --- Lines and bar ---------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_is_a_line_an_event(tmp_path, capsys):
    trainer = trainer_of(tmp_path, logging_steps=3)
    trainer.train()
    printed, errors = capsys.readouterr()
    lines = printed.splitlines()
    assert len(lines) == 5 and not errors and "{" not in printed
    first, history = lines[0], trainer.state.log_history
    terms = f"loss {history[0]['loss']:.3f} (loss_ce {history[0]['loss_ce']:.3f}, loss_align "
    assert first.startswith(f"epoch 1.0/2  step 3/6  {terms}{history[0]['loss_align']:.3f} x 0.3)  lr ")
    assert first.endswith(" left") and " images/s  00:" in first and "cosine" not in first
    evaluation = history[1]
    assert f"evaluation  loss {evaluation['eval_loss']:.3f}  accuracy {evaluation['eval_accuracy']:.1%}" in lines[1]
    assert "runtime" not in lines[1]
    assert lines[4].startswith("trained 6 steps in 00:0")


def test_a_training_shorter_than_its_intervals_is_told_so(tmp_path, caplog):
    caplog.set_level("INFO", logger="g4i_hf")
    trainer_of(tmp_path / "short", save_strategy="steps", save_steps=500, logging_steps=3).train()
    assert "save_steps is 500, and training has 6: there is no checkpoint before the end" in caplog.text
    assert "logging_steps" not in caplog.text
    caplog.clear()
    trainer_of(tmp_path / "saved", save_strategy="epoch", logging_steps=3).train()
    assert "before the end" not in caplog.text


def bars_of(errors: str) -> list[str]:
    return [part for part in errors.split("\r") if "/6 [" in part]


def test_a_terminal_shows_a_bar_with_the_terms(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    trainer = trainer_of(tmp_path, disable_tqdm=False)
    trainer.train()
    printed, errors = capsys.readouterr()
    last, history = bars_of(errors)[-1], trainer.state.log_history
    final = [entry for entry in history if "loss" in entry][-1]
    assert last.startswith("100%|") and "6/6" in last
    terms = f"loss_ce {final['loss_ce']:.3f}, loss_align {final['loss_align']:.3f} x 0.3"
    assert f"loss {final['loss']:.3f} ({terms})" in last
    lines = [line for line in printed.splitlines() if line.strip()]
    assert [line.split("  ")[1] for line in lines] == ["step 3/6", "step 6/6"]  # evaluations alone
    evaluated = [f"accuracy {entry['eval_accuracy']:.1%}" for entry in history if "eval_accuracy" in entry]
    assert all("evaluation" in line and accuracy in line for line, accuracy in zip(lines, evaluated, strict=True))


def test_the_bar_of_a_resumed_run_starts_where_that_stopped(tmp_path, capsys, monkeypatch):
    trainer_of(tmp_path, save_strategy="steps", save_steps=4).train()
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trainer_of(tmp_path, disable_tqdm=False).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    bars = bars_of(capsys.readouterr().err)
    assert bars[0].strip().startswith("67%|") and " 4/6" in bars[0] and " 6/6" in bars[-1]


def test_stock_progress_is_replaced_and_asks_for_a_terminal(tmp_path, monkeypatch):
    for disabled in (True, False):
        kinds = [type(callback) for callback in trainer_of(tmp_path, disable_tqdm=disabled).callback_handler.callbacks]
        assert kinds.count(AlignmentProgress) == 1 and not {ProgressCallback, PrinterCallback} & set(kinds)
    args = arguments(tmp_path, disable_tqdm=False)
    assert not shows_bars(args)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert shows_bars(args) and not shows_bars(arguments(tmp_path))


def test_other_processes_show_nothing(tmp_path, capsys):
    trainer = trainer_of(tmp_path)
    trainer.add_callback(PretendOther)
    trainer.train()
    assert capsys.readouterr() == ("", "")


class PretendOther(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        state.is_world_process_zero = False

    def on_step_end(self, args, state, control, **kwargs):
        state.is_world_process_zero = False


@pytest.mark.parametrize("value, text", [(0.0, "0.000"), (1.23456, "1.235"), (12345.6, "1.23e+04"), (3e-5, "3e-05")])
def test_a_line_has_short_numbers_and_the_weight_of_a_baseline(tmp_path, capsys, value, text):
    trainer = trainer_of(tmp_path, eval_strategy="no", logging_strategy="no", align_weight=0.0)
    trainer.state.max_steps, trainer.state.num_train_epochs = 6, 2
    logs = {"loss": value, "loss_align": 2.0, "loss_ce": value, "align_weight": 0.0}
    trainer.progress.on_log(trainer.args, trainer.state, trainer.control, logs=logs)
    assert f"epoch 0.0/2  step 0/6  loss {text} (loss_ce {text}, loss_align 2.000 x 0)" in capsys.readouterr().out


# --- Trackers --------------------------------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_every_term_in_the_run_folder(tmp_path):
    trainer = trainer_of(tmp_path / "my run", report_to="tensorboard")
    trainer.train()
    folder = tmp_path / "my run" / TENSORBOARD_DIR
    found, history = scalars(folder), trainer.state.log_history
    assert {f"train/{name}" for name in NAMES} <= set(found) and "eval/accuracy" in found
    for name in NAMES:
        logged = [(entry["step"], pytest.approx(entry[name])) for entry in history if "loss" in entry]
        assert [pair for pair in found[f"train/{name}"] if name != "epoch"] == (logged if name != "epoch" else [])
    assert [step for step, _ in found["eval/accuracy"]] == [3, 6]
    # The folder is pushed with the run
    (file,) = folder.iterdir()
    assert socket.gethostname() not in file.name
    content = file.read_bytes()
    assert str(tmp_path).encode() not in content and b'"output_dir": "my run"' in content
    assert [path.name for path in (tmp_path / "my run").iterdir()] == [TENSORBOARD_DIR]


def test_a_resumed_run_goes_on_in_the_same_curves(tmp_path, capsys):
    options = {"report_to": "tensorboard", "save_strategy": "steps", "save_steps": 2, "save_total_limit": 10}
    trainer_of(tmp_path, **options).train()
    capsys.readouterr()
    trainer = trainer_of(tmp_path, **options)
    result = trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    found = scalars(tmp_path / TENSORBOARD_DIR)
    assert [step for step, _ in found["train/loss_align"]] == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().out.splitlines()[-1].startswith("trained 2 steps")
    metrics = trainer.stopwatch.metrics()
    assert metrics["train_resumed_from_step"] == 4
    said = summary_of_run(trainer, ["vit"], result.metrics)
    assert "resumed from checkpoint-4: the times are those of the 2 steps since then" in said
    assert "checkpoint-2, checkpoint-4, checkpoint-6" in said and f"--logdir {tmp_path}/tensorboard" in said


def test_the_folder_of_a_local_student_is_nobodys_business(tmp_path):
    aligned_model("vit").student.save_pretrained(tmp_path / "vit")
    model = AlignedImageClassification.from_student(
        str(tmp_path / "vit"), id2label=ID2LABEL, text_embed_dim=12, pretrained=True
    )
    trainer = trainer_of(tmp_path / "run", model)
    trainer.save_model()
    assert str(tmp_path) not in model.config.to_json_string() + (tmp_path / "run" / "config.json").read_text()


def test_runs_are_named_after_their_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    args = trainer_of(tmp_path / "aligned").args
    assert (args.run_name, args.project) == ("aligned", "g4i_hf")
    assert args.to_dict()["output_dir"] == "aligned" and str(tmp_path) not in args.to_json_string()
    assert trainer_of(tmp_path, run_name="mine", project="birds").args.run_name == "mine"


def test_wandb_has_the_project_of_trackio(tmp_path, monkeypatch):
    from g4i_hf.training.run_folder import name_run

    monkeypatch.setenv("WANDB_PROJECT", "taken")
    name_run(arguments(tmp_path, report_to="wandb"))
    assert os.environ["WANDB_PROJECT"] == "taken"
    monkeypatch.delenv("WANDB_PROJECT")
    name_run(arguments(tmp_path, report_to="wandb", project="birds"))
    assert os.environ["WANDB_PROJECT"] == "birds"


def test_trackio_has_every_term(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    trainer_of(tmp_path / "aligned", report_to="trackio").train()
    (run,) = trackio.Api().runs("g4i_hf")
    assert run.name == "aligned"
    logged = SQLiteStorage.get_logs("g4i_hf", "aligned")
    assert {f"train/{name}" for name in NAMES} | {"eval/accuracy"} <= {name for entry in logged for name in entry}


@pytest.mark.slow
def test_wandb_has_every_term(tmp_path, monkeypatch):
    """The real client, which writes to disk what it would send."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    import wandb

    trainer_of(tmp_path / "aligned", report_to="wandb").train()
    wandb.finish()
    (path,) = tmp_path.rglob("*.wandb")
    wanted = [*(f"train/{name}" for name in NAMES), "eval/accuracy", "g4i_hf", "aligned"]
    deadline = time.monotonic() + 60
    while missing := [name for name in wanted if name.encode() not in path.read_bytes()]:
        assert time.monotonic() < deadline, missing  # the client writes in a process of its own
        time.sleep(0.2)


# --- The loss is no number -------------------------------------------------------------------------------------------


class Spoil(TrainerCallback):
    """Before a step, makes a part of the model useless."""

    def __init__(self, step: int, part: str, value: float = math.nan):
        self.step, self.part, self.value = step, part, value

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                next(model.get_submodule(self.part).parameters()).fill_(self.value)


@pytest.mark.parametrize(
    "part, named, remedy",
    [
        ("student.classifier", "the term loss_ce became", "learning_rate"),
        ("projector", "the term loss_align became", "align_temperature"),
        ("student", "loss_align and loss_ce became", "learning_rate"),
    ],
)
@pytest.mark.parametrize("logging_steps", [1, 6])
def test_training_ends_with_the_step_and_the_term(tmp_path, part, named, remedy, logging_steps):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no"}
    trainer = trainer_of(tmp_path, callbacks=[Spoil(3, part)], logging_steps=logging_steps, **options)
    with pytest.raises(NonFiniteLoss, match=f"In step 3 of 6 {named} NaN or infinite.*{remedy}.*stop_on_nan") as error:
        trainer.train()
    # None of lost weights
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "nan_batch.json"]
    assert "checkpoint-2 is from before that" in str(error.value)
    # The third step has what is left of the ten rows in the order of the first epoch
    batch = json.loads((tmp_path / "nan_batch.json").read_text())
    last = [f"row {row}" for row in trainer.get_train_dataloader().batch_sampler.sampler][8:]
    assert (batch["step"], batch["image_ids"]) == (3, last)
    assert f"Its images: {last[0]}, {last[1]}." in str(error.value)


@pytest.mark.parametrize("logging", [{"logging_strategy": "no"}, {"logging_steps": 5}])
def test_training_that_logs_nothing_after_it_ends_with_an_error_too(tmp_path, logging):
    options = {"save_strategy": "no", "eval_strategy": "no", **logging}
    trainer = trainer_of(tmp_path, callbacks=[Spoil(6, "student.classifier")], **options)
    with pytest.raises(NonFiniteLoss, match="In step 6 of 6 the term loss_ce became NaN"):
        trainer.train()


def test_stop_on_nan_can_be_turned_off(tmp_path):
    trainer = trainer_of(tmp_path, callbacks=[Spoil(3, "projector")], stop_on_nan=False)
    trainer.train()
    assert trainer.state.global_step == 6 and math.isnan(trainer.state.log_history[-3]["loss_ce"])


def with_nan(row: int) -> list[dict]:
    data = rows(12)
    data[row]["pixel_values"] = torch.full_like(data[row]["pixel_values"], math.nan)
    return data


STEADY = {
    "train_sampling_strategy": "sequential",
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "weight_decay": 0.1,
}
STEADY |= {"per_device_train_batch_size": 4, "learning_rate": 0.05, "logging_steps": 3}


def trained(folder: Path, data: list[dict], model: str = "timm-resnet", **options) -> AlignmentTrainer:
    torch.manual_seed(0)
    options = STEADY | {"num_train_epochs": 1} | options
    trainer = AlignmentTrainer(aligned_model(model), arguments(folder, **options), data)
    trainer.train()
    return trainer


def test_a_step_that_is_left_out_leaves_nothing(tmp_path, caplog):
    """Neither weight decay nor momentum nor running statistics nor logs know of it."""
    ours, data = trained(tmp_path / "a", with_nan(5), max_nan_steps=1), rows(12)
    theirs = trained(tmp_path / "b", data[:4] + data[8:], logging_steps=2)
    assert (ours.state.global_step, theirs.state.global_step) == (3, 2)
    expected = theirs.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ours.model.state_dict().items())
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
    args = arguments(tmp_path, **STEADY | options, num_train_epochs=1)
    again = AlignmentTrainer(aligned_model("vit"), args, with_nan(5))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.left_out()["train_nan_steps"] == ours.left_out()["train_nan_steps"] == 1


def test_too_many_steps_that_would_be_left_out_end_training(tmp_path):
    """Those before an interruption count."""
    options = {"num_train_epochs": 3, "max_nan_steps": 2, "save_strategy": "epoch"}
    message = "In step 8 of 9 loss_align and loss_ce became NaN.*ended after 2 steps were left out .max_nan_steps."
    with pytest.raises(NonFiniteLoss, match=message):
        trained(tmp_path, with_nan(5), **options)
    again = AlignmentTrainer(aligned_model("timm-resnet"), arguments(tmp_path, **STEADY | options), with_nan(5))
    with pytest.raises(NonFiniteLoss, match="after 2 steps"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


class SpoilGradient(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        weight = next(model.projector.parameters())
        self.hook = weight.register_hook(lambda grad: grad * math.nan if state.global_step == 1 else grad)

    def on_step_end(self, args, state, control, **kwargs):
        self.hook.remove()


def test_a_gradient_that_is_no_number_is_left_out_though_the_loss_is_one(tmp_path, caplog):
    trainer = AlignmentTrainer(
        aligned_model("vit"),
        arguments(tmp_path, **STEADY, num_train_epochs=1, max_nan_steps=1),
        rows(12),
        callbacks=[SpoilGradient()],
    )
    trainer.train()
    assert "Step 2 of 3 is left out, 1 of max_nan_steps 1: the gradient NaN" in caplog.text
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_steps_cannot_be_left_out_where_training_goes_on_regardless(tmp_path):
    with pytest.raises(ValueError, match="max_nan_steps is 2, but stop_on_nan is false"):
        arguments(tmp_path, max_nan_steps=2, stop_on_nan=False)


def test_alignment_that_is_only_measured_does_not_end_a_baseline(tmp_path):
    trainer = trainer_of(tmp_path, callbacks=[Spoil(3, "projector")], align_weight=0.0)
    trainer.train()
    assert trainer.state.global_step == 6
    assert math.isnan([entry for entry in trainer.state.log_history if "loss_align" in entry][-1]["loss_align"])


def test_looking_for_nan_does_not_wait_for_the_device():
    """Reading a number back is `_local_scalar_dense`, whether by `.item()`, `bool()` or `.tolist()`."""
    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    check = LossCheck()
    with Watch():
        check.note("loss_ce", torch.tensor(1.0), 1)
        check.note("loss_ce", torch.tensor(math.inf), 2)
        check.note("loss_ce", torch.tensor(math.nan), 3)
        check.note("cosine_positive", torch.tensor(math.nan), 1)
    assert any("isfinite" in name or "abs" in name for name in called)
    assert not any("_local_scalar_dense" in name for name in called)
    assert {name: step.item() for name, step in check.first_steps.items()} == {"loss_ce": 2}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    command = [ACCELERATE, "launch", *TWO_PROCESSES, str(ROOT / "tests" / "workers" / "terms_of_processes.py")]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], done.stdout.splitlines()


@pytest.mark.slow
def test_all_processes_report_the_same_terms_and_one_shows_them(processes):
    folder, found, lines = processes
    assert [sorted(entry) for entry in found[0]["history"]] == [sorted(entry) for entry in found[1]["history"]]
    logged = [[entry for entry in process["history"] if "loss" in entry] for process in found]
    assert all(set(entry) >= NAMES for entry in logged[0]) and len(logged[0]) == 4
    for name in NAMES:
        assert [entry[name] for entry in logged[0]] == pytest.approx([entry[name] for entry in logged[1]], abs=1e-6)
    assert sum(line.startswith("epoch 0.5/2  step 1/4") for line in lines) == 1
    assert len(list((folder / "whole" / TENSORBOARD_DIR).iterdir())) == 1


@pytest.mark.slow
def test_a_nan_on_one_process_ends_all(processes):
    """The gradient carries it to the other at once, so that both losses are lost in the next step; who was first?"""
    errors = {process["error"] for process in processes[1]}
    (error,) = errors
    assert error.startswith("In step 2 of 4 the term loss_align became NaN")
    assert [path.name for path in (processes[0] / "spoiled").iterdir()] == ["nan_batch.json"]


@pytest.mark.slow
def test_all_processes_leave_out_the_same_step(processes):
    """The row that is no number was on the first alone."""
    (steps, first), (_, second) = (process["left_out"] for process in processes[1])
    assert steps == 1 and first == second and all(math.isfinite(value) for value in first)


# --- Times, summary, dry run -----------------------------------------------------------------------------------------


class Slow(torch.utils.data.Dataset):
    """Every row takes 20 ms."""

    def __init__(self, items: list[dict]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict:
        import time

        time.sleep(0.02)
        return self.items[row]


def test_times_are_divided_among_data_steps_evaluation_and_saving(tmp_path):
    trainer = trainer_of(tmp_path / "my run", save_strategy="epoch")
    trainer.train_dataset = Slow(trainer.train_dataset)
    result = trainer.train()
    watch, metrics = trainer.stopwatch, trainer.stopwatch.metrics()
    assert 0.4 <= metrics["train_data_seconds"] < watch.total  # 20 rows
    assert min(metrics[f"train_{part}_seconds"] for part in ("step", "evaluation", "saving")) > 0
    assert watch.total == pytest.approx(result.metrics["train_runtime"], abs=0.3)
    evaluations = [entry["eval_runtime"] for entry in trainer.state.log_history if "eval_runtime" in entry]
    assert metrics["train_evaluation_seconds"] == pytest.approx(sum(evaluations), abs=0.1)
    busy = metrics["train_data_seconds"] + metrics["train_step_seconds"]
    assert metrics["train_images_per_second"] == pytest.approx(20 / busy, rel=0.01)
    assert metrics["train_resumed_from_step"] == 0
    assert f"g4i evaluate --run '{tmp_path}/my run'\n" in summary_of_run(trainer, ["vit"], result.metrics)


@pytest.mark.parametrize(
    "options, steps, saved",
    [
        ({"num_train_epochs": 5, "save_strategy": "epoch"}, 15, "5 checkpoints, of which the last 2 are kept"),
        ({"max_steps": 7, "save_strategy": "steps", "save_steps": 7}, 7, "1 checkpoints"),
        ({"num_train_epochs": 4, "gradient_accumulation_steps": 2}, 8, "no checkpoints"),
        (
            {"num_train_epochs": 4, "lr_scheduler_type": "timm:cosine", "lr_scheduler_kwargs": {"cooldown_epochs": 3}},
            12,
            "no checkpoints",
        ),
    ],
)
def test_a_plan_counts_what_training_would_do(tmp_path, capsys, options, steps, saved):
    args = arguments(tmp_path / "run", per_device_train_batch_size=4, **options)
    (tmp_path / "trial").mkdir()
    trial = trial_arguments(args, str(tmp_path / "trial"))
    trainer = AlignmentTrainer(aligned_model("vit"), trial, train_dataset=rows(10))
    plan = plan_of(trainer, args)
    assert plan["Steps"][0].startswith(f"{steps}: ") and " images a step" in plan["Steps"][0]
    assert plan["Run"] == [f"{tmp_path}/run: {saved}"] and " s a step" in plan["Time"][0]
    assert trainer.state.global_step == TIMED_STEPS
    assert not (tmp_path / "run").exists() and list((tmp_path / "trial").iterdir()) == []
    assert capsys.readouterr().out == ""
    real = AlignmentTrainer(aligned_model("vit"), args, train_dataset=rows(10))
    real.args.save_strategy = "no"
    real.train()
    assert real.state.global_step == steps


@pytest.mark.parametrize(
    "options, message, number",
    [
        ({"lr_scheduler_type": "timm:cosine", "lr_scheduler_kwargs": {"cooldown_epochs": 3}}, "cool-down", 10),
        (
            {"num_train_epochs": 9},
            "a batch of a single image",
            29,
        ),  # in the eighth step, which the trial does not reach
    ],
)
def test_a_plan_refuses_what_training_would_refuse(tmp_path, options, message, number):
    args = arguments(tmp_path / "run", per_device_train_batch_size=4, **{"num_train_epochs": 3} | options)
    trainer = AlignmentTrainer(
        aligned_model("vit", projector_norm="batch"),
        trial_arguments(args, str(tmp_path)),
        train_dataset=rows(number),
    )
    with pytest.raises(ValueError, match=message):
        plan_of(trainer, args)


def test_a_dry_run_writes_nothing_and_the_run_does_what_it_said(tmp_path, monkeypatch, capsys):
    split = load_dataset(str(ROOT / "recipes" / "emoji_styles"), split="validation").select(range(40))
    for name in ("train", "validation"):
        split.to_parquet(tmp_path / "data" / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    command = ["train", "--dataset_name", "data", "--output_dir", "runs/mine", "--use_cpu", "true", "--image_size"]
    command += ["32", "--student_args", '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}', "--max_steps", "3"]
    command += ["--text_encoder", "sentence-transformers/all-MiniLM-L6-v2", "--per_device_train_batch_size", "16"]
    command += ["--align_text_bank", "8", "--align_center", "true"]  # these need all texts
    main([*command, "--dry_run", "true"])
    said = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    different = len(set(split["caption"][:]))
    assert f"{different} different captions would be embedded first" in said and "3: 1 epochs of 3 steps" in said
    described = said.split("Would train")[1].split("Captions")[0].strip()
    assert "resnet50, " in described and "40 images of 58 classes, 100% with a caption" in described

    main(command)
    did = capsys.readouterr().out
    assert did.split("Trained ")[1].strip().startswith(described)
    assert "g4i evaluate --run runs/mine" in did
    results = json.loads((tmp_path / "runs" / "mine" / "all_results.json").read_text())
    assert {"train_data_seconds", "train_images_per_second"} <= set(results)
    assert f"validation: accuracy {results['validation_accuracy']:.1%}" in did
    assert "dry_run" not in (tmp_path / "runs" / "mine" / "train.yaml").read_text()
