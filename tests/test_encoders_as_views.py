"""Image encoders of the Hub as views: their own weights and preprocessing. Tiny random ones, saved on the spot."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from g4i_hf.workflows.known_views import features_by

VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
VISION |= {"intermediate_size": 48}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 90}
BOTH = {"text_config": TEXT, "vision_config": VISION}
SQUARE, CROP = {"height": 32, "width": 32}, {"size": {"shortest_edge": 32}, "crop_size": 32}
ENCODERS = {
    "clip": (
        lambda: CLIPModel(CLIPConfig(**BOTH, projection_dim=16)),
        CLIPImageProcessor(**CROP),
        lambda hidden: hidden[:, 1:].mean(1),
    ),
    "siglip": (
        lambda: SiglipModel(SiglipConfig(**BOTH)),
        SiglipImageProcessor(size=SQUARE),
        lambda hidden: hidden.mean(1),
    ),
    "dinov2": (
        lambda: Dinov2Model(Dinov2Config(**{**VISION, "intermediate_size": None})),
        BitImageProcessor(**CROP),
        lambda hidden: torch.cat([hidden[:, 0], hidden[:, 1:].mean(1)], dim=1),
    ),
    "vit": (lambda: ViTModel(ViTConfig(**VISION)), ViTImageProcessor(size=SQUARE), lambda hidden: hidden[:, 0]),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_those_of_the_encoder_with_its_own_preprocessing(tmp_path, name):
    make, processor, pooled = ENCODERS[name]
    torch.manual_seed(0)
    folder = str(tmp_path / name)
    make().save_pretrained(folder)
    processor.save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (6, 40, 48, 3), dtype=np.uint8)
    images = [Image.fromarray(each) for each in pixels]
    split = Dataset.from_dict({"image": images, "image_id": [str(row) for row in range(6)]})
    found = features_by(folder, split, {0: "ant", 1: "bee"}, tmp_path / "features", Accelerator(cpu=True))
    encoder = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = processor(images, return_tensors="pt")["pixel_values"]
        hidden = getattr(encoder, "vision_model", encoder)(inputs).last_hidden_state
    np.testing.assert_allclose(found, pooled(hidden).numpy(), atol=0.02)
