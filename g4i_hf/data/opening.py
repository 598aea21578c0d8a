"""Open the files of a dataset: its format, the split of each file, and which file is at fault."""

import glob
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.parquet.parquet import Parquet

from .. import columns
from ..names import check_dataset_name
from .images import IMAGE_SUFFIXES, image_paths

logger = logging.getLogger(__name__)

STAGE_FILE = "stage.json"  # in the folders of stages, see `stage`
# Names of files and folders that are splits, as in `datasets`; of folders also with an ending, as in test_novel
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in SPLIT_FOLDERS.items() for word in words}
UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SHARDED = {"parquet": ".parquet", "webdataset": ".tar"}  # formats of `datasets` by suffix
INTEGERS = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
KINDS = dict.fromkeys(INTEGERS, "numbers") | dict.fromkeys(("string", "large_string"), "names")


class OtherClassesError(ValueError):
    """Two files of a split whose labels mean other classes."""


def open_data(name: str, config: str | None, revision: str | None, label: str = columns.LABEL) -> DatasetDict:
    """
    Opens a dataset, whose labels are in the column `label`. A ValueError for files that `datasets` cannot read names
    the first at fault, or the cause.
    """
    check_dataset_name(name)
    folder, how = Path(name), how_to_load(name, config, revision)
    if how is None and not _is_saved(folder):
        return _open_imagefolder(folder)
    with one_line_errors(f"dataset_name is {name!r}, but", folder.rglob("*")):
        opened = _load(how, label) if how is not None else load_from_disk(name)
    return opened if isinstance(opened, DatasetDict) else DatasetDict(train=opened)


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
    found = ((kind, _split_files(folder, suffix)) for kind, suffix in SHARDED.items())
    return next(({"path": kind, "data_files": files} for kind, files in found if files), None)


def _load(how: dict[str, Any], label: str) -> DatasetDict:
    """
    As `load_dataset`, but where Parquet files of several splits differ in their classes each split keeps its own:
    `datasets` reads the class numbers of all files as those of the first.
    """
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
    """
    What each column of a split holds: its class names, or names or numbers. A ValueError where two of the files (place
    on this machine -> name) differ in this.
    """
    found: dict[str, tuple[list[str] | str, str]] = {}
    for place, name in files.items():
        for column, feature in Features.from_arrow_schema(pq.read_schema(place)).items():
            kind = feature.names if isinstance(feature, ClassLabel) else KINDS.get(getattr(feature, "dtype", None))
            if kind is None:
                continue
            known, first = found.setdefault(column, (kind, name))
            if kind != known and (column == label or list in (type(kind), type(known))):
                what = f"split {split!r}, column {column!r}: {_difference(known, first, kind, name)}"
                raise OtherClassesError(
                    f"{what}. Write both with one ClassLabel, by cast_column, or with class names."
                )
    return {column: kind for column, (kind, _) in found.items()}


def _difference(known: list[str] | str, first: str, kind: list[str] | str, second: str) -> str:
    if isinstance(known, list) and isinstance(kind, list):
        pairs = enumerate(zip_longest(known, kind, fillvalue="none"))
        number, (one, other) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
        return f"class {number} is {one!r} in {first} and {other!r} in {second}"
    one, other = ("numbers with class names" if isinstance(each, list) else each for each in (known, kind))
    return f"{first} holds {one} and {second} {other}"


def load_parquet(files: list[Path], split: str) -> Dataset:
    """One split of Parquet files; a ValueError names one that is damaged or has no rows."""
    with one_line_errors(f"{files[0].parent}, split {split!r}:", files):
        return load_dataset("parquet", data_files={split: [glob.escape(str(file)) for file in files]}, split=split)


# --- Files at fault --------------------------------------------------------------------------------------------------


@contextmanager
def one_line_errors(what: str, files: Iterable[Path]) -> Iterator[None]:
    """
    Turns the long errors of `datasets` into a ValueError of one line, which names the first file at fault and a
    remedy, or the first cause.
    """
    try:
        yield
    except (DatasetsError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError):  # there is none of the name
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
    """The first file with a fault that is known here, and what it is."""
    for file in sorted(files):
        try:
            str(file).encode()
        except UnicodeError:
            return f"the file name {os.fsencode(file)!r} is not UTF-8. Rename the file, as convmv does."
        if file.suffix == ".parquet" and (why := _fault_of_parquet(file)):
            return f"{file} {why}"
        if file.name == "metadata.jsonl":
            for number, line in enumerate(file.read_bytes().splitlines(), start=1):
                with suppress(ValueError):
                    if isinstance(json.loads(line or "{}"), dict):
                        continue
                return f"{file}, line {number} is no JSON object. Correct the line."
    return None


