"""
Open a folder of images: the split, the metadata and the label of each image.

A label in the metadata overrides the class folder. `datasets` is not used: its `imagefolder` loses labels of class
folders if there is metadata, those of a split with images of one class, and texts such as `007`.
"""

import csv
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, concatenate_datasets
from datasets.data_files import SPLIT_KEYWORDS

from .. import columns
from ..files import did_you_mean, some
from .classes import class_names, same_form
from .images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

STAGE_FILE = "stage.json"  # in the folders of stages, see `stage`
# Names of files and folders that are splits, as in `datasets`; folders may have a suffix, as in test_novel
SPLIT_OF = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")


@dataclass
class Split:
    """The images of a split."""

    name: str
    paths: list[str]  # of the images; those with a line of metadata come first
    folders: list[str | None]  # the class folder of each image, None without one
    lines: Dataset  # metadata of the first images, without `file_name` and `label`
    num_listed: int  # number of images with a line
    labels: list[Any]  # the label in the line of each image, None without one

    @property
    def class_folders(self) -> set[str]:
        return {folder for folder in self.folders if folder is not None}


def open_image_folder(folder: Path) -> DatasetDict:
    """The splits with `image` (not decoded), the columns of the metadata, and `label` if an image has one."""
    archives = sorted(path.name for path in folder.iterdir() if path.suffix in (".gz", ".tgz", ".zip"))
    if archives:
        raise ValueError(f"unpack {archives[0]}, images are read from plain files.")
    roots = _roots_of_splits(folder)
    _check_metadata(folder, roots)
    splits = [_read_split(name, places, folder) for name, places in roots.items()]
    known = _known_classes(splits)
    opened = DatasetDict({split.name: _dataset(split, known) for split in splits})
    features = [split.features[columns.LABEL] for split in opened.values() if columns.LABEL in split.features]
    return class_names(opened)[0] if features and all(feature == Value("string") for feature in features) else opened


# --- Splits ----------------------------------------------------------------------------------------------------------


def _roots_of_splits(folder: Path) -> dict[str, list[str]]:
    """
    The folders of each split: those named train, validation, test, test_novel or similar; otherwise all images are
    `train`. `datasets` would take a class or an image named `train` for a split, and ignore the rest.
    """
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not (path / STAGE_FILE).is_file()]
    folders = [path for path in inside if not path.name.startswith((".", "__"))]
    named = {path: _split_name(path.name) for path in folders if _split_name(path.name) is not None}
    if len(named) < len(folders):  # next to classes, a folder of images named `train` is a class
        named = {path: name for path, name in named.items() if any(child.is_dir() for child in path.iterdir())}
    roots: dict[str, list[str]] = {}
    for path, name in named.items():
        roots.setdefault(name, []).append(os.path.abspath(path))
    if roots and len(named) < len(folders):
        ignored = sorted(path.name for path in folders if path not in named)
        logger.warning("%s: folders that are no splits are left out: %s", folder, ", ".join(ignored))
        if any(name.lower() in UNLABELLED_FOLDERS for name in ignored):
            logger.warning("Put images without a label into a folder of that name within train.")
    return roots or {"train": [os.path.abspath(folder)]}


def _split_name(folder: str) -> str | None:
    """`train` for Training, `test_novel` for test_novel, None for a folder that is not a split."""
    folder = folder.lower()
    if folder in SPLIT_OF:
        return SPLIT_OF[folder]
    return re.sub(r"\W+", "_", folder) if re.split(r"[\W_\d]", folder)[0] in SPLIT_OF else None


def _check_metadata(folder: Path, roots: dict[str, list[str]]) -> None:
    """Raise ValueError for metadata next to the folders of splits, where it is not read."""
    above = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if above is None or os.path.abspath(folder) in {root for places in roots.values() for root in places}:
        return
    raise ValueError(
        f"{above} is not read, as it lies beside the folders of the splits ({', '.join(roots)}). Give each split its "
        f"own {above.name} within its folder, with every file_name relative to that folder."
    )


