"""Labels of a split, and what must hold of the data before the first step."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, List
from tqdm import tqdm

from .. import columns
from .images import open_image, unusual, why_bad
from .joining import check_image_ids
from .texts import is_blank, values_of

logger = logging.getLogger(__name__)

UNLABELLED = -100
CHECK_ALL_BELOW = 50_000  # images; of larger splits a sample of this size is decoded
NORM_TOLERANCE = 0.01  # float16 rounds


def labels_of(split: Dataset) -> np.ndarray:
    """(rows,) int64, -100 where a row has no label: null or negative, or no column at all."""
    if columns.LABEL not in split.column_names:
        return np.full(len(split), UNLABELLED)
    labels = values_of(split, columns.LABEL)
    return np.fromiter((UNLABELLED if label is None or label < 0 else label for label in labels), dtype=np.int64)


def with_labels(split: Dataset, labels: np.ndarray) -> Dataset:
    """The split with other labels (rows,) of the same feature; null where they are negative."""
    values = [label if label >= 0 else None for label in labels.tolist()]
    feature = split.features[columns.LABEL]
    return split.remove_columns(columns.LABEL).add_column(columns.LABEL, values, feature=feature)


def labelled_rows(split: Dataset) -> Dataset:
    """
    The rows that have a label.

    Raises:
        ValueError: when none has.
    """
    rows = np.flatnonzero(labels_of(split) >= 0)
    if len(rows) == len(split):
        return split
    if not len(rows):
        raise ValueError("unlabelled is 'drop', but no row of the training split has a label. Set it to keep.")
    logger.info(
        "unlabelled is drop: %d of %d training rows are left, so that an epoch has fewer steps. max_steps sets their "
        "number, as for a run with all rows.",
        *(len(rows), len(split)),
    )
    return split.select(rows)


# --- Checks ----------------------------------------------------------------------------------------------------------


class DataError(ValueError):
    """A fault in the data that training would stumble over: says column, row and remedy."""


class Unusual:
    """What can be used, but should be known: how often, and where first."""

    def __init__(self):
        self.counts: dict[str, int] = {}
        self._places: dict[str, str] = {}

    def add(self, what: str, place: str, count: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + count
        self._places.setdefault(what, place)

    def warn(self, split_name: str) -> None:
        for what, count in sorted(self.counts.items()):
            logger.warning("Split %r, %s: %s: %d", split_name, self._places[what], what, count)


def check_split(
    split: Dataset,
    name: str,
    *,
    num_labels: int,
    text_embed_dim: int | None = None,
    training: bool = True,
    require_labels: bool = True,
    on_bad_images: str = "error",
) -> dict[str, int]:
    """
    Checks ids, labels, text embeddings and images of a split.

    Args:
        split: the rows.
        name: what messages call it.
        num_labels: number of classes.
        text_embed_dim: what the model expects; when given, the split must have text embeddings.
        training: whether it is trained on, so that lacking examples and captions matter.
        require_labels: whether an unlabelled row (null or -1) is an error.
        on_bad_images: whether an image that cannot be read is an `error`, or is counted (`skip`).

    Returns:
        Counts of what is unusual but can be used; each is also logged as a warning.

    Raises:
        DataError: at the first thing that cannot be used.
    """
    unusual_rows = Unusual()
    of_training = unusual_rows if training else Unusual()
    try:
        check_image_ids(split, name)
    except ValueError as error:
        raise DataError(str(error)) from error
    _check_labels(split, name, num_labels, of_training, require_labels)
    if text_embed_dim is not None or columns.TEXT_EMBEDS in split.column_names:
        _check_captions(split, name, of_training)
        _check_text_embeds(split, name, text_embed_dim, of_training)
    _check_images(split, name, unusual_rows, on_bad_images)
    unusual_rows.warn(name)
    return unusual_rows.counts


def _check_labels(split: Dataset, name: str, num_labels: int, unusual_rows: Unusual, require_labels: bool) -> None:
    if columns.LABEL not in split.column_names:
        if not require_labels:
            unusual_rows.add("rows without label, trained on their caption alone", "column 'label'", len(split))
            return
        raise DataError(
            f"Split {name!r} has no column 'label'. Its columns: {', '.join(split.column_names)}. Name the right one "
            "with --label_column."
        )
    seen = set()
    for row, label in enumerate(values_of(split, columns.LABEL)):
        seen.add(label)
        if label is None or label == -1:
            if not require_labels:
                what = "rows without label, trained on their caption alone"
                unusual_rows.add(what, f"column 'label' (first: row {row})")
                continue
            raise DataError(
                f"Split {name!r}, column 'label', row {row}: unlabelled ({label}). Label the row, remove it, or train "
                "it on its caption alone with --require_labels false."
            )
        if not 0 <= label < num_labels:
            raise DataError(
                f"Split {name!r}, column 'label', row {row}: {label} is out of range, there are {num_labels} classes "
                f"(0 to {num_labels - 1}). Correct the label or the class names."
            )
    empty = sorted(set(range(num_labels)) - seen)
    if empty:
        feature = split.features[columns.LABEL]
        first = repr(feature.int2str(empty[0])) if isinstance(feature, ClassLabel) else f"class {empty[0]}"
        unusual_rows.add("classes without an example", f"column 'label' (first: {first})", len(empty))


def _check_captions(split: Dataset, name: str, unusual_rows: Unusual) -> None:
    if columns.CAPTION in split.column_names:
        for row, caption in enumerate(values_of(split, columns.CAPTION)):
            if is_blank(caption):
                what = "rows without caption, trained on their label alone"
                unusual_rows.add(what, f"column 'caption' (first: row {row})")
    if columns.CAPTION_WEIGHT in split.column_names:
        for row, weight in enumerate(values_of(split, columns.CAPTION_WEIGHT)):
            if weight is not None and not 0 <= weight <= 1:
                raise DataError(
                    f"Split {name!r}, column 'caption_weight', row {row}: {weight}. Give weights from 0 (train the "
                    "row on its label alone) to 1."
                )


def _check_text_embeds(split: Dataset, name: str, dim: int | None, unusual_rows: Unusual) -> None:
    if columns.TEXT_EMBEDS not in split.column_names:
        raise DataError(
            f"Split {name!r} has no column 'text_embeds'. Its columns: {', '.join(split.column_names)}. Make it with "
            "g4i embed, name it with --text_embeds_column, or give --text_encoder."
        )
    feature = split.features[columns.TEXT_EMBEDS]
    width = columns.text_embed_dim_of(feature)
    several = width is not None and isinstance(feature.feature, List)
    value = feature if width is None else feature.feature.feature if several else feature.feature
    if width is None or not value.dtype.startswith("float"):
        raise DataError(
            f"Split {name!r}, column 'text_embeds', every row: {feature} is no list of floats of fixed length. Store "
            "it as List(Value('float16'), length=D), as g4i embed does; several a row as a List of these."
        )
    if width != (dim or width):
        raise DataError(
            f"Split {name!r}, column 'text_embeds', every row: {width} dimensions, but the model expects {dim}. Embed "
            f"again with the encoder that the model was made for, or make one with text_embed_dim {width}."
        )
    embeds = split.select_columns([columns.TEXT_EMBEDS]).with_format("arrow")
    row = 0
    for batch in embeds.iter(batch_size=10_000):
        array = batch[columns.TEXT_EMBEDS].combine_chunks()
        rows, vectors = _vectors(array, several)
        empty = np.bincount(rows, minlength=len(array)) == 0
        is_null = np.asarray(vectors.is_null())
        if is_null.any():
            raise DataError(
                f"Split {name!r}, column 'text_embeds', row {row + rows[is_null.argmax()]}: one of several embeddings "
                "is null. Leave it out of the row's list, or make the whole row null."
            )
        values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32)
        norms = np.linalg.norm(values, axis=1)
        faults = {
            "NaN or infinite": ~np.isfinite(norms),
            "a norm of zero": norms == 0,
            "a norm other than 1": abs(norms - 1) > NORM_TOLERANCE,
        }
        for what, bad in faults.items():
            if bad.any():
                raise DataError(
                    f"Split {name!r}, column 'text_embeds', row {row + rows[bad.argmax()]}: {what}. Embed this "
                    "caption again, with unit norm, or set the row's text_embeds to null to train it on its label "
                    "alone."
                )
        if empty.any():
            what = "rows without text_embeds, trained on their label alone"
            place = f"column 'text_embeds' (first: row {row + empty.argmax()})"
            unusual_rows.add(what, place, int(empty.sum()))
        row += len(array)


def _vectors(array: pa.Array, several: bool) -> tuple[np.ndarray, pa.Array]:
    """The vectors of all rows that have any, one after the other, and the row of each; a row can have several."""
    rows = np.flatnonzero(~np.asarray(array.is_null()))
    array = array.drop_null()
    if not several:
        return rows, array
    return np.repeat(rows, pc.list_value_length(array).to_numpy()), array.flatten()


def _check_images(split: Dataset, name: str, unusual_rows: Unusual, on_bad_images: str) -> None:
    images = split.select_columns([columns.IMAGE])
    rows = range(len(split))
    if len(split) > CHECK_ALL_BELOW:
        rows = np.linspace(0, len(split) - 1, CHECK_ALL_BELOW).astype(int).tolist()
    for row in tqdm(rows, desc=f"Checking images of {name}", unit="image", leave=False, disable=len(rows) < 1000):
        stored = images[row][columns.IMAGE]
        why = why_bad(stored)
        if why is None:
            for reason in unusual(open_image(stored)):
                unusual_rows.add(f"{reason} images, converted to upright RGB", f"column 'image' (first: row {row})")
        elif on_bad_images == "skip":
            what = "images that cannot be read, trained on neither label nor caption"
            unusual_rows.add(what, f"column 'image' (first: row {row}, {split[row][columns.IMAGE_ID]})")
        else:
            why += f": {stored['path']}" if isinstance(stored, dict) and stored["bytes"] is None else ""
            raise DataError(
                f"Split {name!r}, column 'image', row {row} ({split[row][columns.IMAGE_ID]}): cannot be decoded "
                f"({why}). Replace the file or remove the row, or leave such images out with --on_bad_images skip."
            )
