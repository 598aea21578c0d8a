"""`image_id`: made from file names or content, checked, and used to join columns to images."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DatasetInfo, Value, concatenate_datasets
from datasets.table import InMemoryTable

from .. import columns
from ..files import some
from .images import IMAGE_SUFFIXES, content_of, file_columns, image_paths
from .record import captions_of_rows, image_digests

NO_ROW = -1

logger = logging.getLogger(__name__)

# Column with digests of the source of a stage's rows -> name of the source, of the rows, and the command
MADE_FROM = {
    columns.IMAGE_DIGEST: ("images", "captions", "g4i caption"),
    columns.CAPTION_DIGEST: ("captions", "embeddings", "g4i embed"),
}
IN_MEMORY = 1 << 26  # bytes, above which a reordered table is written to the cache of `datasets`


def with_image_ids(split: Dataset, split_name: str) -> Dataset:
    """Add `image_id`: from the file name, or from the content if there is none or two are equal."""
    if columns.IMAGE_ID in split.column_names:
        if split.features[columns.IMAGE_ID] == Value("string"):
            return split
        image_ids = [None if image_id is None else str(image_id) for image_id in split[columns.IMAGE_ID]]
        split = split.remove_columns(columns.IMAGE_ID)  # a cast would rewrite the images
        return split.add_column(columns.IMAGE_ID, image_ids, feature=Value("string"))
    images = split.select_columns([columns.IMAGE])

    def of_content(row: int) -> str:
        return hashlib.blake2b(content_of(images[row][columns.IMAGE]), digest_size=12).hexdigest()

    image_ids = []
    for row, (name, has_bytes) in enumerate(image_paths(images)):
        if not has_bytes and not Path(name or "").is_file():
            what = f"there is no file {name!r}" if name else "null"
            where = f"Split {split_name!r}, column 'image', row {row}"
            raise ValueError(f"{where}: {what}. Add the image or remove the row.")
        image_ids.append(_id_of_file(name) or of_content(row))
    return split.add_column(columns.IMAGE_ID, made_unique(image_ids, of_content))


def is_of_content(image_id: str) -> bool:
    """Whether [`with_image_ids`] made it from an image that has no name."""
    return re.fullmatch("[0-9a-f]{24}", image_id) is not None


def positions_of(image_ids: Dataset, among: Dataset) -> np.ndarray:
    """(rows,) the row of each `image_id` in `among`, or `NO_ROW`."""
    ids, known = (
        split.select_columns([columns.IMAGE_ID]).with_format("arrow")[:][columns.IMAGE_ID].cast(pa.large_string())
        for split in (image_ids, among)
    )
    positions = pc.index_in(ids, value_set=known.combine_chunks())
    return positions.fill_null(NO_ROW).to_numpy().astype(np.int64)


def made_unique(image_ids: list[str], content_id_of: Callable[[int], str]) -> list[str]:
    """Unique ids: equal ones get the `content_id_of` their row as a suffix, and a number if that is equal too."""
    counts = Counter(image_ids)
    if len(counts) == len(image_ids):
        return image_ids
    copies: Counter[str] = Counter()
    distinct = []
    for row, image_id in enumerate(image_ids):
        if counts[image_id] > 1:
            image_id = f"{image_id}#{content_id_of(row)}"
            copies[image_id] += 1  # the same image twice
            image_id = image_id if copies[image_id] == 1 else f"{image_id}#{copies[image_id]}"
        distinct.append(image_id)
    return distinct


def check_image_ids(split: Dataset, split_name: str, before: str = "") -> None:
    """Raise ValueError for an `image_id` that is null or occurs twice; the message starts with `before`."""
    image_ids = split.select_columns([columns.IMAGE_ID]).with_format("arrow")[:][columns.IMAGE_ID]
    if image_ids.null_count == 0 and pc.count_distinct(image_ids).as_py() == len(image_ids):
        return
    seen: dict[str | None, int] = {}
    for row, image_id in enumerate(image_ids.to_pylist()):
        if image_id is None or image_id in seen:
            what = "null" if image_id is None else f"{image_id!r}, which row {seen[image_id]} has too"
            where = f"{before}Split {split_name!r}, column 'image_id', row {row}"
            raise ValueError(f"{where}: {what}. Give every image an id of its own, or name another --image_id_column.")
        seen[image_id] = row


def _id_of_file(path: str | None) -> str | None:
    """`class/file` of an image file; None for other files."""
    file = Path(path or "")
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    return f"{file.parent.name}/{file.name}" if file.parent.name else file.name


# --- Joining ---------------------------------------------------------------------------------------------------------


def join_captions(
    images: DatasetDict, captions: Mapping[str, Dataset], what: str, complete: bool = False
) -> DatasetDict:
    """
    Add captions and embeddings by `image_id`, replacing columns of the same name. Image bytes are not rewritten.

    Splits without captions keep theirs, but lose `text_embeds` if the new captions are not embedded yet, as embeddings
    by two encoders cannot be mixed. Rows made from an image or caption that has changed since are left out, with a
    warning.

    Args:
        what: name of the captions in messages.
        complete: whether an image without a row raises an error; otherwise it gets nulls, with a warning.

    Raises:
        ValueError: if no split has a common row, an `image_id` of the captions is missing or occurs twice, or all rows
            of a complete stage were made from other images.
    """
    added = {name: _without_images(captions[name], name, what) for name in images if name in captions}
    positions = {name: positions_of(images[name], split) for name, split in added.items()}
    if not complete and all((of_split == NO_ROW).all() for of_split in positions.values()):
        raise ValueError(_nothing_in_common(images, captions, what))
    for name, split in added.items():
        _report(images[name], split, positions[name], f"{what}, split {name!r}", complete)
    _leave_out_changed(images, added, positions, what, complete)
    made_from = {*MADE_FROM, columns.IMAGE_STAT}
    added = {name: split.remove_columns([*made_from & {*split.column_names}]) for name, split in added.items()}
    kept = [name for name in images if name not in added]
    if kept and not complete:
        logger.warning("%s: no captions of the splits %s; they are kept without.", what, ", ".join(kept))
    present = {column for split in added.values() for column in split.column_names}
    replaced = [columns.TEXT_EMBEDS] if columns.CAPTION in present and columns.TEXT_EMBEDS not in present else []
    joined = DatasetDict({name: without_replaced(split, replaced) for name, split in images.items()})
    joined |= {name: side_by_side(images[name], split, positions[name]) for name, split in added.items()}
    return joined


def side_by_side(split: Dataset, added: Dataset, positions: np.ndarray) -> Dataset:
    """The split with the columns of `added`, by their row numbers `positions` (rows,); nulls for `NO_ROW`."""
    added = _in_order(added.remove_columns(columns.IMAGE_ID), positions)
    return concatenate_datasets([without_replaced(split, added.column_names), added], axis=1)


def without_replaced(split: Dataset, added: Iterable[str]) -> Dataset:
    """Without the columns that are replaced; new captions also replace embeddings and statuses of earlier ones."""
    replaced = set(added)
    replaced |= set(columns.OF_CAPTION) if columns.CAPTION in replaced else set()
    return split.remove_columns([column for column in split.column_names if column in replaced])


def _in_order(added: Dataset, positions: np.ndarray) -> Dataset:
    if np.array_equal(positions, np.arange(len(added))):
        return added
    if (positions == NO_ROW).any():
        schema = added.features.arrow_schema
        nulls = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
        # The default fingerprint is random, so the cache would grow with every run
        info, fingerprint = DatasetInfo(features=added.features), f"{added._fingerprint}-nulls"
        added = concatenate_datasets([added, Dataset(InMemoryTable(nulls), info=info, fingerprint=fingerprint)])
        positions = np.where(positions == NO_ROW, len(added) - 1, positions)
    # Flattened here, as `concatenate_datasets` would flatten, and so rewrite, the images too
    return added.select(positions).flatten_indices(keep_in_memory=added.data.nbytes < IN_MEMORY)


def _without_images(captions: Dataset, name: str, what: str) -> Dataset:
    if columns.IMAGE_ID not in captions.column_names:
        raise ValueError(
            f"{what}, split {name!r}: no column 'image_id', by which captions are joined to images. Its columns: "
            f"{', '.join(captions.column_names)}. Rename the one that names the images, or use g4i caption."
        )
    unneeded = {columns.IMAGE, columns.LABEL, *file_columns(captions)}
    captions = captions.remove_columns([column for column in captions.column_names if column in unneeded])
    if len(captions.column_names) < 2:
        raise ValueError(f"{what}, split {name!r}: nothing there but 'image_id'. Name a dataset with captions.")
    check_image_ids(captions, name, f"{what}: ")
    return captions


def _report(images: Dataset, added: Dataset, positions: np.ndarray, where: str, complete: bool) -> None:
    """Warn of rows without a counterpart on the other side, or raise ValueError if `complete`."""
    without = np.flatnonzero(positions == NO_ROW)
    if len(without) and complete:
        what = f"{len(without)} of {len(images)} images have no row there, the first is {_first(images, without[:1])}"
        raise ValueError(f"{where}: {what}. Make it again: g4i caption, g4i embed, or g4i fit --captioner.")
    if len(without):
        message = "%s: %d of %d images have no row there and are used without caption: %s"
        logger.warning(message, where, len(without), len(images), _first(images, without))
    left_over = np.setdiff1d(np.arange(len(added)), positions)
    if len(left_over) and not complete:
        message = "%s: %d of %d rows there belong to no image and are left out: %s"
        logger.warning(message, where, len(left_over), len(added), _first(added, left_over))


def _leave_out_changed(
    images: Mapping[str, Dataset],
    added: Mapping[str, Dataset],
    positions: Mapping[str, np.ndarray],
    what: str,
    complete: bool,
) -> None:
    """
    Set positions to `NO_ROW`, with a warning, if the image or the embedded caption has changed. If all images have, a
    complete stage raises ValueError; otherwise they are copies, such as smaller ones, and keep their captions.
    """
    for column, (things, lost, command) in MADE_FROM.items() if complete else [*MADE_FROM.items()][:1]:
        changed_rows, known = {}, 0
        for name, split in added.items():
            if column not in split.column_names:
                continue
            recorded = np.asarray([*split[column][:], None], dtype=object)[positions[name]]  # None for `NO_ROW`
            rows = np.flatnonzero(np.not_equal(recorded, None))
            # A selection has another fingerprint, which identifies tables
            some = images[name] if len(rows) == len(images[name]) else images[name].select(rows)
            current = np.asarray(_made_from_now(some, split, column), dtype=object)
            is_known = np.not_equal(current, None)
            changed_rows[name] = rows[is_known & (current != recorded[rows])]
            known += is_known.sum()
            positions[name][rows[~is_known]] = NO_ROW
        changed = sum(map(len, changed_rows.values()))
        if changed and changed == known:
            if complete:
                raise ValueError(f"{what}: all {things} have changed since {command}. Run it again.")
            logger.warning("%s: all %s are others than at %s. They are joined by name.", what, things, command)
            continue
        for name, rows in changed_rows.items():
            positions[name][rows] = NO_ROW
            if len(rows):
                message = "%s, split %r: %d of %d %s have changed since %s, and are used without %s: %s. Run it again."
                some = _first(images[name], rows)
                logger.warning(message, what, name, len(rows), len(images[name]), things, command, lost, some)


def _made_from_now(images: Dataset, stage: Dataset, column: str) -> list[str | None]:
    """Current digests of the images, or of their captions."""
    if column == columns.IMAGE_DIGEST:
        known = stage.select_columns([columns.IMAGE_ID, columns.IMAGE_DIGEST, columns.IMAGE_STAT])
        return image_digests(images, known.with_format("arrow")[:])[column]
    return list(captions_of_rows(images))


def _nothing_in_common(images: DatasetDict, captions: Mapping[str, Dataset], what: str) -> str:
    shared = [name for name in images if name in captions and len(images[name]) and len(captions[name])]
    if not shared:
        return (
            f"{what} has captions of the splits {', '.join(captions)}, but the images have {', '.join(images)}. Name "
            "captions of these images."
        )
    name = shared[0]
    theirs, ours = _first(captions[name], [0]), _first(images[name], [0])
    if "/" in theirs and "/" not in ours:
        remedy = (
            "The images have lost the folders of their file names, as Parquet files of push_to_hub have: take them as "
            "files (on the Hub by hf upload ID FOLDER --repo-type dataset), or give them a column image_id."
        )
    else:
        remedy = "Name captions of these images, or the column that holds such ids with --image_id_column."
    return (
        f"{what}, split {name!r}: no image_id there is one of the images: the first is {theirs}, that of the images "
        f"{ours}. {remedy}"
    )


def _first(split: Dataset, rows: Sequence[int]) -> str:
    return some([*map(repr, split.select_columns([columns.IMAGE_ID]).select(rows[:4])[columns.IMAGE_ID])])
