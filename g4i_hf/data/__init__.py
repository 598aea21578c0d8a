"""Images, labels and captions: opening, checking, augmenting, batching."""

from .arguments import AugmentationArguments, DataArguments
from .dataset import CaptionedImages
from .loading import class_names, load_images
from .transforms import train_transform

__all__ = [
    "AugmentationArguments",
    "CaptionedImages",
    "DataArguments",
    "class_names",
    "load_images",
    "train_transform",
]
