"""
Open a folder of images: the split, the metadata and the label of each image.

A label in the metadata overrides the class folder. `datasets` is not used: its `imagefolder` loses labels of class
folders if there is metadata, those of a split with images of one class, and texts such as `007`.
"""

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from .. import columns
from ..files import did_you_mean, some
from .census import METADATA, Census, suffix_of
from .classes import class_names, same_form
from .images import IMAGE_SUFFIXES
from .metadata import FILE_NAME, read_metadata

logger = logging.getLogger(__name__)


@dataclass
class Split:
    """The images of a split."""

    name: str
    paths: list[str]  # of the images; those with a line of metadata come first
    folders: list[str | None]  # the class folder of each image, None without one
    empty: set[str]  # class folders without an image
    lines: Dataset  # metadata of the first images, without `file_name` and `label`
    num_listed: int  # number of images with a line
    labels: list[Any]  # the label in the line of each image, None without one

    @property
    def filled(self) -> set[str]:
        return {folder for folder in self.folders if folder is not None}

    @property
    def class_folders(self) -> set[str]:
        return self.filled | self.empty


def open_image_folder(folder: Path, scenes_in_folders: bool = False) -> DatasetDict:
    """
    The splits with `image` (not decoded), the columns of the metadata, and `label` if an image has one. A line names
    folders below class folders, unless they hold `scenes_in_folders`.
    """
    archives = sorted(path.name for path in folder.iterdir() if path.suffix in (".gz", ".tgz", ".zip"))
    if archives:
        raise ValueError(f"unpack {archives[0]}, images are read from plain files.")
    census = Census(folder)
    census.nested = {} if scenes_in_folders else census.nested
    try:
        _check_metadata(census)
        splits = [_read_split(name, census) for name in census.roots]
        known = _known_classes(splits)
        opened = DatasetDict({split.name: _dataset(split, known, census) for split in splits})
    finally:
        census.tell()
    features = [split.features[columns.LABEL] for split in opened.values() if columns.LABEL in split.features]
    are_names = features and all(isinstance(feature, ClassLabel) for feature in features)
    return class_names(opened)[0] if are_names else opened


# --- Splits ----------------------------------------------------------------------------------------------------------


def _check_metadata(census: Census) -> None:
    """Raise ValueError for metadata next to the folders of splits, where it is not read."""
    above = next((path for name in METADATA if os.path.isfile(path := os.path.join(census.folder, name))), None)
    if above is None or census.folder in {root for places in census.roots.values() for root in places}:
        return
    raise ValueError(
        f"{above} is not read, as it lies beside the folders of the splits ({', '.join(census.roots)}). Give each "
        f"split its own {os.path.basename(above)} within its folder, with every file_name relative to that folder."
    )


def _read_split(name: str, census: Census) -> Split:
    folder_of = census.class_of[name]
    images = sorted(file for file in folder_of if suffix_of(file) in IMAGE_SUFFIXES)
    if not images:
        raise FileNotFoundError(
            f"dataset_name is {census.folder!r}: neither Parquet nor images of the split {name!r} there. Add images."
        )
    tables = {file: read_metadata(file, folder_of) for file in sorted(folder_of) if os.path.basename(file) in METADATA}
    faults = {file: faults_there for file, (_, faults_there) in tables.items() if faults_there}
    parts = [table for table, _ in tables.values() if FILE_NAME in table.column_names]
    listed = [path for part in parts for path in part[FILE_NAME]]
    image, times = Counter(listed).most_common(1)[0] if listed else ("", 0)
    if times > 1:
        what = f"names the image {image} {times} times. Keep one line; several captions are a list in it."
        faults[f"split {name!r}: its metadata"] = [what]
    if faults:
        raise ValueError("; ".join(f"{where}: {_numbered(each)}" for where, each in faults.items()))
    census.add_read(listed)
    try:
        lines = concatenate_datasets(parts) if parts else Dataset.from_dict({FILE_NAME: []})
    except ValueError as error:  # lists of captions beside single ones
        what = f"split {name!r}: {some(list(tables))} have columns of different kinds ({error})"
        raise ValueError(f"{what}. Write one kind of each.") from error
    paths = listed + _unlisted(images, listed)
    kept = [column for column in lines.column_names if column not in (FILE_NAME, columns.IMAGE, columns.LABEL)]
    return Split(
        name=name,
        paths=paths,
        folders=[folder_of.get(path) for path in paths],
        empty=census.empty[name],
        lines=lines.select_columns(kept),
        num_listed=len(listed),
        labels=_own_labels(lines) + [None] * (len(paths) - len(listed)),
    )


def _numbered(faults: list[str]) -> str:
    return faults[0] if len(faults) == 1 else " ".join(f"({number}) {what}" for number, what in enumerate(faults, 1))


def _unlisted(images: list[str], listed: list[str]) -> list[str]:
    """The images without a line, unless a line names them through a link."""
    known = set(listed)
    unlisted = [path for path in images if path not in known]
    known = set(map(os.path.realpath, listed)) if unlisted and listed else known
    return [path for path in unlisted if os.path.realpath(path) not in known] if known else unlisted


# --- Labels ----------------------------------------------------------------------------------------------------------