def _read_split(name: str, roots: list[str], folder: Path) -> Split:
    folder_of = {file: _class_folder(file, root) for root in roots for file in _files(root)}
    images = sorted(file for file in folder_of if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES)
    if not images:
        raise FileNotFoundError(
            f"dataset_name is {str(folder)!r}: neither Parquet nor images of the split {name!r} there. Add images."
        )
    metadata = sorted(file for file in folder_of if os.path.basename(file) in METADATA)
    parts = [table for file in metadata if len(table := read_metadata(file, folder_of))]
    lines = concatenate_datasets(parts) if parts else Dataset.from_dict({FILE_NAME: []})
    listed = lines[FILE_NAME][:]
    image, times = Counter(listed).most_common(1)[0] if listed else ("", 0)
    if times > 1:
        what = f"split {name!r}: its metadata file names the image {image} {times} times"
        raise ValueError(f"{what}. Keep one line; several captions are a list in it.")
    paths = listed + _unlisted(images, listed)
    kept = [column for column in lines.column_names if column not in (FILE_NAME, columns.IMAGE, columns.LABEL)]
    return Split(
        name=name,
        paths=paths,
        folders=[folder_of.get(path) for path in paths],
        lines=lines.select_columns(kept),
        num_listed=len(listed),
        labels=_own_labels(lines) + [None] * (len(paths) - len(listed)),
    )


