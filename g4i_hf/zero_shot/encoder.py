"""The text encoder of a model: that of its captions and no other."""

import logging
from typing import Any

import torch

from ..embedding.encoders import TextEncoder, load_encoder
from .checkpoint import TextSide, is_bare

logger = logging.getLogger(__name__)


def open_encoder(side: TextSide, device: str | torch.device) -> tuple[TextEncoder, str]:
    """
    Args:
        side: what is known of the encoder; its `text_encoder` may be one that is loaded.
        device: where it runs.

    Returns:
        The encoder, and its name for errors.

    Raises:
        OSError: when it cannot be loaded.
        ValueError: when none is known, when it was a folder of which only the name is known, or when a folder holds
            another one.
    """
    encoder = side.text_encoder
    if encoder is None:
        raise ValueError(
            "The model does not say which text encoder its captions were embedded with. Name it as text_encoder."
        )
    if not isinstance(encoder, str):
        name = type(encoder).__name__
        _check_files(side, encoder.provenance, name)
        return encoder, name
    if side.text_encoder_is_folder and is_bare(encoder):
        raise ValueError(
            f"The captions of the model were embedded with a text encoder in a local folder, {encoder!r}. An encoder "
            "of that name on the Hub would be another one: give the place of the folder as text_encoder."
        )
    loaded = load_encoder(
        encoder,
        side.text_encoder_revision,
        device,
        # a recorded prompt is the text itself, with its name for information
        prompt=side.text_encoder_prompt if side.text_encoder_prompt_name is None else None,
        prompt_name=side.text_encoder_prompt_name,
    )
    _check_files(side, loaded.provenance, encoder)
    return loaded, encoder


def _check_files(side: TextSide, provenance: dict[str, Any], name: str) -> None:
    """
    Raises:
        ValueError: when the captions were embedded with a folder, and the encoder is one of other files.
    """
    if not side.text_encoder_is_folder or side.text_encoder_digest is None:
        return
    given = TextSide.from_record(provenance)
    if not given.text_encoder_is_folder:
        logger.warning(
            "The captions of the model were embedded with a text encoder in a local folder. Whether %s is the same "
            "cannot be seen.",
            name,
        )
    elif given.text_encoder_digest != side.text_encoder_digest:
        raise ValueError(
            f"{name} is not the text encoder that the captions of the model were embedded with: its files are others "
            f"({given.text_encoder_digest}, not {side.text_encoder_digest}). Give the folder of that one as "
            "text_encoder."
        )
