"""Columns of one data set put beside the images of another, row by row by `image_id`."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, DatasetInfo, concatenate_datasets
from datasets.table import InMemoryTable

from .. import columns
from .hub_rows import file_columns
from .image_ids import NO_ROW, check_image_ids, positions_of

logger = logging.getLogger(__name__)

EXAMPLES = 3
IN_MEMORY = 1 << 26  # bytes: larger tables in another order are written to the cache of `datasets`


def join_captions(images: DatasetDict, captions: Mapping[str, Dataset], what: str) -> DatasetDict:
    """
    Adds captions and embeddings to the images' own rows, in place of columns of the same name. The images are not
    rewritten: rows are matched by `image_id` and the tables are put side by side.

    Args:
        images: with `image_id`.
        captions: splits with `image_id` and the columns to add. An image that has no row there gets nulls; a split
            that is not there stays as it is.
        what: what messages call them.

    Raises:
        ValueError: when no split has a row in common, or captions lack an `image_id` or hold one twice.
    """
    added = {name: _without_images(captions[name], name, what) for name in images if name in captions}
    positions = {name: positions_of(images[name], split) for name, split in added.items()}
    if all((of_split == NO_ROW).all() for of_split in positions.values()):
        raise ValueError(_nothing_in_common(images, captions, what))
    for name, split in added.items():
        _report(images[name], split, positions[name], f"{what}, split {name!r}")
    kept = [name for name in images if name not in added]
    if kept:
        logger.warning("%s: no captions of the splits %s; they are kept without.", what, ", ".join(kept))
    return joined_splits(images, added, positions, what)


def joined_splits(
    images: DatasetDict, added: Mapping[str, Dataset], positions: Mapping[str, np.ndarray], what: str
) -> DatasetDict:
    """
    The columns of each split beside its images, see [`side_by_side`]. Splits to which nothing is added stay as they
    are, but for `text_embeds` where the others get captions that are still to be embedded: vectors of two encoders
    would not fit together.

    Args:
        images: splits with `image_id`.
        added: of some of them, `image_id` and the columns to add.
        positions: of the same, for each image the row in `added`.
        what: what messages call them.
    """
    held = {column for split in added.values() for column in split.column_names}
    to_embed = columns.CAPTION in held and columns.TEXT_EMBEDS not in held
    joined = {
        name: side_by_side(split, added[name], positions[name])
        if name in added
        else without_replaced(split, [columns.TEXT_EMBEDS] if to_embed else [])
        for name, split in images.items()
    }
    lost = [
        name
        for name, split in images.items()
        if columns.TEXT_EMBEDS in split.column_names and columns.TEXT_EMBEDS not in joined[name].column_names
    ]
    if lost:
        said = "%s: captions without text_embeds. Those of the earlier captions are left out (splits %s): embed anew."
        logger.warning(said, what, ", ".join(lost))
    return DatasetDict(joined)


def side_by_side(split: Dataset, added: Dataset, positions: np.ndarray) -> Dataset:
    """
    Args:
        split: the images.
        added: `image_id` and columns that replace those of the same name, see [`without_replaced`].
        positions: (rows,) for each image the row in `added`, or `NO_ROW` for nulls.
    """
    added = _in_order(added.remove_columns(columns.IMAGE_ID), positions)
    return concatenate_datasets([without_replaced(split, added.column_names), added], axis=1)


def without_replaced(split: Dataset, added: Iterable[str]) -> Dataset:
    """
    The split without the columns that are added to it, and, where other captions are, without what was made of its
    earlier ones: their embeddings, weights and statuses.
    """
    replaced = set(added)
    replaced |= set(columns.OF_CAPTION) if columns.CAPTION in replaced else set()
    return split.remove_columns([column for column in split.column_names if column in replaced])


def _in_order(added: Dataset, positions: np.ndarray) -> Dataset:
    if np.array_equal(positions, np.arange(len(added))):
        return added
    if (positions == NO_ROW).any():
        nulls = pa.table(
            {name: pa.nulls(1, kind) for name, kind in _types(added).items()}, schema=added.features.arrow_schema
        )
        # A fingerprint of its own would be a random one, and the cache would grow with every run
        info, fingerprint = DatasetInfo(features=added.features), f"{added._fingerprint}-nulls"
        added = concatenate_datasets([added, Dataset(InMemoryTable(nulls), info=info, fingerprint=fingerprint)])
        positions = np.where(positions == NO_ROW, len(added) - 1, positions)
    # Flattened alone: `concatenate_datasets` would flatten, and so rewrite, the images as well
    return added.select(positions).flatten_indices(keep_in_memory=added.data.nbytes < IN_MEMORY)


def _types(split: Dataset) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in split.features.arrow_schema}


def _without_images(captions: Dataset, name: str, what: str) -> Dataset:
    if columns.IMAGE_ID not in captions.column_names:
        raise ValueError(
            f"{what}, split {name!r}: no column 'image_id', by which captions are joined to images. Its columns: "
            f"{', '.join(captions.column_names)}. Rename the one that names the images, or take the captions over "
            "with g4i caption."
        )
    own = {columns.IMAGE, columns.LABEL, *file_columns(captions)}
    captions = captions.remove_columns([column for column in captions.column_names if column in own])
    if len(captions.column_names) < 2:
        raise ValueError(f"{what}, split {name!r}: nothing there but 'image_id'. Name a data set with captions.")
    try:
        check_image_ids(captions, name)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return captions


def _report(split: Dataset, added: Dataset, positions: np.ndarray, where: str) -> None:
    """What has no counterpart on the other side."""
    without = np.flatnonzero(positions == NO_ROW)
    if len(without):
        said = "%s: %d of %d images have no row there and are used without caption: %s"
        logger.warning(said, where, len(without), len(split), _first(split, without))
    left_over = np.setdiff1d(np.arange(len(added)), positions)
    if len(left_over):
        said = "%s: %d of %d rows there belong to no image and are left out: %s"
        logger.warning(said, where, len(left_over), len(added), _first(added, left_over))


def _nothing_in_common(images: DatasetDict, captions: Mapping[str, Dataset], what: str) -> str:
    shared = [name for name in images if name in captions and len(images[name]) and len(captions[name])]
    if not shared:
        return (
            f"{what} has captions of the splits {', '.join(captions)}, but the images have {', '.join(images)}. Name "
            "captions of these images."
        )
    name = shared[0]
    theirs, ours = _first(captions[name], [0]), _first(images[name], [0])
    lost = " Images of Parquet files have lost the folders of their names: take the files." * (
        "/" in theirs and "/" not in ours
    )
    return (
        f"{what}, split {name!r}: no image_id there is one of the images: the first is {theirs}, that of the images "
        f"{ours}. Name captions of these images, or the column that holds such ids with --image_id_column.{lost}"
    )


def _first(split: Dataset, rows: Sequence[int]) -> str:
    image_ids = split.select_columns([columns.IMAGE_ID]).select(rows[:EXAMPLES])[columns.IMAGE_ID][:]
    return ", ".join(map(repr, image_ids)) + (", ..." if len(rows) > EXAMPLES else "")
