"""What captions say about classes: a classifier of captions, what it is used for, and controls of studies."""

from .caption_classifier import CaptionClassifier

__all__ = ["CaptionClassifier"]
