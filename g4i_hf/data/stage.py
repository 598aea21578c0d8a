"""Output of a stage: Parquet of `image_id` and its new columns, and `stage.json`, written last."""

import glob
import hashlib
import json
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, load_dataset
from datasets.table import embed_table_storage

from .. import columns
from ..files import replacing
from .image_ids import NO_ROW, positions_of
from .joining import joined_splits

# Otherwise `datasets` (5.2) tells a server whenever files are opened, those of this machine too
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

STAGE_FILE = "stage.json"
SPLIT_NAME = re.compile(r"\w[\w.-]*")  # part of the names of files


def read_stage(folder: str | Path) -> dict[str, Any] | None:
    """
    The `stage.json` of a finished stage, or None where there is none.

    Raises:
        ValueError: when it is none, or names a split by a path, whose files would lie elsewhere.
    """
    path = Path(folder) / STAGE_FILE
    if not path.is_file():
        return None
    try:
        stage = json.loads(path.read_text(encoding="utf-8"))
        splits = stage.get("num_rows", {})
        is_stage = isinstance(stage.get("source"), str | None) and all(map(SPLIT_NAME.fullmatch, splits.keys()))
    except (AttributeError, RecursionError, TypeError, ValueError):  # no JSON, or not of that form
        is_stage = False
    if not is_stage:
        raise ValueError(f"{path} is not what a stage writes. Run the stage again, or remove the file.")
    return stage


def write_stage(folder: str | Path, splits: dict[str, Dataset], stage: dict[str, Any]) -> None:
    """
    Writes one Parquet file a split and then `stage.json`. Everything is written beside the folder and renamed, so a
    stage interrupted half-way leaves an earlier one as it was.

    Args:
        folder: where the stage goes.
        splits: the rows of each split, `image_id` and new columns.
        stage: provenance; row counts, columns and versions are added here.

    Raises:
        ValueError: when the folder holds something else than a stage, which is not replaced.
    """
    folder = Path(folder)
    check_replaceable(folder)
    stage = {
        **stage,
        "num_rows": {name: len(split) for name, split in splits.items()},
        "columns": next(iter(splits.values())).column_names,
        "versions": {package: version(package) for package in ("datasets", "transformers", "torch")},
    }
    with replacing(folder) as staging:
        for name, split in splits.items():
            _with_bytes(split).to_parquet(staging / f"{name}.parquet")
        (staging / STAGE_FILE).write_text(json.dumps(stage, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _with_bytes(split: Dataset) -> Dataset:
    """Images that lie in files go into the table, under their file names: Parquet would hold their paths alone."""
    if columns.IMAGE not in split.column_names:
        return split
    return split.with_format("arrow").map(
        embed_table_storage,
        batched=True,
        batch_size=100,
        load_from_cache_file=False,
        desc="Images into the table",
    )


def check_replaceable(folder: str | Path) -> None:
    """
    Raises:
        ValueError: when the folder holds something else than a stage, such as the images themselves.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / STAGE_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} holds other files, which a stage would replace. Choose a folder of its own for it."
        )


def ids_digest(image_ids: Iterable[str | None]) -> str:
    """Hash of the `image_id`s in their order: tells whether two data sets hold the same rows."""
    digest = hashlib.blake2b(digest_size=16)
    for image_id in image_ids:
        digest.update((image_id or "").encode() + b"\0")
    return digest.hexdigest()


def stage_files(folder: str | Path, stage: dict[str, Any]) -> dict[str, list[str]]:
    """The Parquet files of each split: one beside `stage.json`, or those of a published stage in `data/`."""
    files = {}
    for name in stage["num_rows"]:
        one = Path(folder) / f"{name}.parquet"
        parts = sorted(Path(folder).glob(f"data/{glob.escape(name)}-*-of-*.parquet"))
        files[name] = [glob.escape(str(path)) for path in ([one] if one.is_file() or not parts else parts)]
    return files


def open_stage(folder: str | Path, stage: dict[str, Any]) -> DatasetDict:
    """The rows of a stage, without those of its source. Its README.md and report are no data."""
    files = stage_files(folder, stage)
    # One by one: opened together, splits would have to have the same columns
    return DatasetDict({name: load_dataset("parquet", data_files={name: files[name]}, split=name) for name in files})


def join_stage(images: DatasetDict, folder: str | Path, stage: dict[str, Any]) -> DatasetDict:
    """
    Adds the columns of a stage to the images' own rows, in place of columns of the same name and, where it has other
    captions, of what was made of the earlier ones. The images are not rewritten: rows are matched by `image_id` and
    the tables are put side by side.

    Raises:
        ValueError: when the stage lacks rows of a split, or holds an `image_id` twice.
    """
    added = {name: split for name, split in open_stage(folder, stage).items() if name in images}
    positions = {name: _positions(images[name], split, folder, name) for name, split in added.items()}
    return joined_splits(images, added, positions, str(folder))


def _positions(images: Dataset, added: Dataset, folder: str | Path, split: str) -> np.ndarray:
    of_stage = positions_of(added, added)  # the first row of each id
    again = np.flatnonzero(of_stage != np.arange(len(added)))
    if len(again):
        row = int(of_stage[again[0]])
        raise ValueError(
            f"{folder}, split {split!r}, column 'image_id', row {row}: {added[row][columns.IMAGE_ID]!r} occurs again "
            f"in row {again[0]}. Run the stage again on data with unique ids."
        )
    positions = positions_of(images, added)
    missing = np.flatnonzero(positions == NO_ROW)
    if len(missing):
        first = images.select_columns([columns.IMAGE_ID])[int(missing[0])][columns.IMAGE_ID]
        raise ValueError(
            f"{folder}, split {split!r}: {len(missing)} of {len(images)} images have no row there, the first is "
            f"{first!r}. Run the stage again on this data set."
        )
    return positions
