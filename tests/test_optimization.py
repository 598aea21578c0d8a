"""Optimizers, groups of parameters, frozen backbones; averages, the best checkpoint; modes of training."""

import copy
from pathlib import Path

import pytest
import timm.optim
import torch
from safetensors.torch import load_file
from students import ID2LABEL, STUDENTS, aligned_model
from tiny_training import ONE_STEP, TEXT_DIM, StopAfter, rows, same, train
from tiny_training import arguments as tiny_arguments
from torch import nn
from transformers import AutoModelForImageClassification, Trainer, TrainerCallback

from g4i_hf import AlignedImageClassification
from g4i_hf.evaluation.predict import load_run
from g4i_hf.hub import release_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.modeling.student import classifier_layers
from g4i_hf.training import AlignmentArguments, AlignmentTrainer

LEARNING_RATE = 0.01


def arguments(folder, **options) -> AlignmentArguments:
    return tiny_arguments(folder, **{"learning_rate": LEARNING_RATE, "per_device_train_batch_size": 4} | options)


def trainer_of(folder, name: str, callbacks=None, data=None, seed_of_model: int = 0, **options) -> AlignmentTrainer:
    torch.manual_seed(seed_of_model)
    model = aligned_model(name, TEXT_DIM)
    return AlignmentTrainer(model, arguments(folder, **options), data or rows(), callbacks=callbacks)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"optim": "sgd"}, {"momentum": 0.9, "nesterov": False}),
        ({"optim": "sgd", "sgd_momentum": 0.5}, {"momentum": 0.5}),
        ({"optim": "sgd", "optim_args": "momentum=0.3,nesterov=True"}, {"momentum": 0.3, "nesterov": True}),
        ({"optim": "timm:lamb", "optim_args": "betas=(0.8, 0.95)"}, {"eps": 1e-6, "betas": (0.8, 0.95)}),
        ({"optim": "timm:momentum"}, {"momentum": 0.9, "nesterov": False}),
    ],
)
def test_an_optimizer_has_its_own_defaults_and_what_was_changed(tmp_path, options, expected):
    optimizer = trainer_of(tmp_path, "timm-vit", weight_decay=0.1, **options).create_optimizer()
    if options["optim"].startswith("timm:"):
        name = options["optim"].removeprefix("timm:")
        assert type(optimizer) is timm.optim.get_optimizer_class(name, bind_defaults=False)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for group in optimizer.param_groups:
        assert group["lr"] == LEARNING_RATE and {option: group[option] for option in expected} == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optim": "timm:lamb", "adam_beta2": 0.95}, "adam_beta2 is set, but timm:lamb.*optim_args"),
        ({"optim": "timm:lion", "optim_args": "speed=3"}, "optim_args is 'speed=3', which timm:lion does not take"),
        ({"layer_decay": 0.5}, "layer_decay is set, but ViTForImageClassification is no student of timm's"),
    ],
)
def test_what_timm_does_not_have_is_an_error_that_names_the_remedy(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, "vit", **options).create_optimizer()


@pytest.mark.parametrize(
    "name, optim", [("vit", "adamw_torch"), ("timm-vit", "timm:lamb"), ("swin", "timm:lamb"), ("resnet", "sgd")]
)
def test_weight_decay_is_on_what_was_asked_for(tmp_path, name, optim):
    """Never on a learned temperature and bias."""
    found = {}
    for rule in ("trainer", "matrices", "all"):
        options = {"align_loss": "siglip", "weight_decay": 0.1, "weight_decay_on": rule, "optim": optim}
        trainer = trainer_of(tmp_path, name, **options)
        groups = trainer.create_optimizer().param_groups
        decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
        assert set(decays) == set(trainer.model.parameters())
        found[rule] = {key for key, parameter in trainer.model.named_parameters() if decays[parameter]}
    model = aligned_model(name, TEXT_DIM)
    everything = dict(model.named_parameters())
    assert found["all"] == set(everything)
    assert found["trainer"] == set(Trainer.get_decay_parameter_names(None, model))
    matrices = {key for key, parameter in everything.items() if parameter.ndim >= 2}
    embeddings = ("cls_token", "pos_embed", "position_embeddings", "relative_position_bias_table")
    exempt = {key for key in matrices if key.endswith(embeddings)}
    assert found["matrices"] == matrices - exempt and bool(exempt) == (name != "resnet")


