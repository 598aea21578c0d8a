"""
Stages, and the one format of their provenance.

A stage is a folder of Parquet files with `image_id` and new columns, and of `stage.json`, written last: the data that
they were made of (a [`Source`]), and what a command did with it. The way from a stage back to its images is [`steps`].
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict
from datasets.table import embed_table_storage
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .. import columns
from ..files import replacing, take_back
from .joining import join_captions
from .opening import STAGE_FILE, load_parquet

# Otherwise `datasets` (5.2) tells a server whenever files are opened, those of this machine too
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

SPLIT_NAME = re.compile(r"\w[\w.-]*")  # part of the names of files
PATH = re.compile(r"(~[\w-]*|\.[^\s/\\]*)?[/\\]|[A-Za-z]:[/\\]|file:/|(~|\.{1,2})$")


# --- What the rows of a stage were made of ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """
    What is opened, see [`~g4i_hf.data.loading.open_images`], and what a stage made of it records.

    Args:
        name: Hub id or folder.
        revision, config: of a Hub dataset.
        columns: what it calls its columns, by our names, where that differs.
        captions, captions_revision: Hub id or folder of captions or embeddings with the `image_id` of each, which are
            joined to the images.
    """

    name: str
    revision: str | None = None
    config: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    captions: str | None = None
    captions_revision: str | None = None

    @classmethod
    def of(cls, source: "str | Source") -> "Source":
        return source if isinstance(source, Source) else cls(source)

    def recorded(self, folder: str | Path) -> dict[str, Any]:
        """Fields of the `stage.json` in `folder`; folders are relative to it, so that all can be moved together."""
        more = {
            "source_config": self.config,
            "source_columns": self.columns,
            "captions_name": self.captions and _portable(self.captions, folder),
            "captions_revision": self.captions_revision,
        }
        return {
            "source": _portable(self.name, folder),
            "source_revision": self.revision,
            **{name: value for name, value in more.items() if value},
        }

    @classmethod
    def read(cls, stage: dict[str, Any], folder: str | Path) -> "Source | None":
        """
        What the `stage.json` in a folder records; None for a stage of the Hub whose images are not there.

        Raises:
            FileNotFoundError: for a folder that is gone.
        """
        name, captions = stage.get("source"), stage.get("captions_name")
        is_published = bool(stage.get("published")) or not Path(folder).is_dir()
        if name is None or (is_published and is_path(name)):  # of the machine where it was made
            return None
        return cls(
            _found(name, folder),
            stage.get("source_revision"),
            stage.get("source_config"),
            stage.get("source_columns") or {},
            captions and _found(captions, folder),
            stage.get("captions_revision"),
        )


def is_path(value: Any) -> bool:
    """Whether it is a text of the form of a path, as no Hub id has: what lies in the current folder plays no part."""
    return isinstance(value, str) and PATH.match(value) is not None


def check_relative(stage: dict[str, Any], folder: str | Path) -> None:
    """
    Raises:
        ValueError: for a `stage.json` that names a folder other than relative to its own: no stage writes that, and
            what somebody else wrote could lead anywhere on this machine.
    """
    for name in (stage.get("source"), stage.get("captions_name")):
        if is_path(name) and not name.startswith(".") and not stage.get("published"):
            raise ValueError(
                f"{folder}: its stage.json names {name!r} for images or captions, not relative to its folder. Run the "
                "stage again, or correct the file if you trust where it comes from."
            )


def _portable(name: str, folder: str | Path) -> str:
    if not Path(name).is_dir():
        return name
    inside = os.path.relpath(name, folder)
    return inside if is_path(inside) else f"./{inside}"  # a Hub id could look like it


def _found(name: str, folder: str | Path) -> str:
    beside = Path(folder) / name
    if not Path(name).is_absolute() and beside.exists():
        return str(beside)
    if name.startswith("."):
        raise FileNotFoundError(
            f"{folder} holds no images: they are those of {name}, seen from there, and that folder is gone. Put it "
            "back, or run the stage again on the images."
        )
    return name


@dataclass(frozen=True)
class Step:
    """A dataset on the way to the images: its `stage.json` is None where no stage has made it."""

    source: Source
    stage: dict[str, Any] | None

    def joined(self) -> dict[str, Any] | None:
        """The `stage.json` of the captions that were joined to it; None without, and where no stage has made them."""
        captions = self.source.captions
        return None if captions is None else find_stage(captions, self.source.captions_revision)


def steps(source: Source) -> Iterator[Step]:
    """
    From what is opened to its images, one dataset after the other, each looked up when it is asked for. The last one
    is no stage, or a stage that does not say where its images are.

    Raises:
        FileNotFoundError: for a folder that is gone.
        ValueError: when stages without images name each other as their images.
    """
    seen, holds_images = set(), False
    while True:
        stage = find_stage(source.name, source.revision)
        yield Step(source, stage)
        further = None if stage is None else Source.read(stage, source.name)
        if further is None:
            return
        seen.add(_place(source))
        holds_images |= bool(stage.get("with_images"))
        if _place(further) in seen:
            if holds_images:  # which names itself, or what was made of it
                return
            raise ValueError(
                f"{source.name} holds no images and names {further.name} for them, which leads back to {source.name}. "
                f"Name the images with --dataset_name, and with --captions_name {source.name}."
            )
        source = further


def _place(source: Source) -> tuple[str, str | None]:
    return (os.path.realpath(source.name) if Path(source.name).is_dir() else source.name), source.revision


# --- stage.json ------------------------------------------------------------------------------------------------------


def read_stage(folder: str | Path) -> dict[str, Any] | None:
    """
    The `stage.json` of a finished stage, or None where there is none.

    Raises:
        ValueError: when it is none, or names a split by a path, whose files would lie elsewhere.
    """
    take_back(folder)
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


def find_stage(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """
    The `stage.json` of a folder or a dataset of the Hub; None where no stage has made it, and where it cannot be
    reached: opening it says why.
    """
    take_back(name)
    if Path(name).is_dir():
        return read_stage(name)
    try:
        path = hf_hub_download(name, STAGE_FILE, repo_type="dataset", revision=revision)
    except (
        EntryNotFoundError,  # also: not reached, and not in the cache
        HFValidationError,  # a path
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    ):
        return None
    stage = json.loads(Path(path).read_text(encoding="utf-8"))
    return stage if isinstance(stage, dict) and "stage" in stage and "num_rows" in stage else None


def write_stage(folder: str | Path, splits: dict[str, Dataset], stage: dict[str, Any]) -> None:
    """
    Writes one Parquet file a split and then `stage.json`: the provenance given, row counts, columns and versions.
    Everything is written beside the folder and renamed, so a stage interrupted half-way leaves an earlier one as it
    was.

    Raises:
        ValueError: when the folder holds something else than a stage, which is not replaced.
    """
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
    """Hash of the `image_id`s in their order: tells whether two datasets hold the same rows."""
    digest = hashlib.blake2b(digest_size=16)
    for image_id in image_ids:
        digest.update((image_id or "").encode() + b"\0")
    return digest.hexdigest()


# --- Its rows --------------------------------------------------------------------------------------------------------


def open_stage(folder: str | Path, stage: dict[str, Any]) -> DatasetDict:
    """
    The rows of a stage, without those of its source: one Parquet file a split beside `stage.json`, or those of a
    published stage in `data/`. Its README.md and report are no data.
    """
    opened = DatasetDict()
    for name in stage["num_rows"]:  # one by one: opened together, splits would have to have the same columns
        parts = sorted(Path(folder).glob(f"data/{glob.escape(name)}-*-of-*.parquet"))
        one = Path(folder) / f"{name}.parquet"
        opened[name] = load_parquet([one] if one.is_file() or not parts else parts, name)
    return opened


def join_stage(images: DatasetDict, folder: str | Path, stage: dict[str, Any]) -> DatasetDict:
    """
    Adds the columns of a stage to the images that it was made of, see [`~g4i_hf.data.joining.join_captions`].

    Raises:
        ValueError: when the stage lacks rows of a split, or holds an `image_id` twice.
    """
    return join_captions(images, open_stage(folder, stage), str(folder), complete=True)
