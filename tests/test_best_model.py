"""The moving average of the weights, the best checkpoint, early stopping."""

import pytest
import torch
from safetensors.torch import load_file
from students import aligned_model
from test_optimization import arguments
from tiny_training import StopAfter, rows, same
from transformers import AutoModelForImageClassification, TrainerCallback

from g4i_hf.evaluation.predict import load_run
from g4i_hf.hub.release import release_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
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
    model, args = aligned_model(name), arguments(folder, **BEST | options)
    return Rigged(model, args, rows(), eval_dataset=rows(4), compute_metrics=lambda _: {}, callbacks=callbacks)


class States(TrainerCallback):
    """The student after every step."""

    def __init__(self):
        self.found: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.found.append({key: tensor.clone() for key, tensor in model.student.state_dict().items()})


@pytest.mark.parametrize("name", ["timm-resnet", "vit"])
def test_the_best_weights_are_loaded_and_saved_with_their_average(tmp_path, name):
    """The average is that of parameters and buffers, and begins with the student after the first step."""
    states = States()
    options = {"metric_for_best_model": "accuracy", "ema_decay": 0.7, "learning_rate": 0.1}
    trainer = rigged(tmp_path, name, [states], **options)
    trainer.train()
    assert trainer.state.global_step == len(states.found) == 6 and trainer.state.best_global_step == 2
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-2"]
    first, best, *_, last = states.found
    assert same(trainer.model.student.state_dict(), best) and not same(best, last)
    averaged = trainer.ema.averaged.state_dict()
    for key, tensor in best.items():
        expected = 0.7 * first[key] + 0.3 * tensor if tensor.is_floating_point() else tensor
        torch.testing.assert_close(averaged[key], expected, rtol=1e-5, atol=1e-7, msg=key)

    trainer.save_run()
    for file in ("model.safetensors", "ema.safetensors"):
        assert same(load_file(tmp_path / file), load_file(tmp_path / "checkpoint-2" / file))
    assert same(type(trainer.model).from_pretrained(tmp_path).state_dict(), trainer.model.state_dict())


def test_training_stops_when_nothing_gets_better_also_after_an_interruption(tmp_path):
    """A run that is resumed knows how long it has waited."""
    rigged(tmp_path, callbacks=[StopAfter(3)], early_stopping_patience=2, save_total_limit=3).train()
    trainer = rigged(tmp_path, early_stopping_patience=2, save_total_limit=3)
    assert trainer.args.metric_for_best_model == "accuracy" and trainer.args.greater_is_better
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"eval_strategy": "no"}, "early_stopping_patience is 3, but eval_strategy is no: set it"),
        ({"load_best_model_at_end": False}, "load_best_model_at_end is false: set it to true"),
        ({}, "metric_for_best_model is accuracy.*accuracy_of_logits"),
    ],
)
def test_patience_without_anything_to_wait_for_says_what_to_set(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        args = arguments(tmp_path, **BEST | {"early_stopping_patience": 3} | changes)
        AlignmentTrainer(aligned_model("vit"), args, rows(), eval_dataset=rows(4))


def test_an_average_that_deepspeed_would_lose_is_refused(tmp_path, monkeypatch):
    """DeepSpeed itself is not needed for it: what Trainer found out when it made the accelerator is enough."""
    create = AlignmentTrainer.create_accelerator_and_postprocess

    def found_deepspeed(trainer: AlignmentTrainer) -> None:
        create(trainer)
        trainer.is_deepspeed_enabled = True

    monkeypatch.setattr(AlignmentTrainer, "create_accelerator_and_postprocess", found_deepspeed)
    with pytest.raises(ValueError, match="ema_decay is 0.9, but with DeepSpeed the average would start anew"):
        AlignmentTrainer(aligned_model("vit"), arguments(tmp_path, ema_decay=0.9), None)


def test_the_average_is_what_is_evaluated_and_released_on_request(tmp_path):
    trainer = rigged(tmp_path, load_best_model_at_end=False, save_strategy="no", ema_decay=0.5)
    trainer.train()
    trainer.save_run()
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path)
    raw, averaged = trainer.model.student.state_dict(), trainer.ema.averaged.state_dict()
    assert any("running_mean" in key and not torch.equal(raw[key], averaged[key]) for key in raw)
    for weights, expected in (("raw", raw), ("ema", averaged)):
        model, _ = load_run(tmp_path, weights)
        assert same(model.student.state_dict(), expected) and not model.training
        assert same(model.projector.state_dict(), trainer.model.projector.state_dict())
        student = AutoModelForImageClassification.from_pretrained(release_student(tmp_path, weights=weights))
        assert same(student.state_dict(), expected)
