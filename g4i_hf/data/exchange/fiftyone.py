"""
`labels.json` of FiftyOne's image classification dataset
(https://docs.voxel51.com/user_guide/import_datasets.html, FiftyOneImageClassificationDataset).
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ..metadata import Report
from . import Annotation, Contents, Exported


def read_fiftyone(content: dict[str, Any], report: Report) -> Contents:
    """Images are named without their ending; labels are numbers of classes, or names where no classes are listed."""
    classes, annotations = content.get("classes"), []
    labels = content.get("labels")
    if not isinstance(labels, dict) or not isinstance(classes, list | None):
        report("", "has no labels by image", 'Give the labels.json of FiftyOne: {"classes": [...], "labels": {...}}.')
        return Contents("labels of FiftyOne", [])
    for name, target in labels.items():
        target = target.get("label") if isinstance(target, dict) else target
        try:
            label = target if classes is None or target is None or isinstance(target, str) else classes[int(target)]
            is_wrong = isinstance(target, int) and (classes is None or target < 0)
        except (IndexError, TypeError, ValueError):
            is_wrong = True
        if is_wrong:
            report(f"image {name!r}", f"has the label {target!r}, which is none of its classes", "Correct it.")
        else:
            annotations.append(Annotation(name, None if label is None else str(label), f"image {name!r}"))
    return Contents("labels of FiftyOne", annotations)


def fiftyone_of(images: Iterable[Exported], classes: Sequence[str]) -> str:
    """ValueError where images differ in their ending only, which it leaves out."""
    index = {name: number for number, name in enumerate(classes)}
    of_stem = defaultdict(list)
    for image in images:
        of_stem[os.path.splitext(image.name)[0]].append(image)
    for several in of_stem.values():
        if len(several) > 1:
            names = " and ".join(repr(image.name) for image in several[:2])
            raise ValueError(f"FiftyOne names images without their ending, so {names} are one. Rename one of them.")
    labels = {stem: None if one.label is None else index[one.label] for stem, (one,) in of_stem.items()}
    return json.dumps({"classes": list(classes), "labels": labels}, ensure_ascii=False, indent=1) + "\n"
