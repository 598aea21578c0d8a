"""
Accuracy on corrupted images: blurred, noisy, pale and compressed, at five strengths.

The kinds and strengths are those of CIFAR-10-C at 32 px and of ImageNet-C at 224 px (Hendrycks and Dietterich, arXiv
1903.12261), and geometrically between them at sizes between. They are made by torchvision's transforms and are not the
images of those benchmarks: figures compare with each other, not with published ones.
"""

import hashlib
import math

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from torchvision.transforms.v2 import functional as F
from transformers import BaseImageProcessor

from ..data.dataset import own_randomness
from ..modeling import AlignedImageClassification
from ..modeling.processing import EvalTransform
from .comparison import CORRUPTIONS, STRENGTHS
from .predict import for_prediction, run_batches

SIDES = (32, 224)
# Strengths 1 to 5 at these sides
PARAMETERS = {
    "blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),  # standard deviation of a Gaussian, px
    "noise": ((0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)),  # Gaussian, share of the value range
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),  # what is left of it
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),  # quality
}


def parameter(kind: str, strength: int, side: int) -> float:
    """
    The value in PARAMETERS for a strength from 1 to 5, and for the shorter `side` of an image in pixels: between the
    two SIDES it lies geometrically between their values, below and above them it is theirs.
    """
    small, large = (values[strength - 1] for values in PARAMETERS[kind])
    share = math.log(side / SIDES[0]) / math.log(SIDES[1] / SIDES[0])
    return small * (large / small) ** min(max(share, 0.0), 1.0)


def corrupted(pixels: torch.Tensor, kind: str, strength: int) -> torch.Tensor:
    """The image, (3, H, W) uint8. Noise is seeded by its pixels: one pattern at every strength, wherever it stands."""
    side = min(pixels.shape[-2:])
    value = parameter(kind, strength, side)
    if kind == "blur":
        size = min(2 * math.ceil(3 * value) + 1, 2 * side - 1)  # more would not fit into the mirrored border
        return F.gaussian_blur(pixels, [size, size], [value, value])
    if kind == "contrast":
        return F.adjust_contrast(pixels, value)
    if kind == "jpeg":
        return F.jpeg(pixels, round(value))
    digest = hashlib.blake2b(pixels.contiguous().numpy().tobytes(), digest_size=7).digest()
    with own_randomness() as seed_all:
        seed_all(int.from_bytes(digest, "little"))
        noisy = F.gaussian_noise(F.to_dtype(pixels, torch.float32, scale=True), sigma=value)
    return (noisy * 255).round().to(torch.uint8)


class CorruptingTransform:
    """
    The transform of evaluation with a corruption between its resizing and its normalisation, which is found with a
    black and a white image. `kind` and `strength` may be changed between passes.
    """

    def __init__(self, processor: BaseImageProcessor, kind: str = "blur", strength: int = 1):
        self.transform = EvalTransform(processor)
        self.kind, self.strength = kind, strength
        black, white = (self.transform(Image.new("RGB", (64, 64), color)) for color in ("black", "white"))
        self.black = black.mean((1, 2), keepdim=True)
        self.range = white.mean((1, 2), keepdim=True) - self.black

    def fixed(self, image: Image.Image) -> Image.Image:
        """As the student sees it, in 8 bits."""
        values = (self.transform(image) - self.black) / self.range
        return F.to_pil_image((values * 255).round().clamp(0, 255).to(torch.uint8))

    def drawn(self, picture: Image.Image) -> torch.Tensor:
        """(3, H, W), corrupted and normalised."""
        pixels = corrupted(F.pil_to_tensor(picture), self.kind, self.strength)
        return self.black + self.range * (pixels.float() / 255)


@torch.no_grad()
def corrupted_accuracies(
    model: AlignedImageClassification,
    processor: BaseImageProcessor,
    split: Dataset,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
    description: str = "Evaluating",
) -> dict[str, float]:
    """
    Accuracies over the labelled rows of a split, the processes sharing the work: `{kind}_{strength}_accuracy`,
    `{kind}_accuracy`, the mean over strengths, and `corrupted_accuracy`, the mean over all. Nothing where no row is
    labelled, and in processes other than the main one.
    """
    transform = CorruptingTransform(processor)
    images = for_prediction(split, transform)
    labelled = np.flatnonzero(images.labels >= 0)
    if len(labelled) == 0:
        return {}
    if len(labelled) < len(split):
        images = for_prediction(split.select(labelled), transform)
    model = accelerator.prepare_model(model, evaluation_mode=True)
    found: dict[str, float] = {}
    for kind in CORRUPTIONS:
        for strength in STRENGTHS:
            transform.kind, transform.strength = kind, strength
            what = f"{description}, {kind} {strength}"
            outputs = run_batches(model, images, accelerator, batch_size, num_workers, what, ("predicted",))
            if outputs is not None:
                found[f"{kind}_{strength}_accuracy"] = float(np.mean(outputs["predicted"] == images.labels))
    if not found:
        return {}
    for kind in CORRUPTIONS:
        found[f"{kind}_accuracy"] = float(np.mean([found[f"{kind}_{strength}_accuracy"] for strength in STRENGTHS]))
    return found | {"corrupted_accuracy": float(np.mean([found[f"{kind}_accuracy"] for kind in CORRUPTIONS]))}