def _own_labels(lines: Dataset) -> list[Any]:
    """The label in each line, by name if possible; None for null and empty text."""
    if columns.LABEL not in lines.column_names:
        return [None] * len(lines)
    labels, feature = lines[columns.LABEL][:], lines.features[columns.LABEL]
    if isinstance(feature, ClassLabel):
        labels = [feature.names[label] if label is not None and label >= 0 else None for label in labels]
    return [(same_form(label) or None) if isinstance(label, str) else label for label in labels]


def _known_classes(splits: list[Split]) -> set[str]:
    """
    Labels in metadata, and the class folders of splits without such labels, if at least two. Empty ones count next to
    images outside of all class folders: beside `images` in `train/images/1.jpg`, an empty folder says nothing.
    """
    known = {str(label) for split in splits for label in split.labels if isinstance(label, str | int)}
    without = [split for split in splits if split.labels.count(None) == len(split.labels)]
    folders = [split.class_folders if None in split.folders else split.filled for split in without]
    return known.union(*(names for names in folders if len(names) > 1))


def _dataset(split: Split, known: set[str], census: Census) -> Dataset:
    """
    The rows of a split. A label in a line overrides the class folder. Folders are classes, also empty ones, if at
    least one with images is a known class: `images` in `train/images/1.jpg` may be any folder.
    """
    by_folder = not (split.filled or split.empty).isdisjoint(known)
    labels = split.labels
    if by_folder and all(map(str.isdecimal, split.class_folders)):  # numbers in lines are names of folders
        labels = [str(label) if isinstance(label, int) else label for label in labels]
    if by_folder:
        labels = [folder if label is None else label for label, folder in zip(labels, split.folders, strict=True)]
    kinds = {type(label): label for label in labels if label is not None}
    if by_folder and split.empty:
        kinds.setdefault(str, min(split.empty))
    if len(kinds) > 1:
        shown = " and ".join(map(repr, kinds.values()))
        what = f"split {split.name!r}: labels of its metadata and class folders are of several kinds, such as {shown}"
        raise ValueError(f"{what}. Write the names of classes into the metadata.")
    _log_folders(split, known, by_folder, census)
    # Images without a line have null in the columns of the metadata
    images = [{"bytes": None, "path": path} for path in split.paths]
    dataset = Dataset.from_dict({columns.IMAGE: images}, features=Features({columns.IMAGE: Image(decode=False)}))
    if split.lines.column_names:
        unlisted = len(split.paths) - split.num_listed
        nulls = Dataset.from_dict({name: [None] * unlisted for name in split.lines.features}, split.lines.features)
        dataset = concatenate_datasets([dataset, concatenate_datasets([split.lines, nulls])], axis=1)
    if str in kinds:
        names = sorted({label for label in labels if label is not None} | (split.empty if by_folder else set()))
        index = {name: number for number, name in enumerate(names)}
        dataset = dataset.add_column(columns.LABEL, list(map(index.get, labels)), feature=ClassLabel(names=names))
    elif kinds:
        dataset = dataset.add_column(columns.LABEL, labels)
    return dataset


def _log_folders(split: Split, known: set[str], by_folder: bool, census: Census) -> None:
    pairs = list(zip(split.labels, split.folders, strict=True))
    if not by_folder and (names := split.empty - known):
        images = f", as no folder of its images ({some(sorted(split.filled))}) is one" if split.filled else ""
        census.notes.append(
            f"Split {split.name!r}: empty folders ({some(sorted(names))}) are no classes{images}. If they are meant "
            "as classes, put images into at least two folders, or move those without a label into unlabelled."
        )
    if split.num_listed and (unlisted := len(split.paths) - split.num_listed):
        logger.info(
            "Split %s: %d of %d images have no line in the metadata, and so no caption there.",
            *(split.name, unlisted, len(split.paths)),
        )
    if by_folder:
        empty = f", of which {len(split.empty):,} hold no image ({some(sorted(split.empty))})" if split.empty else ""
        logger.info("Split %s: %d class names taken from the folders%s.", split.name, len(split.class_folders), empty)
        if nested := [path for path in split.paths if path in census.nested]:
            census.notes.append(
                f"Split {split.name!r}: {len(nested):,} images lie below their class folder, as in "
                f"{census.nested[nested[0]]}: the first folder is the class. If the last one is, move it up into "
                f"{split.name}."
            )
        differ = [
            row for row, (label, folder) in enumerate(pairs) if None not in (label, folder) and str(label) != folder
        ]
        if differ:
            logger.warning(
                "Split %r: %d images have a label in the metadata that is not their folder, and counts: %s is %r.",
                *(split.name, len(differ), split.paths[differ[0]], split.labels[differ[0]]),
            )
    elif known and (without := [folder for label, folder in pairs if label is None and folder is not None]):
        folders, classes = sorted(set(without)), sorted(known)
        logger.warning(
            "Split %r: %d images are unlabelled, as their folders (%s) are none of the classes that are known (%s).%s "
            "If they are classes, add images of them to train, or write the labels into the metadata.",
            *(split.name, len(without), some(folders), some(classes), did_you_mean(folders[0], classes)),
        )
