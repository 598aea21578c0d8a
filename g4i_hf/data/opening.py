"""Open the files of a dataset: its format, the split of each file, and the file that causes an error."""

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    DownloadManager,
    Features,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.parquet.parquet import Parquet

from .. import columns
from ..files import some
from ..names import check_dataset_name
from .census import SPLIT_OF, STAGE_FILE, suffix_of
from .image_folder import open_image_folder
from .images import IMAGE_SUFFIXES, why_unnamable

logger = logging.getLogger(__name__)

SHARDED = {"parquet": ".parquet", "webdataset": ".tar"}  # formats of `datasets` by suffix
INTEGERS = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
KINDS = dict.fromkeys(INTEGERS, "numbers") | dict.fromkeys(("string", "large_string"), "names")


class OtherClassesError(ValueError):
    """Two files of a split with different classes."""


def open_data(
    name: str,
    config: str | None,
    revision: str | None,
    label: str = columns.LABEL,
    scenes_in_folders: bool = False,
) -> DatasetDict:
    """
    Open a dataset; for `scenes_in_folders` see [`open_image_folder`]. Raises ValueError, with the first invalid file
    or the cause, for unreadable files.
    """
    check_dataset_name(name)
    folder, how = Path(name), how_to_load(name, config, revision)
    if is_image_folder(name):
        try:
            return open_image_folder(folder, scenes_in_folders)
        except ValueError as error:
            fault = _fault(folder.rglob("*")) if isinstance(error, UnicodeError) else error
            raise ValueError(f"dataset_name is {name!r}, but its files cannot be read: {fault}") from error
    if how is not None and how["path"] in SHARDED:
        _warn_of_images(folder, how["data_files"])
    with one_line_errors(f"dataset_name is {name!r}, but", folder.rglob("*")):
        opened = _load(how, label) if how is not None else load_from_disk(name)
    return opened if isinstance(opened, DatasetDict) else DatasetDict(train=opened)


def _warn_of_images(folder: Path, files: dict[str, list[str]]) -> None:
    """A Parquet file that lies in a folder of images replaces them."""
    images = sorted(path for path in map(str, folder.rglob("*")) if suffix_of(path) in IMAGE_SUFFIXES)
    if images:
        first = next(iter(files.values()))[0]
        logger.warning(
            "%s: images are not read: %d (%s), as %s is read in their place. To read the images, move that file away.",
            *(folder, len(images), some([os.path.relpath(path, folder) for path in images]), first),
        )


def is_image_folder(name: str) -> bool:
    """Whether it is a folder of image files, not of Parquet or `save_to_disk`."""
    return how_to_load(name, None, None) is None and not _is_saved(Path(name))


def how_to_load(name: str, config: str | None, revision: str | None) -> dict[str, Any] | None:
    """Arguments of `load_dataset`; None for a folder of images or of `save_to_disk`."""
    folder = Path(name)
    if not folder.is_dir():
        return {"path": name, "name": config, "revision": revision}
    if _is_saved(folder):
        return None
    readme = folder / "README.md"
    if readme.is_file() and re.search(r"^configs:", readme.read_text("utf-8", "ignore"), re.M):  # names its files
        return {"path": name, "name": config}
    candidates = ((kind, _split_files(folder, suffix)) for kind, suffix in SHARDED.items())
    return next(({"path": kind, "data_files": files} for kind, files in candidates if files), None)


def _load(how: dict[str, Any], label: str) -> DatasetDict:
    """Like `load_dataset`, which would read class numbers of all Parquet files by the names in the first one."""
    builder = load_dataset_builder(**how)
    if isinstance(builder, Parquet):
        files = {split: list(map(str, names)) for split, names in builder.config.data_files.items()}
        local = {split: DownloadManager().download(names) for split, names in files.items()}
        kinds = [_kinds_in(dict(zip(local[split], files[split], strict=True)), split, label) for split in files]
        if any(kind != kinds[0] for kind in kinds):
            return DatasetDict({split: load_parquet(list(map(Path, paths)), split) for split, paths in local.items()})
    builder.download_and_prepare()
    return builder.as_dataset()


