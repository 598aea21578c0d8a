"""What the options of the data name: opened, streamed, recorded."""

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from .. import columns
from ..options import DataArguments
from .loading import ColumnNames, class_names, open_images, with_class_names
from .row_streams import RowStream, load_one_split, open_rows
from .source import Source
from .streaming import stream_images

COLUMN_OPTIONS = ("image", "label", "image_id", "caption", "text_embeds", "caption_weight")


def load_images(dataset_name: str | Path, **options: Any) -> DatasetDict:
    """
    Opens images with the columns `image` (not decoded), `image_id` and, where there are any, `label` (ClassLabel) and
    `caption`.

    Args:
        dataset_name: folder with a folder per split and class and captions in `metadata.jsonl`; folder of Parquet
            files; `save_to_disk` folder; folder of a stage; or Hub id.
        options: others of [`~g4i_hf.options.DataArguments`], such as `caption_column` and `captions_name`.

    Raises:
        FileNotFoundError: when nothing of that name exists.
        ValueError: for data that has no images, or whose columns do not fit.
    """
    splits = load_data(DataArguments(str(dataset_name), **options))
    has_labels = any(columns.LABEL in split.column_names for split in splits.values())
    return class_names(splits)[0] if has_labels else splits


def load_data(data: DataArguments) -> DatasetDict:
    """The splits, see [`~g4i_hf.data.loading.open_images`]."""
    splits = open_images(**_named(data), captions_name=data.captions_name, captions_revision=data.captions_revision)
    names = read_class_names(data)
    return splits if names is None else with_class_names(splits, names)


def load_split(data: DataArguments, split: str) -> Dataset | None:
    """One split alone, where the others need not be copied for it; None where there is none of that name."""
    loaded = load_one_split(split=split, **_named(data))
    names = read_class_names(data)
    if loaded is None or names is None:
        return loaded
    return with_class_names(DatasetDict({split: loaded}), names)[split]


def stream_split(data: DataArguments, split: str, num_processes: int, batch_size: int) -> RowStream:
    """
    A split to be trained on as a stream, see [`~g4i_hf.data.row_streams.open_rows`].

    Raises:
        ValueError: with `captions_name`.
    """
    _check_no_join(data)
    return open_rows(split=split, num_processes=num_processes, batch_size=batch_size, **_named(data))


def stream_data(data: DataArguments) -> dict[str, IterableDataset]:
    """
    The splits as streams, see [`~g4i_hf.data.streaming.stream_images`].

    Raises:
        ValueError: with `captions_name`.
    """
    _check_no_join(data)
    return stream_images(**_named(data))


def source_of(data: DataArguments) -> Source:
    """What a stage made of this data records."""
    named = {ours: theirs for ours, theirs in vars(column_names(data)).items() if theirs}
    return Source(
        data.dataset_name,
        data.dataset_revision,
        data.dataset_config_name,
        named,
        data.captions_name,
        data.captions_revision,
    )


def column_names(data: DataArguments) -> ColumnNames:
    return ColumnNames(**{ours: getattr(data, f"{ours}_column") for ours in COLUMN_OPTIONS})


def read_class_names(data: DataArguments) -> list[str] | None:
    """
    The names of the classes in `class_names_file`.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it holds a name twice, or none.
    """
    if data.class_names_file is None:
        return None
    names = Path(data.class_names_file).read_text(encoding="utf-8").splitlines()
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"class_names_file is {data.class_names_file}: give every class a line with a name of its own."
        )
    return names


def _named(data: DataArguments) -> dict[str, object]:
    return {
        "dataset_name": data.dataset_name,
        "config_name": data.dataset_config_name,
        "revision": data.dataset_revision,
        "names": column_names(data),
    }


def _check_no_join(data: DataArguments) -> None:
    if data.captions_name:
        raise ValueError("captions_name is set, but a stream has no rows that captions could be joined to.")
