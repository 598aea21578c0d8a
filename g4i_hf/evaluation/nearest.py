"""The captions that an aligned model finds nearest to images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.texts import Texts, is_blank
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
    described = _caption_of_each_text(split, texts)
    embeds = predictions.image_embeds if rows is None else predictions.image_embeds[list(rows)]
    nearest = [
        (embeds[start : start + BLOCK] @ texts.embeds.T).argmax(1)  # all at once would be gigabytes
        for start in range(0, len(embeds), BLOCK)
    ]
    return [described[position] for position in np.concatenate(nearest)] if nearest else []


@dataclass
class RankedCaption:
    """
    Attributes:
        caption: one of the split.
        cosine: with the image.
        rank: among the distinct captions of the split, from 1.
        is_own: whether it describes the image.
    """

    caption: str
    cosine: float
    rank: int
    is_own: bool


def ranked_captions(
    split: Dataset, predictions: Predictions, rows: Sequence[int], most: int = 3
) -> list[list[RankedCaption]] | None:
    """
    Args:
        split: with captions and their embeddings.
        predictions: of the split.
        rows: the images that are asked about.
        most: nearest captions of each.

    Returns:
        The `most` nearest distinct captions of each image, and the nearest of its own where that is none of them; None
        as in [`nearest_captions`].
    """
    texts = texts_of(split, predictions) if columns.CAPTION in split.column_names else None
    if texts is None:
        return None
    described = _caption_of_each_text(split, texts)
    found = []
    for row in rows:
        own = set(described[texts.starts[row] : texts.starts[row + 1]])
        cosines = texts.embeds @ predictions.image_embeds[row]
        ranked: dict[str, RankedCaption] = {}
        for position in np.argsort(-cosines, kind="stable"):
            caption = described[position]
            if caption not in ranked:
                rank = RankedCaption(caption, float(cosines[position]), len(ranked) + 1, caption in own)
                ranked[caption] = rank
                if rank.rank >= most and (not own or own & ranked.keys()):
                    break
        found.append([one for one in ranked.values() if one.rank <= most or one.is_own])
    return found


def _caption_of_each_text(split: Dataset, texts: Texts) -> list[str]:
    captions = [caption if isinstance(caption, list) else [caption] for caption in split[columns.CAPTION][:]]
    captions = [[caption for caption in several if not is_blank(caption)] for several in captions]
    return [
        several[min(k, len(several) - 1)]
        for several, count in zip(captions, texts.counts, strict=True)
        for k in range(count)
    ]
