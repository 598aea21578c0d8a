"""The bar for a baseline: the nearest training image, pixel by pixel."""

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.checks import UNLABELLED, labels_of
from ..data.images import open_image, to_rgb

MOST = 100_000  # training images that are opened for it
BLOCK = 256  # images whose distances to all others are there at once


def pixels_of(split: Dataset, side: int = 16) -> np.ndarray:
    """(n, 3 side²) float32 of the images, resized to a square."""
    from PIL.Image import Resampling

    images = (to_rgb(open_image(row)).resize((side, side), Resampling.BICUBIC) for row in split[columns.IMAGE])
    return np.stack([np.asarray(image, dtype=np.float32).ravel() for image in images])


def labelled_pixels(train: Dataset, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """[`pixels_of`] the training images that have a label, and their labels."""
    labels = labels_of(train)
    rows = np.flatnonzero(labels != UNLABELLED)
    return pixels_of(train.select(rows), side), labels[rows]


def neighbour_predictions(labelled: tuple[np.ndarray, np.ndarray], split: Dataset, side: int = 16) -> np.ndarray:
    """(n,) class of the one of [`labelled_pixels`] with the least squared difference, which needs no training."""
    (known, labels), asked = labelled, pixels_of(split, side)
    squares = (known**2).sum(1)
    nearest = [(squares - 2 * part @ known.T).argmin(1) for part in np.array_split(asked, -(-len(asked) // BLOCK))]
    return labels[np.concatenate(nearest)]
