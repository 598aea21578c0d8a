"""Opening an image data set through one name, with the columns that the other stages expect."""

import glob
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset, load_from_disk

from .. import columns
from .image_ids import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from .image_ids import with_image_ids
from .stage import STAGE_FILE, join_stage, read_stage

logger = logging.getLogger(__name__)

# Folders of an imagefolder that are splits, as `datasets` reads them; also with an ending, as in test_novel
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass
class ColumnNames:
    """What the data set calls its columns, where that differs from our names."""

    image: str | None = None
    label: str | None = None
    image_id: str | None = None
    caption: str | None = None
    text_embeds: str | None = None
    caption_weight: str | None = None


def load_images(
    dataset_name: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    names: ColumnNames | None = None,
) -> DatasetDict:
    """
    Opens a data set and gives its columns our names.

    Args:
        dataset_name: a Hub id; a folder of Parquet files; an imagefolder (class folders, `metadata.jsonl`, or both);
            a folder written by `save_to_disk`; or the folder of a stage, whose columns join those of its source.
        config_name: configuration of a Hub data set.
        revision: branch, tag or commit of a Hub data set.
        names: the data set's own column names.

    Returns:
        Splits with `image` (not decoded) and `image_id`; for `label`, see [`class_names`].

    Raises:
        ValueError: when there is no image column, or a column that was named is missing.
        FileNotFoundError: when nothing of that name exists.
    """
    stage = read_stage(dataset_name)
    if stage is not None and not stage.get("with_images"):
        source = stage["source"]
        if not Path(source).is_absolute() and (Path(dataset_name) / source).exists():
            source = str(Path(dataset_name) / source)
        elif source.startswith("."):
            raise FileNotFoundError(
                f"{dataset_name} holds no images: they are those of {source}, seen from there, and that folder is "
                "gone. Put it back, or run the stage again on the images."
            )
        images = load_images(source, config_name=config_name, revision=stage.get("source_revision"), names=names)
        return join_stage(images, dataset_name, stage)
    if stage is not None:  # its README.md and report are no data
        files = {split: glob.escape(str(Path(dataset_name) / f"{split}.parquet")) for split in stage["num_rows"]}
        splits = load_dataset("parquet", data_files=files)
    else:
        splits = _open(dataset_name, config_name, revision)
    return DatasetDict({name: _standardise(split, name, names or ColumnNames()) for name, split in splits.items()})


def check_dataset_name(name: str) -> None:
    """
    Raises:
        FileNotFoundError: for a folder that is not there; whether the Hub has a data set is not asked.
    """
    looks_local = name.startswith((".", "~", "/")) or name.endswith("/") or name.count("/") > 1  # no Hub id does
    if looks_local and not Path(name).is_dir():
        raise FileNotFoundError(f"dataset_name is {name!r}, but there is no such folder.")


def _open(name: str, config_name: str | None, revision: str | None) -> DatasetDict:
    folder = Path(name)
    check_dataset_name(name)
    if not folder.is_dir():
        return load_dataset(name, config_name, revision=revision)
    if (folder / "dataset_dict.json").is_file():
        return load_from_disk(name)
    if (folder / "state.json").is_file():
        return DatasetDict(train=load_from_disk(name))
    readme = folder / "README.md"
    if readme.is_file() and re.search(r"^configs:", readme.read_text("utf-8", "ignore"), re.M):
        return load_dataset(name, config_name)
    parquet = _parquet_splits(folder)
    return load_dataset("parquet", data_files=parquet) if parquet else _open_imagefolder(folder)


