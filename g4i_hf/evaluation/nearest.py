"""Nearest captions: those with the largest cosine to the embedding of an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.texts import is_blank
from .predict import Predictions, blocks, centred, stored_texts_of, texts_of

TEXTS = 16_384  # compared with a block of images at once


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
    texts = stored_texts_of(split, predictions) if columns.CAPTION in split.column_names else None
    if texts is None:
        return None
    embeds = predictions.image_embeds if rows is None else predictions.image_embeds[list(rows)]
    best, nearest = np.full(len(embeds), -np.inf, dtype=np.float32), np.zeros(len(embeds), dtype=np.int64)
    for first in range(0, len(texts.embeds), TEXTS):  # those of a whole training set would be gigabytes
        block = centred(texts.embeds[first : first + TEXTS], predictions)
        for images in blocks(len(embeds)):
            cosines = embeds[images] @ block.T
            is_nearer = cosines.max(1) > best[images]
            nearest[images] = np.where(is_nearer, first + cosines.argmax(1), nearest[images])
            best[images] = np.where(is_nearer, cosines.max(1), best[images])
    owners = np.searchsorted(texts.starts, nearest, side="right") - 1
    captions = split.select_columns([columns.CAPTION])[owners.tolist()][columns.CAPTION] if len(owners) else []
    places = (nearest - texts.starts[owners]).tolist()
    return [_caption_of_text(caption, place) for caption, place in zip(captions, places, strict=True)]


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
    rows_of_texts = zip(split[columns.CAPTION][:], texts.counts, strict=True)
    described = [_caption_of_text(caption, k) for caption, count in rows_of_texts for k in range(count)]
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


def _caption_of_text(caption: str | list[str], k: int) -> str:
    """The k-th caption of a row that is not blank; the last where its texts are more."""
    several = [text for text in (caption if isinstance(caption, list) else [caption]) if not is_blank(text)]
    return several[min(k, len(several) - 1)]
