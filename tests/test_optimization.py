"""Optimizers, schedules, groups of parameters and frozen backbones; timm's own functions are the reference."""

import math

import pytest
import timm.optim
import torch
from students import ID2LABEL, STUDENTS, aligned_model
from timm.scheduler import create_scheduler_v2
from torch import nn
from transformers import Trainer, TrainerCallback

from g4i_hf.modeling.student import classifier_layers
from g4i_hf.training import AlignmentArguments, AlignmentTrainer
from g4i_hf.training.optimization import SCHEDULES, layer_factors, parse_optim_args

TEXT_DIM = 12
LEARNING_RATE = 0.01


def rows(n: int = 8, dtype: torch.dtype = torch.float32) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(n, 3, 48, 48, generator=generator).to(dtype)
    embeds = nn.functional.normalize(torch.randn(n, TEXT_DIM, generator=generator), dim=1).numpy()
    keys = ({"labels": i % len(ID2LABEL), "image_key": i, "caption_keys": i, "caption_weight": 1.0} for i in range(n))
    return [row | {"pixel_values": pixels[i], "text_embeds": embeds[i]} for i, row in enumerate(keys)]


def arguments(folder, **options) -> AlignmentArguments:
    common = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    common |= {"learning_rate": LEARNING_RATE, "per_device_train_batch_size": 4}
    return AlignmentArguments(str(folder), **common | options)


def trainer_of(folder, name: str, callbacks=None, data=None, seed_of_model: int = 0, **options) -> AlignmentTrainer:
    torch.manual_seed(seed_of_model)
    model = aligned_model(name, TEXT_DIM)
    return AlignmentTrainer(model, arguments(folder, **options), data or rows(), callbacks=callbacks)


class StopAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


