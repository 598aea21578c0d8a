"""How well an image and a text fit, by a CLIP or SigLIP model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from ...data.images import to_rgb

BATCH_SIZE = 32


class ClipScorer:
    """
    Cosine of image and text in the space that the model gives both. Texts longer than its window (77 tokens of CLIP,
    64 of SigLIP) are cut there.

    Args:
        model: Hub id or folder of a CLIP, SigLIP, SigLIP 2 or similar model with its processor.
        revision: branch, tag or commit on the Hub.
        device: where it runs; a GPU if there is one by default.

    Raises:
        OSError: when the model cannot be found.
        ValueError: when it has no towers for images and texts, or lacks weights.
    """

    def __init__(self, model: str, revision: str | None = None, device: str | torch.device | None = None):
        from transformers import AutoModel, AutoProcessor

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, info = AutoModel.from_pretrained(
            model, revision=revision, dtype=torch.float32, output_loading_info=True
        )
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            raise ValueError(
                f"{model!r} is of type {self.model.config.model_type!r}, which does not compare images with texts. "
                "Give a CLIP or SigLIP model."
            )
        if info["missing_keys"]:  # they would be random numbers
            raise ValueError(f"{model!r} is no whole model: {sorted(info['missing_keys'])[0]} is missing.")
        self.model.to(self.device).eval()
        self.processor = AutoProcessor.from_pretrained(model, revision=revision)
        config = self.model.config
        self.max_tokens = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        # SigLIP pools at the last position and was trained on texts padded to the whole window
        self.padding: bool | str = "max_length" if config.model_type.startswith("siglip") else True

    def __call__(self, images: Sequence[PILImage.Image], texts: Sequence[str]) -> np.ndarray:
        """
        Args:
            images: n images.
            texts: n texts.

        Returns:
            (n,) float32: the cosine of each image and its own text.
        """
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images, but {len(texts)} texts; they are compared in pairs.")
        if not len(images):
            return np.zeros(0, dtype=np.float32)
        return (self.embed_images(images) * self.embed_texts(texts)).sum(1)

    def embed_images(self, images: Sequence[PILImage.Image]) -> np.ndarray:
        """(n, D) float32, rows of unit norm. An image that is given several times is encoded once."""
        return self._embed(images, id, self._encode_images)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, D) float32, rows of unit norm. A text that is given several times is encoded once."""
        return self._embed(texts, str, self._encode_texts)

    def _embed(self, items: Sequence[Any], key: Callable[[Any], Any], encode: Callable[[list], Any]) -> np.ndarray:
        different = {key(item): item for item in items}
        place = {name: i for i, name in enumerate(different)}
        values, parts = list(different.values()), []
        with torch.inference_mode():
            for start in range(0, len(values), BATCH_SIZE):
                output = encode(values[start : start + BATCH_SIZE])
                embeds = getattr(output, "pooler_output", output).float()
                parts.append(torch.nn.functional.normalize(embeds, dim=-1).cpu().numpy())
        return np.concatenate(parts)[[place[key(item)] for item in items]]

    def _encode_images(self, images: list[PILImage.Image]) -> Any:
        inputs = self.processor(images=[to_rgb(image) for image in images], return_tensors="pt")
        return self.model.get_image_features(**inputs.to(self.device))

    def _encode_texts(self, texts: list[str]) -> Any:
        cut = {"truncation": True, "max_length": self.max_tokens} if self.max_tokens else {"truncation": True}
        inputs = self.processor.tokenizer(texts, padding=self.padding, return_tensors="pt", **cut)
        return self.model.get_text_features(**inputs.to(self.device))
