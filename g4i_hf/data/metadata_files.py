"""Read the metadata files of an image folder: one row an image, which it names by a path relative to the file."""

import csv
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import dropwhile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from .classes import same_form

logger = logging.getLogger(__name__)

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
            table = _table(_csv_rows(file) if file.endswith(".csv") else _json_rows(file), file)
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


def _json_rows(file: str) -> Iterator[dict[str, Any]]:
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


def _csv_rows(file: str) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(dropwhile(lambda line: not line.strip(), lines))
        for row in reader:
            if None in row:
                what = f"{file}, line {reader.line_num} has more cells than the first line"
                raise ValueError(f"{what}. Put texts with commas between double quotes.")
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
    """
    The path of each image. An image that was moved into another folder is found by its file name, if that is unique
    below the folder of the metadata and in the rows.
    """
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
