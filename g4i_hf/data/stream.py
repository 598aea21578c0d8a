"""Stream a dataset instead of downloading it first: [`stream_images`] for captioning, [`open_rows`] for training."""

import glob
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import (
    ArrowBasedBuilder,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    DatasetInfo,
    Features,
    Image,
    IterableDataset,
    load_dataset,
    load_dataset_builder,
)
from datasets.table import table_cast
from datasets.utils.file_utils import xopen
from huggingface_hub import HfFileSystem

from .. import columns
from ..names import check_dataset_name
from ..options import DataArguments
from .hub_rows import check_path, is_remote
from .loading import (
    WEBDATASET_URL,
    check_has_split,
    feature_of,
    open_images,
    our_columns,
    read_class_names,
    source_of,
    standardise,
    with_class_names,
)
from .opening import how_to_load, one_line_errors
from .stage import Source, find_stage

READ_ROWS = 64  # read together
LOCAL_SHARDS = 64  # of a split that is opened as without streaming
ENOUGH_FILES = 8  # a process; fewer are read by row groups
READERS = 16  # files read at once


def load_split(data: DataArguments, split: str) -> Dataset | None:
    """
    One split of [`~g4i_hf.data.loading.load_data`], or None. Parquet and WebDataset files of others are not touched.
    """
    source, names = source_of(data), read_class_names(data)
    is_local = Path(source.name).is_dir()
    builder = None if is_local and find_stage(source.name) is not None else _builder_of(source)
    if builder is None:
        loaded = open_images(Source(source.name, source.revision, source.config, source.columns)).get(split)
    elif files := (builder.config.data_files or {}).get(split):
        files = {split: [glob.escape(str(file)) for file in files]}
        loaded = load_dataset(builder.name, data_files=files, split=split)
        loaded = standardise(loaded, split, source.columns, None if is_local else source.name)
    else:
        return None
    return loaded if loaded is None or names is None else with_class_names(DatasetDict({split: loaded}), names)[split]


# --- For captioning --------------------------------------------------------------------------------------------------


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


# --- For training ----------------------------------------------------------------------------------------------------


@dataclass
class RowStream:
    """Rows in shards that can be read in any order, with `image` (not decoded) and other columns."""

    rows: IterableDataset
    shard_rows: list[int] | None  # of each shard; None where only reading tells
    names: dict[str, str]  # of our columns, there: a column, or a field as in `json.caption`
    features: Features  # of our columns
    holds_tables: bool  # else rows are made one by one
    hub_id: str | None = None  # of a dataset on the Hub, see `check_path`
    files: list[str] = field(default_factory=list)  # identity of each, with the rows of its row groups for Parquet
    image_ids: Dataset | None = None  # of rows that are opened as without streaming

    def read(self, shard: int) -> Iterator[pa.Table]:
        """Our columns of a shard, `READ_ROWS` at a time; errors as in [`~g4i_hf.data.hub_rows.check_path`]."""
        if self.shard_rows is not None and self.shard_rows[shard] == 0:  # `datasets` cannot read it
            return
        where = None if self.hub_id is None else f"{self.hub_id}, a row of the stream"
        rows = self.rows.shard(num_shards=self.rows.num_shards, index=shard)
        for table in self._tables(rows, where):
            named = pa.table({ours: _column(table, theirs) for ours, theirs in self.names.items()})
            cast = table_cast(named, self.features.arrow_schema)
            if where is not None:
                images = cast[columns.IMAGE]
                without_bytes = images.filter(pc.is_null(pc.struct_field(images, "bytes")))
                for path in filter(None, pc.struct_field(without_bytes, "path").to_pylist()):
                    check_path(path, where)
            yield cast

    def _tables(self, rows: IterableDataset, where: str | None) -> Iterator[pa.Table]:
        if self.holds_tables:
            yield from rows.with_format("arrow").iter(batch_size=READ_ROWS)
            return
        image, rows = self.names[columns.IMAGE], iter(rows)
        while together := list(islice(rows, READ_ROWS)):
            values = {column: [row[column] for row in together] for column in together[0]}
            values[image] = [_with_bytes(stored, where) for stored in values[image]]
            yield pa.table(self.rows.features.encode_batch(values), schema=self.rows.features.arrow_schema)

    @property
    def num_rows(self) -> int | None:
        return None if self.shard_rows is None else sum(self.shard_rows)

    @property
    def column_names(self) -> list[str]:
        return list(self.names)

    @property
    def info(self) -> DatasetInfo:
        return self.rows.info

    def count_rows(self, shard: int) -> int:
        """Reads the whole shard."""
        return sum(1 for _ in self.rows.shard(num_shards=self.rows.num_shards, index=shard))


