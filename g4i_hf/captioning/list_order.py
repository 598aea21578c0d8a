"""
Lists of captions without names: in which order their images are, and whether the captions are in that order.
"""

import logging
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage

from .. import columns
from ..data.bad_images import why_unreadable
from ..data.image_ids import image_paths
from ..data.images import open_image
from ..data.stage import ids_digest

logger = logging.getLogger(__name__)

BY_NAME = "Or give captions with the names of their images, as a .jsonl or .csv file."
MIN_SAMPLE, QUARTERS = 8, 4


def folder_order(split: Dataset, split_name: str, names: list[str | None]) -> tuple[list[int], str]:
    """
    The order of torchvision's `ImageFolder`: class folders by name, and in each the files by name, as Python sorts
    strings: capitals before small letters, `10.jpg` before `2.jpg`.

    Args:
        split: the images; the order of its rows does not matter.
        split_name: for messages.
        names: `class/file` of each row.

    Returns:
        The row of each place in that order, and a hash of the sorted list of names.

    Raises:
        ValueError: when the order cannot be told from the data: rows without file names, two files of one name, files
            in folders inside class folders, or no class folders.
    """

    def refuse(why: str) -> ValueError:
        return ValueError(f"Split {split_name!r}: {why}, so the order of a list of its files is not known. {BY_NAME}")

    if None in names:
        row = names.index(None)
        raise refuse(f"row {row}, image_id {split[row][columns.IMAGE_ID]!r}, has no file name")
    if columns.IMAGE in split.column_names:
        paths = [path or "" for path, _ in image_paths(split)]
        common = os.path.commonpath([min(paths), max(paths)]) if all(map(os.path.isabs, paths)) else None
        for path in paths if common else ():
            inside = path[len(common) :].strip("/")
            if inside.count("/") > 1:  # `ImageFolder` sorts by the outermost folder, `image_id` keeps the innermost
                raise refuse(f"{inside} lies in a folder inside another one")
    # A zero is below all letters: this compares folders first, then files
    rows = sorted(range(len(names)), key=[name.replace("/", "\0") for name in names].__getitem__)
    for before, row in pairwise(rows):
        if names[before] == names[row]:
            raise refuse(f"rows {before} and {row} are both called {names[row]!r}")
    folders = {name.rpartition("/")[0] for name in names}
    if "" in folders and len(folders) > 1:
        raise refuse("some images have a class folder and others have none")
    if len(folders) == 1 and columns.LABEL in split.column_names:
        labels = split[columns.LABEL][:]
        changes = sum(labels[before] != labels[row] for before, row in pairwise(rows))
        if changes >= len(set(labels)):  # by name, images of one class do not stand together
            raise refuse(f"the images are of {len(set(labels))} classes, but have no class folders")
    return rows, ids_digest(names[row] for row in rows)


class ImagesInOrder(Sequence):
    """
    The images of a split, opened one by one, in the order of a list.

    Args:
        split: with `image`, not decoded.
        rows: the row of each place of the list, see [`ExistingCaptions`].
    """

    def __init__(self, split: Dataset, rows: list[int]):
        self._images, self._rows = split.select_columns([columns.IMAGE]), rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> PILImage.Image:
        image = open_image(self._images[self._rows[place]][columns.IMAGE])
        image.load()
        return image


