"""Which format a file with labels has: by its content, as names say little."""

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ..classes import NONE_OF_THESE
from ..labels import PERSON, read_people
from ..metadata import Report
from . import Annotation, Contents
from .cvat import read_cvat
from .fiftyone import read_fiftyone
from .label_studio import read_tasks
from .matching import ImageNames
from .tables import read_table, rows_of_json, table_of

LARGEST = 1_000_000_000  # bytes of a file, which is read as a whole
FIFTYONE = "labels.json"


def read_contents(
    file: Path, columns: Sequence[str], images: ImageNames, classes: Collection[str], report: Report
) -> Contents:
    """
    The labels in a file, or in FiftyOne's folder of one. `columns`, `classes`: see [`tables`]. All that is wrong with
    the file is reported. Raises FileNotFoundError for no file.
    """
    file = file / FIFTYONE if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"import_file is {str(file)!r}, but there is no such file.")
    if os.path.getsize(file) > LARGEST:
        report("", f"is larger than {LARGEST / 1e9:g} GB", "Split it.")
        return Contents("", [])
    with open(file, "rb") as opened:
        head = opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:2] in (b"PK", b"\x1f\x8b") or head[:4] == b"\xd0\xcf\x11\xe0":
        report("", "is an archive or a spreadsheet", "Unpack it; save a spreadsheet as CSV UTF-8.")
        return Contents("", [])
    if head[:1] == b"<":
        return read_cvat(file.read_bytes(), report)
    if head[:1] in (b"[", b"{"):
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except RecursionError:
            content = None
        except ValueError:  # perhaps lines of JSON
            content = None if head[:1] == b"[" else ...
        if file.suffix == ".jsonl" and b'"pick"' in head:
            return _own(file)
        if content is ... or (isinstance(content, dict) and "labels" not in content):
            return read_table(file, columns, images, classes, report)
        if isinstance(content, dict):
            return read_fiftyone(content, report)
        if content is None:
            report("", "is no JSON", "Export it again.")
            return Contents("", [])
        if any(isinstance(each, dict) and "data" in each for each in content):
            return read_tasks(content, columns, report)
        return table_of(rows_of_json(content), "a table in JSON", columns, images, classes, report)
    return read_table(file, columns, images, classes, report)


def _own(file: Path) -> Contents:
    """A `labels.jsonl`, perhaps of another person."""
    annotations = []
    for name, lines in read_people(file).items():
        for by, line in lines.items():
            label, place = NONE_OF_THESE if line.get("none") else line["label"], f"line {line['line']}"
            annotator = None if by == PERSON else by
            annotations.append(Annotation(name, label, place, annotator, line["pick"], line.get("digest")))
    return Contents("answers of g4i label", annotations)
