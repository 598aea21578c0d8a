"""What captions say about classes: a classifier of captions, and what it is used for."""

from .caption_classifier import CaptionClassifier

__all__ = ["CaptionClassifier"]