@pytest.mark.parametrize("name", ["timm-vit", "timm-resnet", "timm-convnext", "timm-efficientnet"])
def test_layer_decay_is_timms_and_every_parameter_has_one_group(tmp_path, name):
    trainer = trainer_of(tmp_path, name, layer_decay=0.5, weight_decay=0.1)
    model, optimizer = trainer.model, trainer.create_optimizer()
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) and set(listed) == set(model.parameters())
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    expected = dict.fromkeys(model.projector.parameters(), LEARNING_RATE)
    for group in timm.optim.param_groups_layer_decay(model.student.timm_model, layer_decay=0.5):
        expected |= dict.fromkeys(group["params"], LEARNING_RATE * group["lr_scale"])
    assert rates == pytest.approx(expected) and optimizer.param_groups[0]["lr"] == LEARNING_RATE
    heads = {rates[parameter] for layer in classifier_layers(model.student) for parameter in layer.parameters()}
    assert heads == {LEARNING_RATE} and len(set(rates.values())) > 2


@pytest.mark.parametrize("name, align_weight", [("timm-resnet", 0.3), ("vit", 0.0), ("deit-two-heads", 0.3)])
def test_a_frozen_backbone_stays_exactly_as_it_was(tmp_path, name, align_weight):
    """Parameters and running statistics; what is trained, moves."""
    options = {"freeze_backbone": True, "align_weight": align_weight, "max_steps": 3, "weight_decay": 0.1}
    trainer = trainer_of(tmp_path, name, **options)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    trainer.train()
    learning = {parameter for layer in classifier_layers(trainer.model.student) for parameter in layer.parameters()}
    if align_weight:
        learning |= set(trainer.model.projector.parameters())
    expected = {key for key, parameter in trainer.model.named_parameters() if parameter in learning}
    moved = {key for key, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == expected and expected


def test_frozen_features_are_not_dropped_out(tmp_path):
    student, student_args = STUDENTS["timm-vit"]
    student_args = student_args | {"drop_rate": 0.5, "pos_drop_rate": 0.5, "drop_path_rate": 0.5}
    build = {"id2label": ID2LABEL, "text_embed_dim": TEXT_DIM, "student_args": student_args, "image_size": 48}
    model = AlignedImageClassification.from_student(student, **build)
    pixels = torch.stack([row["pixel_values"] for row in rows(4)])
    assert not torch.equal(*(model.train()(pixels).image_embeds for _ in range(2)))
    AlignmentTrainer(model, arguments(tmp_path, freeze_backbone=True), rows())
    assert torch.equal(*(model.train()(pixels).image_embeds for _ in range(2)))
    assert model.projector.training and all(layer.training for layer in classifier_layers(model.student))


# --- The average and the best checkpoint -----------------------------------------------------------------------------

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


# --- Modes change how, not what, is learned --------------------------------------------------------------------------


def losses(trainer: AlignmentTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def step(folder, model, **options) -> tuple[AlignmentTrainer, int]:
    """One step of a copy, and how often the norms of the student ran."""
    model, calls = copy.deepcopy(model), []
    for module in model.student.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer = train(folder, model, rows(4, torch.float64), per_device_train_batch_size=4, **ONE_STEP | options)
    return trainer, len(calls)


@pytest.mark.parametrize("name", ["timm-vit", "vit", "deit-two-heads", "swin"])
def test_recomputed_gradients_are_the_same(tmp_path, name):
    torch.manual_seed(0)
    model = aligned_model(name).double()
    kept, calls = step(tmp_path, model)
    recomputed, more_calls = step(tmp_path, model, activation_checkpointing=True)
    assert more_calls > calls and losses(kept) == losses(recomputed)
    before, ours, expected = model.state_dict(), recomputed.model.state_dict(), kept.model.state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-10, atol=1e-14, msg=key)
    assert any(not torch.equal(before[key], tensor) for key, tensor in expected.items())


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_resumes_and_is_released(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "sgd", "ema_decay": 0.5}
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    plain = trainer_of(tmp_path / "plain", "vit", **options)
    plain.train()
    trainer_of(tmp_path / "run", "vit", [StopAfter(2)], **options | compiled).train()
    trainer = trainer_of(tmp_path / "run", "vit", seed_of_model=1, **options | compiled)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert type(trainer.model_wrapped).__name__ == "OptimizedModule"
    assert len(losses(plain)) == 4 and losses(trainer) == pytest.approx(losses(plain), rel=1e-5)

    trainer.save_run()
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    for file in ("model.safetensors", "checkpoint-4/model.safetensors", "checkpoint-4/ema.safetensors"):
        plain_file = tmp_path / "plain" / "checkpoint-4" / Path(file).name
        assert set(load_file(tmp_path / "run" / file)) == set(load_file(plain_file))
    student = AutoModelForImageClassification.from_pretrained(release_student(tmp_path / "run"))
    for key, tensor in plain.model.student.state_dict().items():
        torch.testing.assert_close(student.state_dict()[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
