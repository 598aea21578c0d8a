"""
`AlignmentTrainer` on one process: the baseline is stock Trainer, a step is the slope of the documented loss, and every
option of the loss is in its logged terms.
"""

import copy
import math

import numpy as np
import pytest
import torch
from students import ID2LABEL, STUDENTS, aligned_model
from tiny_training import (
    ONE_STEP,
    TEXT_DIM,
    Rows,
    arguments,
    change,
    expected_terms,
    first_log,
    one_step,
    rows,
    same,
    train,
)
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from g4i_hf import AlignedImageClassification
from g4i_hf.data.dataset import AlignmentCollator
from g4i_hf.losses.objectives import OBJECTIVES
from g4i_hf.training import AlignmentTrainer


@pytest.fixture
def vit() -> AlignedImageClassification:
    torch.manual_seed(1)
    return aligned_model("vit", TEXT_DIM).double()


class ProjectorGradients(TrainerCallback):
    """Those that the optimizer was about to use."""

    def __init__(self):
        self.found: list[torch.Tensor | None] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found += [copy.deepcopy(parameter.grad) for parameter in model.projector.parameters()]


@pytest.mark.parametrize(
    "name, dropout",
    [("timm-resnet", {"drop_rate": 0.1}), ("vit", {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})],
)
def test_without_weight_the_student_is_that_of_stock_trainer_bit_for_bit(tmp_path, name, dropout):
    torch.manual_seed(0)
    student, student_args = STUDENTS[name]
    build = {"id2label": ID2LABEL, "text_embed_dim": TEXT_DIM, "student_args": {**(student_args or {}), **dropout}}
    model = AlignedImageClassification.from_student(student, **build)
    bare, projector = copy.deepcopy(model.student), copy.deepcopy(model.projector)
    initial = copy.deepcopy(bare.state_dict())
    options = {"max_steps": 7, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_grad_norm": 1.0}
    options |= {"lr_scheduler_type": "cosine", "warmup_steps": 0.05}
    data = rows(17)  # the last batch of an epoch has one image
    stock_data = [{"pixel_values": row["pixel_values"], "labels": row["labels"]} for row in data]
    stock_args = arguments(tmp_path, TrainingArguments, optim="adamw_torch_fused", **options)
    Trainer(bare, stock_args, train_dataset=stock_data).train()
    gradients = ProjectorGradients()
    trainer = train(tmp_path, model, data, [gradients], align_weight=0.0, **options)

    stock = bare.state_dict()
    assert same(model.student.state_dict(), stock)
    assert not any(torch.equal(stock[key], initial[key]) for key in stock if key.endswith("weight"))
    assert not {"cosine_positive", "align_weight", "loss_align"} & set(first_log(trainer))
    optimized = {parameter for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert not optimized & set(model.projector.parameters()) and set(gradients.found) == {None}
    assert same(model.projector.state_dict(), projector.state_dict())


CASES = {
    **{f"{name}, mixup": {"align_loss": name, "mixup_alpha": 0.8} for name in OBJECTIVES},
    "clip": {},
    "cutmix": {"cutmix_alpha": 1.0},
    "no mask": {"align_mask": "none"},
    "captions not mixed": {"align_loss": "cosine", "mixup_alpha": 0.8, "align_mix_captions": False},
    "class mask": {"align_mask": "class"},
    "bce, mixup": {"classification_loss": "bce", "mixup_alpha": 0.8},
    "bce, threshold": {"classification_loss": "bce", "bce_target_threshold": 0.3},
    "class weights": {"class_weights": "[0.1, 2, 0.5, 1, 3]"},
    "balanced, mixup": {"class_weights": "balanced", "mixup_alpha": 0.8},
}
CLASSIFICATION = {  # the same for the formula
    "bce, mixup": {"kind": "bce"},
    "bce, threshold": {"kind": "bce", "threshold": 0.3},
    "class weights": {"class_weights": np.array([0.1, 2, 0.5, 1, 3])},
    "balanced, mixup": {"class_weights": 8 / 5 / np.array([2, 1, 2, 2, 1])},
}


def irregular() -> Rows:
    """Nine rows, one without label, one without caption, one with a doubtful one, and one with that of another."""
    data = [row | {"draw_seed": 5} for row in rows(9, torch.float64)]
    data[1]["labels"] = -100
    data[2]["caption_weight"], data[3]["caption_weight"] = 0.0, 0.25
    for name in ("caption_keys", "text_embeds"):
        data[4][name] = data[0][name]
    return Rows(data)


@pytest.mark.parametrize("case", CASES)
def test_logged_terms_and_the_step_are_those_of_the_formulas(tmp_path, vit, case):
    data, collated = irregular(), []
    options = {"align_loss": "clip", "align_weight": 0.7, "align_temperature": 0.3, "label_smoothing_factor": 0.1}
    options |= CASES[case] | {"per_device_train_batch_size": len(data)}
    collator = AlignmentCollator(**{name: options[name] for name in options if name.startswith(("mix", "cutmix"))})

    def collate(items):
        collated.append(collator(items))
        return collated[-1]

    trainer, _ = one_step(tmp_path, vit, data, collator=collate, **options)
    (batch,) = collated
    assert ("mix_share" in batch) == ("mix" in case or case == "cutmix")

    def terms(model: AlignedImageClassification) -> dict[str, float]:
        with torch.no_grad():
            output = model.train()(batch["pixel_values"])
        return expected_terms(output, batch, data, **options, classification=CLASSIFICATION.get(case, {}))

    expected, logged = terms(vit), first_log(trainer)
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    for part in ("student", "projector"):  # the step against finite differences, in one direction
        before = getattr(vit, part)
        gradient = change(before, getattr(trainer.model, part)) / -ONE_STEP["learning_rate"]
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        sides, length = [], 1e-4 / direction.norm()
        for distance in (length, -length):
            moved = copy.deepcopy(vit)
            parameters = list(getattr(moved, part).parameters())
            there = nn.utils.parameters_to_vector(parameters).detach() + distance * direction
            nn.utils.vector_to_parameters(there, parameters)
            sides.append(terms(moved)["loss"])
        slope = (sides[0] - sides[1]) / (2 * length.item())
        assert torch.dot(gradient, direction).item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bf16_does_not_touch_the_alignment_loss(tmp_path, objective):
    """The features are those of bfloat16; the loss is what float64 makes of them."""
    torch.manual_seed(1)
    model, data, outputs = aligned_model("vit", TEXT_DIM), Rows(rows(6)), []
    for module in (model.student, model):
        module.register_forward_hook(lambda module, args, output: outputs.append(output))
    options = {"align_loss": objective, "align_temperature": 0.02, "align_weight": 0.3}
    more = {"bf16": True, "per_device_train_batch_size": 6}
    trainer = train(tmp_path, model, data, **ONE_STEP | options | more)
    of_student, output = outputs
    assert of_student.logits.dtype == torch.bfloat16 and output.image_embeds.dtype == torch.float32
    expected = expected_terms(output, trainer.train_collator(data), data, **options)
    assert first_log(trainer)["loss_align"] == pytest.approx(expected["loss_align"], rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accumulated_step_is_the_mean_over_the_micro_batches(tmp_path, vit, objective):
    data = rows(8, torch.float64)
    options = {"align_weight": 0.7, "align_loss": objective, "per_device_train_batch_size": 4}
    both, both_change = one_step(tmp_path, vit, data, gradient_accumulation_steps=2, **options)
    halves = [one_step(tmp_path, vit, half, **options) for half in (data[:4], data[4:])]
    torch.testing.assert_close(both_change, (halves[0][1] + halves[1][1]) / 2, rtol=1e-10, atol=1e-14)
    for name in ("loss", "loss_ce", "loss_align", "cosine_positive"):
        expected = (first_log(halves[0][0])[name] + first_log(halves[1][0])[name]) / 2
        assert first_log(both)[name] == pytest.approx(expected, rel=1e-6)


def test_batch_without_captions_trains_on_its_labels_alone(tmp_path, vit):
    data, gradients = [row | {"caption_weight": 0.0} for row in rows(6, torch.float64)], ProjectorGradients()
    options = {"per_device_train_batch_size": 6}
    trainer, aligned = one_step(tmp_path, vit, data, callbacks=[gradients], align_weight=0.7, **options)
    _, baseline = one_step(tmp_path, vit, data, align_weight=0.0, **options)
    torch.testing.assert_close(aligned, baseline, rtol=0, atol=1e-14)
    assert first_log(trainer)["loss_align"] == 0
    assert len(gradients.found) == 4 and not any(grad.any() for grad in gradients.found)  # zero, not None: DDP waits


def test_evaluation_sees_whole_images(tmp_path, vit):
    """Mixup is for training alone: the loss of an evaluation is the cross entropy of the images themselves."""
    data = rows(4, torch.float64)
    args = arguments(tmp_path, mixup_alpha=0.8, per_device_eval_batch_size=4)
    trainer = AlignmentTrainer(vit, args, train_dataset=data, eval_dataset=data)
    with torch.no_grad():
        logits = vit.eval()(torch.stack([row["pixel_values"] for row in data])).logits
    expected = nn.functional.cross_entropy(logits, torch.arange(4))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert "mix_share" in next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize(
    "options, learned",
    [
        ({"align_loss": "siglip"}, True),
        ({"align_loss": "siglip", "align_weight": 0.0}, False),
        ({"align_loss": "clip"}, False),
    ],
)
@pytest.mark.parametrize("brought_along", [False, True, "temperature alone"])
def test_the_temperature_is_learned_by_siglip_alone(tmp_path, vit, options, learned, brought_along):
    """One that the model brings along is otherwise left alone."""
    if brought_along:
        vit.learn_logits(0.5, -1.0)
    if brought_along == "temperature alone":
        del vit.logit_bias
        vit.config.logit_bias_init = None
    start, options = 0.5 if brought_along else 0.4, options | {"align_temperature": 0.4}
    trainer, _ = one_step(tmp_path, vit, rows(4, torch.float64), per_device_train_batch_size=4, **options)
    assert first_log(trainer).get("logit_scale") == (pytest.approx(1 / start) if learned else None)
    assert hasattr(trainer.model, "logit_scale") == (learned or bool(brought_along))
    if learned or brought_along:
        assert (trainer.model.logit_scale.item() != pytest.approx(-math.log(start), abs=1e-9)) == learned


def test_scale_is_held_at_its_limit_but_can_come_back(vit):
    vit.learn_logits(temperature=0.001)
    output = vit.train()(torch.randn(2, 3, 48, 48, dtype=torch.float64))
    output.logit_scale.backward()
    assert output.logit_scale.item() == pytest.approx(100) and vit.logit_scale.grad.item() > 0
