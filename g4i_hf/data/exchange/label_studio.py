"""
Tasks of Label Studio, with choices as labels and suggestions as predictions
(https://labelstud.io/guide/task_format, https://labelstud.io/guide/predictions).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from ..images import IMAGE_SUFFIXES
from ..metadata import Report
from . import Annotation, Contents, Exported

LOCAL = "/data/local-files/?d="  # a file below LOCAL_FILES_DOCUMENT_ROOT
IMAGE, CHOICES = "image", "label"  # of tasks that are written


def read_tasks(tasks: list[Any], columns: Sequence[str], report: Report) -> Contents:
    """`columns`: key of the image in `data`, and name of the choices; empty: the only ones there are."""
    key, name = (*columns, None, None)[:2]
    annotations: list[Annotation] = []
    names, cancelled = Counter[str](), 0
    for number, task in enumerate(tasks, 1):
        where = f"task {number}"
        try:
            where = f"task {task.get('id', number)}"
            image = _image_of(task["data"], key)
            given = task.get("annotations") or task.get("completions") or []
            cancelled += sum(bool(each.get("was_cancelled")) for each in given)
            given = [each for each in given if not each.get("was_cancelled")]
            labels = [(choice, _annotator(each)) for each in given for choice in _choices(each["result"], name, names)]
        except (AttributeError, KeyError, TypeError, ValueError):
            report(where, "is no task with an image and choices", "Export the project as JSON again.")
            continue
        annotations += [Annotation(image, label, where, by) for label, by in labels or [(None, None)]]
    if name is None and len(names) > 1:
        remedy = "Name the task's image and the choices: --columns image CHOICES."
        report("", f"has choices of several kinds: {', '.join(map(repr, names))}", remedy)
    left_out = {"skipped annotations": cancelled} if cancelled else {}
    return Contents("tasks of Label Studio", annotations, {"label": f"choices {next(iter(names), '')}"}, 0, left_out)


def _image_of(data: dict[str, Any], key: str | None) -> str:
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    if key is None and IMAGE not in texts:
        paths = {name: value.partition("?d=" if "?d=" in value else "?") for name, value in texts.items()}
        ends = {name: (path[2] if "?d=" in path[1] else path[0]).lower() for name, path in paths.items()}
        key = next((name for name, end in ends.items() if end.endswith(tuple(IMAGE_SUFFIXES))), None)
    return texts[key or IMAGE]


def _choices(result: list[Any], name: str | None, names: Counter[str]) -> Iterator[str]:
    for each in result:
        if each["type"] == "choices" and name in (None, each["from_name"]):
            names[each["from_name"]] += 1
            yield from map(str, each["value"]["choices"])


def _annotator(annotation: dict[str, Any]) -> str | None:
    by = annotation.get("by", annotation.get("completed_by"))
    by = by.get("email", by.get("id")) if isinstance(by, dict) else by
    return None if by is None else str(by)


def tasks_of(images: Iterable[Exported], classes: Sequence[str]) -> str:
    """
    Annotators that are no user of Label Studio, by number or address, are in `by`, as it reads no task with an
    unknown one.
    """
    tasks = []
    for image in images:
        task: dict[str, Any] = {"data": {IMAGE: LOCAL + quote(image.name)}, "annotations": [], "predictions": []}
        for by, label in image.by.items():
            user = int(by) if by.isdecimal() else {"email": by} if "@" in by else None
            named = {"by": by} if user is None else {"completed_by": user}
            task["annotations"].append({"result": [_result(label)]} | named)
        if image.suggestion:
            label, share = image.suggestion
            task["predictions"].append({"model_version": "g4i", "score": share, "result": [_result(label)]})
        tasks.append(task)
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _result(label: str) -> dict[str, Any]:
    return {"from_name": CHOICES, "to_name": IMAGE, "type": "choices", "value": {"choices": [label]}}
