"""`AlignmentTrainer` on one process: the baseline, accumulation, mixing, optimizer, EMA, arguments."""

import copy
from dataclasses import fields

import numpy as np
import pytest
import reference
import torch
from students import ID2LABEL, STUDENTS, aligned_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from g4i_hf import AlignedImageClassification
from g4i_hf.data.dataset import collator_from
from g4i_hf.options import TrainingOptions
from g4i_hf.training import AlignmentArguments, AlignmentTrainer

TEXT_DIM = 12
GENTLE = {"max_grad_norm": 0.0, "optim": "sgd", "sgd_momentum": 0.0, "learning_rate": 0.5}  # step = 0.5 x gradient
ONE_STEP = GENTLE | {"max_steps": 1, "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant"}


class Snapshots(TrainerCallback):
    """The student after every step, and which gradients of the projector the optimizer was about to use."""

    def __init__(self):
        self.states: list[dict[str, torch.Tensor]] = []
        self.projector_gradients: list[torch.Tensor | None] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.projector_gradients += [copy.deepcopy(parameter.grad) for parameter in model.projector.parameters()]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.states.append(copy.deepcopy(model.student.state_dict()))


def rows(n: int, dtype: torch.dtype = torch.float32) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(n, 3, 48, 48, generator=generator).to(dtype)
    embeds = nn.functional.normalize(torch.randn(n, TEXT_DIM, generator=generator), dim=1)
    return [
        {
            "pixel_values": pixels[row],
            "labels": row % len(ID2LABEL),
            "image_key": row,
            "caption_keys": row,
            "text_keys": row,
            "text_embeds": embeds[row].numpy(),
            "caption_weight": 1.0,
        }
        for row in range(n)
    ]


def arguments(folder, kind: type = AlignmentArguments, **options) -> TrainingArguments:
    common = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    return kind(str(folder), **common | options)


def train(folder, model: AlignedImageClassification, data: list[dict], callbacks=None, collator=None, **options):
    trainer = AlignmentTrainer(
        model, arguments(folder, **options), train_dataset=data, callbacks=callbacks, data_collator=collator
    )
    trainer.train()
    return trainer


def first_log(trainer: Trainer) -> dict[str, float]:
    return trainer.state.log_history[0]


def change(before: nn.Module, after: nn.Module) -> torch.Tensor:
    moved = dict(after.named_parameters())  # a learned temperature may have come in
    return torch.cat([(moved[name] - old).detach().flatten() for name, old in before.named_parameters()])


def one_step(folder, model: AlignedImageClassification, data: list[dict], **options) -> tuple[Trainer, torch.Tensor]:
    """Trains a copy of the model; its change is the negative gradient."""
    trainer = train(folder, copy.deepcopy(model), data, **ONE_STEP | options)
    return trainer, change(model, trainer.model)


def global_batch(model: AlignedImageClassification, batch: dict[str, torch.Tensor]):
    """Logits, and the alignment's view of a collated batch, in NumPy."""
    with torch.no_grad():
        output = model.train()(batch["pixel_values"])
    tensors = {k: value for k, value in batch.items() if isinstance(value, torch.Tensor)}
    batch = {k: (tensor.double() if tensor.is_floating_point() else tensor).numpy() for k, tensor in tensors.items()}
    mix = {"partner": batch.get("mix_partner"), "share": batch.get("mix_share")}
    keys = [batch["image_keys"], batch["caption_keys"]]
    alignment = reference.Batch(
        output.image_embeds.numpy(), batch["text_embeds"], batch["caption_weight"], keys, **mix
    )
    return output.logits.numpy(), batch["labels"], mix, alignment


def slope(loss, model: AlignedImageClassification, part: str, direction: torch.Tensor, step: float = 1e-4) -> float:
    """How fast the loss rises when the parameters of the part move in a direction, by finite differences."""
    sides = []
    for distance in (step, -step):
        moved = copy.deepcopy(model)
        parameters = list(getattr(moved, part).parameters())
        vector = nn.utils.parameters_to_vector(parameters).detach() + distance * direction
        nn.utils.vector_to_parameters(vector, parameters)
        sides.append(loss(moved))
    return (sides[0] - sides[1]) / (2 * step)