# --- timm's optimizers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, optim_args, expected",
    [
        ("lamb", None, {"eps": 1e-6, "betas": (0.9, 0.999)}),
        ("lamb", "eps=1e-5,betas=(0.8,0.95),trust_clip=true", {"eps": 1e-5, "betas": (0.8, 0.95), "trust_clip": True}),
        ("nadamw", None, {"betas": (0.9, 0.999)}),
        ("momentum", None, {"momentum": 0.9, "nesterov": False}),
        ("sgdp", "momentum=0.5", {"momentum": 0.5}),
        ("adan", None, {"betas": (0.98, 0.92, 0.99)}),
        ("lookahead_lion", None, {"betas": (0.9, 0.99), "lookahead_k": 6}),
    ],
)
def test_timm_optimizer_is_built_over_our_groups_with_its_own_defaults(tmp_path, name, optim_args, expected):
    trainer = trainer_of(tmp_path, "timm-vit", optim=f"timm:{name}", optim_args=optim_args, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    kind = timm.optim.get_optimizer_class(name.removeprefix("lookahead_"), bind_defaults=False)
    assert type(getattr(optimizer, "_base_optimizer", optimizer)) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for group in optimizer.param_groups:
        assert group["lr"] == LEARNING_RATE
        assert {option: group[option] for option in expected} == expected


def test_adams_options_reach_timm_where_they_were_changed(tmp_path):
    options = {"adam_beta2": 0.95, "adam_epsilon": 1e-4}
    changed = trainer_of(tmp_path, "vit", optim="timm:lamb", **options).create_optimizer().param_groups[0]
    assert (changed["betas"], changed["eps"]) == ((0.9, 0.95), 1e-4)
    three_betas = trainer_of(tmp_path, "vit", optim="timm:adan", **options).create_optimizer().param_groups[0]
    assert (three_betas["betas"], three_betas["eps"]) == ((0.98, 0.92, 0.99), 1e-4)
    by_hand = trainer_of(tmp_path, "vit", optim="timm:lamb", optim_args="eps=1e-3", **options).create_optimizer()
    assert by_hand.param_groups[0]["eps"] == 1e-3


def test_optim_args_become_numbers_tuples_and_booleans():
    text = "eps=1e-6, betas=(0.9,0.95),caution=True,nesterov=false,k=3,decay=None,mode=fast"
    expected = {"eps": 1e-6, "betas": (0.9, 0.95), "caution": True, "nesterov": False, "k": 3}
    assert parse_optim_args(text) == expected | {"decay": None, "mode": "fast"}
    assert parse_optim_args(None) == parse_optim_args("") == {}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optim": "timm:lambb"}, "optim is timm:lambb.*Did you mean 'timm:lamb'"),
        ({"optim": "timm:lookahead_adamwx"}, "Did you mean 'timm:lookahead_adamw'"),
        ({"optim": "timm:adahessian"}, "second derivatives"),
        ({"optim": "timm:lamb", "optim_args": "0.9"}, "optim_args is '0.9'; write name=value"),
        ({"lr_scheduler_type": "timm:cosin"}, "lr_scheduler_type is timm:cosin.*Did you mean 'timm:cosine'"),
        ({"lr_scheduler_type": "timm:plateau"}, "reduce_lr_on_plateau"),
        (
            {"lr_scheduler_type": "timm:cosine", "lr_scheduler_kwargs": {"warmup_epoch": 1}},
            "'warmup_epoch'.*Did you mean 'warmup_epochs'",
        ),
        ({"lr_scheduler_type": "timm:cosine", "warmup_steps": 5}, "warmup_steps is 5.*warmup_epochs"),
    ],
)
def test_what_timm_does_not_have_is_an_error_that_names_the_remedy(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_an_option_that_the_optimizer_lacks_is_an_error(tmp_path):
    trainer = trainer_of(tmp_path, "vit", optim="timm:lion", optim_args="speed=3")
    with pytest.raises(ValueError, match="timm:lion, which does not take optim_args 'speed=3'"):
        trainer.create_optimizer()


WARM_UP = {"lr_scheduler_kwargs": {"warmup_epochs": 1.5, "min_lr": 1e-5}}


@pytest.mark.parametrize(
    "name, options",
    [
        ("timm-vit", {"optim": "timm:lamb", "layer_decay": 0.7, "lr_scheduler_type": "timm:cosine"} | WARM_UP),
        ("vit", {"optim": "timm:lookahead_adamw"}),
        ("swin", {"freeze_backbone": True}),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, name, options):
    """
    Whatever weights it was built with. Lookahead keeps slow weights, synchronised every sixth step: two after the
    checkpoint.
    """
    options = options | {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "weight_decay": 0.1}
    whole = trainer_of(tmp_path / "whole", name, **options)
    whole.train()
    trainer_of(tmp_path / "parts", name, [StopAfter(4)], **options).train()
    resumed = trainer_of(tmp_path / "parts", name, **options, seed_of_model=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-4"))
    assert resumed.state.global_step == 8
    ours, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    rates = [
        [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
        for trainer in (whole, resumed)
    ]
    assert rates[0] == rates[1] and len(rates[0]) == 8


# --- timm's schedules ------------------------------------------------------------------------------------------------


def timms_course(name: str, scales: list[float], steps: int, steps_per_epoch: int, **options) -> list[list[float]]:
    """The rate of each group in each step, as timm's training script has it."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": LEARNING_RATE, "lr_scale": scale} for scale in scales]
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE)
    schedule, _ = create_scheduler_v2(
        optimizer, sched=name, step_on_epochs=False, updates_per_epoch=steps_per_epoch, **options
    )
    course = []
    for step in range(steps):
        schedule.step_update(step)
        course.append([group["lr"] for group in optimizer.param_groups])
    return course


class Rates(TrainerCallback):
    def __init__(self):
        self.course: list[list[float]] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.course.append([group["lr"] for group in optimizer.param_groups])


COURSES = [
    ("cosine", {"warmup_epochs": 1, "warmup_lr": 1e-4, "min_lr": 1e-3}),
    ("cosine", {"warmup_epochs": 1, "warmup_prefix": True, "num_epochs": 3}),
    ("cosine", {"num_epochs": 2, "cycle_limit": 2, "cycle_decay": 0.5}),
    ("tanh", {"warmup_epochs": 0.5}),
    ("step", {"decay_epochs": 1, "decay_rate": 0.3}),
    ("multistep", {"decay_milestones": [1, 3]}),
    ("poly", {"decay_rate": 2.0}),
    ("wsd", {"warmup_epochs": 1}),
    ("rsqrt", {"warmup_epochs": 1}),
    ("constant", {"warmup_epochs": 2, "warmup_lr": 0.0}),
]


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("name, kwargs", COURSES)
def test_course_of_the_rate_is_timms(tmp_path, name, kwargs, layer_decay):
    """4 epochs of 3 steps of 2 batches."""
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "layer_decay": layer_decay}
    options |= {"lr_scheduler_type": f"timm:{name}", "lr_scheduler_kwargs": kwargs, "optim": "sgd"}
    trainer = trainer_of(tmp_path, "timm-vit", data=rows(11), **options)
    trainer.create_optimizer_and_scheduler(12)
    course = []
    for _ in range(12):
        course.append([group["lr"] for group in trainer.optimizer.param_groups])
        assert trainer.lr_scheduler.get_last_lr() == course[-1]
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    scales = [group.get("lr_scale", 1.0) for group in trainer.optimizer.param_groups]
    assert len(set(scales)) == (4 if layer_decay else 1)
    for ours, theirs in zip(course, timms_course(name, scales, 12, 3, **{"num_epochs": 4} | kwargs), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert len({groups[0] for groups in course}) > 2


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_a_run_follows_the_course_and_logs_it(tmp_path, layer_decay):
    """Stepped once an optimizer step, also where that is two batches."""
    rates, kwargs = Rates(), {"warmup_epochs": 1, "warmup_lr": 1e-4, "min_lr": 1e-3}
    options = {"num_train_epochs": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    options |= {"lr_scheduler_type": "timm:cosine", "lr_scheduler_kwargs": kwargs, "layer_decay": layer_decay}
    trainer = trainer_of(tmp_path, "timm-vit", [rates], data=rows(11), **options)
    trainer.train()
    scales = [group.get("lr_scale", 1.0) for group in trainer.optimizer.param_groups]
    expected = timms_course("cosine", scales, 12, 3, num_epochs=4, **kwargs)
    for ours, theirs in zip(rates.course, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == [groups[0] for groups in rates.course]


def test_every_schedule_is_tested():
    assert {name for name, _ in COURSES} == set(SCHEDULES)


@pytest.mark.parametrize("kwargs", [{"cooldown_epochs": 3}, {"warmup_epochs": 5, "warmup_prefix": True}])
def test_a_timm_schedule_of_warm_up_and_cool_down_alone_is_refused(tmp_path, kwargs):
    options = {"lr_scheduler_type": "timm:cosine", "lr_scheduler_kwargs": kwargs, "num_train_epochs": 3}
    with pytest.raises(ValueError, match=r"cool-down and of warm-up before the schedule, and training has 3:"):
        trainer_of(tmp_path, "vit", **options).train()


@pytest.mark.parametrize("kwargs", [{}, {"warmup_epochs": 1, "warmup_prefix": True}, {"cooldown_epochs": 1}])
def test_schedule_ends_with_the_run(tmp_path, kwargs):
    rates = Rates()
    options = {"max_steps": 7, "lr_scheduler_type": "timm:cosine", "lr_scheduler_kwargs": kwargs}
    trainer = trainer_of(tmp_path, "timm-vit", [rates], **options)  # 2 steps an epoch
    trainer.train()
    course = [groups[0] for groups in rates.course]
    warm_up, cool_down = 2 * ("warmup_epochs" in kwargs), 2 * ("cooldown_epochs" in kwargs)
    falling = 7 - warm_up - cool_down
    expected = [LEARNING_RATE / 2 * (1 + math.cos(math.pi * step / falling)) for step in range(falling)]
    assert course[warm_up : 7 - cool_down] == pytest.approx(expected, rel=1e-9)
    assert course[7 - cool_down :] == pytest.approx([0.0] * cool_down)
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-15)


def test_cycles_need_the_length_of_the_first(tmp_path):
    kwargs = {"cycle_limit": 2}
    trainer = trainer_of(tmp_path, "timm-vit", lr_scheduler_type="timm:cosine", lr_scheduler_kwargs=kwargs)
    with pytest.raises(ValueError, match="no num_epochs"):
        trainer.train()


# --- Weight decay ----------------------------------------------------------------------------------------------------


def decayed(trainer: AlignmentTrainer) -> set[str]:
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) and set(listed) == set(names)
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


def with_temperature(folder, name: str, **options) -> AlignmentTrainer:
    """With a learned temperature and bias, one of them a matrix to make it hard."""
    model = aligned_model(name, TEXT_DIM)
    model.logit_scale, model.logit_bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(()))
    options |= {"align_loss": "siglip", "align_learn_temperature": True}
    return AlignmentTrainer(model, arguments(folder, weight_decay=0.1, **options), rows())


@pytest.mark.parametrize("name", ["timm-vit", "vit", "swin", "timm-swin", "beit", "timm-resnet", "convnext"])
@pytest.mark.parametrize("optim", ["adamw_torch", "timm:lamb"])
def test_weight_decay_is_on_what_was_asked_for(tmp_path, name, optim):
    found = {
        rule: decayed(with_temperature(tmp_path, name, weight_decay_on=rule, optim=optim))
        for rule in ("trainer", "matrices", "all")
    }
    model = aligned_model(name, TEXT_DIM)
    everything = dict(model.named_parameters())
    assert found["all"] == set(everything)
    assert found["trainer"] == set(Trainer.get_decay_parameter_names(None, model))
    matrices = {key for key, parameter in everything.items() if parameter.ndim >= 2}
    embeddings = ("cls_token", "pos_embed", "position_embeddings", "relative_position_bias_table")
    exempt = {key for key in matrices if key.endswith(embeddings)}
    assert found["matrices"] == matrices - exempt
    assert bool(exempt) == (name not in ("timm-resnet", "convnext"))
    assert "projector.layers.fc1.weight" in found["matrices"]


# --- Layer decay -----------------------------------------------------------------------------------------------------


def factors_by_name(model, layer_decay: float) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: factor for parameter, factor in layer_factors(model, layer_decay).items()}


def test_factors_of_a_timm_student_are_timms():
    model = aligned_model("timm-vit", TEXT_DIM)
    groups = timm.optim.param_groups_layer_decay(model.student.timm_model, layer_decay=0.6)
    theirs = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    ours = layer_factors(model, 0.6)
    assert {id(p): ours[p] for p in model.student.parameters()} == theirs
    assert {ours[p] for p in model.projector.parameters()} == {1.0}


def test_the_same_vit_has_the_same_factors_in_both_libraries():
    pairs = [
        ("timm_model.cls_token", "vit.embeddings.cls_token", 0.6**3),
        ("timm_model.patch_embed.proj.weight", "vit.embeddings.patch_embeddings.projection.weight", 0.6**3),
        ("timm_model.blocks.0.mlp.fc1.weight", "vit.layers.0.mlp.fc1.weight", 0.6**2),
        ("timm_model.blocks.1.norm1.bias", "vit.layers.1.layernorm_before.bias", 0.6),
        ("timm_model.norm.weight", "vit.layernorm.weight", 0.6),
        ("timm_model.head.weight", "classifier.weight", 1.0),
    ]
    timms, others = (factors_by_name(aligned_model(name, TEXT_DIM), 0.6) for name in ("timm-vit", "vit"))
    for timm_key, key, expected in pairs:
        assert timms[f"student.{timm_key}"] == others[f"student.{key}"] == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in STUDENTS if name not in ("timm-mobilenetv3", "timm-regnet")])
def test_factors_fall_from_head_to_stem_and_every_parameter_has_one_group(tmp_path, name):
    trainer = trainer_of(tmp_path, name, layer_decay=0.5, weight_decay=0.1)
    model, optimizer = trainer.model, trainer.create_optimizer()
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert len(listed) == len(trained) and set(listed) == trained
    rate = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert scales == sorted(scales, reverse=True) and scales[0] == 1.0 and len(set(scales)) >= 3
    assert all(group["lr"] == LEARNING_RATE * group["lr_scale"] for group in optimizer.param_groups)
    heads = {parameter for layer in classifier_layers(model.student) for parameter in layer.parameters()}
    assert {rate[parameter] for parameter in heads | set(model.projector.parameters())} == {LEARNING_RATE}
    body = [rate[p] for p in model.student.parameters() if p in rate and p not in heads]
    assert body[0] == min(body) < max(body) <= LEARNING_RATE
    assert body == sorted(body)  # modules are registered from stem to head


def test_layer_decay_holds_under_trainers_schedule(tmp_path):
    rates = Rates()
    trainer = trainer_of(tmp_path, "vit", [rates], layer_decay=0.5, max_steps=4, lr_scheduler_type="linear")
    trainer.train()
    scales = [group["lr_scale"] for group in trainer.optimizer.param_groups]
    for step, groups in enumerate(rates.course):
        assert groups == pytest.approx([LEARNING_RATE * scale * (1 - step / 4) for scale in scales])
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx([LEARNING_RATE * (1 - step / 4) for step in range(4)])


def test_layers_that_are_not_found_are_an_error(tmp_path):
    model = aligned_model("vit", TEXT_DIM)
    model.student.vit.layers = nn.ModuleDict({f"b{i}": layer for i, layer in enumerate(model.student.vit.layers)})
    with pytest.raises(ValueError, match="no numbered blocks.*ViTForImageClassification"):
        layer_factors(model, 0.5)


# --- Frozen backbone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align_weight", [0.0, 0.3])
@pytest.mark.parametrize("name", ["timm-resnet", "resnet", "vit", "deit-two-heads"])
def test_a_frozen_backbone_stays_exactly_as_it_was(tmp_path, name, align_weight):
    """Parameters and running statistics; what is trained, moves."""
    options = {"freeze_backbone": True, "align_weight": align_weight, "max_steps": 3, "weight_decay": 0.1}
    trainer = trainer_of(tmp_path, name, **options)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    trainer.train()
    heads = classifier_layers(trainer.model.student)
    learning = {id(parameter) for layer in heads for parameter in layer.parameters()}
    if align_weight:
        learning |= {id(parameter) for parameter in trainer.model.projector.parameters()}
    moved = {key for key, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[key])}
    expected = {key for key, parameter in trainer.model.named_parameters() if id(parameter) in learning}
    assert moved == expected and expected
    trained = {key for key, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained == expected


def test_frozen_features_are_not_dropped_out(tmp_path):
    student, student_args = STUDENTS["timm-vit"]
    dropout = {"drop_rate": 0.5, "pos_drop_rate": 0.5, "drop_path_rate": 0.5}
    model = type(aligned_model("vit")).from_student(
        student, id2label=ID2LABEL, text_embed_dim=TEXT_DIM, student_args=student_args | dropout, image_size=48
    )
    pixels = torch.stack([row["pixel_values"] for row in rows(4)])
    free = [model.train()(pixels).image_embeds for _ in range(2)]
    assert not torch.equal(*free)
    AlignmentTrainer(model, arguments(tmp_path, freeze_backbone=True), rows())
    model.train()
    frozen = [model(pixels).image_embeds for _ in range(2)]
    assert torch.equal(*frozen) and model.training and model.projector.training
    assert all(layer.training for layer in classifier_layers(model.student))
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("name", STUDENTS)
def test_every_trained_parameter_takes_part(tmp_path, name, freeze):
    """Otherwise DDP, told that none is unused, waits for ever."""
    model = trainer_of(tmp_path, name, freeze_backbone=freeze).model.train()
    output = model(torch.randn(2, 3, 48, 48))
    (output.logits.square().sum() + output.image_embeds[:, 0].sum()).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
