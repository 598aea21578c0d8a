"""
Views as stages: `g4i embed --view`, and views that `g4i fit` makes or reads.

A stage is `OUT/views/<name>/`: `train.parquet` with `image_id`, the digest of the image and `values`, perhaps
`classes.parquet` with values of the class names, and `stage.json` with all that they depend on.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from datasets.table import InMemoryTable

from .. import columns
from ..data.classes import class_names
from ..data.joining import NO_ROW
from ..data.loading import check_has_split, standardise
from ..data.opening import STAGE_FILE
from ..data.record import content_digest, image_digests
from ..data.stage import Source, ids_digest, read_stage, write_stage
from ..embedding import with_text_embeds
from ..embedding.encoders import encoder_identity
from ..embedding.image_text import ImageTower, TowerTransform, is_image_text, named_in_its_space
from ..label_model import View
from ..label_model.supervise import ANSWER, CAPTION
from ..names import folder_digest
from ..options import DEFAULT_TEXT_ENCODER, EncoderArguments, check_view
from ..training.features import FEATURES, ImageEncoder, encoder_digest, image_features
from ..training.head import Scale
from .known_views import (
    OWN_VIEWS,
    STUDENT_VIEW,
    answers_of,
    captions_view,
    check_encoder_of,
    encoder_by_student,
    encoder_of_fit,
    scores_of,
    view_name,
)

logger = logging.getLogger(__name__)

VIEWS = "views"  # folder of them in that of a result
VALUES, CLASS_NAME, CLASSES = "values", "class_name", "classes"


@dataclass
class NewView:
    """
    A view that is to be made of N images.

    Attributes:
        name: without the place of a folder.
        knows_classes: whether it has values of the class names, or a column a class.
        depends_on: for `stage.json`; a stage of the same is the same view.
        values: called by all processes, (N, D).
        class_values: called by the first process, (C, D); None without any.
    """

    name: str
    knows_classes: bool
    depends_on: dict[str, Any]
    values: Callable[[], np.ndarray]
    class_values: Callable[[], np.ndarray | None]

    @classmethod
    def of(cls, name: str, view: View) -> "NewView":
        digest = hashlib.blake2b(digest_size=16)
        for values in (view.values, view.class_values):
            digest.update(b"" if values is None else np.ascontiguousarray(values))
        return cls(name, True, {"values_digest": digest.hexdigest()}, lambda: view.values, lambda: view.class_values)

    def view(self) -> View:
        """As [`as_view`]; called by all processes, without class names but in the first."""
        values = self.values()
        return as_view(self.name, values, self.class_values())


def as_view(name: str, values: np.ndarray, class_values: np.ndarray | None) -> View:
    """
    As the label model takes it. Images and texts of one encoder lie apart, each around a mean of their own: names of
    classes are moved by the difference.
    """
    if not name.startswith("image:"):
        return View(values, class_values, learns=False)
    if class_values is None or not class_values.any():
        return View(Scale.of(values)(values))
    named = class_values.any(1)
    moved = class_values + values.mean(0) - class_values[named].mean(0)
    return View(values, np.where(named[:, None], moved, 0), learns=True)


def new_view(
    view: str, images: Dataset, id2label: dict[int, str], output_dir: str | Path, accelerator: Accelerator
) -> NewView:
    """
    A view `image:NAME` or `scores:COLUMN` of rows with `image` and `image_id`, or that column.

    Args:
        id2label: names of the classes; empty where they are not known.
        output_dir: keeps features of images, so that another call resumes, or adds images.

    Raises:
        ValueError, OSError: for an encoder that cannot be loaded, or a column that holds no scores.
    """
    kind, _, what = view.partition(":")
    if kind == "scores":
        return NewView.of(view, scores_of(images, what, len(id2label)))
    is_both = view != STUDENT_VIEW and is_image_text(what)
    if is_both:
        tower = ImageTower(what)
        digest = encoder_digest(tower, tower.processor)
        encoder = ImageEncoder(tower, TowerTransform(tower.processor), tower, digest)
    else:
        encoder = encoder_of_fit(None, images) if view == STUDENT_VIEW else encoder_by_student(what)
    rows, place = images.select_columns([columns.IMAGE, columns.IMAGE_ID]), Path(output_dir) / FEATURES
    name, has_names = view_name(view), is_both and bool(id2label)

    def class_values() -> np.ndarray | None:
        is_wanted = has_names and accelerator.is_main_process
        return named_in_its_space(what, id2label, accelerator.device) if is_wanted else None

    def values() -> np.ndarray:
        return image_features(encoder, rows, place, accelerator, description=f"Features, {name}")

    text_encoder = encoder_identity(EncoderArguments(what)) if is_both else None
    depends_on = {"encoder_digest": encoder.digest, "text_encoder": text_encoder}
    return NewView(name, is_both, depends_on, values, class_values)


# --- Stages ----------------------------------------------------------------------------------------------------------


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
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
    return Dataset(InMemoryTable(pa.table(texts | {VALUES: column})))


def read_view(folder: str | Path, images: Dataset, id2label: dict[int, str]) -> tuple[str, View]:
    """
    Name and view of a stage, in the order of these images. A ValueError when it is no view, lacks one of the images as
    it is now, or was made for other classes.
    """
    stage = view_stage(folder)
    again = f"Run it again: g4i embed DATASET_NAME --view {stage['view']} -o {Path(folder).parent.parent}"
    there = pq.read_table(Path(folder) / "train.parquet")
    digests, image_ids = (there[name].to_pylist() for name in (columns.IMAGE_DIGEST, columns.IMAGE_ID))
    # Equal images can have other captions; one that was renamed has its value still
    place = {digest: row for row, digest in enumerate(digests)}
    place |= {pair: row for row, pair in enumerate(zip(digests, image_ids, strict=True))}
    now = image_digests(images)
    pairs = zip(now[columns.IMAGE_DIGEST], now[columns.IMAGE_ID], strict=True)
    rows = [place.get(pair, place.get(pair[0], NO_ROW)) for pair in pairs]
    if lacking := [row for row, found in enumerate(rows) if found == NO_ROW]:
        first = now[columns.IMAGE_ID][lacking[0]]
        what = f"{len(lacking):,} of {len(images):,} images have no value there, or have changed since: {first!r}"
        raise ValueError(f"{folder} (views): {what}. {again}.")
    values, names = _values_of(there)[rows], None
    if (Path(folder) / f"{CLASSES}.parquet").is_file():
        names = _values_of(pq.read_table(Path(folder) / f"{CLASSES}.parquet"))
    if stage["class_names"] not in (None, [id2label[index] for index in sorted(id2label)]):
        raise ValueError(f"{folder} (views) was made for other classes than those of the data. {again}.")
    return stage["view"], as_view(stage["view"], values, names)


def view_stage(folder: str | Path) -> dict[str, Any]:
    """The `stage.json` of a view; a ValueError where there is none."""
    stage = read_stage(folder) or {}
    if stage.get("stage") != "view":
        raise ValueError(f"{folder} (views) holds no view. Make one: g4i embed DATASET_NAME --view NAME -o OUT.")
    return stage


def _values_of(table: pa.Table) -> np.ndarray:
    values = table[VALUES].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


# --- g4i fit ---------------------------------------------------------------------------------------------------------


def default_views(output_dir: str | Path) -> list[str]:
    """The captions, answers and features of the student, and folders of other views that are there."""
    made = [path.parent for path in sorted(Path(output_dir).glob(f"{VIEWS}/*/{STAGE_FILE}"))]
    return [*OWN_VIEWS, *(str(folder) for folder in made if view_stage(folder)["view"] not in OWN_VIEWS)]


def checked_view(view: str) -> bool:
    """
    Whether a view says something of a class that no image is labelled with, without loading it. A ValueError for one
    that is not there, or may have learned the labels.
    """
    if view.startswith("scores:"):
        return True
    if not view.startswith("image:"):
        return view_stage(view)["class_names"] is not None
    check_encoder_of(view)
    return is_image_text(view.removeprefix("image:"))


def digests_of(views: list[str], training: Dataset) -> dict[str, str]:
    """What a result with these views depends on beside their names, by its name in messages."""
    found = {}
    for view in views:
        kind, _, what = view.partition(":")
        if kind == "image" and Path(what).is_dir():
            found[f"the encoder {what}"] = folder_digest(what)
        elif kind == "scores" and what in training.column_names:
            found[f"the scores {what}"] = content_digest(json.dumps(training[what][:]).encode())
        elif view not in OWN_VIEWS and Path(view, STAGE_FILE).is_file():
            found[f"the view {view}"] = folder_digest(view)
    return found


def other_views(
    views: list[str], images: Dataset, id2label: dict[int, str], output_dir: Path, accelerator: Accelerator
) -> dict[str, View]:
    """By name, those that are not `OWN_VIEWS`: of a folder, or made. Class names are there in the first process."""
    found: dict[str, View] = {}
    for view in views:
        if view in OWN_VIEWS:
            continue
        is_made = view.startswith(("image:", "scores:"))
        if is_made:
            new = new_view(view, images, id2label, output_dir, accelerator)
            name, values = new.name, new.view()
        else:
            name, values = read_view(view, images, id2label)
        if name in found:
            raise ValueError(f"Two views are called {name!r} (views). Leave one out.")
        found[name] = values
    return found


# --- g4i embed -------------------------------------------------------------------------------------------------------


def embed_view(
    images: Dataset | DatasetDict,
    view: str,
    output_dir: str | Path,
    *,
    text_encoder: str = DEFAULT_TEXT_ENCODER,
    source: str | Source = "images",
    accelerator: Accelerator | None = None,
) -> Path:
    """
    Makes one view of the training images as a stage, as `g4i embed --view` does. The same view of the same images and
    classes is made once.

    Args:
        images: rows with `image` and, where classes are known, `label`; or splits, of which `train` is embedded.
        view: `caption`, `answer`, `image:student`, `image:NAME` of an encoder, or `scores:COLUMN`.
        output_dir: the stage is a folder in its `views`.
        text_encoder: of captions.
        source: what the stage is made from, for its `stage.json`.

    Returns:
        The folder of the stage, for `g4i fit --views`.

    Raises:
        ValueError, OSError: for images without what the view needs, or an encoder that cannot be loaded.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    check_view(view)
    splits = images if isinstance(images, dict) else {"train": images}
    check_has_split(splits, "train")
    splits = DatasetDict({name: standardise(split, name, {}) for name, split in splits.items()})
    if view.startswith("image:") and view != STUDENT_VIEW:
        check_encoder_of(view)
    id2label: dict[int, str] = {}
    if not view.startswith("image:") or any(columns.LABEL in split.column_names for split in splits.values()):
        splits, id2label = class_names(splits)
    training, encoder, found = splits["train"], EncoderArguments(text_encoder), None
    if view == CAPTION:
        where = {"source": source, "shared": True}
        embedded = with_text_embeds(DatasetDict(train=training), encoder, Path(output_dir) / "embeddings", **where)
        found = captions_view(embedded["train"], id2label, encoder, accelerator.device)
    elif view == ANSWER:
        answers = answers_of(training, id2label)
        found = None if answers is None else View.answers(answers, len(id2label))
    if view in (CAPTION, ANSWER) and found is None:
        raise ValueError(f"View {view!r} (views): no training image has one that tells a class.")
    new = NewView.of(view, found) if found else new_view(view, training, id2label, output_dir, accelerator)
    return write_view(new, training, id2label, output_dir, Source.of(source), accelerator.is_main_process)
