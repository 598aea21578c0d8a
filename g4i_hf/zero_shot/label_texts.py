"""Labels and captions -> vectors in the space that a model shares with texts."""

from collections import OrderedDict
from collections.abc import Sequence

import torch

from ..embedding.encoders import TextEncoder
from ..modeling import AlignedImageClassification

BATCH = 64  # texts encoded at once
KEPT = 16  # sets of labels whose vectors are kept
PLACE_OF_LABEL = "{}"


class LabelTexts:
    """
    Embeds texts as the captions of a model were, and keeps the vectors of the latest sets of labels.

    Args:
        model: subtracts its mean embedding, where it has one.
        encoder: that of its captions.
        name: of the encoder, for errors.

    Raises:
        ValueError: when the encoder's vectors have another size than the model's.
    """

    def __init__(self, model: AlignedImageClassification, encoder: TextEncoder, name: str):
        if encoder.dim != model.config.text_embed_dim:
            raise ValueError(
                f"The text encoder {name} gives vectors of {encoder.dim} numbers, but the model was aligned with "
                f"vectors of {model.config.text_embed_dim}. Name the encoder of its captions as text_encoder."
            )
        self.model, self.encoder = model, encoder
        self._kept: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], torch.Tensor] = OrderedDict()

    def of(self, labels: Sequence[str], templates: Sequence[str] = (PLACE_OF_LABEL,)) -> torch.Tensor:
        """
        (n, D) of unit norm. With several templates the mean of the vectors that a label has in them, as in CLIP
        (arXiv 2103.00020, section 3.1.4).
        """
        key = (tuple(labels), tuple(templates))
        if key not in self._kept:
            vectors = [
                self._encode([template.replace(PLACE_OF_LABEL, label) for label in labels]) for template in templates
            ]
            self._kept[key] = torch.nn.functional.normalize(torch.stack(vectors).mean(0), dim=-1)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _encode(self, texts: list[str]) -> torch.Tensor:
        batches = [self.encoder.encode(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return in_text_space(self.model, torch.cat([torch.from_numpy(batch) for batch in batches]))


@torch.no_grad()
def in_text_space(model: AlignedImageClassification, text_embeds: torch.Tensor) -> torch.Tensor:
    """Text embeddings (n, D), as they are stored, the way they are compared with image embeddings: float32, CPU."""
    return model.text_space(text_embeds.float().to(model.device)).cpu()
