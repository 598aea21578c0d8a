"""
Groups: the images of one scene, clip, site or patient. They share a fold, and count once as evidence.

`--group_by`, or a column `group` of the data, becomes the text column `group`; equal images are always of one group.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Value
from PIL import ExifTags
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .. import columns
from ..options.data import BY_FOLDER, BY_TIME, NO_GROUPS, seconds_of
from .census import SPLIT_OF, UNLABELLED_FOLDERS
from .classes import same_form
from .images import image_paths, open_image

logger = logging.getLogger(__name__)

THREADS, IMAGES_AT_ONCE = 8, 64
# The year to the second, with or without separators, as cameras and phones name their files
TIME_IN_NAME = re.compile(r"(?<!\d)((?:19|20)\d\d)" + r"[-_.:T ]*(\d\d)" * 5 + r"(?!\d{4})")  # up to milliseconds
Keys = list[str | None]


def with_groups(splits: DatasetDict, group_by: str | None) -> DatasetDict:
    """
    The splits with the text column `group`, null for an image without one; unchanged if nothing tells groups.

    Args:
        group_by: `folder`, the folders between class folder and file; `time` or `time:SECONDS`, in which a longer gap
            begins a group; a regular expression over file names, of which the first group counts, or else the whole
            match; `none`, without the column. None: the column of the data, if any.

    Raises:
        ValueError: if it tells no group, or one for all training images.
    """
    there = [name for name, split in splits.items() if columns.GROUP in split.column_names]
    if group_by == NO_GROUPS:
        return DatasetDict({**splits, **{name: splits[name].remove_columns(columns.GROUP) for name in there}})
    if group_by is None and not there:
        return splits
    keys = {name: _column(splits[name]) for name in there} if group_by is None else _keys_by(splits, group_by)
    if not any(key is not None for each in keys.values() for key in each):
        keys = {}
    _check(splits, keys, group_by)
    grouped = DatasetDict(splits)
    for name, split in splits.items():
        others = split.select_columns([column for column in split.column_names if column != columns.GROUP])
        of_split = keys.get(name)
        grouped[name] = others.add_column(columns.GROUP, of_split, feature=Value("string")) if of_split else others
    return grouped


def _check(splits: DatasetDict, keys: dict[str, Keys], group_by: str | None) -> None:
    where = "Column 'group'" if group_by is None else f"group_by is {group_by!r}: it"
    for name, of_split in keys.items():
        without = [row for row, key in enumerate(of_split) if key is None]
        if without:
            example = splits[name][without[0]][columns.IMAGE_ID]
            logger.warning(
                "%s tells no group of %s of %s images of %r, such as %r: each counts as one more scene.",
                *(where, f"{len(without):,}", f"{len(of_split):,}", name, example),
            )
    training = keys.get("train", [])
    if len(training) > 1 and len(set(training)) == 1:
        raise ValueError(
            f"{where} puts all {len(training):,} training images into one group, {training[0]!r}, so none can be held "
            "out. Name smaller groups, such as clips or sites; or give --group_by none."
        )


def _column(split: Dataset) -> Keys:
    feature, values = split.features[columns.GROUP], split[columns.GROUP][:]
    if isinstance(feature, ClassLabel):
        values = [feature.names[value] if value is not None and value >= 0 else None for value in values]
    return [None if value in (None, "") or value != value else _key(value) for value in values]


def _key(value: Any) -> str:
    """Also of a number that a table with gaps, or a text of one, holds as 12.0."""
    text = str(value)
    return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


# --- By folders, file names and times --------------------------------------------------------------------------------


def _keys_by(splits: DatasetDict, group_by: str) -> dict[str, Keys]:
    names = _file_names(splits)
    if (gap := seconds_of(group_by)) is not None:
        return _by_time(splits, names, gap)
    if group_by == BY_FOLDER:
        classes = _folders_of_classes(splits)
        keys = _by_folder(names, classes)
        missing = "no image lies in a folder below its class folder, and a class is no scene, as in"
        remedy = (
            "Put the images of a scene into a folder of their own, as in cat/clip 1/1.jpg; or name groups otherwise"
        )
    else:
        no_scenes = _folders_of_classes(splits)
        keys = {split: [_matched(group_by, name, no_scenes) for name in each] for split, each in names.items()}
        is_class = any(re.search(group_by, name) for each in names.values() for name in each)
        what = "classes alone, which are no scenes, as in" if is_class else "no file name, such as"
        missing, remedy = f"it matches {what}", "Correct the regular expression"
    if not any(key is not None for each in keys.values() for key in each):
        example = next(name for each in names.values() for name in each)
        raise ValueError(f"group_by is {group_by!r}, but {missing} {example!r}. {remedy}.")
    return keys


def _file_names(splits: DatasetDict) -> dict[str, list[str]]:
    """The path of each image below the folder of all, or its `image_id` if it is no file."""
    paths = {name: [path for path, _ in image_paths(split)] for name, split in splits.items()}
    files = [path for each in paths.values() for path in each if path and os.path.isabs(path)]
    base = os.path.commonpath([os.path.dirname(path) for path in files]) if files else ""
    return {
        name: [
            os.path.relpath(path, base).replace(os.sep, "/") if path and os.path.isabs(path) else image_id
            for path, image_id in zip(paths[name], split[columns.IMAGE_ID][:], strict=True)
        ]
        for name, split in splits.items()
    }


def _folders_of_classes(splits: DatasetDict) -> set[str]:
    features = [split.features.get(columns.LABEL) for split in splits.values()]
    named = {same_form(name) for each in features if isinstance(each, ClassLabel) for name in each.names}
    return named | UNLABELLED_FOLDERS


def _by_folder(names: dict[str, list[str]], classes: set[str]) -> dict[str, Keys]:
    """
    The folders below that of the class; each class has its own, but for those that images without a class lie in too,
    which may be of any class.
    """
    places = {split: [_class_and_folder(name, classes) for name in each] for split, each in names.items()}
    of_classes: dict[str, set[str]] = {}
    for of_class, folder in {place for each in places.values() for place in each if place[1]}:
        of_classes.setdefault(folder, set()).add(of_class)
    if several := sorted(folder for folder, of_class in of_classes.items() if len(of_class - {""}) > 1):
        first, second = sorted(of_classes[several[0]] - {""})[:2]
        logger.warning(
            "group_by is 'folder': folders of the same name in several classes, such as '%s/%s' and '%s/%s', are %s.",
            *(first, several[0], second, several[0]),
            "one group, as images without a class lie in a folder of that name too"
            if "" in of_classes[several[0]]
            else "different groups. To make them one, as a site is, give --group_by '([^/]+)/[^/]+$'",
        )
    return {
        split: [
            folder and (folder if "" in of_classes[folder] else f"{of_class}/{folder}") for of_class, folder in each
        ]
        for split, each in places.items()
    }


def _class_and_folder(name: str, classes: set[str]) -> tuple[str, str | None]:
    """The class folder, "" without one, and the folders below it; or below that of the split."""
    folders = PurePath(name).parts[:-1]
    place = next((place for place, folder in enumerate(folders) if same_form(folder) in classes), None)
    if place is None and folders and folders[0].lower() in SPLIT_OF:
        place = 0
    below = "/".join(folders if place is None else folders[place + 1 :]) or None
    of_class = same_form(folders[place]) if place is not None else ""
    return (of_class if of_class in classes - UNLABELLED_FOLDERS else ""), below


def _matched(pattern: str, name: str, no_scenes: set[str]) -> str | None:
    match = re.search(pattern, name)
    key = match and (match[1] if match.re.groups else match[0])
    return None if not key or same_form(key) in no_scenes else key


def _by_time(splits: DatasetDict, names: dict[str, list[str]], gap: float) -> dict[str, Keys]:
    """The first time of each series of images, over all splits."""
    times = {split: list(_times(splits[split], each)) for split, each in names.items()}
    known = sorted({time for each in times.values() for time in each if time is not None})
    if not known:
        example = next(name for each in names.values() for name in each)
        raise ValueError(
            f"group_by is {BY_TIME!r}, but no image has a time, in its EXIF data or its file name, as {example!r}. "
            "Name groups by a column `group`, or a regular expression over file names."
        )
    first: dict[datetime, str] = {}
    for before, time in zip([None, *known], known, strict=False):
        is_new = before is None or time - before > timedelta(seconds=gap)
        first[time] = time.isoformat(sep=" ") if is_new else first[before]
    return {split: [None if time is None else first[time] for time in each] for split, each in times.items()}


def _times(split: Dataset, names: list[str]) -> Iterator[datetime | None]:
    """When each image was taken, by its EXIF data, or else its name."""
    images = split.select_columns([columns.IMAGE])
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(split), IMAGES_AT_ONCE):
            in_exif = pool.map(_time_in_exif, images[start : start + IMAGES_AT_ONCE][columns.IMAGE])
            for name, time in zip(names[start : start + IMAGES_AT_ONCE], in_exif, strict=True):
                yield time or _time_in(name)


def _time_in_exif(image: Any) -> datetime | None:
    try:
        tags = open_image(image).getexif().get_ifd(ExifTags.IFD.Exif)
        return _time_in(str(tags.get(ExifTags.Base.DateTimeOriginal)))
    except Exception:  # whatever a damaged file raises
        return None


def _time_in(text: str) -> datetime | None:
    """The last time in a text, as folders come before the file."""
    for digits in reversed(TIME_IN_NAME.findall(text)):
        try:
            return datetime.strptime("".join(digits), "%Y%m%d%H%M%S")
        except ValueError:
            continue
    return None


# --- As numbers ------------------------------------------------------------------------------------------------------


def groups_of(keys: Keys, contents: np.ndarray) -> np.ndarray:
    """(N,) numbers, the same for images of a group and for equal images, which have the same `contents` (N,)."""
    numbers = pd.Series(keys, dtype=object).factorize()[0]
    return merged(contents, np.where(numbers < 0, len(keys) + np.arange(len(keys)), numbers))


def merged(contents: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """
    (N,) numbers, the same for rows that share a number of `contents` or of any of the `others` (N,), directly or by
    way of other rows. They depend on the contents alone, and are these for a group of one content.
    """
    rows, nodes, start = np.arange(len(contents)), [], len(contents)
    for each in (contents, *others):
        _, places = np.unique(each, return_inverse=True)
        nodes.append(start + places)
        start += len(places)
    edges = np.concatenate(nodes), np.tile(rows, len(nodes))
    _, component = connected_components(
        coo_array((np.ones(len(edges[0]), bool), edges), (start, start)), directed=False
    )
    by_component = pd.Series(contents).groupby(component[: len(rows)])
    least, counts = by_component.transform("min"), by_component.transform("nunique")
    several = least[counts > 1].unique()
    renamed = {each: int(hashlib.blake2b(f"group {each}".encode(), digest_size=7).hexdigest(), 16) for each in several}
    return np.where(counts > 1, least.map(renamed), contents).astype(np.int64)


def classes_of_one_group(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Classes with several labels (N,), all of them in one group (N,)."""
    labelled = labels >= 0
    of_class = pd.Series(groups[labelled]).groupby(labels[labelled])
    return of_class.nunique().index[(of_class.nunique() == 1) & (of_class.size() > 1)].to_numpy()
