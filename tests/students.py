"""Small students of many architectures, for tests that must hold for all of them."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import BeitConfig, ConvNextConfig, DeiTConfig, ResNetConfig, SwinConfig, ViTConfig

from g4i_hf import AlignedImageClassification
from g4i_hf.hub import save_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor

ID2LABEL = {0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "elk"}
TINY_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 16}
TWO_HEADED = "DeiTForImageClassificationWithTeacher"
TINY_TIMM_VIT = {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY_TIMM_SWIN = {"img_size": 48, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 3}

# name -> (timm name or configuration, student_args), for images of 48 x 48
STUDENTS = {
    "resnet": (ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, layer_type="basic"), None),
    "vit": (ViTConfig(**TINY_VIT, intermediate_size=64), None),
    "deit-two-heads": (DeiTConfig(**TINY_VIT, intermediate_size=64, architectures=[TWO_HEADED]), None),
    "swin": (SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3, image_size=48), None),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4), None),
    "beit": (BeitConfig(**TINY_VIT, intermediate_size=64), None),
    "timm-resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16]}),
    "timm-vit": ("vit_tiny_patch16_224", TINY_TIMM_VIT),
    "timm-deit-two-heads": ("deit_tiny_distilled_patch16_224", TINY_TIMM_VIT),
    "timm-efficientnet": ("efficientnet_lite0", None),
    "timm-mobilenetv3": ("mobilenetv3_small_050", None),
    "timm-convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "timm-swin": ("swin_tiny_patch4_window7_224", TINY_TIMM_SWIN),
    "timm-poolformer": ("poolformer_s12", None),
}
TWO_HEADS = {"deit-two-heads", "timm-deit-two-heads"}
# Convolutions, attention and windows of both libraries, and two heads; `make test` leaves the others out
QUICK = {"resnet", "vit", "deit-two-heads", "swin", "timm-resnet", "timm-vit", "timm-deit-two-heads", "timm-convnext"}
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in STUDENTS]


def aligned_model(name: str, text_embed_dim: int = 12, **kwargs) -> AlignedImageClassification:
    student, student_args = STUDENTS[name]
    return AlignedImageClassification.from_student(
        student, id2label=ID2LABEL, text_embed_dim=text_embed_dim, student_args=student_args, image_size=48, **kwargs
    )


COMMIT = "a" * 40


def on_hub(name: str) -> str:
    """The Hub id under which the cache holds a tiny checkpoint, as if it had been downloaded from there."""
    repository = f"me/{name}"
    place = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    if not place.exists():
        staging = place.with_name(f".{place.name}-{os.getpid()}")  # other processes may be at the same
        folder = staging / "snapshots" / COMMIT
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = aligned_model(name)
            for parameter in model.student.parameters():  # fresh ones have branches that are multiplied by zero
                parameter.add_(0.02 * torch.randn(parameter.shape))
            model.train()(torch.randn(8, 3, 48, 48))  # and running statistics of no image
        save_student(model, folder)
        generic_processor(ImageSettings(48)).save_pretrained(folder)
        (staging / "refs").mkdir()
        (staging / "refs" / "main").write_text(COMMIT)
        with suppress(OSError):
            staging.rename(place)
    return repository


def lora_model(name: str, **lora) -> AlignedImageClassification:
    """The student of that name, as a pretrained one with LoRA adapters and a new head of three classes."""
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0} | lora
    sizes = {"id2label": {0: "ant", 1: "bee", 2: "cat"}, "text_embed_dim": 12, "image_size": 48}
    return AlignedImageClassification.from_student(on_hub(name), pretrained=True, lora=settings, **sizes)
