"""Captions -> text embeddings, by a frozen encoder."""

from .arguments import EncoderArguments, VerifyArguments
from .embed import captions_to_embed, embed_captions, text_embeds_folder, with_text_embeds
from .encoders import encoder_from, load_encoder
from .verify import verify_embeddings

__all__ = [
    "EncoderArguments",
    "VerifyArguments",
    "captions_to_embed",
    "embed_captions",
    "encoder_from",
    "load_encoder",
    "text_embeds_folder",
    "verify_embeddings",
    "with_text_embeds",
]
