"""Whether a list of captions is in the order of the images: do they fit better where they are than one place off?"""

import logging
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage

from ... import columns
from ...data.bad_images import why_unreadable
from ...data.images import open_image

logger = logging.getLogger(__name__)

Scorer = Callable[[list[PILImage.Image], list[str]], np.ndarray]

MIN_SAMPLE = 8
PARTS = 4
CHUNK = 32  # images held at once
UNREADABLE = (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError)


class ImagesInOrder(Sequence):
    """
    The images of a split, opened one by one, in the order of a list.

    Args:
        split: with `image`, not decoded.
        rows: the row of each place of the list, see [`~g4i_hf.captioning.existing.joining.ExistingCaptions`].
    """

    def __init__(self, split: Dataset, rows: list[int]):
        kept = [name for name in (columns.IMAGE, columns.IMAGE_ID) if name in split.column_names]
        self._images, self._rows = split.select_columns(kept), rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> PILImage.Image:
        row = self._images[self._rows[place]]
        try:
            image = open_image(row[columns.IMAGE])
            image.load()
        except Exception as error:  # whatever a broken file makes of Pillow
            raise ValueError(
                f"Column 'image', row {self._rows[place]} ({row.get(columns.IMAGE_ID)}): cannot be decoded "
                f"({why_unreadable(error)}). Replace the file or remove the row."
            ) from error
        return image


