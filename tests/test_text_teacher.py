"""`align_similarity: dot` and `align_balance`, as in TextTeacher (arXiv 2605.22098), against its formula."""

import copy
import math

import pytest
import torch
from students import aligned_model
from tiny_training import ONE_STEP, TEXT_DIM, Rows, first_log, one_step, rows, train
from torch import nn
from transformers import TrainerCallback

from g4i_hf import AlignedImageClassification
from g4i_hf.modeling.student import classifier_layers

WEIGHT, TEMPERATURE, ROWS, RATE = 0.4, 0.7, 8, ONE_STEP["learning_rate"]
OPTIONS = {"align_similarity": "dot", "align_balance": True, "align_weight": WEIGHT, "align_temperature": TEMPERATURE}
OPTIONS |= {"per_device_train_batch_size": ROWS}


def seeded(name: str, **config) -> AlignedImageClassification:
    torch.manual_seed(1)
    return aligned_model(name, TEXT_DIM, **config).double()


def expected_step(
    model: AlignedImageClassification, data: Rows, weight: float, objective: str = "clip", balance: bool = True
) -> tuple[dict[str, torch.Tensor], float]:
    """
    Gradients of parameters by name, of

        (1 - weight) CE + weight w alignment,    w = |d CE / d feature| / |d alignment / d feature|

    with centred texts and unnormalised dot products; and w, whose norms are over the inputs of all classifiers.
    """
    model, inputs = copy.deepcopy(model).train(), []
    for layer in classifier_layers(model.student):
        layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    logits = model.student(pixel_values=torch.stack([row["pixel_values"] for row in data])).logits
    images = model.projector.layers(torch.stack(inputs).mean(0))
    texts, own = torch.from_numpy(data.embeds - data.embeds.mean(0)), torch.arange(len(data))
    by_labels = nn.functional.cross_entropy(logits, torch.from_numpy(data.labels))
    similarity = images @ texts.T / TEMPERATURE
    to_text, to_image = (nn.functional.cross_entropy(side, own) for side in (similarity, similarity.T))
    alignment = {
        "clip": (to_text + to_image) / 2,
        "infonce": to_text,
        "cosine": (2 - 2 * (images * texts).sum(1)).mean(),
    }[objective]
    norms = [
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, inputs, retain_graph=True)]).norm()
        for loss in (by_labels, alignment)
    ]
    ratio = (norms[0] / norms[1]).item()
    share, factor = (1 - weight, weight * ratio) if balance else (1.0, weight)
    (share * by_labels + factor * alignment).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, ratio


def assert_moved_by(model, trained, gradients: dict[str, torch.Tensor]) -> None:
    after = dict(trained.named_parameters())
    assert set(gradients) <= set(after)
    for name, before in model.named_parameters():
        expected = before.detach() - RATE * gradients.get(name, torch.zeros_like(before))
        torch.testing.assert_close(after[name].detach(), expected, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize(
    "name, balance, objective",
    [
        ("resnet", True, "clip"),
        ("timm-resnet", True, "infonce"),
        ("vit", True, "cosine"),
        ("deit-two-heads", True, "clip"),
        ("vit", False, "clip"),
        ("vit", False, "cosine"),
    ],
)
def test_a_step_is_that_of_the_formula(tmp_path, name, balance, objective):
    data, model = Rows(rows(ROWS, torch.float64)), seeded(name, projector_type="linear")
    gradients, ratio = expected_step(model, data, WEIGHT, objective, balance)
    trainer, _ = one_step(tmp_path, model, data, **OPTIONS | {"align_loss": objective, "align_balance": balance})
    assert_moved_by(model, trainer.model, gradients)
    log = first_log(trainer)
    assert ("align_balance" in log) == balance
    if balance:
        assert log["align_balance"] == pytest.approx(ratio, rel=1e-5)
    of_labels, of_texts = (1 - WEIGHT, WEIGHT * ratio) if balance else (1, WEIGHT)
    assert log["loss"] == pytest.approx(of_labels * log["loss_ce"] + of_texts * log["loss_align"], rel=1e-5)
    assert all(-1 <= log[f"cosine_{kind}"] <= 1 for kind in ("positive", "negative"))
    with torch.no_grad():
        evaluated = trainer.model.eval()(data[0]["pixel_values"][None], output_image_embeds=True).image_embeds
    assert evaluated.norm().item() == pytest.approx(1), "only training compares what is not of unit norm"


def test_the_weight_falls_to_zero_and_leaves_the_classifier_alone(tmp_path):
    """Half a cosine, and a last epoch without captions: every step is that of the formula with its own weight."""
    data, model, states = Rows(rows(ROWS, torch.float64)), seeded("vit", projector_type="linear"), []

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            states.append(copy.deepcopy(model))  # which holds on to no tensor of its last batch

    options = {"align_schedule": "cosine", "align_off_epochs": 1, "max_steps": -1, "num_train_epochs": 5}
    trainer = train(tmp_path, copy.deepcopy(model), data, [Keep()], **ONE_STEP | OPTIONS | options)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(states) == len(logs) == 5
    for step, (before, after, log) in enumerate(zip([model, *states], states, logs, strict=False)):
        weight = WEIGHT * (1 + math.cos(math.pi * step / 4)) / 2 if step < 4 else 0
        assert log["align_weight"] == pytest.approx(weight, rel=1e-6)
        gradients, ratio = expected_step(before, data, weight)
        assert_moved_by(before, after, gradients)
        assert log["align_balance"] == pytest.approx(ratio, rel=1e-5) if weight else "align_balance" not in log


def test_a_batch_without_captions_trains_on_the_share_of_its_labels(tmp_path):
    """There is nothing to balance: w is zero, not a number of the order of 1e12."""
    data = Rows(row | {"caption_weight": 0.0} for row in rows(ROWS, torch.float64))
    trainer, moved = one_step(tmp_path, seeded("vit"), data, **OPTIONS)
    _, plain = one_step(tmp_path, seeded("vit"), data, align_weight=0.0, per_device_train_batch_size=ROWS)
    torch.testing.assert_close(moved, (1 - WEIGHT) * plain, rtol=1e-9, atol=1e-12)
    assert first_log(trainer)["align_balance"] == 0
