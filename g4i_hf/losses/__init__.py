"""Alignment objectives: pure functions of tensors, one a file."""

from .classification import UNLABELLED, classification_loss
from .clip import clip_loss
from .cosine import cosine_loss
from .diagnostics import alignment_diagnostics
from .pairs import Pairs, make_pairs

# An objective maps (pairs, temperature) to its sum over the local pairs.
OBJECTIVES = {"clip": clip_loss, "cosine": cosine_loss}

# Objectives whose official implementation gathers without gradient: DDP then divides their gradient by the number of
# processes, which `align_gradient="official"` reproduces. Its other losses keep the full gradient.
OFFICIALLY_DIVIDED = {"clip"}

__all__ = [
    "OBJECTIVES",
    "OFFICIALLY_DIVIDED",
    "UNLABELLED",
    "Pairs",
    "alignment_diagnostics",
    "classification_loss",
    "clip_loss",
    "cosine_loss",
    "make_pairs",
]
