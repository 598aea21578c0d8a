"""Alignment objectives: pure functions of tensors, one a file."""

from .classification import UNLABELLED, classification_loss, soft_label_loss
from .clip import clip_loss
from .cosine import cosine_loss
from .diagnostics import alignment_diagnostics
from .infonce import infonce_loss
from .pairs import BankTexts, Pairs, StoredTexts, make_pairs
from .settings import LogitSettings
from .siglip import siglip_loss
from .soft_clip import soft_clip_loss

# An objective maps (pairs, settings) to its sum over the local pairs.
OBJECTIVES = {
    "clip": clip_loss,
    "infonce": infonce_loss,
    "soft_clip": soft_clip_loss,
    "siglip": siglip_loss,
    "cosine": cosine_loss,
}

# Objectives that have a temperature, and a bias: what the model may learn.
WITH_TEMPERATURE = {"clip", "infonce", "soft_clip", "siglip"}
WITH_BIAS = {"siglip"}

# Objectives whose official implementation gathers without gradient: DDP then divides their gradient by the number of
# processes, which `align_gradient="official"` reproduces. Its other losses keep the full gradient.
OFFICIALLY_DIVIDED = {"clip"}

__all__ = [
    "OBJECTIVES",
    "OFFICIALLY_DIVIDED",
    "UNLABELLED",
    "WITH_BIAS",
    "WITH_TEMPERATURE",
    "BankTexts",
    "LogitSettings",
    "Pairs",
    "StoredTexts",
    "alignment_diagnostics",
    "classification_loss",
    "clip_loss",
    "cosine_loss",
    "infonce_loss",
    "make_pairs",
    "siglip_loss",
    "soft_clip_loss",
    "soft_label_loss",
]
