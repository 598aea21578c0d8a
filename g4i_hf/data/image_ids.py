"""The column `image_id`, where the data has none."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value

from .. import columns

BATCH = 10_000  # rows looked at together
NO_ROW = -1
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
CONTENT_ID = re.compile("[0-9a-f]{24}")


def with_image_ids(split: Dataset, split_name: str) -> Dataset:
    """Ids from file names where there are any, else, and where two files have one name, from the content."""
    if columns.IMAGE_ID in split.column_names:
        if split.features[columns.IMAGE_ID] == Value("string"):
            return split
        image_ids = [None if image_id is None else str(image_id) for image_id in split[columns.IMAGE_ID]]
        split = split.remove_columns(columns.IMAGE_ID)  # a cast would rewrite the images
        return split.add_column(columns.IMAGE_ID, image_ids, feature=Value("string"))
    images = split.select_columns([columns.IMAGE])
    image_ids = []
    for row, (name, has_bytes) in enumerate(image_paths(images)):
        if not has_bytes and not Path(name or "").is_file():
            what = f"there is no file {name!r}" if name else "null"
            raise ValueError(
                f"Split {split_name!r}, column 'image', row {row}: {what}. Add the image or remove the row."
            )
        image_ids.append(_id_of_file(name) or content_id(images[row][columns.IMAGE]))
    return split.add_column(
        columns.IMAGE_ID, told_apart(image_ids, lambda row: content_id(images[row][columns.IMAGE]))
    )


def positions_of(image_ids: Dataset, among: Dataset) -> np.ndarray:
    """(rows,) for each `image_id` of one data set its row in another, `NO_ROW` where it is none there."""
    wanted, there = (
        split.select_columns([columns.IMAGE_ID]).with_format("arrow")[:][columns.IMAGE_ID].cast(pa.large_string())
        for split in (image_ids, among)
    )
    found = pc.index_in(wanted, value_set=there.combine_chunks())
    return found.fill_null(NO_ROW).to_numpy().astype(np.int64)


def told_apart(image_ids: list[str], content_of: Callable[[int], str]) -> list[str]:
    """
    The ids, where two are equal with the content of the image after them, and a number where that is equal too.

    Args:
        content_of: gives the content id of a row.
    """
    counts = Counter(image_ids)
    if len(counts) == len(image_ids):
        return image_ids
    copies: Counter[str] = Counter()
    distinct = []
    for row, image_id in enumerate(image_ids):
        if counts[image_id] > 1:
            image_id = f"{image_id}#{content_of(row)}"
            copies[image_id] += 1  # the same image twice
            image_id = image_id if copies[image_id] == 1 else f"{image_id}#{copies[image_id]}"
        distinct.append(image_id)
    return distinct


def check_image_ids(split: Dataset, split_name: str) -> None:
    """
    Raises:
        ValueError: for an `image_id` that is null or occurs twice: what belongs to one image would go to another.
    """
    table = split.select_columns([columns.IMAGE_ID]).with_format("arrow")[:]
    image_ids = table[columns.IMAGE_ID]
    if image_ids.null_count == 0 and pc.count_distinct(image_ids).as_py() == len(image_ids):
        return
    seen: dict[str | None, int] = {}
    for row, image_id in enumerate(image_ids.to_pylist()):
        if image_id is None or image_id in seen:
            what = "null" if image_id is None else f"{image_id!r}, which row {seen[image_id]} has too"
            raise ValueError(
                f"Split {split_name!r}, column 'image_id', row {row}: {what}. Give every image an id of its own, or "
                "name another column with --image_id_column."
            )
        seen[image_id] = row


def image_paths(split: Dataset, column: str = columns.IMAGE) -> Iterator[tuple[str | None, bool]]:
    """Path of each image, and whether its bytes are in the table: they are not read for it."""
    images = split.select_columns([column]).with_format("arrow")
    for start in range(0, len(split), BATCH):
        found = images[start : start + BATCH][column]
        has_bytes = pc.struct_field(found, "bytes").is_valid().to_pylist()
        yield from zip(pc.struct_field(found, "path").to_pylist(), has_bytes, strict=True)


def image_id_of(image: dict[str, Any]) -> str:
    """The id of one image by itself, as in a stream: by its file name, else by its content. See [`told_apart`]."""
    return _id_of_file(image["path"]) or content_id(image)


def _id_of_file(path: str | None) -> str | None:
    """`class/file` of an image file; None where there is none."""
    file = Path(path or "")
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    return f"{file.parent.name}/{file.name}" if file.parent.name else file.name


def id_form(image_id: str) -> str:
    """What an id looks like: one made from a `file` name or from the `content` of an image, or one of a `column`."""
    base = image_id.partition("#")[0]
    if os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES:
        return "file"
    return "content" if CONTENT_ID.fullmatch(base) else "column"


def content_id(image: dict[str, Any]) -> str:
    """Digest of the bytes of an image."""
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return hashlib.blake2b(content, digest_size=12).hexdigest()
