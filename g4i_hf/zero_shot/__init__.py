"""Zero-shot classification and text-to-image search with an aligned model and its text encoder."""

from .search import ImageSearch, ZeroShotImageClassifier

__all__ = ["ImageSearch", "ZeroShotImageClassifier"]
