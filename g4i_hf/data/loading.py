"""Open an image dataset by one name, with the columns `image`, `image_id`, `label` and `caption`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from .. import columns
from ..files import did_you_mean
from ..names import check_dataset_name
from ..options import DataArguments
from .classes import class_names, read_class_names, with_class_names
from .images import check_files, file_columns
from .joining import join_captions, with_image_ids
from .labels import LABELS_FILE, with_answers
from .opening import is_image_folder, open_data
from .record import image_digests
from .stage import Link, Source, chain_of, check_names_images, find_stage, join_stage, open_stage


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
    """[`open_images`] by options, with classes of `class_names_file` and `validation` by `validation_fraction`."""
    splits, names = open_images(source_of(data)), read_class_names(data)
    if names is None:
        return splits
    unlabelled = ClassLabel(names=names)
    for name, split in splits.items():
        if columns.LABEL not in split.column_names:
            splits[name] = split.add_column(columns.LABEL, [None] * len(split), feature=unlabelled)
    return with_class_names(splits, names, f"of {data.class_names_file}")


def load_reviewed(data: DataArguments, output_dir: str | Path | None = None) -> DatasetDict:
    """
    [`load_data`] with the labels that a person gave in `g4i label`, see [`~g4i_hf.data.labels.with_answers`]. Those of
    data that are no folder of images are in `output_dir`: then `labels_file` names them, for runs made of the data.
    """
    if data.labels_file and not Path(data.labels_file).is_file():
        raise FileNotFoundError(f"labels_file is {data.labels_file!r}, but there is no such file.")
    splits, root, file = load_data(data), images_root(data), labels_file_of(data, output_dir)
    if file is None or not file.is_file():
        return splits
    if root is None:
        data.labels_file = str(file)
    return with_answers(splits, file, root)


def images_root(data: DataArguments) -> Path | None:
    """The folder of image files that the data come from; None where they come from Parquet or the Hub."""
    *_, (source, _) = chain_of(source_of(data))
    return Path(source.name) if is_image_folder(source.name) else None


def labels_file_of(data: DataArguments, output_dir: str | Path | None = None) -> Path | None:
    """Where the labels are that a person gave; None where only an `output_dir` would have a place for them."""
    folder = images_root(data) or output_dir
    if data.labels_file:
        return Path(data.labels_file)
    return None if folder is None else Path(folder) / LABELS_FILE


def hold_out(splits: DatasetDict, fraction: float) -> DatasetDict:
    """
    Takes a share of each class of `train` as `validation`: two rows of a class or more, but never above half of them.
    Which images is decided by their content alone. Equal images stay together: unlabelled copies go along. Other rows
    without a label, and images with several labels, stay where they are. Where the data has a `validation`, it is
    unchanged. A ValueError when no class has two labelled images that differ.
    """
    if "train" not in splits or "validation" in splits:
        return splits
    training = splits["train"]
    if columns.LABEL not in training.column_names:
        return class_names(splits)[0]  # says so
    rows = pd.DataFrame(image_digests(training) | {"label": training[columns.LABEL][:]})
    # One that cannot be read equals no other
    rows["image"] = rows[columns.IMAGE_DIGEST].fillna(rows[columns.IMAGE_ID])
    labelled = rows[rows["label"].notna() & ~rows["label"].isin([-1])]
    unambiguous = labelled[labelled.groupby("image")["label"].transform("nunique") == 1]
    chosen: list[str] = []
    for _, of_class in unambiguous.groupby("label"):
        most, count = len(of_class) // 2, 0
        for image, copies in of_class["image"].value_counts().sort_index().items():
            if count >= max(round(fraction * len(of_class)), 2):
                break
            if count + copies <= most:
                chosen.append(image)
                count += copies
    if not chosen:
        what = "No class of the split 'train' has two labelled images that differ: none can be held out as validation"
        raise ValueError(f"{what}. Label more images, or give the data a split 'validation' with labels.")
    is_held_out = rows["image"].isin(chosen)
    parts = {"train": np.flatnonzero(~is_held_out), "validation": np.flatnonzero(is_held_out)}
    return DatasetDict({**splits, **{name: training.select(part) for name, part in parts.items()}})


def check_has_split(splits: Iterable[str], name: str, option: str = "") -> None:
    """A ValueError for a split that the data does not have; `option` is what named it."""
    if name not in splits:
        place = f" ({option})" if option else ""
        raise ValueError(f"The data has no split {name!r}{place}. It has: {', '.join(splits)}.")


def source_of(data: DataArguments) -> Source:
    """The options as a stage records them."""
    named = {ours: theirs for ours in columns.ALL if (theirs := getattr(data, f"{ours}_column"))}
    captions = (data.captions_name, data.captions_revision)
    images = (data.dataset_name, data.dataset_revision, data.dataset_config_name, named)
    return Source(*images, *captions, data.validation_fraction)


def open_images(source: str | Source) -> DatasetDict:
    """
    Opens what [`load_images`] opens, labels as they are. The columns of a stage are joined to its images. Of a dataset
    on the Hub, other columns of images, sound or files are left out.

    A FileNotFoundError when nothing of that name exists; a ValueError when there is no image column, a column that was
    named is missing, captions do not fit, a `stage.json` names an absolute path, or a row of the Hub a local file.
    """
    return _opened(chain_of(Source.of(source)), {}, None)


def _opened(chain: Iterator[Link], given: dict[str, str], config: str | None) -> DatasetDict:
    """
    The first dataset of a chain: its own images, or those of the next with its columns; then the captions that it
    joins, and the split that it holds out. `given` are names of columns by ours, and `config` a configuration, which
    go before those of the chain.
    """
    source, stage = next(chain)
    config, given, captions = config or source.config, source.columns | given, None
    if source.captions is not None:
        captions = _open_captions(source.captions, source.captions_revision, given)
        held = {column for split in captions.values() for column in split.column_names}
        replaced = {columns.CAPTION, columns.TEXT_EMBEDS} & held
        given = {ours: theirs for ours, theirs in given.items() if ours not in replaced}
    if stage is None or stage.get("with_images"):
        splits = _rows(source.name, config, source.revision, stage, given.get(columns.LABEL, columns.LABEL))
        hub_id = None if Path(source.name).is_dir() else source.name
        images = DatasetDict({name: standardise(split, name, given, hub_id) for name, split in splits.items()})
    else:
        check_names_images(stage, source.name)
        images = _opened(chain, given, config)
        if stage.get("published"):  # its images may have changed since
            images = join_captions(images, _rows(source.name, None, source.revision, stage), source.name)
        else:
            images = join_stage(images, source.name, stage)
    if captions is not None:
        images = join_captions(images, captions, source.captions)
    return hold_out(images, source.validation_fraction) if source.validation_fraction else images


def _rows(
    name: str, config: str | None, revision: str | None, stage: dict[str, Any] | None, label: str = columns.LABEL
) -> DatasetDict:
    """A dataset as it is stored, see [`open_data`]; of a stage without its images."""
    if stage is not None and Path(name).is_dir():
        return open_stage(name, stage)
    return open_data(name, config, revision, label)


def _open_captions(name: str, revision: str | None, given: dict[str, str]) -> DatasetDict:
    """Captions to be joined, with our names of columns."""
    check_dataset_name(name, "captions_name")
    opened = DatasetDict()
    for split_name, split in _rows(name, None, revision, find_stage(name, revision)).items():
        known = {ours: theirs for ours, theirs in given.items() if theirs in split.column_names}
        if columns.IMAGE_ID in split.column_names:
            known.pop(columns.IMAGE_ID, None)  # the images' name for it
        opened[split_name] = _renamed(split, known)
    return opened


def standardise(split: Dataset, split_name: str, given: dict[str, str], hub_id: str | None = None) -> Dataset:
    """
    The split with our columns, see [`open_images`]. `given` has its names of columns, by ours; `hub_id` is that of a
    dataset on the Hub, whose rows may not name local files.
    """
    found = our_columns(split.features, split_name, given)
    if fields := [theirs for theirs in found.values() if theirs not in split.features]:
        holders = list({theirs.partition(".")[0] for theirs in fields})
        flat = split.select_columns(holders).flatten(max_depth=2)
        split = concatenate_datasets([split, flat.select_columns(fields)], axis=1)
    split = _renamed(split, found)
    if columns.IMAGE not in split.column_names:
        raise ValueError(
            f"Split {split_name!r} has no column 'image'. {columns.its_columns(columns.IMAGE, split.column_names)}"
        )
    try:
        split = split.cast_column(columns.IMAGE, Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        what = f"{split.features[columns.IMAGE]} is no image"
        raise ValueError(f"Split {split_name!r}, column 'image': {what}. Name another with --image_column.") from error
    if hub_id is not None:
        split = split.remove_columns([column for column in file_columns(split) if column != columns.IMAGE])
        check_files(split, split_name, hub_id)
    return with_image_ids(split, split_name)


def _renamed(split: Dataset, named: dict[str, str]) -> Dataset:
    """Renames columns to ours; another column of the same name is removed."""
    renamed = {theirs: ours for ours, theirs in named.items() if theirs != ours}
    in_the_way = [name for name in renamed.values() if name in split.column_names]
    return split.remove_columns(in_the_way).rename_columns(renamed)


def our_columns(features: Features, split_name: str, given: dict[str, str]) -> dict[str, str]:
    """
    Our columns that the data has, and its name for each: a column, or a field as in `json.caption`. Names that are
    `given` must be there.
    """
    found = {}
    for ours in columns.ALL:
        theirs = given.get(ours, ours)
        if feature_of(features, theirs) is not None:
            found[ours] = theirs
        elif theirs != ours:
            raise ValueError(
                f"Split {split_name!r} has no column {theirs!r} (given as {ours}_column). "
                f"Its columns: {', '.join(features)}.{did_you_mean(theirs, features)}"
            )
    return found


def feature_of(features: Features, name: str) -> Any:
    """The feature of a column or a field; None where there is none."""
    column, _, field = name.partition(".")
    of_column = features.get(column)
    return features.get(name) or (of_column.get(field) if isinstance(of_column, dict) else None)
