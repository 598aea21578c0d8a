"""`align_similarity: dot` and `align_balance`, as in TextTeacher (arXiv 2605.22098), against the formula."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from students import ID2LABEL, STUDENTS, aligned_model
from test_trainer import ONE_STEP, TEXT_DIM, arguments, first_log, one_step, rows, train
from timm.layers import BatchNormAct2d
from timm.models.resnetv2 import ResNetV2
from torch import nn
from transformers import TrainerCallback

from g4i_hf import AlignedImageClassification
from g4i_hf.modeling.student import classifier_layers
from g4i_hf.training import AlignmentTrainer

WEIGHT, TEMPERATURE, ROWS, RATE = 0.4, 0.7, 8, ONE_STEP["learning_rate"]
OPTIONS = {"align_similarity": "dot", "align_balance": True, "align_weight": WEIGHT, "align_temperature": TEMPERATURE}
OPTIONS |= {"per_device_train_batch_size": ROWS}
LINEAR = {"projector_type": "linear"}


class Rows(list):
    """The rows of test_trainer.py in order, with the mean of their texts."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        super().__init__(rows(ROWS, dtype))
        self.embeds = np.stack([row["text_embeds"] for row in self]).astype(np.float64)
        self.texts = SimpleNamespace(mean=lambda: self.embeds.mean(0))


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

    of_logits = (softmax(logits, 1) - np.eye(len(ID2LABEL))[[row["labels"] for row in data]]) / len(data)
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


@pytest.mark.parametrize("objective", ["clip", "infonce", "cosine"])
@pytest.mark.parametrize("name, balance", [("resnet", True), ("vit", True), ("timm-resnet", True), ("vit", False)])
def test_a_step_is_that_of_the_formula(tmp_path, name, balance, objective):
    data, model = Rows(), seeded(name, **LINEAR)
    gradients, ratio = expected_step(copy.deepcopy(model), data, WEIGHT, objective, balance)
    options = OPTIONS | {"align_loss": objective, "align_balance": balance}
    trainer, _ = one_step(tmp_path, model, data, **options)
    assert_moved_by(model, trainer.model, gradients)
    log = first_log(trainer)
    assert ("align_balance" in log) == balance
    if balance:
        assert log["align_balance"] == pytest.approx(ratio, rel=1e-5)
    of_labels, of_texts = (1 - WEIGHT, WEIGHT * ratio) if balance else (1, WEIGHT)
    assert log["loss"] == pytest.approx(of_labels * log["loss_ce"] + of_texts * log["loss_align"], rel=1e-5)
    assert all(-1 <= log[f"cosine_{kind}"] <= 1 for kind in ("positive", "negative"))


@pytest.mark.parametrize("name", ["deit-two-heads", "timm-deit-two-heads", "convolution"])
def test_the_norms_are_those_of_everything_that_enters_the_classifier(tmp_path, name):
    """Of both heads; of a head that is a convolution."""
    model = seeded("timm-resnet" if name == "convolution" else name)
    if name == "convolution":
        sizes = {"layers": [1] * 4, "channels": [8, 16, 16, 16], "stem_chs": 8, "num_classes": len(ID2LABEL)}
        model.student.timm_model = ResNetV2(**sizes, norm_layer=BatchNormAct2d).double()
        model = AlignedImageClassification(model.config, model.student).double()
        assert isinstance(classifier_layers(model.student)[0], nn.Conv2d)
    trainer, _ = one_step(tmp_path, model, Rows(), **OPTIONS | {"align_loss": "cosine"})

    model, data, seen = copy.deepcopy(model).train(), Rows(), []
    for layer in classifier_layers(model.student):
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.projector.normalizes = False
    output = model(torch.stack([row["pixel_values"] for row in data]))
    labels = torch.tensor([row["labels"] for row in data])
    texts = torch.from_numpy(data.embeds - data.embeds.mean(0))
    losses = nn.functional.cross_entropy(output.logits, labels), (2 - 2 * (output.image_embeds * texts).sum(1)).mean()
    norms = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, seen, retain_graph=True)]) for loss in losses]
    assert len(seen) == 1 + name.endswith("two-heads")
    assert first_log(trainer)["align_balance"] == pytest.approx((norms[0].norm() / norms[1].norm()).item(), rel=1e-5)


def test_the_weight_falls_to_zero_and_leaves_the_classifier_alone(tmp_path):
    """Half a cosine, and a last epoch without captions: every step is that of the formula with its own weight."""
    data, model = Rows(), seeded("vit", **LINEAR)
    course = {"align_schedule": "cosine", "align_off_epochs": 1, "max_steps": -1, "num_train_epochs": 5}
    states = []

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            states.append(copy.deepcopy(model))

    options = ONE_STEP | OPTIONS | course
    trainer = train(tmp_path, copy.deepcopy(model), data, [Keep()], **options)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(states) == len(logs) == 5
    for step, (before, after, log) in enumerate(zip([model, *states], states, logs, strict=False)):
        weight = WEIGHT * (1 + math.cos(math.pi * step / 4)) / 2 if step < 4 else 0
        assert log["align_weight"] == pytest.approx(weight, rel=1e-6)
        gradients, ratio = expected_step(copy.deepcopy(before), data, weight)
        assert_moved_by(before, after, gradients)
        assert log["align_balance"] == pytest.approx(ratio, rel=1e-5) if weight else "align_balance" not in log


