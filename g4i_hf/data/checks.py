"""What must hold of the data before the first step, checked once."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets.features.features import FeatureType
from PIL import UnidentifiedImageError
from tqdm import tqdm

from .. import columns
from .images import open_image, to_rgb, unusual
from .texts import is_blank
from .values import values_of

logger = logging.getLogger(__name__)

CHECK_ALL_BELOW = 50_000  # images; of larger splits a sample of this size is decoded
NORM_TOLERANCE = 0.01  # float16 rounds


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
    _check_image_ids(split, name)
    _check_labels(split, name, num_labels, of_training, require_labels)
    if text_embed_dim is not None or columns.TEXT_EMBEDS in split.column_names:
        _check_captions(split, name, of_training)
        _check_text_embeds(split, name, text_embed_dim, of_training)
    _check_images(split, name, unusual_rows, on_bad_images)
    unusual_rows.warn(name)
    return unusual_rows.counts


def _check_image_ids(split: Dataset, name: str) -> None:
    seen: dict[str, int] = {}
    for row, image_id in enumerate(values_of(split, columns.IMAGE_ID)):
        if image_id is None:
            raise DataError(f"Split {name!r}, column 'image_id', row {row}: null. Give every image an id of its own.")
        if image_id in seen:
            raise DataError(
                f"Split {name!r}, column 'image_id', row {row}: {image_id!r} is already the id of row "
                f"{seen[image_id]}. Make ids unique, or drop the column to have them made from file names or content."
            )
        seen[image_id] = row


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
    width = _fixed_width(feature)
    if width is None:
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
        rows, vectors = _vectors(array, isinstance(feature.feature, List))
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


def _fixed_width(feature: FeatureType | Features) -> int | None:
    """D of a column of (D,) or (K, D); None for anything else."""
    if isinstance(feature, List) and isinstance(feature.feature, List):
        feature = feature.feature
    if isinstance(feature, List) and isinstance(feature.feature, Value) and feature.feature.dtype.startswith("float"):
        return feature.length if feature.length > 0 else None
    return None


def _check_images(split: Dataset, name: str, unusual_rows: Unusual, on_bad_images: str) -> None:
    images = split.select_columns([columns.IMAGE])
    rows = range(len(split))
    if len(split) > CHECK_ALL_BELOW:
        rows = np.linspace(0, len(split) - 1, CHECK_ALL_BELOW).astype(int).tolist()
    for row in tqdm(rows, desc=f"Checking images of {name}", unit="image", leave=False, disable=len(rows) < 1000):
        try:
            image = open_image(images[row][columns.IMAGE])
            reasons = unusual(image)
            to_rgb(image)
        except Exception as error:
            if on_bad_images == "skip":
                what = "images that cannot be read, trained on neither label nor caption"
                unusual_rows.add(what, f"column 'image' (first: row {row}, {split[row][columns.IMAGE_ID]})")
                continue
            why = "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
            raise DataError(
                f"Split {name!r}, column 'image', row {row} ({split[row][columns.IMAGE_ID]}): cannot be decoded "
                f"({why}). Replace the file or remove the row, or leave such images out with --on_bad_images skip."
            ) from error
        for reason in reasons:
            unusual_rows.add(f"{reason} images, converted to upright RGB", f"column 'image' (first: row {row})")