def _files(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Files below a folder, except hidden ones and folders such as `__MACOSX`. Follows no link back to a parent."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.name.startswith("__"):
            yield from _files(entry.path, (*above, real))
        elif entry.is_file():
            yield entry.path


def _class_folder(path: str, root: str) -> str | None:
    """The folder of an image below that of its split; None within one of `UNLABELLED_FOLDERS`."""
    inside = os.path.dirname(path)[len(root) :].split(os.sep)[1:]
    if not inside or {part.lower() for part in inside} & set(UNLABELLED_FOLDERS):
        return None
    return same_form(inside[-1])


def _unlisted(images: list[str], listed: list[str]) -> list[str]:
    """The images without a line, unless a line names them through a link."""
    known = set(listed)
    unlisted = [path for path in images if path not in known]
    known = set(map(os.path.realpath, listed)) if unlisted else known
    return [path for path in unlisted if os.path.realpath(path) not in known]


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
    """Labels in metadata, and the class folders of splits without such labels, if at least two."""
    known = {str(label) for split in splits for label in split.labels if isinstance(label, str | int)}
    without = [split.class_folders for split in splits if split.labels.count(None) == len(split.labels)]
    return known.union(*(folders for folders in without if len(folders) > 1))


def _dataset(split: Split, known: set[str]) -> Dataset:
    """
    The rows of a split. A label in a line overrides the class folder. Folders are classes if at least one of them is a
    known class: `images` in `train/images/1.jpg` may be any folder.
    """
    by_folder = not split.class_folders.isdisjoint(known)
    labels = split.labels
    if by_folder and all(map(str.isdecimal, split.class_folders)):  # numbers in lines are names of folders
        labels = [str(label) if isinstance(label, int) else label for label in labels]
    if by_folder:
        labels = [folder if label is None else label for label, folder in zip(labels, split.folders, strict=True)]
    kinds = {type(label): label for label in labels if label is not None}
    if len(kinds) > 1:
        shown = " and ".join(map(repr, kinds.values()))
        what = f"split {split.name!r}: labels of its metadata and class folders are of several kinds, such as {shown}"
        raise ValueError(f"{what}. Write the names of classes into the metadata.")
    _log_folders(split, known, by_folder)
    number = len(split.paths)
    # Images without a line have the label of their folder, and null in the columns of the metadata
    kept = [row for row in range(split.num_listed, number) if labels[row] is not None or not split.num_listed]
    _warn_of_unlisted(split, len(kept))
    rows = [*range(split.num_listed), *kept]
    images = [{"bytes": None, "path": split.paths[row]} for row in rows]
    dataset = Dataset.from_dict({columns.IMAGE: images}, features=Features({columns.IMAGE: Image(decode=False)}))
    if split.lines.column_names:
        nulls = Dataset.from_dict({name: [None] * len(kept) for name in split.lines.features}, split.lines.features)
        dataset = concatenate_datasets([dataset, concatenate_datasets([split.lines, nulls])], axis=1)
    if kinds:
        feature = Value("string") if str in kinds else None
        dataset = dataset.add_column(columns.LABEL, [labels[row] for row in rows], feature=feature)
    return dataset


def _log_folders(split: Split, known: set[str], by_folder: bool) -> None:
    pairs = list(zip(split.labels, split.folders, strict=True))
    if by_folder:
        logger.info("Split %s: %d class names taken from the folders.", split.name, len(split.class_folders))
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


def _warn_of_unlisted(split: Split, num_kept: int) -> None:
    number = len(split.paths)
    if not split.num_listed:
        return
    if num_kept:
        message = "Split %r: %d of %d images have no line in its metadata file. They have the label of their folder."
        logger.warning(message, split.name, num_kept, number)
    if left := number - split.num_listed - num_kept:
        logger.warning(
            "Split %r: %d of %d images are in no line of its metadata file and in no folder of a class, and are left "
            "out. A line needs the file_name alone; null stands for what is not known.",
            *(split.name, left, number),
        )


# --- Metadata: a row an image, which it names by a path relative to the file -----------------------------------------


METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = "file_name"
NAMES_FILES = re.compile("(.*_)?file_names?")  # columns


def read_metadata(file: str, files: Collection[str]) -> Dataset:
    """
    The rows of a metadata file, with the path of the image, one of `files`, as `file_name`. Values of a CSV file are
    text, except weights.

    Raises ValueError if the file cannot be read, a row has no `file_name`, or a column names a file outside the folder
    of the metadata.
    """
    try:
        if file.endswith(".parquet"):
            table = pq.read_table(file)
        else:
            table = _table(csv_rows(file) if file.endswith(".csv") else json_rows(file), file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8. Save it as UTF-8.") from error
    except (csv.Error, OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} is damaged ({error}). Make or download it again.") from error
    if not len(table):
        logger.warning("%s has no lines.", file)
        return Dataset(table)
    names = table[FILE_NAME].to_pylist() if FILE_NAME in table.column_names else [None]
    if None in names:
        what = f"{file}: row {names.index(None)} has no file_name. Its columns: {', '.join(table.column_names)}"
        raise ValueError(f"{what}. Name the image, relative to the folder of the file.")
    for column in filter(NAMES_FILES.fullmatch, table.column_names):
        _check_inside(table[column].to_pylist(), file)
    place, field = table.schema.get_field_index(FILE_NAME), table.schema.field(FILE_NAME)
    return Dataset(table.set_column(place, field, [pa.array(_paths(names, file, files), field.type)]))


def json_rows(file: str) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (RecursionError, ValueError):
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number} is no JSON object. Correct the line.")
            yield row


def csv_rows(file: str) -> Iterator[dict[str, Any]]:
    """By the delimiter of the first line; a quote that is never closed would swallow the lines after it."""
    with open(file, encoding="utf-8-sig", newline="") as lines:
        content = dropwhile(lambda line: not line.strip(), lines)
        head = next(content, "")
        reader = csv.DictReader(chain([head], content), delimiter=max(",;\t", key=head.count), strict=True)
        for row in reader:
            if None in row or None in row.values():
                count = "more" if None in row else "fewer"
                what = f"{file}, line {reader.line_num} has {count} cells than the first line"
                raise ValueError(f"{what}. Put texts with {reader.reader.dialect.delimiter!r} between double quotes.")
            yield {column: cell or None for column, cell in row.items()}


def _table(rows: Iterable[dict[str, Any]], file: str) -> pa.Table:
    rows, arrays = list(rows), {}
    for column in dict.fromkeys(name for row in rows for name in row):
        try:
            arrays[column] = pa.array([row.get(column) for row in rows])
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: {column!r} is of several kinds in its lines, or no text ({error}).") from error
    return pa.table(arrays)


def _check_inside(names: list[Any], file: str) -> None:
    """Raise ValueError for a name, or a list of names, outside the folder of the file."""
    for name in names:
        if isinstance(name, list):
            _check_inside(name, file)
        elif name is not None:
            path = _relative(name) if isinstance(name, str) else ".."
            if "://" in str(name) or os.path.isabs(path) or path.split("/")[0] in (".", ".."):
                what = f"{file}: Invalid metadata file_name {name!r}"
                raise ValueError(f"{what}. Name a file in the folder of the metadata, or below it.")


def _relative(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def _paths(names: list[str], file: str, files: Collection[str]) -> list[str]:
    """The path of each image; one that was moved below the folder is found by its file name, if unique."""
    folder = os.path.dirname(file)
    paths = [os.path.join(folder, _relative(name)) for name in names]
    missing = {row: _base(path) for row, path in enumerate(paths) if path not in files}
    if not missing:
        return paths
    rows_of, images_of, listed = Counter(missing.values()), defaultdict(list), set(paths)
    for path in files:
        if path.startswith(f"{folder}{os.sep}"):
            images_of[_base(path)].append(path)
    alone = {row: images_of[base] for row, base in missing.items() if rows_of[base] == len(images_of[base]) == 1}
    moved = {row: path for row, (path,) in alone.items() if path not in listed}
    if moved:
        logger.warning(
            "%s: the images of %d lines were moved, and are found by their file names: the first is %s.",
            *(file, len(moved), moved[min(moved)]),
        )
    return [moved.get(row, path) for row, path in enumerate(paths)]


def _base(path: str) -> str:
    return same_form(os.path.basename(path))
