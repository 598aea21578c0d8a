"""LoRA (arXiv 2106.09685) in a student: which layers get an adapter, and what becomes of the adapters."""

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame, Linear
from torch import nn
from transformers import PreTrainedModel

from ..extras import require
from .processing import image_size_of
from .student import classifier_layers

# Their output is linear in their weight, so that an adapter beside it can be merged. Subclasses that change the weight
# first, such as standardised convolutions, have a `forward` of their own.
LINEAR_IN_THEIR_WEIGHT = {layer.forward for layer in (nn.Linear, Linear, nn.Conv2d, Conv2dSame)}


def require_peft() -> ModuleType:
    return require("peft", "lora", "LoRA")


def find_target_modules(student: PreTrainedModel, image_size: int) -> list[str]:
    """
    Names of the layers that get an adapter: every Linear and every plain convolution, but for the one that reads the
    pixels and for the classifier. peft's `all-linear` leaves out convolutions, and has layers whose weight is read
    without a call (qkv of BEiT in timm), where an adapter does nothing: so the student is run once.
    """
    layers = {name: layer for name, layer in student.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    called = _called(student, layers, image_size)
    classifier = {part for head in classifier_layers(student) for part in head.modules()}
    return [
        name
        for name, layer in layers.items()
        if name in called[1:] and layer not in classifier and _is_linear_in_its_weight(layer)
    ]


def _called(student: PreTrainedModel, layers: dict[str, nn.Module], image_size: int) -> list[str]:
    """Names of the layers that the student calls, in this order."""
    called: dict[str, None] = {}
    handles = [
        layer.register_forward_pre_hook(lambda *_, name=name: called.setdefault(name))
        for name, layer in layers.items()
    ]
    training = student.training
    with torch.no_grad():
        student.eval()(pixel_values=torch.zeros(1, 3, image_size, image_size, dtype=student.dtype))
    student.train(training)
    for handle in handles:
        handle.remove()
    return list(called)


def _is_linear_in_its_weight(layer: nn.Module) -> bool:
    """Whether peft can put an adapter beside a layer, of which the sum is again such a layer."""
    if getattr(layer, "groups", 1) > 1 or getattr(layer, "padding_mode", "zeros") != "zeros":
        return False
    if isinstance(layer, nn.Conv2d) and set(layer.dilation) != {1}:
        return False
    return type(layer).forward in LINEAR_IN_THEIR_WEIGHT


def lora_fields(
    student: PreTrainedModel, settings: dict[str, Any], name: str, revision: str | None = None
) -> dict[str, Any]:
    """
    What [`AlignedImageClassificationConfig`] keeps of LoRA in a student with the weights of the checkpoint `name`.
    """
    names = find_target_modules(student, image_size_of(student.config))
    base = timm.get_pretrained_cfg(name).hf_hub_id if timm.is_model(name) else name
    base = None if Path(name).is_dir() else base
    return settings | {"target_modules": names, "base_model_name_or_path": base, "revision": revision}


def add_adapters(student: PreTrainedModel, lora: dict[str, Any]) -> None:
    """Puts an adapter beside each of `lora["target_modules"]`; adapters and classifier alone stay trainable."""
    names, settings = lora["target_modules"], {name: lora[name] for name in ("r", "lora_alpha", "lora_dropout")}
    peft = require_peft()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=names, **settings), student)
    for layer in map(student.get_submodule, names):
        if isinstance(layer.base_layer, nn.Conv2d):
            # MobileNetV2 of transformers pads by what it reads here, which peft's layer does not hand on
            for name in ("kernel_size", "stride", "dilation"):
                setattr(layer, name, getattr(layer.base_layer, name))
    for layer in classifier_layers(student):
        layer.requires_grad_(True)


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def keep_statistics(student: PreTrainedModel) -> None:
    """
    Batch norms use and keep the running statistics of the base, also while training: an adapter has no place for
    others, and beside its base it would give other logits.
    """
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def plain_student(model: Any) -> PreTrainedModel:
    """
    The student of an [`AlignedImageClassification`], exactly what transformers or timm would make of its
    configuration: with adapters, a copy that has them merged into its weights.
    """
    if model.config.lora is None:
        return model.student
    student = copy.deepcopy(model.student)
    for name in model.config.lora["target_modules"]:
        layer = student.get_submodule(name)
        layer.merge(safe_merge=True)
        student.set_submodule(name, layer.get_base_layer())
    del student.peft_config
    return student.requires_grad_(True)
