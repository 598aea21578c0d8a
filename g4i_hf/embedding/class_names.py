"""Class names as texts."""

import numpy as np

from ..options import EncoderArguments
from .encode import encode_captions
from .encoders import TextEncoder


def name_as_text(class_name: str) -> str:
    """`animal-bird` -> `animal bird`."""
    return " ".join(class_name.replace("_", " ").replace("-", " ").split())


def class_name_embeds(class_names: list[str], encoder: TextEncoder, args: EncoderArguments) -> np.ndarray:
    """(classes, D) of unit norm, as captions that are nothing but the name of a class are embedded."""
    texts = [name_as_text(name) for name in class_names]
    return encode_captions(sorted(set(texts)), encoder, args).of(texts)
