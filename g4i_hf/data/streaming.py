"""A data set read from start to end, instead of being downloaded first."""

from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features, Image, IterableDataset, IterableDatasetDict, load_dataset
from datasets.utils.file_utils import xopen

from .. import columns
from .hub_rows import check_path, is_remote
from .loading import (
    WEBDATASET_URL,
    ColumnNames,
    json_fields,
    open_images,
    renamed_columns,
    webdataset_names,
)


def stream_images(
    dataset_name: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    names: ColumnNames | None = None,
    read_files: bool = True,
) -> dict[str, IterableDataset]:
    """
    Opens a data set as a stream with our column names; what it calls `image_id` is kept, and not made where there is
    none (see [`~g4i_hf.data.image_ids.image_id_of`]).

    Args:
        dataset_name: a Hub id, or anything that [`~g4i_hf.data.loading.open_images`] opens.
        config_name, revision, names: as there.
        read_files: whether the bytes of images that are files of the Hub are read too.

    Returns:
        Splits whose `image` is `{"bytes", "path"}` as it is stored there, not decoded.

    Raises:
        ValueError: when there is no image column, a column that was named is missing, or while reading, when a row of
            the Hub names a file of this machine or an address of its network.
        FileNotFoundError: when nothing of that name exists.
    """
    names = names or ColumnNames()
    if Path(dataset_name).is_dir():
        local = open_images(dataset_name, config_name=config_name, revision=revision, names=names)
        return {name: split.to_iterable_dataset() for name, split in local.items()}
    streamed: IterableDatasetDict = load_dataset(dataset_name, config_name, revision=revision, streaming=True)
    splits = {name: _standardised(split, name, names) for name, split in streamed.items()}
    if not read_files:
        return splits
    return {
        name: split.map(
            partial(_of_hub, where=f"{dataset_name}, split {name!r}"), with_indices=True, features=split.features
        )
        for name, split in splits.items()
    }


def _standardised(split: IterableDataset, split_name: str, names: ColumnNames) -> IterableDataset:
    """The stream with our column names, its images not decoded, see [`stream_images`]."""
    if split.features is None:
        split = split._resolve_features()
    # First of all: whatever is done to a stream that decodes would encode its images anew, without their paths
    split, names = split.decode(False), webdataset_names(split.features, names)
    if fields := json_fields(split.features, names):
        added = {theirs: split.features[column][field] for theirs, (column, field) in fields.items()}
        split = split.map(_with_fields, fn_kwargs={"fields": fields}, features=Features(split.features | added))
    renamed = renamed_columns(list(split.features), split_name, names)
    in_the_way = [ours for ours in renamed.values() if ours in split.features]
    in_the_way += [WEBDATASET_URL] * (WEBDATASET_URL in split.features)
    split = split.remove_columns(in_the_way) if in_the_way else split  # by `map`, row by row: slow
    split = split.rename_columns(renamed) if renamed else split
    if not isinstance(split.features.get(columns.IMAGE), Image):
        raise ValueError(
            f"Split {split_name!r} has no column of images called 'image'. Its columns: {', '.join(split.features)}. "
            "Name the right one with --image_column."
        )
    return split


def _with_fields(row: dict[str, Any], fields: dict[str, tuple[str, str]]) -> dict[str, Any]:
    return row | {name: (row[column] or {}).get(field) for name, (column, field) in fields.items()}


def with_bytes(image: dict[str, Any] | None, where: str | None) -> dict[str, Any] | None:
    """
    The image with its bytes where it is a file on a server.

    Args:
        where: a row of the Hub names it, see [`~g4i_hf.data.hub_rows.check_path`]; None for local data.
    """
    if image is None or image["bytes"] is not None or not image["path"]:
        return image
    if where is not None:
        check_path(image["path"], where)
    if not is_remote(image["path"]):
        return image
    with xopen(image["path"], "rb") as file:
        return {"bytes": file.read(), "path": image["path"]}


def _of_hub(row: dict[str, Any], number: int, where: str) -> dict[str, Any]:
    """The row with the bytes of its image, see [`~g4i_hf.data.hub_rows.check_path`]."""
    return row | {columns.IMAGE: with_bytes(row[columns.IMAGE], f"{where}, row {number}")}
