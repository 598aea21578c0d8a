"""The best checkpoint, early stopping, and the moving average that belongs to them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from students import aligned_model
from test_optimization import StopAfter, arguments, rows
from transformers import AutoModelForImageClassification

from g4i_hf.evaluation.comparison import ComparisonRow
from g4i_hf.evaluation.predict import load_run
from g4i_hf.hub.card import Student, student_card
from g4i_hf.hub.release import release_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.options import EvaluateArguments, ReleaseArguments
from g4i_hf.training import AlignmentTrainer

BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1}
BEST |= {"save_steps": 1, "per_device_train_batch_size": 8, "optim": "sgd", "save_total_limit": 1, "max_steps": 6}
ACCURACIES = [0.2, 0.6, 0.4, 0.5, 0.1, 0.3]  # of steps 1, 2, ...: the best is step 2


class Rigged(AlignmentTrainer):
    """An evaluation finds the accuracy that it is told, by step."""

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        output.metrics["eval_accuracy"] = ACCURACIES[self.state.global_step - 1]
        return output


def rigged(folder, name: str = "timm-resnet", callbacks=None, **options) -> Rigged:
    torch.manual_seed(0)
    model, args = aligned_model(name, 12), arguments(folder, **BEST | options)
    return Rigged(model, args, rows(), eval_dataset=rows(4), compute_metrics=lambda _: {}, callbacks=callbacks)


def states_by_step(folder, name: str, **options) -> dict[int, tuple[dict, dict]]:
    """step -> student and average after it, in a run that stops there."""
    found = {}
    for step in (2, 4):
        trainer = rigged(folder / str(step), name, [StopAfter(step)], **options)
        trainer.args.load_best_model_at_end = False
        trainer.train()
        found[step] = (trainer.model.state_dict(), trainer.ema.averaged.state_dict())
    return found


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", [pytest.param("timm-resnet", marks=pytest.mark.slow), "vit"])
def test_the_best_weights_are_loaded_and_saved_with_their_average(tmp_path, name):
    options = {"metric_for_best_model": "accuracy", "ema_decay": 0.5, "learning_rate": 0.1}
    trainer = rigged(tmp_path / "run", name, **options)
    trainer.train()
    at_step = states_by_step(tmp_path, name, **options)
    assert not same(at_step[2][0], at_step[4][0]) and not same(at_step[2][1], at_step[4][1])
    assert trainer.state.global_step == 6 and trainer.state.best_global_step == 2
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-2")
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-2"]
    assert same(trainer.model.state_dict(), at_step[2][0])
    assert same(trainer.ema.averaged.state_dict(), at_step[2][1])

    trainer.save_model()
    trainer.ema.save(tmp_path / "run")
    for file in ("model.safetensors", "ema.safetensors"):
        assert same(load_file(tmp_path / "run" / file), load_file(tmp_path / "run" / "checkpoint-2" / file))
    saved = type(trainer.model).from_pretrained(tmp_path / "run")
    assert same(saved.state_dict(), at_step[2][0])


def test_training_stops_when_nothing_gets_better(tmp_path):
    trainer = rigged(tmp_path, early_stopping_patience=2)
    assert trainer.args.metric_for_best_model == "accuracy" and trainer.args.greater_is_better
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2


@pytest.mark.slow
def test_a_resumed_run_knows_how_long_it_has_waited(tmp_path):
    rigged(tmp_path, callbacks=[StopAfter(3)], early_stopping_patience=2, save_total_limit=3).train()
    trainer = rigged(tmp_path, early_stopping_patience=2, save_total_limit=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2


@pytest.mark.parametrize("metric, better", [(None, True), ("loss", False), ("eval_loss", False)])
def test_a_metric_that_is_named_is_kept(tmp_path, metric, better):
    args = arguments(tmp_path, **BEST, early_stopping_patience=1, metric_for_best_model=metric)
    assert args.metric_for_best_model == (metric or "accuracy") and args.greater_is_better == better


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"eval_strategy": "no"}, "early_stopping_patience is 3, but eval_strategy is no: set it"),
        ({"load_best_model_at_end": False}, "load_best_model_at_end is false: set it to true"),
    ],
)
def test_patience_without_evaluation_says_what_to_set(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **BEST | {"early_stopping_patience": 3} | changes)


def test_a_metric_that_nothing_computes_is_an_error(tmp_path):
    args = arguments(tmp_path, **BEST, early_stopping_patience=3)
    with pytest.raises(ValueError, match="metric_for_best_model is accuracy.*accuracy_of_logits"):
        AlignmentTrainer(aligned_model("vit", 12), args, rows(), eval_dataset=rows(4))


# --- The average, evaluated and released -----------------------------------------------------------------------------


@pytest.fixture(params=["timm-resnet", "resnet"])
def run_with_average(tmp_path, request):
    """A run folder as recipes/train.py leaves it, and its trainer."""
    trainer = rigged(
        tmp_path, request.param, **{"load_best_model_at_end": False, "save_strategy": "no"}, ema_decay=0.5
    )
    trainer.train()
    trainer.save_model()
    trainer.ema.save(tmp_path)
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path)
    return tmp_path, trainer


def test_the_average_is_what_is_evaluated_and_released_on_request(run_with_average):
    run, trainer = run_with_average
    raw, averaged = trainer.model.student.state_dict(), trainer.ema.averaged.state_dict()
    assert any("running_mean" in key and not torch.equal(raw[key], averaged[key]) for key in raw)
    for weights, expected in (("raw", raw), ("ema", averaged)):
        model, _ = load_run(run, weights)
        assert same(model.student.state_dict(), expected) and not model.training
        assert same(model.projector.state_dict(), trainer.model.projector.state_dict())
        student = AutoModelForImageClassification.from_pretrained(release_student(run, weights=weights))
        assert same(student.state_dict(), expected)


def test_a_run_without_average_says_so(tmp_path):
    aligned_model("vit", 12).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ema\.safetensors.*without ema_decay.*--weights raw"):
        release_student(tmp_path, weights="ema")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("kind", [EvaluateArguments, ReleaseArguments])
def test_other_weights_are_an_error(kind):
    assert kind(run="run").weights == "raw" and kind(run="run", weights="ema").weights == "ema"
    with pytest.raises(ValueError, match="weights is 'best'; choose one of raw, ema"):
        kind(run="run", weights="best")


def test_the_card_says_which_weights_these_are():
    of_run = {"architecture": "resnet18", "num_labels": 5, "num_parameters": 10, "options": {"ema_decay": 0.99}}
    sentence = "moving average over the training steps, with a decay of 0.99"
    assert sentence in student_card(Student(**of_run, weights="ema")).content
    assert "raw ones, not their moving average" in student_card(Student(**of_run)).content
    assert "moving average" not in student_card(Student(**of_run | {"options": {}})).content


def test_the_card_says_which_checkpoint_the_figures_are_of():
    of_run = {"architecture": "resnet18", "num_labels": 5, "num_parameters": 10}
    of_run["rows"] = [ComparisonRow("validation", "accuracy", 0.5)]
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    assert (
        "the checkpoint with the best accuracy on the evaluation"
        in student_card(Student(**of_run, options=best)).content
    )
    assert "seed 42, last epoch." in student_card(Student(**of_run, options={"align_weight": 0.3})).content


def test_the_cards_figures_are_those_of_the_released_weights(tmp_path, caplog):
    from g4i_hf.hub.figures import comparison

    results = {"test_samples": 4, "test_accuracy": 0.5, "test_weights": "ema"}
    results |= {"test_novel_samples": 4, "test_novel_accuracy": 0.25}  # as recipes/train.py has them: raw
    (tmp_path / "all_results.json").write_text(json.dumps(results))
    (tmp_path / "train.yaml").write_text("seed: 0\n")
    for weights, shown, missing in (("raw", "test_novel", "test"), ("ema", "test", "test_novel")):
        found = comparison(ReleaseArguments(run=str(tmp_path), baseline=str(tmp_path), weights=weights))
        assert [(row.split, row.aligned, row.baseline) for row in found] == [
            (shown, results[f"{shown}_accuracy"], results[f"{shown}_accuracy"])
        ]
        assert f"{missing} was not evaluated with the {weights} weights" in caplog.text
        caplog.clear()
