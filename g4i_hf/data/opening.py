"""Finding the files of a data set, and which split each belongs to."""

import glob
import logging
import os
import re
from pathlib import Path

from datasets import (
    ClassLabel,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Image,
    Value,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError

from .. import columns
from .image_ids import IMAGE_SUFFIXES
from .naming import check_dataset_name
from .stage import STAGE_FILE

logger = logging.getLogger(__name__)

# Folders of an imagefolder that are splits, as `datasets` reads them; also with an ending, as in test_novel
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")
SHARDED = {"parquet": ".parquet", "webdataset": ".tar"}  # formats of `datasets` that a folder may hold, by file name


def open_data(name: str, config_name: str | None, revision: str | None) -> DatasetDict:
    """
    Raises:
        FileNotFoundError: when nothing of that name exists.
        ValueError: for files that `datasets` cannot read; the message has the first cause.
    """
    check_dataset_name(name)
    try:
        return _opened(name, config_name, revision)
    except DatasetsError as error:
        if isinstance(error, (OSError, ValueError)):
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise ValueError(f"dataset_name is {name!r}, but its files cannot be read: {why}") from error


def _opened(name: str, config_name: str | None, revision: str | None) -> DatasetDict:
    folder = Path(name)
    if not folder.is_dir():
        return load_dataset(name, config_name, revision=revision)
    if (folder / "dataset_dict.json").is_file():
        return load_from_disk(name)
    if (folder / "state.json").is_file():
        return DatasetDict(train=load_from_disk(name))
    if _names_its_files(folder):
        return load_dataset(name, config_name)
    for kind, suffix in SHARDED.items():
        if files := _split_files(folder, suffix):
            return load_dataset(kind, data_files=files)
    return _open_imagefolder(folder)


def builder_of(name: str, config_name: str | None, revision: str | None) -> DatasetBuilder | None:
    """
    What reads the files of a data set.

    Returns:
        None for a folder that holds neither Parquet files nor WebDataset archives, nor says what its files are.
    """
    folder = Path(name)
    if not folder.is_dir():
        return load_dataset_builder(name, config_name, revision=revision)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return None
    if _names_its_files(folder):
        return load_dataset_builder(name, config_name)
    for kind, suffix in SHARDED.items():
        if files := _split_files(folder, suffix):
            return load_dataset_builder(kind, data_files=files)
    return None


def _names_its_files(folder: Path) -> bool:
    readme = folder / "README.md"
    return readme.is_file() and re.search(r"^configs:", readme.read_text("utf-8", "ignore"), re.M) is not None


def _split_files(folder: Path, suffix: str) -> dict[str, list[str]]:
    """
    The files of each split: one split a file name without the number of its shard, or a folder name where the files
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
        files.setdefault(re.sub(r"\W+", "_", name), []).append(glob.escape(str(path)))
    return files


def _open_imagefolder(folder: Path) -> DatasetDict:
    """
    Class folders with captions in a `metadata.jsonl` lose their labels in `datasets` 5.2, and so does a split with
    images of one class alone. So labels are taken from the folder names here: the folder that directly holds an image,
    when there are at least two of them in a split; what lies in a folder called `unlabelled` has null. Splits are read
    one by one, as captions are wanted for training alone, and `datasets` wants the same columns in all of them.
    """
    archives = sorted(path.name for path in folder.iterdir() if path.suffix in (".gz", ".tgz", ".zip"))
    if archives:
        raise ValueError(f"dataset_name is {str(folder)!r}: unpack {archives[0]}, images are read from plain files.")
    splits = DatasetDict()
    for name, files in _folder_splits(folder).items():
        try:
            split = load_dataset("imagefolder", data_files={name: files}, drop_labels=True, split=name)
        except ValueError as error:
            raise FileNotFoundError(
                f"dataset_name is {str(folder)!r}: neither Parquet nor images there ({error})."
            ) from error
        splits[name] = split.cast_column("image", Image(decode=False))
        _warn_of_unlisted(splits[name], name, files)
    return _with_folder_labels(splits, folder)


def _with_folder_labels(splits: DatasetDict, root: Path) -> DatasetDict:
    """With `label`, where the files say nothing of it: a ClassLabel, or a string where other splits have names."""
    labels = {
        name: [_folder_label(image["path"], os.path.abspath(root)) for image in split["image"]]
        for name, split in splits.items()
        if columns.LABEL not in split.column_names
    }
    classes = {name: set(found) - {None} for name, found in labels.items()}
    names = sorted({label for found in classes.values() if len(found) > 1 for label in found})
    if told := [split for name, split in splits.items() if name not in labels]:
        names += [label for split in told for label in split.unique(columns.LABEL) if isinstance(label, str)]
    feature = Value("string") if told else ClassLabel(names=names)
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


def _warn_of_unlisted(split: Dataset, name: str, patterns: list[str]) -> None:
    """`datasets` leaves out images that a metadata file of their split does not name."""
    if split.column_names == ["image"]:  # without such a file
        return
    roots = [root for pattern in patterns for root in glob.glob(pattern.removesuffix("/**"))]
    count = 0
    for _, folders, files in (found for root in roots for found in os.walk(root)):
        folders[:] = [folder for folder in folders if not folder.startswith((".", "__"))]
        count += sum(os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES for file in files if not file.startswith("."))
    forgotten = count - len({image["path"] for image in split["image"]})
    if forgotten > 0:
        logger.warning(
            "Split %r: %s of %s images are in no line of its metadata file, and are left out. A line needs the "
            "file_name alone; null stands for what is not known.",
            *(name, f"{forgotten:,}", f"{count:,}"),
        )


def _folder_splits(folder: Path) -> dict[str, list[str]]:
    """
    The files of each split: one split a folder called train, validation, test, test_novel or the like; without any,
    all is `train`. `datasets` would take a class or a picture called `train` for a split and leave out the rest.
    """
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not (path / STAGE_FILE).is_file()]
    folders = [path for path in inside if not path.name.startswith((".", "__"))]
    named = {path: _split_name(path.name) for path in folders if _split_name(path.name) is not None}
    if len(named) < len(folders):  # between other classes, a folder of pictures called `train` is a class
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
    for split, words in SPLIT_FOLDERS.items():
        if folder in words:
            return split
        if re.split(r"[\W_\d]", folder)[0] in words:
            return re.sub(r"\W+", "_", folder)
    return None