def _parquet_splits(folder: Path) -> dict[str, list[str]]:
    """
    The files of each split: one split a file name without the number of its shard, or a folder name where the files
    only have numbers. `datasets` would take test_novel.parquet for a part of the split `test`.
    """
    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
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
    when there are at least two of them in a split.
    """
    archives = sorted(path.name for path in folder.iterdir() if path.suffix in (".gz", ".tar", ".tgz", ".zip"))
    if archives:
        raise ValueError(f"dataset_name is {str(folder)!r}: unpack {archives[0]}, images are read from plain files.")
    try:
        splits = load_dataset("imagefolder", data_files=_folder_splits(folder), drop_labels=True)
    except ValueError as error:
        raise FileNotFoundError(
            f"dataset_name is {str(folder)!r}: neither Parquet nor images there ({error})."
        ) from error
    splits = splits.cast_column("image", Image(decode=False))
    classes = {}
    for name, split in splits.items():
        if columns.LABEL not in split.column_names:
            classes[name] = [Path(image["path"]).parent.name for image in split["image"]]
    names = sorted({label for labels in classes.values() if len(set(labels)) > 1 for label in labels})
    for name, split in splits.items():
        labels = classes.get(name, [])
        if labels and set(labels) <= set(names):
            logger.info("Split %s: %d class names taken from the folders.", name, len(set(labels)))
            labels = [names.index(label) for label in labels]
            splits[name] = split.add_column(columns.LABEL, labels, feature=ClassLabel(names=names))
    return splits


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


def _standardise(split: Dataset, split_name: str, names: ColumnNames) -> Dataset:
    renamed = renamed_columns(split.column_names, split_name, names)
    in_the_way = [ours for ours in renamed.values() if ours in split.column_names]
    split = split.remove_columns(in_the_way).rename_columns(renamed)
    if columns.IMAGE not in split.column_names:
        raise ValueError(
            f"Split {split_name!r} has no column 'image'. Its columns: {', '.join(split.column_names)}. "
            "Name the right one with --image_column."
        )
    try:
        split = split.cast_column(columns.IMAGE, Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"Split {split_name!r}, column 'image': {split.features[columns.IMAGE]} is no image. Name the right "
            "column with --image_column."
        ) from error
    return with_image_ids(split, split_name)


def renamed_columns(available: list[str], split_name: str, names: ColumnNames) -> dict[str, str]:
    """
    Our names of the columns that the data calls otherwise.

    Raises:
        ValueError: when a column that was named is missing.
    """
    renamed = {}
    for ours in columns.ALL:
        theirs = getattr(names, ours)
        if theirs and theirs != ours:
            if theirs not in available:
                raise ValueError(
                    f"Split {split_name!r} has no column {theirs!r} (given as {ours}_column). "
                    f"Its columns: {', '.join(available)}."
                )
            renamed[theirs] = ours
    return renamed


def class_names(splits: DatasetDict) -> tuple[DatasetDict, dict[int, str]]:
    """
    Makes `label` a ClassLabel in every split, with one list of names for all of them.

    Returns:
        The splits and the names by index.

    Raises:
        ValueError: without a label column, when a row can have several labels, or when labels are no class names.
    """
    features = {name: split.features.get(columns.LABEL) for name, split in splits.items()}
    present = {name: feature for name, feature in features.items() if feature is not None}
    if not present:
        available = sorted({column for split in splits.values() for column in split.column_names})
        raise ValueError(
            f"No column 'label' in the data. Its columns: {', '.join(available)}. Name the right one with "
            "--label_column."
        )
    for name, feature in present.items():
        if not isinstance(feature, ClassLabel) and not hasattr(feature, "dtype"):
            raise ValueError(
                f"Column 'label' of split {name!r} holds lists: multi-label data is not supported. Give one class a "
                "row, or name another column with --label_column."
            )
    names = next((feature.names for feature in present.values() if isinstance(feature, ClassLabel)), None)
    if names is None:
        values = {value for name in present for value in splits[name].unique(columns.LABEL) if value is not None}
        if all(isinstance(value, str) for value in values):
            names = sorted(values)
        elif all(isinstance(value, int) for value in values):
            names = [str(i) for i in range(max(values) + 1)]
        else:
            kinds = ", ".join(sorted({feature.dtype for feature in present.values()}))
            raise ValueError(
                f"Column 'label' holds {kinds}: no class names or class numbers. Store labels as strings, integers or "
                "ClassLabel, the same in every split, or name another column with --label_column."
            )
    feature = ClassLabel(names=names)
    splits = DatasetDict(
        {
            name: split if features[name] in (None, feature) else _cast_label(split, name, feature)
            for name, split in splits.items()
        }
    )
    return splits, dict(enumerate(names))


def _cast_label(split: Dataset, split_name: str, feature: ClassLabel) -> Dataset:
    """The labels as `feature`, matched by name where they have names."""
    values, own = split[columns.LABEL][:], split.features[columns.LABEL]
    if isinstance(own, ClassLabel):
        values = [own.names[i] if i is not None and 0 <= i < own.num_classes else i for i in values]
    unknown = [row for row, value in enumerate(values) if isinstance(value, str) and value not in feature.names]
    if unknown:
        raise ValueError(
            f"Split {split_name!r}, column 'label', row {unknown[0]}: {values[unknown[0]]!r} is none of the "
            f"{feature.num_classes} classes of the other splits. Correct the label, or add the class there."
        )
    values = [feature.str2int(value) if isinstance(value, str) else value for value in values]
    split = split.remove_columns(columns.LABEL)
    if all(value is None or -1 <= value < feature.num_classes for value in values):
        return split.add_column(columns.LABEL, values, feature=feature)
    return split.add_column(columns.LABEL, values)  # out of range: `check_split` says where
