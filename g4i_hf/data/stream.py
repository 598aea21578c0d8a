"""Stream a dataset instead of downloading it first, for captioning."""

from functools import partial
from pathlib import Path
from typing import Any

from datasets import (
    Features,
    Image,
    IterableDataset,
    load_dataset,
)
from datasets.utils.file_utils import xopen

from .. import columns
from .hub_rows import check_path, is_remote
from .loading import (
    WEBDATASET_URL,
    feature_of,
    open_images,
    our_columns,
)
from .stage import Source


def stream_images(source: str | Source) -> dict[str, IterableDataset]:
    """
    Opens a dataset as a stream with our column names, see [`~g4i_hf.data.loading.open_images`]: splits whose `image`
    is `{"bytes", "path"}`, not decoded. No `image_id` is made, see [`~g4i_hf.data.joining.image_id_of`]. The bytes of
    images that are files on the Hub are read too.

    A ValueError when captions are to be joined and, while reading, for a row that names a local file or address.
    """
    source = Source.of(source)
    _check_no_join(source)
    if Path(source.name).is_dir():
        return {name: split.to_iterable_dataset() for name, split in open_images(source).items()}
    streamed = load_dataset(source.name, source.config, revision=source.revision, streaming=True)
    splits = {name: _standardised(split, name, source.columns) for name, split in streamed.items()}
    for name, split in splits.items():
        read = partial(_of_hub, where=f"{source.name}, split {name!r}")
        splits[name] = split.map(read, with_indices=True, features=split.features)
    return splits


def _check_no_join(source: Source) -> None:
    if source.captions:
        raise ValueError("captions_name is set, but a stream has no rows that captions could be joined to.")


def _standardised(split: IterableDataset, split_name: str, given: dict[str, str]) -> IterableDataset:
    """The stream with our column names, images not decoded."""
    split, found = _not_decoded(split, split_name, given)
    if fields := [theirs for theirs in found.values() if theirs not in split.features]:
        added = {theirs: feature_of(split.features, theirs) for theirs in fields}
        split = split.map(_with_fields, fn_kwargs={"fields": fields}, features=Features(split.features | added))
    renamed = {theirs: ours for ours, theirs in found.items() if theirs != ours}
    in_the_way = [name for name in (*renamed.values(), WEBDATASET_URL) if name in split.features]
    split = split.remove_columns(in_the_way) if in_the_way else split  # by `map`, row by row: slow
    return split.rename_columns(renamed) if renamed else split


def _not_decoded(
    split: IterableDataset, split_name: str, given: dict[str, str]
) -> tuple[IterableDataset, dict[str, str]]:
    """The stream with images not decoded, and its names of our columns."""
    # First, as any operation on a stream that decodes would encode its images anew, without paths
    split = (split if split.features is not None else split._resolve_features()).decode(False)
    found = our_columns(split.features, split_name, given)
    if not isinstance(feature_of(split.features, found.get(columns.IMAGE, "")), Image):
        known = columns.its_columns(columns.IMAGE, split.features)
        raise ValueError(f"Split {split_name!r} has no column of images called 'image'. {known}")
    return split, found


def _with_fields(row: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    return row | {name: (row[name.partition(".")[0]] or {}).get(name.partition(".")[2]) for name in fields}


def _of_hub(row: dict[str, Any], number: int, where: str) -> dict[str, Any]:
    return row | {columns.IMAGE: _with_bytes(row[columns.IMAGE], f"{where}, row {number}")}


def _with_bytes(image: dict[str, Any] | None, where: str | None) -> dict[str, Any] | None:
    """The image with the bytes of a file on a server; `where` is the place of a row on the Hub, None elsewhere."""
    if image is None or image["bytes"] is not None or not image["path"]:
        return image
    if where is not None:
        check_path(image["path"], where)
    if not is_remote(image["path"]):
        return image
    with xopen(image["path"], "rb") as file:
        return {"bytes": file.read(), "path": image["path"]}
