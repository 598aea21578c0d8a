"""The captions that an aligned model finds nearest to images."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.texts import is_blank
from .metrics import BLOCK
from .predict import Predictions, texts_of


def nearest_captions(split: Dataset, predictions: Predictions, rows: Sequence[int] | None = None) -> list[str] | None:
    """
    Args:
        split: with captions and their embeddings.
        predictions: of the split, or of the images of another one.
        rows: the images that are asked about; all of them by default.

    Returns:
        The nearest caption of the split for each image; None for a split without captions, or with embeddings of
        another size than the model's.
    """
    texts = texts_of(split, predictions) if columns.CAPTION in split.column_names else None
    if texts is None:
        return None
    captions = [caption if isinstance(caption, list) else [caption] for caption in split[columns.CAPTION][:]]
    captions = [[caption for caption in several if not is_blank(caption)] for several in captions]
    described = [
        several[min(k, len(several) - 1)]
        for several, count in zip(captions, texts.counts, strict=True)
        for k in range(count)
    ]
    embeds = predictions.image_embeds if rows is None else predictions.image_embeds[list(rows)]
    nearest = [
        (embeds[start : start + BLOCK] @ texts.embeds.T).argmax(1)  # all at once would be gigabytes
        for start in range(0, len(embeds), BLOCK)
    ]
    return [described[position] for position in np.concatenate(nearest)] if nearest else []
