"""Classes by their names alone, and images by a text: an aligned model beside its text encoder."""

from .classifier import ZeroShotImageClassifier
from .search import ImageSearch

__all__ = ["ImageSearch", "ZeroShotImageClassifier"]
