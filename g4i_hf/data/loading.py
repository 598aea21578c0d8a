"""Opening an image data set through one name, with the columns that the other stages expect."""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset, load_from_disk

from .. import columns
from .stage import join_stage, read_stage

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


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
        Splits with `image` (not decoded) and `image_id`; `label` as ClassLabel where the data has labels.

    Raises:
        ValueError: when there is no image column, or when labels are multi-label.
        FileNotFoundError: when nothing of that name exists.
    """
    stage = read_stage(dataset_name)
    if stage is not None and not stage.get("with_images"):
        source = stage["source"]
        if not Path(source).is_absolute() and (Path(dataset_name) / source).exists():
            source = str(Path(dataset_name) / source)
        images = load_images(source, config_name=config_name, revision=stage.get("source_revision"), names=names)
        return join_stage(images, dataset_name, stage)
    splits = _open(dataset_name, config_name, revision)
    return DatasetDict({name: _standardise(split, name, names or ColumnNames()) for name, split in splits.items()})


def _open(name: str, config_name: str | None, revision: str | None) -> DatasetDict:
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith("."):
            raise FileNotFoundError(f"dataset_name is {name!r}, but there is no such folder.")
        return load_dataset(name, config_name, revision=revision)
    if (folder / "dataset_dict.json").is_file():
        return load_from_disk(name)
    if (folder / "state.json").is_file():
        return DatasetDict(train=load_from_disk(name))
    readme = folder / "README.md"
    if readme.is_file() and re.search(r"^configs:", readme.read_text(errors="ignore"), re.M):
        return load_dataset(name, config_name)
    parquet = sorted(folder.rglob("*.parquet"))
    if parquet:
        # One split a file name: `datasets` would take test_novel.parquet for a part of the split `test`
        files: dict[str, list[str]] = {}
        for path in parquet:
            files.setdefault(re.sub(r"-\d{5}-of-\d{5}$", "", path.stem), []).append(str(path))
        return load_dataset("parquet", data_files=files)
    return _open_imagefolder(folder)


def _open_imagefolder(folder: Path) -> DatasetDict:
    """
    Class folders with captions in a `metadata.jsonl` lose their labels in `datasets` 5.2, so labels are taken from the
    folder names here: the folder that directly holds an image, when there are at least two of them in a split.
    """
    splits = load_dataset("imagefolder", data_dir=str(folder)).cast_column("image", Image(decode=False))
    classes = {}
    for name, split in splits.items():
        if columns.LABEL not in split.column_names:
            classes[name] = [Path(image["path"]).parent.name for image in split["image"]]
    names = sorted({label for labels in classes.values() for label in labels})
    for name, labels in classes.items():
        if len(set(labels)) > 1:
            logger.info("Split %s: %d class names taken from the folders.", name, len(set(labels)))
            splits[name] = splits[name].add_column(columns.LABEL, [names.index(label) for label in labels])
            splits[name] = splits[name].cast_column(columns.LABEL, ClassLabel(names=names))
    return splits


def _standardise(split: Dataset, split_name: str, names: ColumnNames) -> Dataset:
    renamed = {}
    for ours in columns.ALL:
        theirs = getattr(names, ours)
        if theirs and theirs != ours:
            if theirs not in split.column_names:
                raise ValueError(
                    f"Split {split_name!r} has no column {theirs!r} (given as {ours}_column). "
                    f"Its columns: {', '.join(split.column_names)}."
                )
            renamed[theirs] = ours
    in_the_way = [ours for ours in renamed.values() if ours in split.column_names]
    split = split.remove_columns(in_the_way).rename_columns(renamed)
    if columns.IMAGE not in split.column_names:
        raise ValueError(
            f"Split {split_name!r} has no column 'image'. Its columns: {', '.join(split.column_names)}. "
            "Name the right one with --image_column."
        )
    split = split.cast_column(columns.IMAGE, Image(decode=False))
    return _with_image_id(split)


def _with_image_id(split: Dataset) -> Dataset:
    if columns.IMAGE_ID in split.column_names:
        return split
    image_ids = []
    for image in split.select_columns([columns.IMAGE])[columns.IMAGE]:
        if image["path"] and Path(image["path"]).suffix.lower() in IMAGE_SUFFIXES:
            path = Path(image["path"])
            image_ids.append(f"{path.parent.name}/{path.name}" if path.parent.name else path.name)
        else:
            image_ids.append(hashlib.blake2b(image["bytes"], digest_size=12).hexdigest())
    if len(set(image_ids)) < len(image_ids):
        seen: dict[str, int] = {}
        for position, image_id in enumerate(image_ids):  # the same file twice: number the copies
            seen[image_id] = seen.get(image_id, 0) + 1
            if seen[image_id] > 1:
                image_ids[position] = f"{image_id}#{seen[image_id]}"
    return split.add_column(columns.IMAGE_ID, image_ids)


def class_names(splits: DatasetDict) -> tuple[DatasetDict, dict[int, str]]:
    """
    Makes `label` a ClassLabel in every split, with one list of names for all of them.

    Returns:
        The splits and the names by index.

    Raises:
        ValueError: without a label column, or when a row can have several labels.
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
        else:
            names = [str(i) for i in range(int(max(values)) + 1)]
    feature = ClassLabel(names=names)
    splits = DatasetDict(
        {
            name: split if features[name] in (None, feature) else _cast_label(split, feature)
            for name, split in splits.items()
        }
    )
    return splits, dict(enumerate(names))


def _cast_label(split: Dataset, feature: ClassLabel) -> Dataset:
    values = split[columns.LABEL][:]
    if any(isinstance(value, str) for value in values):
        unknown = sorted({value for value in values if value is not None and value not in feature.names})
        if unknown:
            raise ValueError(
                f"Column 'label' holds {unknown[0]!r}, which is none of the {feature.num_classes} classes."
            )
        return split.cast_column(columns.LABEL, feature)
    return split.remove_columns(columns.LABEL).add_column(columns.LABEL, values)
