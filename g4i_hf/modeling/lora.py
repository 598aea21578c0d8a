"""LoRA (arXiv 2106.09685) in a student: the layers with an adapter, and merging adapters."""

import copy
from types import ModuleType
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..extras import require
from .student import classifier_layers


def require_peft() -> ModuleType:
    return require("peft", "lora", "LoRA")


def find_target_modules(student: PreTrainedModel) -> list[str]:
    """
    Names of the layers that get an adapter: every Linear and every plain convolution, except the first layer, which
    reads the pixels, and the classifier. `all-linear` of peft omits convolutions and adapts the classifier.
    """
    layers = {name: layer for name, layer in student.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    classifier = {part for head in classifier_layers(student) for part in head.modules()}
    return [name for name, layer in list(layers.items())[1:] if layer not in classifier and _is_plain(layer)]


def _is_plain(layer: nn.Module) -> bool:
    """Whether the adapter can be merged: a subclass may change its weight, as standardised convolutions do."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"
    return type(layer) is nn.Linear


def add_adapters(student: PreTrainedModel, lora: dict[str, Any]) -> None:
    """Add an adapter to each of `lora["target_modules"]`; only adapters and classifier stay trainable."""
    peft = require_peft()
    peft.inject_adapter_in_model(peft.LoraConfig(**lora), student)
    for module in student.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # otherwise BEiT, EVA and Swin v2 of timm read the weight without a call
    for layer in map(student.get_submodule, lora["target_modules"]):
        if isinstance(layer.base_layer, nn.Conv2d):
            # MobileNetV2 of transformers reads its padding here, which peft's layer lacks
            for name in ("kernel_size", "stride", "dilation"):
                setattr(layer, name, getattr(layer.base_layer, name))
    for layer in classifier_layers(student):
        layer.requires_grad_(True)


def is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def keep_statistics(student: PreTrainedModel) -> None:
    """Freeze the running statistics of batch norms, as an adapter cannot store others for its base."""
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def plain_student(model: Any) -> PreTrainedModel:
    """
    The student of an [`AlignedImageClassification`], as transformers or timm would build it from its configuration.
    Adapters are merged into the weights of a copy.
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
