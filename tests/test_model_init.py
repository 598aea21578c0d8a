"""`model_init` and `hyperparameter_search`: a new model, with the options of its trial, each time."""

import json

import pytest
import timm
import torch
from datasets import Dataset, DatasetDict
from optuna.samplers import GridSampler
from students import aligned_model
from tiny_training import TEXT_DIM, arguments, first_log, rows, same, train
from transformers import ViTConfig, ViTForImageClassification

from g4i_hf import AlignedImageClassification, AlignmentTrainer
from g4i_hf.training.checkpoint import newest_checkpoint

STEPS = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.01}


def vit() -> AlignedImageClassification:
    return aligned_model("vit", TEXT_DIM)


def test_each_training_has_a_new_model_that_is_prepared_as_the_first(tmp_path):
    """A temperature to learn, the frozen backbone, and the average; training again gives the same."""
    options = STEPS | {"align_loss": "siglip", "freeze_backbone": True, "ema_decay": 0.5}
    trainer = AlignmentTrainer(args=arguments(tmp_path, **options), train_dataset=rows(), model_init=vit)
    first = trainer.model
    trainer.train()
    second = trainer.model
    trainer.train()
    assert len({id(model) for model in (first, second, trainer.model)}) == 3
    assert same(second.state_dict(), trainer.model.state_dict())
    assert not same(first.state_dict(), trainer.model.state_dict()) and trainer.ema.student is trainer.model.student
    torch.manual_seed(trainer.args.seed)
    given = train(tmp_path / "given", vit(), rows(), **options)
    assert same(given.model.state_dict(), trainer.model.state_dict())
    assert same(given.ema.averaged.state_dict(), trainer.ema.averaged.state_dict())


SPACE = {
    "align_weight": [0.0, 0.7],
    "learning_rate": [0.01, 0.05],  # which an optimizer of timm is made with
    "align_loss": ["clip", "siglip"],
    "mixup_alpha": [0.0, 0.8],
    "ema_decay": [0.5, 0.9],
}


@pytest.mark.parametrize("name", [*SPACE][:2] + [pytest.param(name, marks=pytest.mark.slow) for name in [*SPACE][2:]])
def test_a_trial_trains_with_its_options(tmp_path, name):
    """As a training with that option from the start; its checkpoints are in a folder of its own."""
    data, models, options = rows(), [], STEPS | {"ema_decay": 0.5, "optim": "timm:lamb"}

    def model_init(trial) -> AlignedImageClassification:
        models.append(vit())
        return models[-1]

    args = arguments(tmp_path, **options, save_strategy="steps", save_steps=2)
    trainer = AlignmentTrainer(args=args, train_dataset=data, eval_dataset=data, model_init=model_init)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {name: trial.suggest_categorical(name, SPACE[name])},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=2,
        sampler=GridSampler({name: SPACE[name]}, seed=0),
    )
    assert best.hyperparameters[name] in SPACE[name] and best.objective > 0
    for number, model in enumerate(models[1:]):
        run = tmp_path / f"run-{number}"
        history = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
        option = {name: history["trial_params"][name]}
        torch.manual_seed(args.seed)
        given = train(tmp_path / f"given-{number}", vit(), data, **options | option)
        assert same(given.model.state_dict(), model.state_dict()), option
        assert first_log(given)["loss"] == history["log_history"][0]["loss"]
        assert newest_checkpoint(run) == str(run / "checkpoint-2")
    assert len(models) == 3 and same(models[1].state_dict(), models[2].state_dict()) == (name == "ema_decay")


TINY = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
WRONG = {
    "nothing": (lambda: None, "model is None"),
    "a configuration": (lambda: TINY, "model is a ViTConfig"),
    "a plain model": (lambda: ViTForImageClassification(TINY), "model is a ViTForImageClassification"),
    "timm's": (lambda: timm.create_model("resnet18"), "model is a ResNet"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_object_is_told_by_its_kind(tmp_path, name):
    make, says = WRONG[name]
    for given in ({"model": make()}, {"model_init": make})[: 1 if name == "nothing" else 2]:
        with pytest.raises(TypeError, match=f"{says}: give an AlignedImageClassification.*or the name of a student"):
            AlignmentTrainer(args=arguments(tmp_path), train_dataset=rows(), **given)


@pytest.mark.parametrize(
    "data", ["pictures", DatasetDict(), Dataset.from_dict({"image": [1]}).to_iterable_dataset(), [{"image": 1}]]
)
def test_data_that_are_no_rows_are_told_by_their_kind(tmp_path, data):
    with pytest.raises(TypeError, match=f"train_dataset is a {type(data).__name__}: give one split"):
        AlignmentTrainer(vit(), arguments(tmp_path), data)
    with pytest.raises(ValueError, match="no train_dataset"):
        AlignmentTrainer(vit(), arguments(tmp_path)).train()