# --- Baseline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, dropout",
    [("timm-resnet", {"drop_rate": 0.1}), ("vit", {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})],
)
def test_without_weight_the_student_is_that_of_stock_trainer_bit_for_bit(tmp_path, name, dropout):
    torch.manual_seed(0)
    student, student_args = STUDENTS[name]
    model = AlignedImageClassification.from_student(
        student, id2label=ID2LABEL, text_embed_dim=TEXT_DIM, student_args={**(student_args or {}), **dropout}
    )
    bare, projector = copy.deepcopy(model.student), copy.deepcopy(model.projector)
    initial = copy.deepcopy(bare.state_dict())
    options = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_grad_norm": 1.0}
    data = rows(22)  # the last batch of an epoch has 6
    stock_data = [{"pixel_values": row["pixel_values"], "labels": row["labels"]} for row in data]
    Trainer(bare, arguments(tmp_path, TrainingArguments, **options), train_dataset=stock_data).train()
    snapshots = Snapshots()
    trainer = train(tmp_path, model, data, [snapshots], align_weight=0.0, **options)

    ours, stock = model.student.state_dict(), bare.state_dict()
    assert list(ours) == list(stock)
    assert all(torch.equal(ours[key], stock[key]) for key in stock)
    assert not any(torch.equal(stock[key], initial[key]) for key in stock if key.endswith("weight"))
    assert {"cosine_positive", "cosine_negative", "retrieval_top1", "loss_align"} <= set(first_log(trainer))
    optimized = {parameter for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert snapshots.projector_gradients == [None] * 20 * len(list(projector.parameters()))
    for before, after in zip(projector.parameters(), model.projector.parameters(), strict=True):
        assert after not in optimized and torch.equal(before, after)


# --- Accumulation ----------------------------------------------------------------------------------------------------


@pytest.fixture
def vit() -> AlignedImageClassification:
    torch.manual_seed(1)
    return aligned_model("vit", TEXT_DIM).double()


def test_accumulation_gives_the_gradient_and_the_loss_of_the_whole_batch(tmp_path, vit):
    data = rows(8, torch.float64)
    whole, whole_change = one_step(tmp_path, vit, data, align_weight=0.0, per_device_train_batch_size=8)
    parts, parts_change = one_step(
        tmp_path, vit, data, align_weight=0.0, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    torch.testing.assert_close(parts_change, whole_change, rtol=1e-10, atol=1e-14)
    assert whole_change.norm() > 0.01
    for name in ("loss", "loss_ce"):
        assert first_log(parts)[name] == pytest.approx(first_log(whole)[name], rel=1e-6)


@pytest.mark.parametrize("objective", reference.OBJECTIVES)
def test_accumulated_total_is_the_mean_over_the_micro_batches(tmp_path, vit, objective):
    data = rows(8, torch.float64)
    options = {"align_weight": 0.7, "align_loss": objective, "per_device_train_batch_size": 4}
    both, both_change = one_step(tmp_path, vit, data, gradient_accumulation_steps=2, **options)
    halves = [one_step(tmp_path, vit, half, **options) for half in (data[:4], data[4:])]
    torch.testing.assert_close(both_change, (halves[0][1] + halves[1][1]) / 2, rtol=1e-10, atol=1e-14)
    for name in ("loss", "loss_ce", "loss_align", "cosine_positive"):
        expected = (first_log(halves[0][0])[name] + first_log(halves[1][0])[name]) / 2
        assert first_log(both)[name] == pytest.approx(expected, rel=1e-6)


# --- The loss of a batch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [{}, {"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}])
@pytest.mark.parametrize("objective", reference.OBJECTIVES)
def test_loss_and_logged_terms_are_those_of_the_collated_batch(tmp_path, vit, objective, mixing):
    """
    Labels and texts are mixed with the same shares, unlabelled rows and rows without caption among them, and the step
    that is taken is the slope of that loss.
    """
    data = rows(9, torch.float64)
    data[1]["labels"] = -100
    data[2]["caption_weight"], data[3]["caption_weight"] = 0.0, 0.25
    data[4]["caption_keys"] = data[0]["caption_keys"]
    options = {"align_loss": objective, "align_weight": 0.7, "align_temperature": 0.3, "label_smoothing_factor": 0.1}
    options |= {"per_device_train_batch_size": 9, **mixing}
    data = [row | {"draw_seed": 5} for row in data]
    collator, batches = collator_from(arguments(tmp_path, **options)), []

    def collate(items):
        batches.append(collator(items))
        return batches[-1]

    trainer, _ = one_step(tmp_path, vit, data, collator=collate, **options)
    assert ("mix_share" in batches[0]) == bool(mixing)

    def terms(model: AlignedImageClassification) -> dict[str, float]:
        logits, labels, mix, alignment = global_batch(model, batches[0])
        loss_ce = reference.classification(logits, labels, 0.1, **mix)
        settings = reference.Settings(0.3, bias=-10.0, target_temperature=0.1)
        loss_align = reference.OBJECTIVES[objective](alignment, settings) / alignment.num_captions
        total = {"loss": loss_ce + 0.7 * loss_align, "align_weight": 0.7}
        return total | {"loss_ce": loss_ce, "loss_align": loss_align} | reference.diagnostics(alignment)

    expected, logged = terms(vit), first_log(trainer)
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-6)

    for part in ("student", "projector"):
        gradient = change(getattr(vit, part), getattr(trainer.model, part)) / -ONE_STEP["learning_rate"]
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        direction /= direction.norm()
        expected_slope = slope(lambda model: terms(model)["loss"], vit, part, direction)
        assert torch.dot(gradient, direction).item() == pytest.approx(expected_slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("objective", reference.OBJECTIVES)
def test_batch_without_captions_trains_on_its_labels_alone(tmp_path, vit, objective):
    data = [row | {"caption_weight": 0.0} for row in rows(6, torch.float64)]
    options = {"per_device_train_batch_size": 6, "align_loss": objective}
    snapshots = Snapshots()
    trainer, aligned = one_step(tmp_path, vit, data, callbacks=[snapshots], align_weight=0.7, **options)
    _, baseline = one_step(tmp_path, vit, data, align_weight=0.0, **options)
    torch.testing.assert_close(aligned, baseline, rtol=0, atol=1e-14)
    assert first_log(trainer)["loss_align"] == 0
    assert len(snapshots.projector_gradients) == 4
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in snapshots.projector_gradients)  # not None: DDP


def test_weight_without_text_embeds_is_an_error(tmp_path, vit):
    data = [{name: row[name] for name in ("pixel_values", "labels")} for row in rows(4, torch.float64)]
    with pytest.raises(ValueError, match="no text_embeds"):
        one_step(tmp_path, vit, data, align_weight=0.7)


# --- Optimizer and EMA -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, momentum", [({}, 0.9), ({"sgd_momentum": 0.5}, 0.5), ({"optim_args": "momentum=0.3,nesterov=True"}, 0.3)]
)
def test_sgd_has_momentum(tmp_path, vit, options, momentum):
    trainer = AlignmentTrainer(vit, arguments(tmp_path, optim="sgd", **options), train_dataset=rows(4))
    groups = trainer.create_optimizer().param_groups
    assert [group["momentum"] for group in groups] == [momentum] * len(groups)
    assert all(group["nesterov"] == ("optim_args" in options) for group in groups)


