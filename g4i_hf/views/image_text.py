"""Encoders of images and texts in one space, as zero-shot classifiers have them: CLIP, SigLIP and SigLIP 2."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from transformers import AutoImageProcessor, BaseImageProcessor

from ..data.classes import terms_of
from ..embedding.encoders import load_encoder, load_tower, model_type_of
from ..names import loading

# By `model_type`: the image tower, and the output that lies in the space of the texts
IMAGE_TOWERS = {
    "clip": ("CLIPVisionModelWithProjection", "image_embeds"),
    "siglip": ("SiglipVisionModel", "pooler_output"),  # also SigLIP 2 of one image size
    "siglip2": ("Siglip2VisionModel", "pooler_output"),  # NaFlex: any aspect ratio, as patches
}
WORDINGS = (
    "a photo of a {}.",
    "a picture that shows a {}.",
    "a close-up of a {}.",
    "a {} in the middle of a photo.",
    "a {}, seen from a distance.",
)
TEXTS_AT_ONCE = 64


def is_image_text(name: str) -> bool:
    """Whether a folder or Hub id is an encoder of images and texts, by its configuration."""
    return not timm.is_model(name) and model_type_of(name) in IMAGE_TOWERS


class ImageTower(torch.nn.Module):
    """
    Pixels of [`TowerTransform`] -> (B, D) of unit norm.

    Raises:
        OSError: when it cannot be loaded; the message says why.
    """

    def __init__(self, name: str):
        super().__init__()
        model_class, self.output = IMAGE_TOWERS[model_type_of(name)]
        with loading(f"The image encoder {name!r}"):
            self.model = load_tower(model_class, name, None, "image")
            self.processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        inputs = {"pixel_values": pixels}
        if pixels.ndim == 3:
            shape = {"pixel_attention_mask": pixels[..., -3], "spatial_shapes": pixels[:, 0, -2:].long()}
            inputs = {"pixel_values": pixels[..., :-3]} | shape
        return torch.nn.functional.normalize(getattr(self.model(**inputs), self.output).float(), dim=-1)


@dataclass
class TowerTransform:
    """
    An image -> (3, H, W); of NaFlex (patches, P + 3), each patch with its mask and the shape of the image in patches.
    """

    processor: BaseImageProcessor

    def __call__(self, image: Any) -> torch.Tensor:
        inputs = self.processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"][0]
        if "spatial_shapes" not in inputs:
            return pixels
        mask, shape = inputs["pixel_attention_mask"][0, :, None], inputs["spatial_shapes"].expand(len(pixels), 2)
        return torch.cat([pixels, mask.to(pixels.dtype), shape.to(pixels.dtype)], dim=1)


def named_in_its_space(name: str, id2label: dict[int, str], device: str | torch.device) -> np.ndarray:
    """
    (C, D) float32: each class by the text tower, the mean over its terms and some wordings; zeros for a name that says
    nothing, such as `LABEL_3`. An OSError for an encoder without a text tower.
    """
    encoder = load_encoder(name, device=device)
    means = np.zeros((len(id2label), encoder.dim), dtype=np.float32)
    terms = [(row, term) for row in sorted(id2label) for term in terms_of(id2label[row])]
    texts = [(row, wording.format(term)) for row, term in terms for wording in WORDINGS]
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        rows, batch = zip(*texts[start : start + TEXTS_AT_ONCE], strict=True)
        np.add.at(means, list(rows), encoder.encode(list(batch)))
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
