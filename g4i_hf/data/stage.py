"""
Stages and their provenance.

A stage is a folder of Parquet files with `image_id` and new columns, and of `stage.json`, written last. This records
its data (a [`Source`]) and the settings of its command. [`chain_of`] leads from a stage back to its images.
"""

import glob
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict
from huggingface_hub import errors, hf_hub_download

from .. import columns
from ..files import check_replaceable, relative_path, replacing, restore_replaced
from ..names import is_path
from .joining import join_captions
from .opening import STAGE_FILE, load_parquet

# Otherwise `datasets` 5.2 reports opened files, including local ones, to a server
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

# No such file on the Hub or in the cache, or a name that is a path. Opening the dataset raises the error
NO_STAGE = (
    *(errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError),
    *(errors.HFValidationError, errors.OfflineModeIsEnabled),
)
FORMAT = 1  # of `stage.json`: increased whenever its content changes
version = cache(importlib.metadata.version)  # which looks through all packages
SPLIT_NAME = re.compile(r"\w[\w.-]*")  # part of file names


# --- Sources ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """
    A dataset to open, see [`~g4i_hf.data.loading.open_images`], as a stage records it: the fields of `DataArguments`;
    `columns` are its names of columns by ours, if they differ.
    """

    name: str
    revision: str | None = None
    config: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    captions: str | None = None
    captions_revision: str | None = None
    validation_fraction: float | None = None
    group_by: str | None = None

    @classmethod
    def of(cls, source: "str | Source") -> "Source":
        return source if isinstance(source, Source) else cls(source)

    @cached_property
    def stage(self) -> dict[str, Any] | None:
        """Its `stage.json`; None if it is not a stage."""
        return find_stage(self.name, self.revision)

    def captions_stage(self) -> dict[str, Any] | None:
        """The `stage.json` of the joined captions, if they are a stage."""
        return None if self.captions is None else find_stage(self.captions, self.captions_revision)

    def recorded(self, folder: str | Path) -> dict[str, Any]:
        """Fields of the `stage.json` in `folder`; paths of other folders are relative to it."""
        more = {
            "source_config": self.config,
            "source_columns": self.columns,
            "captions_name": self.captions and _portable(self.captions, folder),
            "captions_revision": self.captions_revision,
            "validation_fraction": self.validation_fraction,
            "group_by": self.group_by,
        }
        return {
            "source": _portable(self.name, folder),
            "source_revision": self.revision,
            **{name: value for name, value in more.items() if value},
        }

    @classmethod
    def read(cls, stage: dict[str, Any], folder: str | Path) -> "Source | None":
        """The source in a `stage.json`; None for a published one without images. Raises for a missing folder."""
        name, captions, held_out = (stage.get(key) for key in ("source", "captions_name", "validation_fraction"))
        is_published = bool(stage.get("published")) or not Path(folder).is_dir()
        if name is None or (is_published and is_path(name)):  # a path on another machine
            return None
        return cls(
            _resolved(name, folder),
            stage.get("source_revision"),
            stage.get("source_config"),
            stage.get("source_columns") or {},
            captions and _resolved(captions, folder),
            stage.get("captions_revision"),
            held_out if isinstance(held_out, float) and 0 < held_out < 1 else None,
            stage.get("group_by"),
        )


def check_names_images(stage: dict[str, Any], folder: str | Path) -> None:
    """Raise ValueError for a `stage.json` that does not lead to images, or names them by an absolute path."""
    for name in (stage.get("source"), stage.get("captions_name")):
        if is_path(name) and not name.startswith(".") and not stage.get("published"):
            what = f"{folder}: its stage.json names {name!r} for images or captions, not relative to its folder"
            raise ValueError(f"{what}. Run the stage again, or correct the file if you trust it.")
    if Source.read(stage, folder) is None:
        raise ValueError(
            f"{folder} was published without its images, and does not say where they are. Name the images with "
            f"--dataset_name, and with --captions_name {folder}."
        )


def _portable(name: str, folder: str | Path) -> str:
    return relative_path(name, folder) if Path(name).is_dir() else name


def _resolved(name: str, folder: str | Path) -> str:
    relative = Path(folder) / name
    if not Path(name).is_absolute() and relative.exists():
        return str(relative)
    if name.startswith("."):
        what = f"{folder} holds no images: they are those of {name}, seen from there, and that folder is gone"
        raise FileNotFoundError(f"{what}. Put it back, or run the stage again on the images.")
    return name


def chain_of(source: Source) -> Iterator[Source]:
    """
    The datasets from a source to its images, looked up lazily. The last is not a stage, or does not name its images.
    Raises FileNotFoundError for a missing folder, and ValueError if stages without images name each other as images.
    """
    seen, holds_images = set(), False
    while True:
        yield source
        stage = source.stage
        further = None if stage is None else Source.read(stage, source.name)
        if further is None:
            return
        seen.add(_place(source))
        holds_images |= bool(stage.get("with_images"))
        if _place(further) in seen:
            if holds_images:  # it names itself, or a stage made from it
                return
            what = f"{source.name} holds no images and names {further.name} for them, which leads back to it"
            raise ValueError(f"{what}. Name the images with --dataset_name, and with --captions_name {source.name}.")
        source = further


def known_chain(source: Source) -> list[Source]:
    """[`chain_of`] as a list. A missing folder is the last, by its former path."""
    chain: list[Source] = []
    try:
        for each in chain_of(source):
            chain.append(each)
    except FileNotFoundError:
        chain.append(Source(os.path.abspath(os.path.join(chain[-1].name, chain[-1].stage["source"]))))
    return chain


def images_of(source: Source) -> tuple[str, str | None]:
    """The name and revision of the images that a source leads to."""
    return _place(known_chain(source)[-1])


def _place(source: Source) -> tuple[str, str | None]:
    return (os.path.realpath(source.name) if Path(source.name).is_dir() else source.name), source.revision


# --- stage.json ------------------------------------------------------------------------------------------------------


def read_stage(folder: str | Path) -> dict[str, Any] | None:
    """The `stage.json` of a stage; None without one. Raises ValueError for a malformed or later one."""
    restore_replaced(folder)
    path = Path(folder) / STAGE_FILE
    if not path.is_file():
        return None
    try:
        stage = json.loads(path.read_text(encoding="utf-8"))
        splits = stage.get("num_rows", {})
        is_stage = isinstance(stage.get("source"), str | None) and all(map(SPLIT_NAME.fullmatch, splits.keys()))
    except (AttributeError, RecursionError, TypeError, ValueError):  # not JSON, or of another form
        is_stage = False
    if not is_stage:
        raise ValueError(f"{path} is not what a stage writes. Run the stage again, or remove the file.")
    return _of_known_format(stage, str(folder))


def _of_known_format(stage: dict[str, Any], name: str) -> dict[str, Any]:
    number = stage.get("format")
    if number != FORMAT:
        known = f"this version of g4i_hf reads format {FORMAT}"
        raise ValueError(f"{name}: its stage.json has the format {number!r}, and {known}. Run the stage again.")
    return stage


def find_stage(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """The `stage.json` of a folder or a Hub dataset; None if there is none, or it cannot be reached."""
    restore_replaced(name)
    if Path(name).is_dir():
        return read_stage(name)
    try:
        path = hf_hub_download(name, STAGE_FILE, repo_type="dataset", revision=revision)
    except NO_STAGE:
        return None
    stage = json.loads(Path(path).read_text(encoding="utf-8"))
    is_stage = isinstance(stage, dict) and "stage" in stage and "num_rows" in stage
    return _of_known_format(stage, name) if is_stage else None


def write_stage(
    folder: str | Path,
    splits: dict[str, Dataset],
    stage: dict[str, Any],
    tables: dict[str, Dataset] | None = None,
) -> dict[str, Any]:
    """Replace the folder: Parquet files of the splits and further `tables`, and `stage.json`, which is returned."""
    check_replaceable(folder, "stage", STAGE_FILE)
    stage = {
        "format": FORMAT,
        **stage,
        "num_rows": {name: len(split) for name, split in splits.items()},
        "columns": next(iter(splits.values())).column_names,
        "versions": {package: version(package) for package in ("datasets", "transformers", "torch")},
    }
    with replacing(folder) as staging:
        for name, split in (splits | (tables or {})).items():
            split.to_parquet(staging / f"{name}.parquet")
        (staging / STAGE_FILE).write_text(json.dumps(stage, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return stage


def ids_digest(image_ids: Iterable[str | None]) -> str:
    """Digest of the `image_id`s in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for image_id in image_ids:
        digest.update((image_id or "").encode() + b"\0")
    return digest.hexdigest()