def check_order(
    images: Sequence[PILImage.Image],
    captions: Sequence[str | None],
    scorer: Callable[[list[PILImage.Image], list[str]], np.ndarray] | None,
    sample: int = 256,
    classes: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """
    Scores images of a random sample against four captions: their own, the one before, the one after, and one from
    anywhere. Neighbours of one class tell whether each caption is at its exact place, and the last whether the scorer
    can tell anything at all.

    The order counts as verified when the mean of `own - other` is above zero with its 95% interval (Student's t) for
    all three, and in no quarter of the list a neighbour fits better by twice that interval. That finds a shift of the
    whole list or of much of it, not single captions that are out of place.

    Args:
        images: in the order of the list.
        captions: of the list; None for an image without.
        scorer: takes n images and n texts and gives n scores, the higher the better, such as
            [`~g4i_hf.captioning.quality.ClipScorer`]. None: nothing is checked.
        sample: how many images.
        classes: of each image. Only images between two of their own class are taken then. Without it, or where there
            are not enough of them, images at the border of a class count as well, and as their neighbour is of another
            class, captions that are shuffled within small classes can pass: `within_class` is False then.

    Returns:
        `order`, which is `verified`, or `unverified` without a scorer; and the numbers, as JSON values.

    Raises:
        ValueError: when the captions do not fit best where they are. The message holds the numbers.
    """
    if scorer is None:
        return {"order": "unverified"}
    places, within_class = _sampled(captions, classes, sample)
    scores, kept = _scored(images, captions, scorer, places)
    if len(kept) < MIN_SAMPLE:
        raise ValueError(
            f"The order of the list cannot be checked: {len(kept)} images can be read and have captions on both "
            f"sides, at least {MIN_SAMPLE} are needed. Leave out --order_scorer: the order is then called unverified."
        )
    own, *others = np.asarray(scores, dtype=np.float64).T
    differences = {name: own - values for name, values in zip(("-1", "+1", "random"), others, strict=True)}
    report = {
        "sample": len(kept),
        "within_class": within_class,
        "mean_score": round(float(own.mean()), 5),
        "wins": {name: int((values > 0).sum()) for name, values in differences.items()},
        "difference": {name: _interval(values) for name, values in differences.items()},
    }
    _judge(report, differences, QUARTERS * np.asarray(kept) // len(captions))
    logger.info("Order of the list: verified on %d images. %s", len(kept), _numbers(report))
    return {"order": "verified", **report}


def _sampled(captions: Sequence[str | None], classes: Sequence[Any] | None, sample: int) -> tuple[np.ndarray, bool]:
    """Places in the list that have captions on both sides; whether all neighbours are of the same class."""
    has_text = np.array([bool(caption) for caption in captions])
    places = np.flatnonzero(has_text[:-2] & has_text[1:-1] & has_text[2:]) + 1
    within_class = False
    if classes is not None:
        alike = [place for place in places if classes[place - 1] == classes[place] == classes[place + 1]]
        within_class = len(alike) >= MIN_SAMPLE
        if within_class:
            places = np.array(alike)
        else:
            logger.warning("Classes are too small to check the order of a list within them: borders count as well.")
    return np.sort(np.random.default_rng(0).permutation(places)[:sample]), within_class


def _scored(
    images: Sequence[PILImage.Image], captions: Sequence[str | None], scorer: Callable, places: np.ndarray
) -> tuple[list[np.ndarray], list[int]]:
    """Scores with the own caption, the one before, the one after and one from anywhere, where an image can be read."""
    has_text = np.flatnonzero([bool(caption) for caption in captions])
    anywhere = np.random.default_rng(1).permutation(has_text)[: len(places)]
    scores, kept = [], []
    for place, other in zip(places.tolist(), anywhere.tolist(), strict=True):
        try:
            image = images[place]
        except Exception as error:  # whatever a broken file makes of Pillow
            logger.warning(
                "Image %d of the list cannot be read and is left out of the check: %s", place, why_unreadable(error)
            )
            continue
        scores.append(scorer([image] * 4, [captions[i] for i in (place, place - 1, place + 1, other)]))
        kept.append(place)
    return scores, kept


def _interval(values: np.ndarray, width: float = 1.0) -> dict[str, float]:
    """Mean with its two-sided 95% interval, times `width`."""
    from scipy import stats

    mean, reach = values.mean(), width * stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {"mean": round(float(mean), 5), "low": round(float(mean - reach), 5), "high": round(float(mean + reach), 5)}


def _judge(report: dict[str, Any], differences: dict[str, np.ndarray], quarters: np.ndarray) -> None:
    """
    Raises:
        ValueError: unless the captions fit where they are.
    """
    parts = [(np.full(len(quarters), True), 1, "")]
    for quarter in range(QUARTERS):  # twice the interval: of eight looks, one would be outside by chance too often
        place = f" in the part from {100 * quarter // QUARTERS}% to {100 * (quarter + 1) // QUARTERS}%, or much of it"
        parts.append((quarters == quarter, 2, place))
    for inside, width, where in parts:
        for other, neighbour in (("-1", "before"), ("+1", "after")):
            if inside.sum() >= MIN_SAMPLE and _interval(differences[other][inside], width)["high"] < 0:
                raise ValueError(
                    f"The list is out of order{where}: images fit the caption {neighbour} theirs better than their "
                    f"own. {_numbers(report)} Entries are missing or too many there, or before: find them. {BY_NAME}"
                )
    low = {other: interval["low"] for other, interval in report["difference"].items()}
    if not low["random"] > 0:
        raise ValueError(
            "The order of the list is not verified: captions fit their images no better than captions from anywhere. "
            f"{_numbers(report)} They are of other images or in another order, or the scorer cannot tell these images "
            f"apart. Look at some pairs. {BY_NAME}"
        )
    if not min(low["-1"], low["+1"]) > 0:
        raise ValueError(
            "The order of the list is not verified: captions fit their images better than captions from anywhere, "
            f"but not clearly better than their neighbours. {_numbers(report)} Either they are shuffled within "
            "classes, or wrong in part, or neighbours are too alike for this sample: take a better model with "
            "--order_scorer."
        )


def _numbers(report: dict[str, Any]) -> str:
    parts = []
    for other, interval in report["difference"].items():
        parts.append(
            f"{other}: {interval['mean']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}], "
            f"{report['wins'][other]} of {report['sample']} won"
        )
    return f"Own caption against the one at {'; '.join(parts)} (mean difference with 95% interval)."
