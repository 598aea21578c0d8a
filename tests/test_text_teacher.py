"""`align_similarity: dot` and `align_balance`, as in TextTeacher (arXiv 2605.22098), against the closed form."""

import copy
import math

import numpy as np
import pytest
import torch
from students import ID2LABEL, aligned_model
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


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis, keepdims=True))
    return shares / shares.sum(axis, keepdims=True)


def slopes_of_images(objective: str, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Gradient of the mean alignment loss with respect to image embeddings, (n, D), row i being the pair of text i."""
    n, logits = len(images), images @ texts.T / TEMPERATURE
    if objective == "cosine":
        return -2 * texts / n
    slopes = softmax(logits, 1) - np.eye(n)
    if objective == "clip":
        slopes = (slopes + softmax(logits, 0) - np.eye(n)) / 2
    return slopes @ texts / TEMPERATURE / n


def expected_step(
    model: AlignedImageClassification, data: Rows, weight: float, objective: str = "clip", balance: bool = True
) -> tuple[dict[str, torch.Tensor], float]:
    """
    Gradients of parameters by name, from the closed form at the last, linear layers; torch takes that of the feature
    through the body. And w, the ratio of the norms at the feature.
    """
    (classifier,), projector = classifier_layers(model.student), model.projector.layers
    pixels, seen = torch.stack([row["pixel_values"] for row in data]), []
    handle = classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits = model.student.train()(pixel_values=pixels).logits.detach().numpy()
    handle.remove()
    features, texts = seen[0].detach().numpy(), data.embeds - data.embeds.mean(0)
    weights = {name: layer.weight.detach().numpy() for name, layer in (("head", classifier), ("projector", projector))}
    images = features @ weights["projector"].T + projector.bias.detach().numpy()

    of_logits = (softmax(logits, 1) - np.eye(len(ID2LABEL))[data.labels]) / len(data)
    of_images = slopes_of_images(objective, images, texts)
    by_labels, by_texts = of_logits @ weights["head"], of_images @ weights["projector"]
    ratio = np.linalg.norm(by_labels) / np.linalg.norm(by_texts)
    of_labels, of_texts = (1 - weight, weight * ratio) if balance else (1.0, weight)

    at_feature = torch.from_numpy(of_labels * by_labels + of_texts * by_texts)
    head = {id(parameter) for parameter in classifier.parameters()}
    body = {name: p for name, p in model.student.named_parameters() if id(p) not in head}
    gradients = torch.autograd.grad(seen[0], list(body.values()), at_feature, allow_unused=True)
    found = {f"student.{name}": g for name, g in zip(body, gradients, strict=True) if g is not None}
    name = next(name for name, module in model.named_modules() if module is classifier)
    for place, slope in ((name, of_labels * of_logits), ("projector.layers", of_texts * of_images)):
        found[f"{place}.weight"] = torch.from_numpy(slope.T @ features)
        found[f"{place}.bias"] = torch.from_numpy(slope.sum(0))
    return found, ratio


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
        ("vit", False, "clip"),
        ("vit", False, "cosine"),
    ],
)
def test_a_step_is_that_of_the_formula(tmp_path, name, balance, objective):
    data, model = Rows(rows(ROWS, torch.float64)), seeded(name, projector_type="linear")
    gradients, ratio = expected_step(copy.deepcopy(model), data, WEIGHT, objective, balance)
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


def test_the_norms_are_those_of_everything_that_enters_the_classifiers(tmp_path):
    """Of both heads of a distilled DeiT."""
    model, data, seen = seeded("deit-two-heads"), Rows(rows(ROWS, torch.float64)), []
    trainer, _ = one_step(tmp_path, model, data, **OPTIONS | {"align_loss": "cosine"})
    for layer in classifier_layers(model.student):
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.projector.normalizes = False
    output = model.train()(torch.stack([row["pixel_values"] for row in data]))
    texts = torch.from_numpy(data.embeds - data.embeds.mean(0))
    by_labels = nn.functional.cross_entropy(output.logits, torch.from_numpy(data.labels))
    by_texts = (2 - 2 * (output.image_embeds * texts).sum(1)).mean()
    norms = [
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, seen, retain_graph=True)]).norm()
        for loss in (by_labels, by_texts)
    ]
    assert len(seen) == 2
    assert first_log(trainer)["align_balance"] == pytest.approx((norms[0] / norms[1]).item(), rel=1e-5)


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
        gradients, ratio = expected_step(copy.deepcopy(before), data, weight)
        assert_moved_by(before, after, gradients)
        assert log["align_balance"] == pytest.approx(ratio, rel=1e-5) if weight else "align_balance" not in log


def test_a_batch_without_captions_trains_on_the_share_of_its_labels(tmp_path):
    """There is nothing to balance: w is zero, not a number of the order of 1e12."""
    data = Rows(row | {"caption_weight": 0.0} for row in rows(ROWS, torch.float64))
    trainer, moved = one_step(tmp_path, seeded("vit"), data, **OPTIONS)
    _, plain = one_step(tmp_path, seeded("vit"), data, align_weight=0.0, per_device_train_batch_size=ROWS)
    torch.testing.assert_close(moved, (1 - WEIGHT) * plain, rtol=1e-9, atol=1e-12)
    assert first_log(trainer)["align_balance"] == 0
