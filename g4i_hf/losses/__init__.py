"""Losses: pairs of images and texts, alignment objectives, classification losses, and what crosses processes."""

from .classification import UNLABELLED, classification_loss, soft_label_loss
from .objectives import (
    OBJECTIVES,
    OFFICIALLY_DIVIDED,
    WITH_BIAS,
    WITH_TEMPERATURE,
    LogitSettings,
    alignment_diagnostics,
    clip_loss,
    cosine_loss,
    infonce_loss,
    siglip_loss,
    soft_clip_loss,
)
from .pairs import BankTexts, Pairs, StoredTexts, make_pairs

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
