"""Captions -> text embeddings, by a frozen encoder."""

from .arguments import EncoderArguments
from .embed import embed_captions, with_text_embeds
from .encoders import load_encoder

__all__ = ["EncoderArguments", "embed_captions", "load_encoder", "with_text_embeds"]