def test_ema_is_the_moving_average_of_parameters_and_buffers(tmp_path):
    """It starts from the student after the first step."""
    snapshots = Snapshots()
    model = aligned_model("timm-resnet", TEXT_DIM)
    trainer = train(
        tmp_path, model, rows(8), [snapshots], max_steps=5, per_device_train_batch_size=8, ema_decay=0.7, optim="sgd"
    )
    expected = snapshots.states[0]
    for state in snapshots.states[1:]:
        expected = {k: 0.7 * v + 0.3 * state[k] if v.is_floating_point() else state[k] for k, v in expected.items()}
    averaged = trainer.ema.averaged.state_dict()
    assert len(snapshots.states) == 5 and list(averaged) == list(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(averaged[key], tensor, rtol=1e-5, atol=1e-7, msg=key)
    assert not torch.equal(averaged["timm_model.conv1.weight"], model.student.timm_model.conv1.weight)


def test_an_average_that_deepspeed_would_lose_is_refused(tmp_path, vit, monkeypatch):
    """DeepSpeed itself is not needed for it: what Trainer found out when it made the accelerator is enough."""
    create = AlignmentTrainer.create_accelerator_and_postprocess

    def found_deepspeed(trainer: AlignmentTrainer) -> None:
        create(trainer)
        trainer.is_deepspeed_enabled = True

    monkeypatch.setattr(AlignmentTrainer, "create_accelerator_and_postprocess", found_deepspeed)
    with pytest.raises(ValueError, match="ema_decay is 0.9, but with DeepSpeed the average would start anew"):
        AlignmentTrainer(vit, arguments(tmp_path, ema_decay=0.9), None)


def test_training_without_ema_decay_keeps_no_average(tmp_path, vit):
    assert AlignmentTrainer(vit, arguments(tmp_path), train_dataset=rows(4)).ema is None


# --- Arguments -------------------------------------------------------------------------------------------------------


def test_every_option_of_ours_is_described():
    for field in fields(TrainingOptions):
        assert field.metadata["help"].endswith("."), field.name


def test_docstring_lists_the_defaults_that_differ_from_the_parents():
    parents = {field.name: field.default for field in fields(TrainingArguments)}
    for field in fields(AlignmentArguments):
        if field.name in parents and parents[field.name] != field.default:
            assert f"`{field.name}={field.default}`" in AlignmentArguments.__doc__


@pytest.mark.parametrize(
    "name, value",
    [
        ("align_weight", -0.1),
        ("align_loss", "triplet"),
        ("align_temperature", 0.0),
        ("align_temperature", -1.0),
        ("align_gradient", "mine"),
        ("soft_label_weight", -1.0),
        ("mixup_alpha", -1.0),
        ("cutmix_alpha", -1.0),
        ("mix_prob", 1.5),
        ("mix_switch_prob", -0.5),
        ("ema_decay", 1.0),
        ("ema_decay", 0.0),
        ("sgd_momentum", -0.1),
        ("sgd_momentum", 1.0),
    ],
)
def test_invalid_value_is_an_error_that_names_field_and_value(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is '?{value}") as error:
        arguments(tmp_path, **{name: value})
    assert name in str(error.value)


def test_every_objective_can_be_chosen_and_is_tested_here(tmp_path):
    from g4i_hf.losses import OBJECTIVES

    assert set(reference.OBJECTIVES) == set(OBJECTIVES)
    for name in OBJECTIVES:
        assert arguments(tmp_path, align_loss=name).align_loss == name
        assert name in TrainingOptions.__dataclass_fields__["align_loss"].metadata["help"]


def test_logged_terms_are_finite_numbers(tmp_path, vit):
    trainer, _ = one_step(tmp_path, vit, rows(4, torch.float64), per_device_train_batch_size=4)
    assert all(np.isfinite(value) for value in first_log(trainer).values())
