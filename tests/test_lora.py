"""LoRA: which layers are adapted, what learns, and that adapters come back and are merged."""

import sys

import pytest
import torch
from students import STUDENTS, aligned_model, lora_model
from tiny_training import arguments, rows, same
from torch import nn

from g4i_hf import AlignedImageClassification, AlignmentTrainer
from g4i_hf.hub import release_student, save_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.modeling.student import classifier_layers, is_adapter, plain_student

PIXELS = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
# Fused and separate attention, batch norms, depthwise convolutions, of timm and of transformers
FAST = ["timm-vit", "timm-resnet", "timm-convnext", "vit"]
SLOW = ["timm-efficientnet", "timm-swin", "swin", "beit", "regnet", "mobilenet_v2"]
ALL = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def logits(model, pixels: torch.Tensor = PIXELS) -> torch.Tensor:
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()  # files give unaligned tensors, and other last bits
    with torch.no_grad():
        return model.eval()(pixel_values=pixels).logits


def trainer_of(folder, name: str, **options) -> AlignmentTrainer:
    torch.manual_seed(0)
    args = arguments(folder, per_device_train_batch_size=4, **options)
    return AlignmentTrainer(lora_model(name), args, rows(8, classes=3))


@pytest.mark.parametrize("name", ALL)
def test_every_linear_and_plain_convolution_is_adapted_and_nothing_else_learns(name):
    model = lora_model(name)
    layers = {k: v for k, v in aligned_model(name).student.named_modules() if isinstance(v, (nn.Linear, nn.Conv2d))}
    stem, *others = layers
    in_heads = set(map(id, classifier_layers(model.student)))
    heads = {k for k, v in model.student.named_modules() if id(v) in in_heads}
    plain = {k for k in others if getattr(layers[k], "groups", 1) == 1}
    assert getattr(layers[stem], "in_channels", None) == 3 and heads <= plain
    assert set(model.config.lora["target_modules"]) == plain - heads
    for key, parameter in model.named_parameters():
        expected = is_adapter(key) or key.startswith(("projector.", *(f"student.{head}." for head in heads)))
        assert parameter.requires_grad == expected, key


@pytest.mark.parametrize("name", ALL)
def test_steps_move_nothing_but_adapters_and_heads(tmp_path, name):
    """Neither the base nor its running statistics; and the run comes back, with adapters and merged."""
    trainer = trainer_of(tmp_path, name, max_steps=2, learning_rate=0.05)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    trainer.train()
    model = trainer.model
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    learning = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved <= learning
    assert {key for key in learning if ".lora_B." in key or key.startswith("projector.")} <= moved
    model.save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    expected = logits(model)
    assert torch.equal(logits(AlignedImageClassification.from_pretrained(tmp_path / "run")), expected)
    merged = plain_student(model)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-3)
    assert set(merged.state_dict()) == set(aligned_model(name).student.state_dict())
    release_student(tmp_path / "run", tmp_path / "student")
    build = {"id2label": model.config.id2label, "text_embed_dim": 4, "pretrained": True}
    released = AlignedImageClassification.from_student(str(tmp_path / "student"), **build).student
    assert same(released.state_dict(), merged.state_dict())


TINY, TINY_SWIN = STUDENTS["timm-vit"][1], STUDENTS["timm-swin"][1]
READ_NOT_CALLED = {"beit_base_patch16_224": TINY, "eva_large_patch14_196": TINY | {"patch_size": 16}}
READ_NOT_CALLED |= {"swinv2_tiny_window8_256": TINY_SWIN}


@pytest.mark.parametrize("name", READ_NOT_CALLED)
def test_every_adapter_learns_where_timm_reads_a_weight_without_calling_its_layer(name, tmp_path):
    sizes = {"id2label": {0: "ant", 1: "bee"}, "text_embed_dim": 4, "image_size": 48}
    plain = AlignedImageClassification.from_student(name, student_args=READ_NOT_CALLED[name], **sizes)
    for parameter in plain.student.parameters():  # fresh ones have branches that are multiplied by zero
        parameter.data += 0.02 * torch.randn(parameter.shape)
    save_student(plain, tmp_path)
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    model = AlignedImageClassification.from_student(str(tmp_path), pretrained=True, lora=lora, **sizes)
    torch.testing.assert_close(logits(model), logits(plain))
    model(pixel_values=PIXELS, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    found = {key: parameter.grad for key, parameter in model.named_parameters() if ".lora_B." in key}
    assert any(".qkv." in key for key in found)
    assert not [key for key, grad in found.items() if grad is None or not grad.any()]


def test_a_model_that_cannot_have_adapters_says_why(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="LoRA adapters, and freeze_backbone would freeze them"):
        trainer_of(tmp_path, "vit", freeze_backbone=True)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[lora\]' in a clone"):
        lora_model("vit")
