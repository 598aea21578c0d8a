"""
Views as stages, on disk.

A stage is `OUT/views/<name>/`: `train.parquet` with `image_id`, the digest of the image and `values`, perhaps
`classes.parquet` with values of the class names, and `stage.json` with all that they depend on.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset
from datasets.table import InMemoryTable

from .. import columns
from ..data.classes import words_as_json
from ..data.joining import NO_ROW
from ..data.record import image_digests
from ..data.stage import Source, ids_digest, read_stage, write_stage
from ..data.texts import column_of, read_vectors
from ..label_model import View
from ..options import EncoderArguments
from .kinds import kind_of

logger = logging.getLogger(__name__)

VIEWS = "views"  # folder of them in that of a result
VALUES, CLASS_NAME, CLASSES = "values", "class_name", "classes"


@dataclass
class NewView:
    """A view that is to be made of N images."""

    name: str  # without the place of a folder
    knows_classes: bool  # whether it has values of the class names
    depends_on: dict[str, Any]  # for `stage.json`; a stage of the same is the same view
    values: Callable[[], np.ndarray]  # called by all processes, (N, D)
    class_values: Callable[[], np.ndarray | None]  # called by the first process, (C, D); None without any

    @classmethod
    def of(cls, name: str, view: View | None) -> "NewView":
        if view is None:
            raise ValueError(f"View {name!r} (views): no training image has one that tells a class.")
        names, depends_on = view.class_values, {"values_digest": view.digest()}
        return cls(name, names is not None, depends_on, lambda: view.values, lambda: names)

    def view(self) -> View:
        """As [`as_view`]; called by all processes, without class names but in the first."""
        values = self.values()
        return as_view(self.name, values, self.class_values())


def as_view(name: str, values: np.ndarray, class_values: np.ndarray | None) -> View:
    """
    As the label model takes it. Images and texts of one encoder lie apart, each around its mean: names of
    classes are moved by the difference.
    """
    kind = kind_of(name)
    if kind is None or not kind.self_trains:
        return View(values, class_values, self_trains=False)
    if class_values is None or not class_values.any():
        return View(values, source=kind.words)
    named = class_values.any(1)
    moved = class_values + values.mean(0) - class_values[named].mean(0)
    return View(values, np.where(named[:, None], moved, 0), self_trains=True)


@dataclass
class Inputs:
    """What a view may be made from."""

    images: Dataset  # with `image` and `image_id`, or the column of the view
    id2label: dict[int, str]  # empty where classes are not known
    output_dir: str | Path  # keeps features, so that another call resumes, or adds images
    accelerator: Accelerator
    student: str | None = None  # of `image:student`; None: that of `g4i fit`
    encoder: EncoderArguments = field(default_factory=EncoderArguments)  # of captions
    source: str | Source = "images"  # of the images, for `stage.json`


class Maker:
    """Makes the views of one kind. `view` is the name as users write it, `what` the part after the colon."""

    is_computed = False  # from the pixels, so that images without labels or other columns are enough

    def __init__(self, view: str):
        self.view, self.what = view, view.partition(":")[2]

    def check(self) -> bool:
        """Whether the view has class names. ValueError if it cannot be made, or may have learned the labels."""
        return not self.is_computed

    def digests(self, images: Dataset) -> dict[str, str]:
        """What a view of these images depends on beside its name, by its name in messages."""
        return {}

    def make(self, inputs: Inputs) -> NewView:
        """Raises ValueError or OSError for images without what the view needs, or an encoder that cannot be loaded."""
        raise NotImplementedError


def place_of(output_dir: str | Path, name: str) -> Path:
    """The folder of a view, with a name that every file system takes."""
    return Path(output_dir) / VIEWS / re.sub(r"[^\w.-]+", "_", name).strip("._")


def write_view(
    new: NewView, images: Dataset, id2label: dict[int, str], output_dir: str | Path, source: Source, is_main: bool
) -> Path:
    """The folder of its stage, made unless it is there. Called by all processes; the first one writes."""
    folder, digests = place_of(output_dir, new.name), image_digests(images)
    stage = {
        "stage": "view",
        "view": new.name,
        **source.recorded(folder),
        **new.depends_on,
        "images_digest": ids_digest(digests[columns.IMAGE_DIGEST]),
        "class_names": [id2label[index] for index in sorted(id2label)] if new.knows_classes else None,
        "class_words": words_as_json(id2label) if new.knows_classes else "",
    }
    present = read_stage(folder)
    if present is not None and all(present.get(name) == value for name, value in stage.items()):
        logger.info("The view %s is there already: nothing has changed since.", new.name)
        return folder
    values, class_values = new.values(), new.class_values()
    if is_main:
        rows = {name: digests[name] for name in (columns.IMAGE_ID, columns.IMAGE_DIGEST)}
        named = {} if class_values is None else {CLASSES: _table({CLASS_NAME: stage["class_names"]}, class_values)}
        write_stage(folder, {"train": _table(rows, values)}, stage, tables=named)
    return folder


def _table(texts: dict[str, list], values: np.ndarray) -> Dataset:
    return Dataset(InMemoryTable(pa.table(texts | {VALUES: column_of(values)})))


def read_view(folder: str | Path, images: Dataset, id2label: dict[int, str]) -> tuple[str, View]:
    """Name and view of a stage, in the order of these images. ValueError for one of other images or classes."""
    stage = view_stage(folder)
    again = f"Run it again: g4i embed DATASET_NAME --view {stage['view']} -o {Path(folder).parent.parent}"
    number, file = len(id2label), Path(folder) / f"{CLASSES}.parquet"
    try:
        values, texts = read_vectors(Path(folder) / "train.parquet", columns.IMAGE_DIGEST, columns.IMAGE_ID)
        names = read_vectors(file)[0] if file.is_file() else None
    except ValueError as error:
        raise ValueError(f"{error} {again}.") from error
    digests, image_ids = texts
    # Equal images can have other captions; one that was renamed has its value still
    place = {digest: row for row, digest in enumerate(digests)}
    place |= {pair: row for row, pair in enumerate(zip(digests, image_ids, strict=True))}
    now = image_digests(images)
    pairs = zip(now[columns.IMAGE_DIGEST], now[columns.IMAGE_ID], strict=True)
    rows = [place.get(pair, place.get(pair[0], NO_ROW)) for pair in pairs]
    if lacking := [row for row, there_row in enumerate(rows) if there_row == NO_ROW]:
        first = now[columns.IMAGE_ID][lacking[0]]
        what = f"{len(lacking):,} of {len(images):,} images have no value there, or have changed since: {first!r}"
        raise ValueError(f"{folder} (views): {what}. {again}.")
    if stage["class_names"] not in (None, [id2label[index] for index in sorted(id2label)]):
        raise ValueError(f"{folder} (views) was made for other classes than those of the data. {again}.")
    if stage["class_names"] is not None and stage.get("class_words", "") != words_as_json(id2label):
        raise ValueError(f"{folder} (views) was made with other synonyms or descriptions of the classes. {again}.")
    if names is not None and names.shape != (number, values.shape[1]):
        what = "{} class names of {} numbers, not {} of {}".format(*names.shape, number, values.shape[1])
        raise ValueError(f"{file}: {what}. {again}.")
    return stage["view"], as_view(stage["view"], values[rows], names)


def view_stage(folder: str | Path) -> dict[str, Any]:
    """The `stage.json` of a view; a ValueError where there is none."""
    stage = read_stage(folder) or {}
    if stage.get("stage") != "view":
        raise ValueError(f"{folder} (views) holds no view. Make one: g4i embed DATASET_NAME --view NAME -o OUT.")
    if not isinstance(stage.get("view"), str) or "class_names" not in stage:
        what = "its stage.json names no view or no classes"
        raise ValueError(f"{folder} (views): {what}. Make it again: g4i embed DATASET_NAME --view NAME -o OUT.")
    return stage
