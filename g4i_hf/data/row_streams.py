"""A training split that is read from start to end: found, with our column names, and with the sizes of its shards."""

import glob
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ArrowBasedBuilder, Dataset, DatasetInfo, Features, Image, IterableDataset, load_dataset
from datasets.table import table_cast

from .. import columns
from .hub_rows import check_path
from .loading import ColumnNames, json_fields, open_images, renamed_columns, standardise, webdataset_names
from .naming import check_dataset_name
from .opening import builder_of
from .published import find_stage
from .stream_files import known_by, row_groups
from .streaming import with_bytes

READ_ROWS = 64  # read together
LOCAL_SHARDS = 64  # at least, of a split that is on this machine in any other form
ENOUGH_SHARDS = 8  # a process, of unknown sizes: one more or less for some of them then matters little
UNEVEN = 0.01  # of its batches a process may do without, of known sizes; one more in any case


@dataclass
class RowStream:
    """
    Args:
        rows: with `image` (`{"bytes", "path"}`, not decoded) and others, by the names that they have there; in shards,
            which are read in any order.
        shard_rows: rows of each shard; None where only reading tells.
        names: our columns, and what they are called there: a column, or the field of one as in `json.caption`.
        features: of our columns.
        holds_tables: whether rows are stored in tables; else they are made one by one.
        hub_id: of a data set of the Hub, see [`~g4i_hf.data.hub_rows.check_path`].
        files: what each file is known by, in their order, see [`~g4i_hf.data.stream_files.known_by`], with the rows of
            its row groups where only reading would not tell.
        image_ids: `image_id` of rows that are at hand in any other form.
    """

    rows: IterableDataset
    shard_rows: list[int] | None
    names: dict[str, str]
    features: Features
    holds_tables: bool
    hub_id: str | None = None
    files: list[str] = field(default_factory=list)
    image_ids: Dataset | None = None

    def read(self, shard: int) -> Iterator[pa.Table]:
        """
        Our columns of a shard, some rows at a time.

        Raises:
            ValueError: for a row of the Hub that names a file of this machine, or an address of its network, in place
                of an image.
        """
        where = None if self.hub_id is None else f"{self.hub_id}, a row of the stream"
        rows = self.rows.shard(num_shards=self.rows.num_shards, index=shard)
        schema = self.features.arrow_schema
        if self.shard_rows is not None and self.shard_rows[shard] == 0:  # which `datasets` cannot read
            return
        if self.holds_tables:
            for table in rows.with_format("arrow").iter(batch_size=READ_ROWS):
                named = pa.table({ours: _column(table, theirs) for ours, theirs in self.names.items()})
                cast = table_cast(named, schema)
                if where is not None:
                    _check_paths(cast[columns.IMAGE], where)
                yield cast
            return
        rows = iter(rows)
        while together := list(islice(rows, READ_ROWS)):
            values = {ours: [_value(row, theirs) for row in together] for ours, theirs in self.names.items()}
            values[columns.IMAGE] = [with_bytes(image, where) for image in values[columns.IMAGE]]
            yield pa.table(self.features.encode_batch(values), schema=schema)

    @property
    def num_rows(self) -> int | None:
        return None if self.shard_rows is None else sum(self.shard_rows)

    @property
    def column_names(self) -> list[str]:
        return list(self.names)

    @property
    def info(self) -> DatasetInfo:
        return self.rows.info

    def shards_of(self, num_processes: int, batch_size: int = 1) -> list[list[int]] | None:
        """
        The shards of each process. Where their sizes are known, the largest are dealt out first, each to the process
        that has the fewest rows.

        Args:
            batch_size: rows of a process.

        Returns:
            None where a process would have no batch, or would wait for more than `UNEVEN` of them and more than one,
            or where shards of unknown sizes are few: every process then reads all, and uses its part.
        """
        number = self.rows.num_shards
        if self.shard_rows is None:
            if number % num_processes and number < ENOUGH_SHARDS * num_processes:
                return None
            return [list(range(process, number, num_processes)) for process in range(num_processes)]
        dealt, fewest = [[] for _ in range(num_processes)], [(0, process) for process in range(num_processes)]
        for shard in sorted(range(number), key=self.shard_rows.__getitem__, reverse=True):
            rows, process = heapq.heappop(fewest)
            dealt[process].append(shard)
            heapq.heappush(fewest, (rows + self.shard_rows[shard], process))
        batches = [-(-rows // batch_size) for rows, _ in fewest]
        if num_processes > 1 and (min(batches) == 0 or max(batches) - min(batches) > max(1, UNEVEN * max(batches))):
            return None
        return [sorted(shards) for shards in dealt]


def open_rows(
    dataset_name: str,
    split: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    names: ColumnNames | None = None,
    num_processes: int = 1,
    batch_size: int = 1,
) -> RowStream:
    """
    Opens a split as a stream. Parquet files and WebDataset archives, in a folder or on the Hub, are read as they are;
    anything else that [`~g4i_hf.data.loading.open_images`] opens in a folder is opened by it.

    Args:
        dataset_name, config_name, revision, names: as there.
        split: its name.
        num_processes, batch_size: Parquet files that give them no equal numbers of batches, see
            [`RowStream.shards_of`], are read by row groups.

    Raises:
        FileNotFoundError: when nothing of that name exists.
        ValueError: when there is no such split or no image column, a column that was named is missing, or the data is
            a stage without images on the Hub.
    """
    check_dataset_name(dataset_name)
    names = names or ColumnNames()
    is_local = Path(dataset_name).is_dir()
    stage = find_stage(dataset_name, revision)
    if stage is not None and not stage.get("with_images") and not is_local:
        raise ValueError(
            f"{dataset_name} was published without its images, which a stream cannot look up by their ids. Publish it "
            "with them (--with_images true), or train without streaming."
        )
    builder = None if stage is not None and is_local else builder_of(dataset_name, config_name, revision)
    if builder is None:
        return _local_rows(dataset_name, split, config_name, revision, names, num_processes)
    files = builder.config.data_files or {}
    _check_split(split, list(files))
    stream = _named(builder.as_streaming_dataset(split=split), split, names, isinstance(builder, ArrowBasedBuilder))
    stream.hub_id = None if is_local else dataset_name
    stream.files = known_by(files[split], dataset_name)
    if builder.name == "parquet":
        groups = row_groups(files[split])
        stream.files = [f"{file} {rows}" for file, rows in zip(stream.files, groups, strict=True)]
        stream.shard_rows = [sum(group) for group in groups]
        if stream.shards_of(num_processes, batch_size) is None:
            stream.rows = stream.rows.reshard()
            stream.shard_rows = [number for group in groups for number in group]
    return stream


def load_one_split(
    dataset_name: str,
    split: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    names: ColumnNames | None = None,
) -> Dataset | None:
    """
    One split as [`~g4i_hf.data.loading.open_images`] gives it. The files of the others are not touched where they are
    Parquet or WebDataset.

    Returns:
        None where there is no split of that name.
    """
    names = names or ColumnNames()
    is_local = Path(dataset_name).is_dir()
    builder = None
    if not is_local or find_stage(dataset_name) is None:
        builder = builder_of(dataset_name, config_name, revision)
    if builder is None:
        return open_images(dataset_name, config_name=config_name, revision=revision, names=names).get(split)
    files = (builder.config.data_files or {}).get(split)
    if files is None:
        return None
    loaded = load_dataset(builder.name, data_files={split: [glob.escape(str(file)) for file in files]}, split=split)
    return standardise(loaded, split, names, None if is_local else dataset_name)


def _check_paths(images: pa.ChunkedArray, where: str) -> None:
    without_bytes = images.filter(pc.is_null(pc.struct_field(images, "bytes")))
    for path in filter(None, pc.struct_field(without_bytes, "path").to_pylist()):
        check_path(path, where)


def _named(rows: IterableDataset, split: str, names: ColumnNames, holds_tables: bool) -> RowStream:
    rows = (rows if rows.features is not None else rows._resolve_features()).decode(False)
    names = webdataset_names(rows.features, names)
    features = rows.features | {
        theirs: rows.features[column][field] for theirs, (column, field) in json_fields(rows.features, names).items()
    }
    renamed = {ours: theirs for theirs, ours in renamed_columns(list(features), split, names).items()}
    ours = {name: renamed.get(name, name) for name in columns.ALL if renamed.get(name, name) in features}
    if not isinstance(features.get(ours.get(columns.IMAGE)), Image):
        raise ValueError(
            f"Split {split!r} has no column of images called 'image'. Its columns: {', '.join(rows.features)}. Name "
            "the right one with --image_column."
        )
    read = dict.fromkeys(theirs if theirs in rows.features else theirs.partition(".")[0] for theirs in ours.values())
    features = Features({name: features[theirs] for name, theirs in ours.items()})
    return RowStream(rows.select_columns(list(read)), None, ours, features, holds_tables)


def _local_rows(
    dataset_name: str, split: str, config_name, revision, names: ColumnNames, num_processes: int
) -> RowStream:
    splits = open_images(dataset_name, config_name=config_name, revision=revision, names=names)
    _check_split(split, list(splits))
    rows = splits[split]
    shards = max(1, min(LOCAL_SHARDS + -LOCAL_SHARDS % num_processes, len(rows)))
    share, extra = divmod(len(rows), shards)
    stream = _named(rows.to_iterable_dataset(num_shards=shards), split, ColumnNames(), holds_tables=True)
    stream.shard_rows = [share + (shard < extra) for shard in range(shards)]
    stream.image_ids = rows.select_columns([columns.IMAGE_ID])
    return stream


def _check_split(split: str, known: list[str]) -> None:
    if split not in known:
        raise ValueError(f"The data has no split {split!r}. It has: {', '.join(known)}.")


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name in table.column_names:
        return table[name]
    column, _, field = name.partition(".")
    return pc.struct_field(table[column], field)


def _value(row: dict[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    column, _, field = name.partition(".")
    return (row[column] or {}).get(field)