def _kinds_in(files: dict[str, str], split: str, label: str) -> dict[str, list[str] | str]:
    """The class names, `names` or `numbers` in each column of a split; ValueError if files (path -> name) differ."""
    kinds: dict[str, tuple[list[str] | str, str]] = {}
    for place, name in files.items():
        for column, feature in Features.from_arrow_schema(pq.read_schema(place)).items():
            kind = feature.names if isinstance(feature, ClassLabel) else KINDS.get(getattr(feature, "dtype", None))
            if kind is None:
                continue
            known, first = kinds.setdefault(column, (kind, name))
            if kind != known and (column == label or list in (type(kind), type(known))):
                what = f"split {split!r}, column {column!r}: {_difference(known, first, kind, name)}"
                raise OtherClassesError(
                    f"{what}. Write both with one ClassLabel, by cast_column, or with class names."
                )
    return {column: kind for column, (kind, _) in kinds.items()}


def _difference(known: list[str] | str, first: str, kind: list[str] | str, second: str) -> str:
    if isinstance(known, list) and isinstance(kind, list):
        pairs = enumerate(zip_longest(known, kind, fillvalue="none"))
        number, (one, other) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
        return f"class {number} is {one!r} in {first} and {other!r} in {second}"
    one, other = ("numbers with class names" if isinstance(value, list) else value for value in (known, kind))
    return f"{first} holds {one} and {second} {other}"


def load_parquet(files: list[Path], split: str) -> Dataset:
    """One split of Parquet files; raises ValueError for a damaged or empty one."""
    with one_line_errors(f"{files[0].parent}, split {split!r}:", files):
        return load_dataset("parquet", data_files={split: [glob.escape(str(file)) for file in files]}, split=split)


# --- Invalid files ---------------------------------------------------------------------------------------------------


@contextmanager
def one_line_errors(what: str, files: Iterable[Path]) -> Iterator[None]:
    """Turn errors of `datasets` into a ValueError of one line: the first invalid file, or the first cause."""
    try:
        yield
    except (DatasetsError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError):  # nothing has this name
            raise
        fault = None if isinstance(error, OtherClassesError) else _fault(files)
        raise ValueError(f"{what} its files cannot be read: {fault or _first_cause(error)}") from error


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or [type(error).__name__]
    if lines[0] == "Config name is missing.":
        return f"there are several configurations. Choose one with --dataset_config_name:{lines[1].partition(':')[2]}."
    if lines[0].startswith("Dataset scripts are no longer supported"):
        return f"{lines[0]}. If the Hub has made Parquet files of it: --dataset_revision refs/convert/parquet."
    return lines[0]


def _fault(files: Iterable[Path]) -> str | None:
    """The first file with a known error, and the error."""
    for file in sorted(files):
        if why := why_unnamable(file):
            return why
        if file.suffix == ".parquet" and (why := _fault_of_parquet(file)):
            return f"{file} {why}"
    return None


def _fault_of_parquet(file: Path) -> str | None:
    try:
        rows = sum(len(batch) for batch in pq.ParquetFile(file).iter_batches(batch_size=1000))
    except (OSError, ValueError) as error:
        return f"is damaged ({_first_cause(error)}). Make or download it again."
    return None if rows else "has no rows. Remove it, or make it again."


# --- Folders ---------------------------------------------------------------------------------------------------------


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _split_files(folder: Path, suffix: str) -> dict[str, list[str]]:
    """The files of each split, by file name without shard number, else by folder."""
    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob(f"*{suffix}")):
        inside = path.relative_to(folder)
        of_stage = len(inside.parts) > 1 and (path.parent / STAGE_FILE).is_file()
        if of_stage or path.name == "metadata.parquet" or any(part.startswith(".") for part in inside.parts):
            continue
        name = re.sub(r"-\d+(-.*)?$", "", path.stem)
        if re.fullmatch(r"(part|shard|chunk|data)?[-_]?\d*", name):
            name = path.parent.name if inside.parts[:-1] not in ((), ("data",)) else "train"
        name = re.sub(r"\W+", "_", name)
        files.setdefault(SPLIT_OF.get(name.lower(), name), []).append(glob.escape(str(path)))
    return files
