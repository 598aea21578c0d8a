"""Zero-shot classification and text-to-image search with an aligned model and its text encoder."""

from .classifier import ZeroShotImageClassifier
from .search import ImageSearch

__all__ = ["ImageSearch", "ZeroShotImageClassifier"]