def open_rows(source: str | Source, split: str, num_processes: int = 1) -> RowStream:
    """
    Opens a split as a stream, whose rows are divided among `num_processes`: Parquet files and WebDataset archives in a
    folder or on the Hub as they are, anything else in a folder by [`~g4i_hf.data.loading.open_images`].

    Errors as there; also a ValueError when there is no such split, captions are to be joined, or the data is a stage
    without images on the Hub.
    """
    source = Source.of(source)
    _check_no_join(source)
    check_dataset_name(source.name)
    is_local, stage = Path(source.name).is_dir(), find_stage(source.name, source.revision)
    if stage is not None and not stage.get("with_images") and not is_local:
        what = f"{source.name} was published without its images, which a stream cannot look up by their ids"
        raise ValueError(f"{what}. Publish it with them (--with_images true), or train without streaming.")
    builder = None if stage is not None and is_local else _builder_of(source)
    if builder is None:
        return _local_rows(open_images(source), split)
    files = builder.config.data_files or {}
    check_has_split(files, split)
    rows, holds_tables = builder.as_streaming_dataset(split=split), isinstance(builder, ArrowBasedBuilder)
    stream = _row_stream(rows, split, source.columns, holds_tables)
    stream.hub_id = None if is_local else source.name
    stream.files = file_identities(files[split], source.name)
    if builder.name == "parquet":
        groups = row_groups(files[split])
        stream.files = [f"{file} {rows}" for file, rows in zip(stream.files, groups, strict=True)]
        stream.shard_rows = [sum(group) for group in groups]
        if num_processes > 1 and len(groups) < ENOUGH_FILES * num_processes:
            stream.rows = stream.rows.reshard()
            stream.shard_rows = [number for group in groups for number in group]
    return stream


def _builder_of(source: Source) -> DatasetBuilder | None:
    """The builder of `datasets` for Parquet or archives; None for any other folder."""
    how = how_to_load(source.name, source.config, source.revision)
    return None if how is None else load_dataset_builder(**how)


def _row_stream(rows: IterableDataset, split: str, given: dict[str, str], holds_tables: bool) -> RowStream:
    rows, found = _not_decoded(rows, split, given)
    read = dict.fromkeys(theirs if theirs in rows.features else theirs.partition(".")[0] for theirs in found.values())
    features = Features({ours: feature_of(rows.features, theirs) for ours, theirs in found.items()})
    return RowStream(rows.select_columns(list(read)), None, found, features, holds_tables)


def _local_rows(splits: DatasetDict, split: str) -> RowStream:
    check_has_split(splits, split)
    rows = splits[split]
    shards = max(1, min(LOCAL_SHARDS, len(rows)))
    share, extra = divmod(len(rows), shards)
    stream = _row_stream(rows.to_iterable_dataset(num_shards=shards), split, {}, holds_tables=True)
    stream.shard_rows = [share + (shard < extra) for shard in range(shards)]
    stream.image_ids = rows.select_columns([columns.IMAGE_ID])
    return stream


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name in table.column_names:
        return table[name]
    column, _, field = name.partition(".")
    return pc.struct_field(table[column], field)


# --- Its files -------------------------------------------------------------------------------------------------------


def file_identities(files: list[str], folder: str | Path) -> list[str]:
    """
    The identity of each file without opening it: name and size of a local one, name and git's hash of one on the Hub,
    the address of any other.
    """

    def identity_of(file: str) -> str:
        if file.startswith("hf://"):
            hub = HfFileSystem()
            found = hub.info(file)
            return f"{hub.resolve_path(file).path_in_repo} {found.get('blob_id') or found['size']}"
        return file if "://" in file else f"{os.path.relpath(file, folder)} {os.path.getsize(file)}"

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(identity_of, map(str, files)))


def row_groups(files: list[str]) -> list[list[int]]:
    """Rows of each row group of each Parquet file, from the footers."""

    def read(file: str) -> list[int]:
        with xopen(file, "rb") as opened, one_line_errors(f"{file}:", [Path(file)]):
            footer = pq.ParquetFile(opened).metadata
        return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(read, map(str, files)))
