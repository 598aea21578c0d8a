"""What must hold of the data before the first step, checked once."""

import logging
from collections import Counter

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.features.features import FeatureType
from tqdm import tqdm

from .. import columns
from .images import open_image, to_rgb, unusual

logger = logging.getLogger(__name__)

CHECK_ALL_BELOW = 50_000  # images; of larger splits a sample of this size is decoded


class DataError(ValueError):
    """A fault in the data that training would stumble over: says column, row and remedy."""


def check_split(
    split: Dataset, name: str, *, num_labels: int, text_embed_dim: int | None = None, training: bool = True
) -> dict[str, int]:
    """
    Checks labels, ids, images and, when a dimension is given, text embeddings of a split.

    Returns:
        Counts of what is unusual but can be used; each is also logged as a warning.

    Raises:
        DataError: at the first thing that cannot be used.
    """
    counts: Counter[str] = Counter()
    _check_image_ids(split, name)
    _check_labels(split, name, num_labels, counts if training else Counter())
    if text_embed_dim is not None:
        _check_text_embeds(split, name, text_embed_dim, counts)
    _check_images(split, name, counts)
    for what, count in sorted(counts.items()):
        logger.warning("Split %r: %s: %d", name, what, count)
    return dict(counts)


def _check_image_ids(split: Dataset, name: str) -> None:
    seen: dict[str, int] = {}
    for row, image_id in enumerate(split[columns.IMAGE_ID][:]):
        if image_id is None:
            raise DataError(f"Split {name!r}, column 'image_id', row {row}: null. Give every image an id of its own.")
        if image_id in seen:
            raise DataError(
                f"Split {name!r}, column 'image_id', row {row}: {image_id!r} is already the id of row "
                f"{seen[image_id]}. Make ids unique, or drop the column to have them made from file names or content."
            )
        seen[image_id] = row


def _check_labels(split: Dataset, name: str, num_labels: int, counts: Counter) -> None:
    if columns.LABEL not in split.column_names:
        raise DataError(
            f"Split {name!r} has no column 'label'. Its columns: {', '.join(split.column_names)}. Name the right one "
            "with --label_column."
        )
    labels = split[columns.LABEL][:]
    for row, label in enumerate(labels):
        if label is None or label == -1:
            raise DataError(
                f"Split {name!r}, column 'label', row {row}: unlabelled ({label}). Remove unlabelled rows from the data."
            )
        if not 0 <= label < num_labels:
            raise DataError(
                f"Split {name!r}, column 'label', row {row}: {label} is out of range, there are {num_labels} classes "
                f"(0 to {num_labels - 1}). Correct the label or the class names."
            )
    empty = num_labels - len(set(labels))
    if empty:
        counts["classes without an example"] = empty


def _check_text_embeds(split: Dataset, name: str, dim: int, counts: Counter) -> None:
    if columns.TEXT_EMBEDS not in split.column_names:
        raise DataError(
            f"Split {name!r} has no column 'text_embeds'. Its columns: {', '.join(split.column_names)}. Make it with "
            "recipes/embed.py, name it with --text_embeds_column, or give --text_encoder."
        )
    if columns.CAPTION in split.column_names:
        nulls = sum(caption is None for caption in split[columns.CAPTION][:])
        if nulls:
            counts["rows without caption, trained on their label alone"] = nulls
    feature = split.features[columns.TEXT_EMBEDS]
    width = _fixed_width(feature)
    if width is None:
        raise DataError(
            f"Split {name!r}, column 'text_embeds': {feature} is no list of floats of fixed length. Store it as "
            f"List(Value('float16'), length={dim}), as recipes/embed.py does."
        )
    if width != dim:
        raise DataError(
            f"Split {name!r}, column 'text_embeds': {width} dimensions, but the model expects {dim}. Embed again with "
            f"the encoder that the model was made for, or set text_embed_dim to {width}."
        )
    embeds = split.select_columns([columns.TEXT_EMBEDS]).with_format("arrow")
    row = nulls = 0
    for batch in embeds.iter(batch_size=10_000):
        array = batch[columns.TEXT_EMBEDS].combine_chunks()
        present = np.flatnonzero(~np.asarray(array.is_null()))
        nulls += len(array) - len(present)
        values = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim).astype(np.float32)
        norms = np.linalg.norm(values, axis=1)
        for what, bad in (("NaN or infinite", ~np.isfinite(norms)), ("a norm of zero", norms == 0)):
            if bad.any():
                raise DataError(
                    f"Split {name!r}, column 'text_embeds', row {row + present[bad.argmax()]}: {what}. Embed this "
                    "caption again, or set the row's text_embeds to null to train it on its label alone."
                )
        row += len(array)
    if nulls:
        counts["rows without text_embeds, trained on their label alone"] = nulls


def _fixed_width(feature: FeatureType | Features) -> int | None:
    if isinstance(feature, List) and isinstance(feature.feature, Value) and feature.feature.dtype.startswith("float"):
        return feature.length if feature.length > 0 else None
    return None


def _check_images(split: Dataset, name: str, counts: Counter) -> None:
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
            raise DataError(
                f"Split {name!r}, column 'image', row {row} ({split[row][columns.IMAGE_ID]}): cannot be decoded "
                f"({error}). Replace the file or remove the row."
            ) from error
        for reason in reasons:
            counts[f"{reason} images, converted to RGB"] += 1
