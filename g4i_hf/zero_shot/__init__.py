"""Classes by their names alone, and the nearest captions: an aligned model beside its text encoder."""

from .classifier import ZeroShotImageClassifier

__all__ = ["ZeroShotImageClassifier"]