# --- Its rows --------------------------------------------------------------------------------------------------------


def open_stage(folder: str | Path, stage: dict[str, Any]) -> DatasetDict:
    """The rows of a stage: a Parquet file a split next to `stage.json`, or shards in `data/` of a published one."""
    opened = DatasetDict()
    for name in stage["num_rows"]:  # one by one, as opening them together needs equal columns
        parts = sorted(Path(folder).glob(f"data/{glob.escape(name)}-*-of-*.parquet"))
        one = Path(folder) / f"{name}.parquet"
        files = [one] if one.is_file() or not parts else parts
        opened[name] = load_parquet(files, name)
        _check_columns(opened[name], files[0], [] if len(opened) > 1 else stage.get("columns", []))
    return opened


def _check_columns(split: Dataset, file: Path, written: Iterable[str]) -> None:
    """ValueError for a file that lacks columns which were `written`, or whose embeddings are no vectors."""
    why, embeds = None, split.features.get(columns.TEXT_EMBEDS)
    if lacking := [name for name in written if name not in split.column_names]:
        why = f"no column {lacking[0]!r}"
    elif embeds is not None and columns.text_embed_dim_of(embeds) is None:
        why = f"column 'text_embeds' holds {embeds}, not vectors of one length"
    if why:
        raise ValueError(f"{file}: {why}. Make the stage again.")


def join_stage(images: DatasetDict, folder: str | Path, stage: dict[str, Any]) -> DatasetDict:
    """Add the columns of a stage to its images, see [`~g4i_hf.data.joining.join_captions`]; all must have a row."""
    return join_captions(images, open_stage(folder, stage), str(folder), complete=True)
