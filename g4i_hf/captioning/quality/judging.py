"""Judges the captions of a stage, split by split: `caption_weight` of every row, and the figures behind it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from PIL import Image as PILImage
from tqdm import tqdm

from ... import columns
from ...data.images import open_image
from ...options import QualityArguments
from ..report.page import CaptionedSplit
from ..stage import CLEANED, RAW, REASON, STATUS, Captioned
from .label_names import read_synonyms
from .weights import judge, weights_of_rows

CHUNK = 256  # images held at once
Encode = Callable[[list[str]], np.ndarray]
Scorer = Callable[[Sequence[PILImage.Image], Sequence[str]], np.ndarray]


def judge_captions(
    captioned: Captioned,
    splits: Mapping[str, Dataset],
    args: QualityArguments,
    *,
    encode: Encode | None = None,
    scorer: Scorer | None = None,
) -> dict[str, CaptionedSplit]:
    """
    Adds weights and figures to `captioned`.

    Args:
        captioned: the stage.
        splits: the images, and their labels where there are any; of streams there is neither.
        args: synonyms.
        encode: gives unit vectors (n, D) of n texts.
        scorer: how well n images and n texts fit.

    Returns:
        The splits as a report shows them.

    Raises:
        ValueError: for synonyms of classes that there are not.
    """
    judged = {}
    named = {"quality_encoder": args.quality_encoder, "clip_scorer": args.clip_scorer}
    captioned.judged_by = {name: _public(model) for name, model in named.items() if model}
    captioned.judged_by |= {"synonyms": True} if args.synonyms_file else {}
    for name, split in captioned.splits.items():
        images = splits[name] if isinstance(splits[name], Dataset) else None  # a stream is not read again
        judged[name], owners = _judge_split(split, images, args, encode, scorer)
        captioned.quality[name] = summary(judged[name].quality.figures)
        captioned.weights[name] = weights_of_rows(judged[name].quality.weights, owners, len(split))
    return judged


def _public(model: str) -> str:
    """Of a local folder only its name."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def summary(figures: dict[str, Any]) -> dict[str, int | float]:
    """Of the figures of a split, what goes into `stage.json`; the report has all of them."""
    means = {f"mean_{name}": (figures[name] or {}).get("mean") for name in ("weight", "margin", "score")}
    chosen = {name: figures[name] for name in ("captions", "below_half", "names_label", "nearer_to_another_class")}
    chosen |= means | {"share_of_duplicates": figures["duplicates"]["share"]}
    return {name: value for name, value in chosen.items() if value is not None}


def _judge_split(
    split: Dataset, images: Dataset | None, args: QualityArguments, encode: Encode | None, scorer: Scorer | None
) -> tuple[CaptionedSplit, np.ndarray]:
    values = {name: split[name][:] for name in (columns.CAPTION, RAW, STATUS, REASON, CLEANED)}
    several = any(isinstance(value, list) for value in values[STATUS])
    counts = [len(value) for value in values[STATUS]] if several else [1] * len(split)
    flat = {
        name: [inner for value in found for inner in value] if several else found for name, found in values.items()
    }
    owners = np.repeat(np.arange(len(split)), counts)
    labels, names = _labels(images, owners)
    applied = [tuple(filter(None, (steps or "").split(","))) for steps in flat[CLEANED]]
    captions = flat[columns.CAPTION]
    synonyms = read_synonyms(args.synonyms_file, names) if args.synonyms_file and names else None
    scores = None if scorer is None or images is None else image_text_scores(images, captions, owners, scorer)
    quality = judge(captions, labels, names, applied=applied, synonyms=synonyms, encode=encode, scores=scores)
    image_ids = split[columns.IMAGE_ID][:]
    found = CaptionedSplit(
        image_ids=[image_ids[row] for row in owners],
        image_of=lambda position: open_image(images[int(owners[position])][columns.IMAGE]),
        captions=captions,
        raw=flat[RAW],
        statuses=flat[STATUS],
        reasons=flat[REASON],
        applied=applied,
        labels=labels,
        label_names=names,
        quality=quality,
    )
    return found, owners


def image_text_scores(
    images: Dataset, captions: Sequence[str | None], owners: np.ndarray, scorer: Scorer
) -> np.ndarray:
    """(N,) how well each caption fits its image; NaN without a caption, or for an image that cannot be read."""
    scores = np.full(len(captions), np.nan)
    there = [position for position, caption in enumerate(captions) if caption]
    for start in tqdm(range(0, len(there), CHUNK), desc="Comparing captions with images", unit_scale=CHUNK):
        positions, pictures = [], []
        for position, picture in _opened(images, owners, there[start : start + CHUNK]):
            positions.append(position)
            pictures.append(picture)
        if positions:
            scores[positions] = scorer(pictures, [captions[position] for position in positions])
    return scores


def _opened(images: Dataset, owners: np.ndarray, positions: list[int]) -> Iterator[tuple[int, PILImage.Image]]:
    for position in positions:
        try:
            picture = open_image(images[int(owners[position])][columns.IMAGE])
            picture.load()
        except Exception:  # whatever a broken file makes of Pillow
            continue
        yield position, picture


def _labels(images: Dataset | None, owners: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """(N,) classes, -1 where there is none, and their names."""
    feature = None if images is None else images.features.get(columns.LABEL)
    if not isinstance(feature, ClassLabel):
        return np.full(len(owners), -1), None
    labels = np.asarray([-1 if label is None else label for label in images[columns.LABEL]], dtype=np.int64)
    return labels[owners], feature.names
