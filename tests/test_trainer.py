"""`AlignmentTrainer` on one process: the baseline is stock Trainer, and every option of the loss is in the log."""

import copy
import math

import numpy as np
import pytest
import reference
import torch
from students import ID2LABEL, STUDENTS, aligned_model
from tiny_training import ONE_STEP, TEXT_DIM, Rows, arguments, first_log, one_step, rows, same, train
from torch import nn
from transformers import Trainer, TrainingArguments

from g4i_hf import AlignedImageClassification
from g4i_hf.data.dataset import AlignmentCollator
from g4i_hf.losses.objectives import OBJECTIVES
from g4i_hf.training import AlignmentTrainer


@pytest.fixture
def vit() -> AlignedImageClassification:
    torch.manual_seed(1)
    return aligned_model("vit", TEXT_DIM).double()


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
    trainer = train(tmp_path, model, data, align_weight=0.0, **options)

    stock = bare.state_dict()
    assert same(model.student.state_dict(), stock)
    assert not any(torch.equal(stock[key], initial[key]) for key in stock if key.endswith("weight"))
    assert not {"cosine_positive", "align_weight", "loss_align"} & set(first_log(trainer))
    optimized = {parameter for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert not optimized & set(model.projector.parameters())
    assert same(model.projector.state_dict(), projector.state_dict())


CASES = {
    "mixup": {"mixup_alpha": 0.8},
    "captions not mixed": {"align_loss": "cosine", "mixup_alpha": 0.8, "align_mix_captions": False},
    "no mask": {"align_mask": "none"},
    "bce, threshold": {"classification_loss": "bce", "bce_target_threshold": 0.3},
    "class weights": {"class_weights": "[0.1, 2, 0.5, 1, 3]"},
    "balanced, mixup": {"class_weights": "balanced", "mixup_alpha": 0.8},
}
CLASSIFICATION = {  # the same for the formula
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


def expected_terms(output, batch: dict[str, torch.Tensor], classification: dict, **options) -> dict[str, float]:
    """The logged terms by the formulas, for the model's output on a collated batch."""
    arrays = {name: value.numpy() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    images, logits = (part.detach().double().numpy() for part in (output.image_embeds, output.logits))
    mix = {"partner": arrays.get("mix_partner"), "share": arrays.get("mix_share")}
    keys = [arrays["image_keys"], arrays["caption_keys"]] if options.get("align_mask") != "none" else []
    mix_captions = mix if options.get("align_mix_captions", True) else {}
    texts, weights = arrays["text_embeds"].astype(np.float64), arrays["caption_weight"].astype(np.float64)
    alignment = reference.Batch(images, texts, weights, keys, **mix_captions)
    smoothing = options.get("label_smoothing_factor", 0.0)
    loss_ce = reference.classification(logits, arrays["labels"], smoothing, **mix, **classification)
    total = reference.OBJECTIVES[options["align_loss"]](
        alignment, reference.Settings(options["align_temperature"], -10)
    )
    loss_align, weight = total / alignment.num_captioned_rows, options["align_weight"]
    terms = {"loss": loss_ce + weight * loss_align, "loss_ce": loss_ce, "loss_align": loss_align}
    return terms | {"align_weight": weight} | reference.diagnostics(alignment)


@pytest.mark.parametrize("case", CASES)
def test_logged_terms_are_those_of_the_formulas(tmp_path, vit, case):
    data, collated = irregular(), []
    options = {"align_loss": "clip", "align_weight": 0.7, "align_temperature": 0.3, "label_smoothing_factor": 0.1}
    options |= CASES[case] | {"per_device_train_batch_size": len(data)}
    collator = AlignmentCollator(mixup_alpha=options.get("mixup_alpha", 0.0))

    def collate(items):
        collated.append(collator(items))
        return collated[-1]

    trainer, _ = one_step(tmp_path, vit, data, collator=collate, **options)
    with torch.no_grad():
        output = vit.train()(collated[0]["pixel_values"])
    expected, logged = expected_terms(output, collated[0], CLASSIFICATION.get(case, {}), **options), first_log(trainer)
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-6)


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
    expected = expected_terms(output, trainer.train_collator(data), {}, **options)
    assert first_log(trainer)["loss_align"] == pytest.approx(expected["loss_align"], rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accumulated_step_is_the_mean_over_the_micro_batches(tmp_path, vit, objective):
    data = rows(8, torch.float64)
    options = {"align_weight": 0.7, "align_loss": objective, "per_device_train_batch_size": 4}
    both, change = one_step(tmp_path, vit, data, gradient_accumulation_steps=2, **options)
    halves, changes = zip(*(one_step(tmp_path, vit, half, **options) for half in (data[:4], data[4:])), strict=True)
    torch.testing.assert_close(change, sum(changes) / 2, rtol=1e-10, atol=1e-14)
    for name in ("loss", "loss_ce", "loss_align", "cosine_positive"):
        assert first_log(both)[name] == pytest.approx(np.mean([first_log(half)[name] for half in halves]), rel=1e-6)


def test_batch_without_captions_trains_on_its_labels_alone(tmp_path, vit):
    data = [row | {"caption_weight": 0.0} for row in rows(6, torch.float64)]
    trainer, aligned = one_step(tmp_path, vit, data, per_device_train_batch_size=6, align_weight=0.7)
    _, baseline = one_step(tmp_path, vit, data, per_device_train_batch_size=6, align_weight=0.0)
    torch.testing.assert_close(aligned, baseline, rtol=0, atol=1e-14)
    assert first_log(trainer)["loss_align"] == 0


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


@pytest.mark.parametrize(("align_loss", "align_weight"), [("siglip", 0.3), ("siglip", 0.0), ("clip", 0.3)])
@pytest.mark.parametrize("brought_along", [False, True])
def test_the_temperature_is_learned_by_siglip_alone(tmp_path, vit, align_loss, align_weight, brought_along):
    """One that the model brings along is otherwise left alone."""
    if brought_along:
        vit.learn_logits(0.5, -1.0)
    start, learned = 0.5 if brought_along else 0.4, align_loss == "siglip" and align_weight > 0
    options = {"align_loss": align_loss, "align_weight": align_weight, "align_temperature": 0.4}
    trainer, _ = one_step(tmp_path, vit, rows(4, torch.float64), per_device_train_batch_size=4, **options)
    assert first_log(trainer).get("logit_scale") == (pytest.approx(1 / start) if learned else None)
    assert hasattr(trainer.model, "logit_scale") == (learned or brought_along)
    if learned or brought_along:
        assert (trainer.model.logit_scale.item() != pytest.approx(-math.log(start), abs=1e-9)) == learned


def test_scale_is_held_at_its_limit_but_can_come_back(vit):
    vit.learn_logits(temperature=0.001)
    output = vit.train()(torch.randn(2, 3, 48, 48, dtype=torch.float64))
    output.logit_scale.backward()
    assert output.logit_scale.item() == pytest.approx(100) and vit.logit_scale.grad.item() > 0
