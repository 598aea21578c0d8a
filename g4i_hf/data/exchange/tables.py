"""Labels in a table: CSV as spreadsheets write it, JSON lines, and a CSV file of labels to write."""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ...files import did_you_mean, spreadsheet_text
from ..classes import NONE_OF_THESE, same_form
from ..images import IMAGE_SUFFIXES
from ..metadata import Report, json_rows
from . import Annotation, Contents, Exported
from .matching import ImageNames

# Usual names of columns in lower case, the likeliest first
FILES = ("file_name", "filename", "file", "image_path", "filepath", "path", "image_name", "image", "image_id", "id")
LABELS = ("label", "class", "class_name", "category", "choice", "species", "target", "labels", "tag", "y")
CAPTIONS = ("caption", "captions", "text", "description", "descriptions", "comment")
ANNOTATORS = ("annotator", "by", "annotated_by", "completed_by", "labeller", "labeler", "worker", "user", "username")
ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}  # by the first bytes
Row = tuple[str, dict[str, Any]]  # with its place in the file


def read_table(
    file: Path, columns: Sequence[str], images: ImageNames, classes: Collection[str], report: Report
) -> Contents:
    """`columns`: names of those with file name, label and perhaps caption; empty: they are found."""
    content = file.read_bytes()
    encoding = next((name for start, name in ENCODINGS.items() if content.startswith(start)), "utf-8")
    kind = "a table"
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        encoding, kind = "cp1252", "a table in Windows-1252"
    if "\0" in content.decode(encoding, errors="replace"):
        report("", "is no text", "Give a CSV file, as a spreadsheet saves it.")
        return Contents(kind, [])
    text = content.decode(encoding, errors="replace").lstrip("\ufeff \r\n")
    if text.lstrip().startswith("{"):
        rows = [(f"row {number}", row) for number, row in enumerate(json_rows(str(file), report, encoding), 1)]
    else:
        rows, has_header = _rows_of_csv(text, images, report)
        kind += "" if has_header else " without a header"
    return table_of(rows, kind, columns, images, classes, report)


def _rows_of_csv(text: str, images: ImageNames, report: Report) -> tuple[list[Row], bool]:
    """By the delimiter of the first line; and whether that has names of columns, which else are numbers from 1 on."""
    lines = text.split("\n")
    lines = lines[1:] if lines[0].startswith("sep=") else lines  # Excel's hint
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=delimiter, strict=True)
    table: list[tuple[str, list[str]]] = []
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                table.append((f"line {reader.line_num + text.startswith('sep=')}", list(map(_unquoted, cells))))
    except csv.Error as error:
        report(f"line {reader.line_num}", f"is damaged ({error})", "Save it as CSV again.")
    if not table:
        return [], True
    (first, header), *others = table
    is_image = [cell.lower().endswith(tuple(IMAGE_SUFFIXES)) for cell in header]
    has_header = not any(is_image) and max(images.rows_of(header).values()) < 0
    names = [name.strip() for name in header] if has_header else [str(n) for n in range(1, len(header) + 1)]
    for place, cells in others:
        if len(cells) != len(names):
            count = "more" if len(cells) > len(names) else "fewer"
            report(place, f"has {count} cells than {first}", f"Put texts with {delimiter!r} between double quotes.")
    whole = others if has_header else table
    return [(place, dict(zip(names, cells, strict=False))) for place, cells in whole], has_header


def table_of(
    rows: list[Row], kind: str, columns: Sequence[str], images: ImageNames, classes: Collection[str], report: Report
) -> Contents:
    """The annotations in rows, each with its place."""
    cells = [row for _, row in rows]
    names = list(dict.fromkeys(name for row in cells for name in row))
    taken = _given(columns, names, report) if columns else _found(cells, names, images, classes, report)
    if taken is None:
        return Contents(kind, [])
    annotator = next(iter(_usual(names, ANNOTATORS)), None)
    caption = taken.get("caption") or next(iter(_usual(names, CAPTIONS)), None)
    taken |= {"caption": caption} if caption not in (None, *taken.values()) else {}
    taken |= {"annotator": annotator} if annotator not in (None, *taken.values()) else {}
    annotations, captions = [], 0
    for place, row in rows:
        text = {what: _text(row.get(column)) for what, column in taken.items()}
        label = NONE_OF_THESE if row.get("none") is True else text["label"]
        captions += text.get("caption") is not None
        if text["file name"] is None:
            report(place, "names no image", "Name it, or remove the row.")
        else:
            annotations.append(Annotation(text["file name"], label, place, text.get("annotator")))
    return Contents(kind, annotations, taken, captions)


