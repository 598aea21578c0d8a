"""Text towers of image-text models: caption -> unit vector in the space that the model shares with images."""

from typing import Any

import numpy as np
import torch

COUNTED_AT_ONCE = 4096  # captions; tokenizers keep much beside the tokens


def count_tokens(tokenizer: Any, captions: list[str]) -> list[int]:
    """Tokens of each caption before any cut, special tokens included."""
    counts: list[int] = []
    only_ids = {"return_attention_mask": False, "return_token_type_ids": False, "padding": False}
    for start in range(0, len(captions), COUNTED_AT_ONCE):
        batch = captions[start : start + COUNTED_AT_ONCE]
        tokens = tokenizer(batch, truncation=False, verbose=False, **only_ids)
        counts.extend(map(len, tokens["input_ids"]))
    return counts


class ClipTextEncoder:
    """The text tower of a CLIP model, with its projection. Pooled at the end token, which a cut keeps."""

    model_class = "CLIPTextModelWithProjection"
    output = "text_embeds"
    dim_field = "projection_dim"
    padding: str | bool = True

    def __init__(
        self,
        name: str,
        revision: str | None,
        device: str | torch.device,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ):
        import transformers

        if prompt_name is not None:
            raise ValueError(
                f"text_encoder_prompt_name is {prompt_name!r}, but text towers define no prompts; give the text "
                "itself as text_encoder_prompt"
            )
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
        model, info = getattr(transformers, self.model_class).from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
        lacking = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
        if lacking:  # they would be random numbers
            raise ValueError(f"it holds no whole text tower, {lacking[0]} is missing")
        self.model = model.to(device).eval()
        self.dim = getattr(self.model.config, self.dim_field)
        self.max_tokens = self.model.config.max_position_embeddings
        self.prompt = prompt or ""

    def count_tokens(self, captions: list[str]) -> list[int]:
        return count_tokens(self.tokenizer, [self.prompt + caption for caption in captions])

    @torch.inference_mode()
    def encode(self, captions: list[str]) -> np.ndarray:
        tokens = self.tokenizer(
            [self.prompt + caption for caption in captions],
            padding=self.padding,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.model.device)
        embeds = getattr(self.model(**tokens), self.output).float()
        return torch.nn.functional.normalize(embeds, dim=-1).cpu().numpy()


class SiglipTextEncoder(ClipTextEncoder):
    """
    The text tower of a SigLIP model. Pooled at the last position, padding or not, as it was trained: every caption is
    padded to the whole window. Whether a mask hides the padding, and letters become small, is up to the tokenizer.
    """

    model_class = "SiglipTextModel"
    output = "pooler_output"
    dim_field = "projection_size"
    padding = "max_length"


class Siglip2TextEncoder(SiglipTextEncoder):
    """The same of SigLIP 2."""

    model_class = "Siglip2TextModel"


# Kinds of models by the start of their `model_type`, the longest first
TOWERS = {"siglip2": Siglip2TextEncoder, "siglip": SiglipTextEncoder, "clip": ClipTextEncoder}


def tower_of(model_type: str) -> type[ClipTextEncoder] | None:
    """The class for a `model_type`, such as `siglip` or `siglip_text_model`; None for other models."""
    return next((tower for start, tower in TOWERS.items() if model_type.startswith(start)), None)
