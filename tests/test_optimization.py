"""Optimizers, groups of parameters, frozen backbones; averages, the best checkpoint; modes of training."""

import pytest
import timm.optim
import torch
from safetensors.torch import load_file
from students import aligned_model
from tiny_training import TEXT_DIM, StopAfter, one_step, rows, same
from tiny_training import arguments as tiny_arguments
from torch import nn
from transformers import AutoModelForImageClassification, Trainer

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
        ({"optim": "sgd", "optim_args": "momentum=0.3,nesterov=True"}, {"momentum": 0.3, "nesterov": True}),
        ({"optim": "timm:lamb", "optim_args": "betas=(0.8, 0.95)"}, {"eps": 1e-6, "betas": (0.8, 0.95)}),
    ],
)
def test_an_optimizer_has_its_own_defaults_and_what_was_changed(tmp_path, options, expected):
    optimizer = trainer_of(tmp_path, "timm-vit", weight_decay=0.1, **options).create_optimizer()
    assert type(optimizer) is (timm.optim.Lamb if "lamb" in options["optim"] else torch.optim.SGD)
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


@pytest.mark.parametrize("name", ["timm-mobilenetv3", "resnet", "timm-vit", "timm-convnext"])
def test_frozen_norm_statistics_stay_while_all_parameters_train(tmp_path, name):
    """Also with accumulated gradients and after a resume, which give the same bits; layer norms have no statistics."""
    options = {"freeze_norm_statistics": True, "align_weight": 0.3, "gradient_accumulation_steps": 2, "max_steps": 2}
    options |= {"save_strategy": "steps", "save_steps": 1, "learning_rate": 0.1}
    whole = trainer_of(tmp_path / "whole", name, **options)
    before = {key: tensor.clone() for key, tensor in whole.model.state_dict().items()}
    whole.train()
    after = whole.model.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert not [key for key in moved if "running_" in key or "num_batches" in key]
    norms = [key for key in before if f"{key.rpartition('.')[0]}.running_var" in before and key.endswith(".weight")]
    assert {*norms} <= moved and bool(norms) == (name in ("timm-mobilenetv3", "resnet"))
    trainer_of(tmp_path / "part", name, callbacks=[StopAfter(1)], **options).train()
    resumed = trainer_of(tmp_path / "part", name, **options)
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed.model.state_dict(), after)


# --- The average and the best checkpoint -----------------------------------------------------------------------------

BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1}
BEST |= {"save_steps": 1, "per_device_train_batch_size": 8, "optim": "sgd", "save_total_limit": 1, "max_steps": 6}
ACCURACIES = [0.2, 0.6, 0.4, 0.5, 0.1, 0.3]  # of steps 1, 2, ...: the best is step 2


def test_the_average_is_of_parameters_and_buffers_and_begins_after_the_first_step(tmp_path):
    options = {"ema_decay": 0.7, "lr_scheduler_type": "constant"}
    one, two = (trainer_of(tmp_path / str(steps), "timm-resnet", max_steps=steps, **options) for steps in (1, 2))
    for trainer in (one, two):
        trainer.train()
    first, second = (trainer.model.student.state_dict() for trainer in (one, two))
    assert same(one.ema.averaged.state_dict(), first)
    for key, tensor in two.ema.averaged.state_dict().items():
        mean = 0.7 * first[key] + 0.3 * second[key] if tensor.is_floating_point() else second[key]
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-7, msg=key)


def test_the_best_weights_are_loaded_and_saved_with_their_average(tmp_path):
    torch.manual_seed(0)
    found = iter(ACCURACIES)
    args = arguments(tmp_path, **BEST, metric_for_best_model="accuracy", ema_decay=0.7, learning_rate=0.1)
    given = {"eval_dataset": rows(4), "compute_metrics": lambda _: {"accuracy": next(found)}}
    trainer = AlignmentTrainer(aligned_model("timm-resnet"), args, rows(), **given)
    trainer.train()
    assert trainer.state.global_step == 6
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-2"]
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
    trainer = trainer_of(tmp_path, "timm-resnet", ema_decay=0.5, max_steps=3)
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


@pytest.mark.parametrize("name", ["timm-vit", "vit", "deit-two-heads", "swin"])
def test_recomputed_gradients_are_the_same(tmp_path, name):
    torch.manual_seed(0)
    model, calls = aligned_model(name).double(), []
    for module in model.student.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    data, options = rows(4, torch.float64), {"per_device_train_batch_size": 4}
    kept, expected = one_step(tmp_path, model, data, **options)
    once = len(calls)
    recomputed, change = one_step(tmp_path, model, data, activation_checkpointing=True, **options)
    assert len(calls) > 2 * once and losses(kept) == losses(recomputed)
    torch.testing.assert_close(change, expected, rtol=1e-10, atol=1e-14)
    assert expected.any()


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_resumes_and_is_released(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "sgd"}
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    plain = trainer_of(tmp_path / "plain", "vit", **options)
    plain.train()
    trainer_of(tmp_path / "run", "vit", [StopAfter(2)], **options | compiled).train()
    trainer = trainer_of(tmp_path / "run", "vit", seed_of_model=1, **options | compiled)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert len(losses(plain)) == 4 and losses(trainer) == pytest.approx(losses(plain), rel=1e-5)
    trainer.save_run()
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    student = AutoModelForImageClassification.from_pretrained(release_student(tmp_path / "run"))
    for key, tensor in plain.model.student.state_dict().items():
        torch.testing.assert_close(student.state_dict()[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