def _text(cell: Any) -> str | None:
    return None if cell is None or not str(cell).strip() else str(cell).strip()


def _unquoted(cell: str) -> str:
    """Without the quote that keeps a spreadsheet from taking a text for a formula."""
    return cell[1:] if cell[:1] == "'" and spreadsheet_text(cell[1:]) == cell else cell


def _usual(names: Iterable[str], usual: tuple[str, ...]) -> list[str]:
    """Those with a usual name, the likeliest first."""
    known = {name.strip().lower().replace(" ", "_"): name for name in names}
    return [known[name] for name in usual if name in known]


def _given(columns: Sequence[str], names: list[str], report: Report) -> dict[str, str] | None:
    unknown = [name for name in columns if name not in names]
    for name in unknown:
        report("", f"has no column {name!r}", f"It has {', '.join(map(repr, names))}.{did_you_mean(name, names)}")
    return None if unknown else dict(zip(("file name", "label", "caption"), columns, strict=False))


def _found(
    rows: list[dict[str, Any]], names: list[str], images: ImageNames, classes: Collection[str], report: Report
) -> dict[str, str] | None:
    """The columns of file names and labels by their cells, and by their names where several are possible."""

    def count(column: str, fits: Callable[[list[str]], int]) -> int:
        return fits([text for row in rows if (text := _text(row.get(column))) is not None])

    usual = _usual(names, FILES)
    numbers = {name: count(name, lambda cells: sum(n >= 0 for n in images.rows_of(cells).values())) for name in names}
    file_name = max(
        names, key=lambda name: (numbers[name], -usual.index(name) if name in usual else -len(FILES)), default=""
    )
    there = ", ".join(f"{name!r} (such as {_text(rows[0].get(name)) or ''!r})" for name in names)
    if not numbers.get(file_name):
        what = f"no column names images that are here, such as {images.names[0]!r}"
        report("", f"{what}; it has {there or 'no rows'}", "Is it about these images? Or name it with --columns.")
        return None
    others = [name for name in names if name != file_name]
    known = {same_form(name).casefold() for name in classes}
    fits = {
        name: count(name, lambda cells: 2 * sum(same_form(cell).casefold() in known for cell in cells) > len(cells))
        for name in others
    }
    by_cells, by_name = [name for name in others if fits[name]], _usual(others, LABELS)
    choices = [by_cells, [name for name in by_name if name in by_cells], by_name, others]
    label = next((each[0] for each in choices if len(each) == 1), None)
    if label is None or (len(by_cells) > 1 and label not in by_cells):
        report("", f"it is not clear which column has the label: {there}", "Name it: --columns FILE_NAME LABEL.")
        return None
    return {"file name": file_name, "label": label}


# --- Writing ---------------------------------------------------------------------------------------------------------


def csv_of(images: Iterable[Exported], classes: Sequence[str]) -> str:
    """A line for each annotator of an image, or one without a label; with a BOM, as Excel reads UTF-8 by it."""
    text, rows = io.StringIO("\ufeff"), list(images)
    text.seek(1)
    suggests = any(image.suggestion for image in rows)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file_name", "label", "annotator", *(["suggestion", "probability"] if suggests else [])])
    for image in rows:
        suggested, share = image.suggestion or (None, None)
        more = [spreadsheet_text(suggested), share] if suggests else []
        for by, label in image.by.items() or [(None, None)]:
            writer.writerow([*map(spreadsheet_text, (image.name, label, by)), *more])
    return text.getvalue()


def rows_of_json(content: list[Any]) -> list[Row]:
    """Label Studio's JSON_MIN, whose cells may hold lists of choices."""

    def cell(value: Any) -> Any:
        choices = value.get("choices") if isinstance(value, dict) else value
        return json.dumps(choices, ensure_ascii=False) if isinstance(choices, (dict, list)) else choices

    rows = [row for row in content if isinstance(row, dict)]
    return [
        (f"row {number}", {name: cell(value) for name, value in row.items()}) for number, row in enumerate(rows, 1)
    ]
