"""
Metadata of images: a row an image, which it names by a path relative to the file. All that is wrong with a table is
found at once.
"""

import contextlib
import csv
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from itertools import chain, dropwhile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from .. import columns
from ..files import some
from .census import EXCEL, suffix_of
from .classes import same_form
from .images import UNOPENED_SUFFIXES

logger = logging.getLogger(__name__)

FILE_NAME = "file_name"
NAMES_FILES = re.compile("(.*_)?file_names?")  # columns
Report = Callable[[str, str, str], object]  # takes the place of a fault, what is wrong there, and what to do


class Faults:
    """Of a table, each said once, with the places where it is."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], dict[str, None]] = {}

    def __call__(self, place: str, what: str, remedy: str) -> None:
        self._places.setdefault((what, remedy), {})[place] = None

    def in_words(self) -> list[str]:
        lines = []
        for (what, remedy), (first, *others) in self._places.items():
            also = f" (also {some(others)})" if others else ""
            lines.append(f"{first} {what}{also}. {remedy}".lstrip())
        return lines


def raise_first(place: str, what: str, remedy: str) -> None:
    raise ValueError(f"{place} {what}. {remedy}".lstrip())


def read_metadata(file: str, files: Collection[str]) -> tuple[Dataset, list[str]]:
    """
    The rows of a metadata file, with the path of the image, one of `files`, as `file_name`; and all that is wrong with
    the file, in words. Values of a CSV file are text. Lines of images that need another package are left out.
    """
    faults = Faults()
    table = _read(file, faults)
    if not len(table):
        if not faults.in_words():
            logger.warning("%s has no lines.", file)
        return Dataset(table), faults.in_words()
    for column in filter(NAMES_FILES.fullmatch, table.column_names):
        _check_inside(column, table[column].to_pylist(), faults)
    column = FILE_NAME if FILE_NAME in table.column_names else _column_of_files(table, files)
    if column != FILE_NAME:
        there = ", ".join(map(repr, table.column_names))
        remedy = (
            f"Rename {column!r} to file_name." if column else "It names the image, relative to the table's folder."
        )
        faults("", f"there is no column file_name among {there}", remedy)
    if column is None:
        return Dataset(table), faults.in_words()
    for other in {*table.column_names} - {columns.LABEL, columns.CAPTION}:
        ours = other.casefold()
        if ours in (columns.LABEL, columns.CAPTION) and ours not in table.column_names:
            logger.warning("%s: %r is another column than %s, unless --%s_column names it.", file, other, ours, ours)
    names = table[column].to_pylist()
    for row in [row for row, name in enumerate(names) if name is None]:
        faults(f"row {row}", "has no file_name", "Name the image, relative to the table's folder.")
    paths = _paths([name if isinstance(name, str) else "" for name in names], file, files)
    _check_there(names, paths, files, os.path.dirname(file), faults)
    rows = [row for row, path in enumerate(paths) if names[row] and suffix_of(path) not in UNOPENED_SUFFIXES]
    place = table.column_names.index(column)
    return Dataset(table.set_column(place, FILE_NAME, [pa.array(paths, pa.string())]).take(rows)), faults.in_words()


def _read(file: str, report: Report) -> pa.Table:
    try:
        if file.endswith(".parquet"):
            return pq.read_table(file)
        reader, rows = csv_rows if file.endswith(".csv") else json_rows, []
        try:
            rows = list(reader(file, report))
        except UnicodeDecodeError:
            report("", "it is not UTF-8", f"Save it as UTF-8. {EXCEL}" if reader is csv_rows else "Save it as UTF-8.")
            with contextlib.suppress(csv.Error, UnicodeError):  # what else is wrong?
                rows = list(reader(file, report, "cp1252"))
        return _table(rows, report)
    except (csv.Error, OSError, pa.ArrowException) as error:
        report("", f"it is damaged ({error})", "Make or download it again.")
        return pa.table({})


def json_rows(file: str, report: Report = raise_first, encoding: str = "utf-8-sig") -> Iterator[dict[str, Any]]:
    with open(file, encoding=encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (RecursionError, ValueError):
                row = None
            if isinstance(row, dict):
                yield row
            else:
                report(f"line {number}", "is no JSON object", "Correct the line.")


def csv_rows(file: str, report: Report = raise_first, encoding: str = "utf-8-sig") -> Iterator[dict[str, Any]]:
    """By the delimiter of the first line; a quote that is never closed would swallow the lines after it."""
    with open(file, encoding=encoding, newline="") as lines:
        content = dropwhile(lambda line: not line.strip() or line.startswith("sep="), lines)  # Excel's hint
        head = next(content, "")
        how: dict[str, Any] = {"delimiter": max(",;\t", key=head.count), "skipinitialspace": True, "strict": True}
        reader = csv.DictReader(chain([head], content), **how)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            if None in row or None in row.values():
                count = "more" if None in row else "fewer"
                remedy = f"Put texts with {reader.reader.dialect.delimiter!r} between double quotes."
                report(f"line {reader.line_num}", f"has {count} cells than the first line", remedy)
            elif any(row.values()):  # Excel writes empty lines too
                yield {column: cell or None for column, cell in row.items()}


def _table(rows: list[dict[str, Any]], report: Report) -> pa.Table:
    arrays = {}
    for column in dict.fromkeys(name for row in rows for name in row):
        try:
            arrays[column] = pa.array([row.get(column) for row in rows])
        except (OverflowError, TypeError, ValueError) as error:
            report("", f"{column!r} is of several kinds in its lines, or no text ({error})", "Make it one kind.")
    return pa.table(arrays)


def _check_inside(column: str, names: list[Any], report: Report, of_row: int | None = None) -> None:
    """Reports a name, or a list of names, outside the folder of the file."""
    for number, name in enumerate(names):
        row = number if of_row is None else of_row
        if isinstance(name, list):
            _check_inside(column, name, report, row)
        elif name is not None:
            path = _relative(name) if isinstance(name, str) else ".."
            if "://" in str(name) or os.path.isabs(path) or path.split("/")[0] in (".", ".."):
                what = f"has the invalid {column} {name!r}"
                report(f"row {row}", what, "Name a file in the folder of the table, or below it.")


def _check_there(names: list[Any], paths: list[str], files: Collection[str], folder: str, report: Report) -> None:
    """Reports names of no file, with the first file that is called so but for its folder or suffix."""
    missing = [
        name
        for name, path in zip(names, paths, strict=True)
        if isinstance(name, str) and path not in files and not os.path.isfile(path)
    ]
    if not missing:
        return
    others = f", nor for {len(missing) - 1:,} more" if len(missing) > 1 else ""
    near = next((path for path in sorted(files) if _stem(path) == _stem(missing[0])), None)
    is_meant = f" Did you mean {os.path.relpath(near, folder)!r}?" if near else ""
    report("", f"there is no file {missing[0]!r}{others}", f"Add the images, or remove their rows.{is_meant}")


def _column_of_files(table: pa.Table, files: Collection[str]) -> str | None:
    """The column that names most of its images, perhaps in another folder or with another suffix."""
    stems = {_stem(path) for path in files}
    for column in table.column_names:
        named = [_stem(cell) in stems for cell in table[column].to_pylist() if isinstance(cell, str)]
        if 2 * sum(named) > len(table):
            return column
    return None


def _relative(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def _paths(names: list[str], file: str, files: Collection[str]) -> list[str]:
    """The path of each image; one that was moved below the folder is found by its file name, if unique."""
    folder = os.path.dirname(file)
    paths = [os.path.join(folder, _relative(name)) for name in names]
    if any(path not in files for path in paths):
        stored = {same_form(path): path for path in files}
        paths = [path if path in files else stored.get(same_form(path), path) for path in paths]
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


def _stem(name: str) -> str:
    return os.path.splitext(_base(_relative(name)))[0]