def check_order(
    images: Sequence[PILImage.Image],
    captions: Sequence[str | None],
    scorer: Scorer | None,
    sample: int = 256,
    seed: int = 0,
    classes: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """
    Scores images of a random sample against four captions: their own, the one before, the one after, and one from
    anywhere. Neighbours of one class tell whether each caption is at its exact place, and the last whether the scorer
    can tell anything at all.

    The order counts as verified when the mean of `own - other` is above zero with its 95% interval for both
    neighbours, and in no quarter of the list a neighbour fits better by twice that interval. That finds a shift of the
    whole list or of much of it, not single captions that are out of place.

    Args:
        images: in the order of the list.
        captions: of the list; None for an image without.
        scorer: takes n images and n texts and gives n scores, the higher the better, such as
            [`~g4i_hf.captioning.quality.clip_scorer.ClipScorer`]. None: nothing is checked.
        sample: how many images.
        seed: of the sample.
        classes: of each image. Only images between two of their own class are taken then. Without it, or where there
            are not enough of them, images at the border of a class count as well, and as their neighbour is of another
            class, captions that are shuffled within small classes can pass: `within_class` is False then.

    Returns:
        `order`, which is `verified`, or `unverified` without a scorer; and the numbers, as JSON values.

    Raises:
        ValueError: when the captions do not fit best where they are. The message holds the numbers.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images):,} images, but {len(captions):,} captions; a list has one for each image.")
    if scorer is None:
        return {"order": "unverified"}
    texts, within_class = _sample(captions, classes, sample, seed)
    scores, places = _scores(images, captions, scorer, texts)
    if len(places) < MIN_SAMPLE:
        raise ValueError(
            f"The order of the list cannot be checked: {len(places)} images can be read and have captions on both "
            f"sides, at least {MIN_SAMPLE} are needed. Leave out --order_scorer: the order is then called unverified."
        )
    differences = {name: scores["0"] - scores[name] for name in ("-1", "+1", "random")}
    report = {
        "sample": len(places),
        "seed": seed,
        "within_class": within_class,
        "mean_score": {name: round(float(values.mean()), 5) for name, values in scores.items()},
        "wins": {name: int((values > 0).sum()) for name, values in differences.items()},
        "difference": {name: _interval(values) for name, values in differences.items()},
    }
    _judge(report, differences, places, len(captions))
    logger.info("Order of the list: verified on %d images. %s", len(places), _numbers(report))
    return {"order": "verified", **report}


def _sample(
    captions: Sequence[str | None], classes: Sequence[Any] | None, sample: int, seed: int
) -> tuple[dict[str, np.ndarray], bool]:
    """Places in the list of the captions to compare, for every image of the sample; whether neighbours are alike."""
    rng = np.random.default_rng(seed)
    has_text = np.fromiter((bool(caption) for caption in captions), dtype=bool, count=len(captions))
    usable = has_text[:-2] & has_text[1:-1] & has_text[2:]
    within_class = False
    if classes is not None:
        same = np.fromiter((a == b for a, b in pairwise(classes)), dtype=bool, count=max(len(captions) - 1, 0))
        within = usable & same[:-1] & same[1:]
        within_class = bool(within.sum() >= MIN_SAMPLE)
        if within_class:
            usable = within
        else:
            logger.warning("Classes are too small to check the order of a list within them: borders count as well.")
    places = np.sort(rng.permutation(np.flatnonzero(usable) + 1)[:sample])
    others = rng.permutation(np.flatnonzero(has_text))[: len(places)]
    return {"0": places, "-1": places - 1, "+1": places + 1, "random": others}, within_class


def _scores(
    images: Sequence[PILImage.Image],
    captions: Sequence[str | None],
    scorer: Scorer,
    texts: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The scores of each list of `texts`, for the images that can be read; and their places."""
    places = texts["0"]
    readable: list[int] = []
    tables: list[np.ndarray] = []
    for start in range(0, len(places), CHUNK):
        opened: dict[int, PILImage.Image] = {}
        for i in range(start, min(start + CHUNK, len(places))):
            try:
                opened[i] = images[int(places[i])]
            except UNREADABLE as error:
                logger.warning(
                    "Image %d of the list cannot be read and is left out of the check: %s", places[i], error
                )
        if opened:
            asked = [captions[int(where[i])] for where in texts.values() for i in opened]
            values = np.asarray(scorer(list(opened.values()) * len(texts), asked), dtype=np.float64)
            if values.shape != (len(asked),) or not np.isfinite(values).all():
                raise ValueError(
                    f"The scorer gave {values.shape} scores for {len(asked)} pairs of image and text, or some of them "
                    "are no numbers. It must give one finite score a pair."
                )
            tables.append(values.reshape(len(texts), len(opened)))
            readable += opened
    table = np.concatenate(tables, axis=1) if tables else np.zeros((len(texts), 0))
    return dict(zip(texts, table, strict=True)), places[readable]


def _interval(values: np.ndarray, width: float = 1.0) -> dict[str, float]:
    """Mean with its two-sided 95% interval, times `width`."""
    mean, reach = values.mean(), 0.0
    if len(values) > 1:
        reach = width * _quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return {"mean": round(float(mean), 5), "low": round(float(mean - reach), 5), "high": round(float(mean + reach), 5)}


def _quantile(degrees: int) -> float:
    """0.975 quantile of Student's t by the first terms of its expansion about the normal's; within 0.1% from 7 on."""
    z = NormalDist().inv_cdf(0.975)
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def _judge(report: dict[str, Any], differences: dict[str, np.ndarray], places: np.ndarray, length: int) -> None:
    """
    Raises:
        ValueError: unless the captions fit where they are.
    """
    intervals = report["difference"]
    for name, shift in (("-1", "before"), ("+1", "after")):
        if intervals[name]["high"] < 0:
            raise ValueError(
                f"The list is out of order: images fit the caption {shift} theirs better than their own. "
                f"{_numbers(report)} One entry is missing or too many near its start: find it, or give captions with "
                "the names of their images."
            )
    quarters = places * PARTS // length
    for part in range(PARTS):
        inside = quarters == part
        for name, shift in (("-1", "before"), ("+1", "after")):
            # Twice the interval: of eight looks, one would be outside by chance too often
            if inside.sum() >= MIN_SAMPLE and _interval(differences[name][inside], 2)["high"] < 0:
                raise ValueError(
                    f"The list is out of order from place {part * length // PARTS:,} to "
                    f"{(part + 1) * length // PARTS:,}, or in much of it: images there fit the caption {shift} theirs "
                    f"better than their own. {_numbers(report)} Entries are missing or too many around there: find "
                    "them, or give captions with the names of their images."
                )
    if intervals["random"]["low"] <= 0:
        raise ValueError(
            "The order of the list is not verified: captions fit their images no better than captions from anywhere. "
            f"{_numbers(report)} They are of other images or in another order, or the scorer cannot tell these images "
            "apart. Look at some pairs, or give captions with the names of their images."
        )
    if min(intervals["-1"]["low"], intervals["+1"]["low"]) <= 0:
        raise ValueError(
            "The order of the list is not verified: captions fit their images better than captions from anywhere, "
            f"but not clearly better than their neighbours. {_numbers(report)} Either they are shuffled within "
            "classes, or wrong in part, or neighbours are too alike for this sample: take a better model with "
            "--order_scorer."
        )


def _numbers(report: dict[str, Any]) -> str:
    parts = []
    for name, interval in report["difference"].items():
        parts.append(
            f"{name}: {interval['mean']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}], "
            f"{report['wins'][name]} of {report['sample']} won"
        )
    return f"Own caption against the one at {'; '.join(parts)} (mean difference with 95% interval)."