def test_a_batch_without_captions_trains_on_its_labels(tmp_path):
    """Their share stays; there is nothing to balance, and w is no number of the order of 1e12."""
    data, model = Rows(), seeded("vit", **LINEAR)
    for row in data:
        row["caption_weight"] = 0.0
    trainer, moved = one_step(tmp_path, model, data, **OPTIONS)
    _, plain = one_step(tmp_path, model, data, align_weight=0.0, per_device_train_batch_size=ROWS)
    torch.testing.assert_close(moved, (1 - WEIGHT) * plain, rtol=1e-9, atol=1e-12)
    assert first_log(trainer)["align_balance"] == 0


def test_only_training_compares_what_is_not_of_unit_norm(tmp_path):
    data = Rows(torch.float32)
    torch.manual_seed(1)
    trainer, _ = one_step(tmp_path, aligned_model("timm-resnet", TEXT_DIM), data, **OPTIONS)
    model, pixels = trainer.model, torch.stack([row["pixel_values"] for row in data])
    ones = torch.ones(ROWS)
    with torch.no_grad():
        trained = model.train()(pixels).image_embeds
        evaluated = model.eval()(pixels, output_image_embeds=True).image_embeds
    assert not torch.allclose(trained.norm(dim=1), ones, atol=0.01)
    torch.testing.assert_close(evaluated.norm(dim=1), ones)
    model.save_pretrained(tmp_path / "run")
    loaded = AlignedImageClassification.from_pretrained(tmp_path / "run")
    with torch.no_grad():
        again = loaded.eval()(pixels, output_image_embeds=True).image_embeds
        torch.testing.assert_close(again, evaluated, rtol=0, atol=1e-6)
        torch.testing.assert_close(loaded.train()(pixels).image_embeds.norm(dim=1), ones)


def test_a_trained_model_can_be_copied(tmp_path):
    """It holds on to no tensor of its last batch."""
    trainer, _ = one_step(tmp_path, seeded("vit"), Rows(), **OPTIONS)
    assert trainer.model.training
    twin = copy.deepcopy(trainer.model)
    assert all(torch.equal(tensor, twin.state_dict()[key]) for key, tensor in trainer.model.state_dict().items())


def test_each_micro_batch_is_balanced_by_itself(tmp_path):
    """Without negatives, two halves are two batches."""
    data, model = Rows(), seeded("vit", **LINEAR)
    halves = [Rows(), Rows()]
    for half, kept in zip(halves, (slice(4), slice(4, 8)), strict=True):
        half[:] = half[kept]
        half.embeds, half.texts = data.embeds[kept], data.texts
    alone = {"align_loss": "cosine", "per_device_train_batch_size": 4}
    _, moved = one_step(tmp_path, model, data, **OPTIONS | alone | {"gradient_accumulation_steps": 2})
    parts = [one_step(tmp_path, model, half, **OPTIONS | alone)[1] for half in halves]
    torch.testing.assert_close(moved, sum(parts) / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"align_weight": 1.5}, "align_weight is 1.5, but with align_balance it is a share: at most 1"),
        ({"freeze_backbone": True}, "align_balance compares gradients at the feature, where freeze_backbone has none"),
        ({"align_similarity": "euclid"}, "align_similarity is 'euclid'.*cosine.*dot"),
    ],
)
def test_options_that_make_no_sense_are_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **{"align_balance": True} | options)
    assert arguments(tmp_path, align_balance=True, align_weight=1.0).align_weight == 1
    assert arguments(tmp_path, align_weight=1.5).align_weight == 1.5


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_students_of_transformers_learn_with_it(tmp_path, name):
    """Rates and objective as one would have them: both losses fall."""
    torch.manual_seed(1)
    student, _ = STUDENTS[name]
    build = {"id2label": ID2LABEL, "text_embed_dim": TEXT_DIM, "image_size": 48, "projector_norm": "batch"}
    model = AlignedImageClassification.from_student(student, **build)
    options = {"max_steps": 12, "learning_rate": 3e-3, "align_temperature": 1.0, "align_loss": "clip"}
    trainer = AlignmentTrainer(model, arguments(tmp_path, **OPTIONS | options), Rows(torch.float32))
    trainer.train()
    first, *_, last = [log for log in trainer.state.log_history if "loss_ce" in log]
    for term in ("loss_ce", "loss_align"):
        assert last[term] < 0.9 * first[term], term
