"""Captions -> text embeddings, by a frozen encoder."""

from ..options import EncoderArguments
from .embed import (
    EmbeddingStage,
    described_embeddings,
    embed_captions,
    embed_stage,
    text_embeds_folder,
    with_text_embeds,
)
from .encoders import encoder_from, load_encoder

__all__ = [
    "EmbeddingStage",
    "EncoderArguments",
    "described_embeddings",
    "embed_captions",
    "embed_stage",
    "encoder_from",
    "load_encoder",
    "text_embeds_folder",
    "with_text_embeds",
]
