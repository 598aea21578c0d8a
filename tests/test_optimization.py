"""Optimizers, groups of parameters and frozen backbones; timm's own functions are the reference."""

import pytest
import timm.optim
import torch
from students import ID2LABEL, STUDENTS, aligned_model
from tiny_training import TEXT_DIM, rows
from tiny_training import arguments as tiny_arguments
from transformers import Trainer

from g4i_hf import AlignedImageClassification
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
        ({"optim": "adamw_torchy"}, "optim is 'adamw_torchy'.*adamw_torch"),
        ({"optim": "timm:lambb"}, "optim is timm:lambb.*Did you mean 'timm:lamb'"),
        ({"optim": "timm:adahessian"}, "timm:adahessian, which timm does not have"),
        ({"optim": "timm:lamb", "adam_beta2": 0.95}, "adam_beta2 is set, but timm:lamb.*optim_args"),
        ({"optim": "timm:lamb", "optim_args": "eps=1e-5 0.9"}, "optim_args is 'eps=1e-5 0.9'.*Write name=value"),
        ({"optim": "timm:lion", "optim_args": "speed=3"}, "optim_args is 'speed=3', which timm:lion does not take"),
        ({"lr_scheduler_type": "timm:cosine"}, "lr_scheduler_type is 'timm:cosine'.*cosine"),
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