def _fault_of_parquet(file: Path) -> str | None:
    try:
        rows = sum(len(batch) for batch in pq.ParquetFile(file).iter_batches(batch_size=1000))
    except (OSError, ValueError) as error:
        return f"is damaged ({_first_cause(error)}). Make or download it again."
    return None if rows else "has no rows. Remove it, or make it again."


# --- Folders ---------------------------------------------------------------------------------------------------------


def _is_saved(folder: Path) -> bool:
    """By `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _split_files(folder: Path, suffix: str) -> dict[str, list[str]]:
    """
    The files of each split. Its name is the file name without the number of the shard, or the folder name where files
    only have numbers. `datasets` would take test_novel.parquet for a part of the split `test`.
    """
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


def _open_imagefolder(folder: Path) -> DatasetDict:
    """
    `datasets` 5.2 loses the labels of class folders with a `metadata.jsonl`, and of a split with images of one class.
    So the label is the folder of an image here, if a split has at least two; in a folder `unlabelled` it is null.
    Splits are read one by one, as `datasets` wants the same columns in all, and captions may be in one alone.
    """
    archives = sorted(path.name for path in folder.iterdir() if path.suffix in (".gz", ".tgz", ".zip"))
    if archives:
        raise ValueError(f"dataset_name is {str(folder)!r}: unpack {archives[0]}, images are read from plain files.")
    splits, found = DatasetDict(), _folder_splits(folder)
    _check_metadata(folder, found)
    for name, patterns in found.items():
        if not any(Path(file).suffix.lower() in ImageFolder.EXTENSIONS for file in _files(patterns)):
            raise FileNotFoundError(
                f"dataset_name is {str(folder)!r}: neither Parquet nor images of the split {name!r} there. Add images."
            )
        with one_line_errors(f"dataset_name is {str(folder)!r}, but", folder.rglob("*")):
            split = load_dataset("imagefolder", data_files={name: patterns}, drop_labels=True, split=name)
        splits[name] = split.cast_column("image", Image(decode=False))
        if split.column_names != ["image"]:
            splits[name] = _with_unlisted(splits[name], name, patterns)
    return _with_folder_labels(splits, folder)


def _check_metadata(folder: Path, splits: dict[str, list[str]]) -> None:
    """A ValueError for metadata beside the folders of the splits, where nothing reads it."""
    above = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if above is None or os.path.abspath(folder) in {root for patterns in splits.values() for root in _roots(patterns)}:
        return
    raise ValueError(
        f"{above} is not read, as it lies beside the folders of the splits ({', '.join(splits)}). Give each split its "
        f"own {above.name} within its folder, with every file_name relative to that folder."
    )


def _with_folder_labels(splits: DatasetDict, root: Path) -> DatasetDict:
    """Adds `label` where metadata has none: a ClassLabel, or a string where other splits have strings."""
    labels: dict[str, list] = {
        name: [_folder_label(image["path"], os.path.abspath(root)) for image in split["image"]]
        for name, split in splits.items()
        if columns.LABEL not in split.column_names
    }
    classes = {name: set(found) - {None} for name, found in labels.items()}
    names = sorted({label for found in classes.values() if len(found) > 1 for label in found})
    if from_metadata := [split for name, split in splits.items() if name not in labels]:
        names += [label for split in from_metadata for label in split.unique(columns.LABEL) if isinstance(label, str)]
    feature = Value("string") if from_metadata else ClassLabel(names=names)
    numbers = {None: None} | {label: number for number, label in enumerate(names)}
    for name, found in labels.items():
        if classes[name] and classes[name] <= set(names):
            logger.info("Split %s: %d class names taken from the folders.", name, len(classes[name]))
            if isinstance(feature, ClassLabel):
                found = [numbers[label] for label in found]
            splits[name] = splits[name].add_column(columns.LABEL, found, feature=feature)
    return splits


def _folder_label(path: str, root: str) -> str | None:
    """The folder of an image; None anywhere below one of `UNLABELLED_FOLDERS`."""
    inside = os.path.dirname(path.removeprefix(root)).lower().split(os.sep)
    return None if set(inside) & set(UNLABELLED_FOLDERS) else Path(path).parent.name


def _with_unlisted(split: Dataset, name: str, patterns: list[str]) -> Dataset:
    """
    Adds images of class folders that have no line in the metadata, which `datasets` leaves out: they have a label all
    the same, and null in the columns of the metadata. A ValueError for an image with two lines.
    """
    listed = Counter(path for path, _ in image_paths(split))
    image, times = listed.most_common(1)[0]
    if times > 1:
        what = f"its metadata file names the image {image} {times} times"
        raise ValueError(f"Split {name!r}: {what}. Keep one line; several captions are a list in it.")
    known = {os.path.realpath(path) for path in listed}
    files = [file for file in _files(patterns) if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES]
    unlisted = sorted(os.path.abspath(file) for file in files if os.path.realpath(file) not in known)
    if not unlisted:
        return split
    roots, kept = _roots(patterns), []
    for file in unlisted if columns.LABEL not in split.column_names else ():
        root = next(root for root in roots if file.startswith(f"{root}{os.sep}"))
        if os.path.dirname(file) != root and _folder_label(file, root) is not None:
            kept.append(file)
    if kept:
        said = "Split %r: %d of %d images have no line in its metadata file. They have the label of their folder."
        logger.warning(said, name, len(kept), len(files))
    if left := len(unlisted) - len(kept):
        logger.warning(
            "Split %r: %d of %d images are in no line of its metadata file and in no folder of a class, and are left "
            "out. A line needs the file_name alone; null stands for what is not known.",
            *(name, left, len(files)),
        )
    rows: dict[str, list] = {column: [None] * len(kept) for column in split.column_names}
    rows["image"] = [{"bytes": None, "path": file} for file in kept]
    return concatenate_datasets([split, Dataset.from_dict(rows, features=split.features)]) if kept else split


def _roots(patterns: list[str]) -> list[str]:
    """The folders of a split."""
    return [os.path.abspath(root) for pattern in patterns for root in glob.iglob(pattern.removesuffix("/**"))]


def _files(patterns: list[str]) -> Iterator[str]:
    """Files of a split, without hidden ones and folders such as `__MACOSX`."""
    for root in _roots(patterns):
        for place, folders, files in os.walk(root):
            folders[:] = [folder for folder in folders if not folder.startswith((".", "__"))]
            yield from (os.path.join(place, file) for file in files if not file.startswith("."))


def _folder_splits(folder: Path) -> dict[str, list[str]]:
    """
    Patterns of the files of each split: folders called train, validation, test, test_novel or the like; else all is
    `train`. `datasets` would take a class or an image called `train` for a split and leave out the rest.
    """
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not (path / STAGE_FILE).is_file()]
    folders = [path for path in inside if not path.name.startswith((".", "__"))]
    named = {path: _split_name(path.name) for path in folders if _split_name(path.name) is not None}
    if len(named) < len(folders):  # between other classes, a folder of images called `train` is a class
        named = {path: name for path, name in named.items() if any(child.is_dir() for child in path.iterdir())}
    files: dict[str, list[str]] = {}
    for path, name in named.items():
        files.setdefault(name, []).append(f"{glob.escape(str(path))}/**")
    if files and len(named) < len(folders):
        ignored = sorted(path.name for path in folders if path not in named)
        logger.warning("%s: folders that are no splits are left out: %s", folder, ", ".join(ignored))
        if any(name.lower() in UNLABELLED_FOLDERS for name in ignored):
            logger.warning("Images without a label belong into a folder of that name within train.")
    return files or {"train": [f"{glob.escape(str(folder))}/**"]}


def _split_name(folder: str) -> str | None:
    """`train` for Training, `test_novel` for test_novel, None for a folder that is no split."""
    folder = folder.lower()
    if folder in SPLIT_OF:
        return SPLIT_OF[folder]
    return re.sub(r"\W+", "_", folder) if re.split(r"[\W_\d]", folder)[0] in SPLIT_OF else None
