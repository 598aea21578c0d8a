"""Open an image dataset by one name, with the columns `image`, `image_id`, `label` and `caption`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, Features, Image, concatenate_datasets

from .. import columns
from ..files import did_you_mean
from ..names import check_dataset_name, config_of
from ..options import DataArguments
from ..options.caller import called_from_python
from ..options.data import BY_FOLDER
from .class_file import (
    CLASSES_FILE,
    Classes,
    is_config,
    names_in_lines,
    names_of_labels,
    read_class_file,
    with_classes,
)
from .classes import ClassWords, class_names
from .groups import groups_of, with_groups
from .images import check_files, file_columns
from .joining import join_captions, with_image_ids
from .labels import LABELS_FILE, descriptions_in, with_answers
from .opening import STAGE_FILE, is_image_folder, open_data
from .record import content_digest, image_digests
from .stage import Source, chain_of, check_names_images, find_stage, join_stage, open_stage
from .texts import of_fixed_length


def load_images(dataset_name: str | Path, **options: Any) -> DatasetDict:
    """
    Open images with the columns `image` (not decoded), `image_id` and, if available, `label` (ClassLabel) and
    `caption`. Answers of `g4i label` override labels: those in `labels.jsonl` beside the images, or in `labels_file`.

    Args:
        dataset_name: folder with a folder per split and class and captions in `metadata.jsonl`; folder of Parquet
            files; `save_to_disk` folder; folder of a stage; or Hub id.
        options: other fields of [`~g4i_hf.options.DataArguments`], such as `caption_column` and `captions_name`.

    Raises:
        FileNotFoundError: if nothing has this name.
        ValueError: for data without images, or with invalid columns.
    """
    with called_from_python({ours: options.get(f"{ours}_column") for ours in columns.ALL}):
        splits = load_reviewed(DataArguments(str(dataset_name), **options))
        has_labels = any(columns.LABEL in split.column_names for split in splits.values())
        return class_names(splits)[0] if has_labels else splits


def load_data(data: DataArguments) -> DatasetDict:
    """[`open_images`] by options, with the classes of [`read_classes`] and `validation` by `validation_fraction`."""
    return _with_classes(data)[0]


def _with_classes(data: DataArguments) -> tuple[DatasetDict, Classes | None, dict[str, list[int]]]:
    """The splits, what a file says of their classes, and the rows of dropped ones by split."""
    splits = open_images(source_of(data))
    if is_config(data.class_names_file):  # labels, such as folders of days, are none of these classes
        has_label = {name for name, split in splits.items() if columns.LABEL in split.column_names}
        splits |= {name: splits[name].remove_columns(columns.LABEL) for name in has_label}
    classes = read_classes(data, splits)
    if classes is None:
        return splits, None, {}
    splits, dropped = with_classes(splits, classes)
    return splits, classes, dropped


def read_classes(data: DataArguments, splits: DatasetDict | None = None) -> Classes | None:
    """
    What `class_names_file`, `classes` or `classes.yaml` beside the images say of the classes; None without a file.
    Raises ValueError for all that is wrong with it; where it takes the data to see, with its `splits`.
    """
    if data.class_names_file is not None:
        return names_in_lines(data.class_names_file)
    file = data.classes or class_file_of(data)
    if data.classes is None and not (file and Path(file).is_file()):
        return None
    return read_class_file(str(file), None if splits is None else names_of_labels(splits))


def take_classes_of(run: str, data: DataArguments) -> None:
    """The images have the classes of a run."""
    for name in ("classes", "class_names_file"):
        if getattr(data, name):
            raise ValueError(f"run is {run!r}, whose classes these images have: leave {name} out.")
    data.class_names_file = str(config_of(run))


def class_file_of(data: DataArguments) -> Path | None:
    """The file beside the images, perhaps not there; None for the Hub."""
    *_, source = chain_of(source_of(data))
    return Path(source.name) / CLASSES_FILE if Path(source.name).is_dir() else None


def class_words(data: DataArguments, output_dir: str | Path | None = None) -> dict[str, ClassWords]:
    """By class, what [`read_classes`] says of it, or the description of a new class in `labels.jsonl`."""
    classes, file = read_classes(data), labels_file_of(data, output_dir)
    words = {} if classes is None else classes.words()
    for name, description in (descriptions_in(file) if file else {}).items():
        of_class = words.get(name, ClassWords())
        words[name] = replace(of_class, description=of_class.description or description)
    return words


def load_reviewed(
    data: DataArguments, output_dir: str | Path | None = None, keeps_no_class: bool = False
) -> DatasetDict:
    """
    [`load_data`] with the reviewed labels of `g4i label`, see [`~g4i_hf.data.labels.with_answers`]. If the data is not
    an image folder, they are in `output_dir`, and `labels_file` is set to that file for later runs. Images of dropped
    classes are of no class.
    """
    if data.labels_file and not Path(data.labels_file).is_file():
        raise FileNotFoundError(f"labels_file is {data.labels_file!r}, but there is no such file.")
    (splits, classes, dropped), root = _with_classes(data), images_root(data)
    file = labels_file_of(data, output_dir)
    has_answers = file is not None and file.is_file()
    if has_answers and root is None:
        data.labels_file = str(file)
    return with_answers(splits, file if has_answers else None, root, keeps_no_class, classes, dropped)


def images_root(data: DataArguments) -> Path | None:
    """The folder of image files that the data comes from; None for Parquet or the Hub."""
    *_, source = chain_of(source_of(data))
    return Path(source.name) if is_image_folder(source.name) else None


def default_folder(dataset_name: str) -> str:
    """`runs/pictures` for the folder `pictures`, and for the captions that were written into `runs/pictures`."""
    folder = Path(dataset_name)
    if not folder.is_dir():
        return f"runs/{dataset_name.replace('/', '--')}"
    folder = folder.resolve()
    is_stage_of_a_fit = (folder / STAGE_FILE).is_file() and folder.parent.parent.name == "runs"
    return f"runs/{folder.parent.name if is_stage_of_a_fit else folder.name}"


def labels_file_of(data: DataArguments, output_dir: str | Path | None = None) -> Path | None:
    """The file with reviewed labels; None if it could only be in an `output_dir`."""
    folder = images_root(data) or output_dir
    if data.labels_file:
        return Path(data.labels_file)
    return None if folder is None else Path(folder) / LABELS_FILE


def hold_out(splits: DatasetDict, fraction: float) -> DatasetDict:
    """
    Move a share of each class of `train` to `validation`: two rows of a class or more, but at most half of them. The
    content of images determines the choice. Equal images, and those of a group, stay together, also unlabelled ones;
    other unlabelled rows, and images with several labels, stay in `train`. Data with a `validation` is unchanged.
    Raises ValueError if no class has two different labelled images, or groups.
    """
    if "train" not in splits or "validation" in splits:
        return splits
    training = splits["train"]
    if columns.LABEL not in training.column_names:
        return class_names(splits)[0]  # raises
    rows = pd.DataFrame(image_digests(training) | {"label": training[columns.LABEL][:]})
    # An unreadable image equals no other
    rows["image"] = rows[columns.IMAGE_DIGEST].fillna(rows[columns.IMAGE_ID])
    labelled = rows[rows["label"].notna() & ~rows["label"].isin([-1, ""])]
    unambiguous = labelled[labelled.groupby("image")["label"].transform("nunique") == 1]
    rows["group"] = rows["image"]
    if columns.GROUP in training.column_names:
        contents = [int(content_digest(image.encode())[:15], 16) for image in rows["image"]]
        rows["group"] = groups_of(training[columns.GROUP][:], np.array(contents))
    counts, of_class = defaultdict[Any, dict[Any, int]](dict), defaultdict[Any, list[Any]](list)
    for (group, label), count in rows.loc[unambiguous.index].groupby(["group", "label"]).size().items():
        counts[group][label] = count
        of_class[label].append(group)
    held_out, moved = set[Any](), Counter[Any]()
    sizes = unambiguous["label"].value_counts().sort_index()
    for label, size in sizes.items():
        for group in of_class[label]:
            if moved[label] >= max(round(fraction * size), 2):
                break
            of_group = counts[group].items()
            if group not in held_out and all(moved[each] + count <= sizes[each] // 2 for each, count in of_group):
                held_out.add(group)
                moved.update(counts[group])
    if not held_out:
        differ = "of two groups" if columns.GROUP in training.column_names else "that differ"
        what = f"No class of the split 'train' has two labelled images {differ}: none can be held out as validation"
        raise ValueError(f"{what}. Label more images, or give the data a split 'validation' with labels.")
    is_held_out = rows["group"].isin(held_out)
    parts = {"train": np.flatnonzero(~is_held_out), "validation": np.flatnonzero(is_held_out)}
    return DatasetDict({**splits, **{name: training.select(part) for name, part in parts.items()}})


def check_has_split(splits: Iterable[str], name: str, option: str = "") -> None:
    """Raise ValueError for a split that the data lacks; `option` is the option that names it."""
    if name not in splits:
        place = f" ({option})" if option else ""
        raise ValueError(f"The data has no split {name!r}{place}. It has: {', '.join(splits)}.")


def source_of(data: DataArguments) -> Source:
    """The source that a stage records for these options."""
    named = {ours: theirs for ours in columns.ALL if (theirs := getattr(data, f"{ours}_column", None))}
    captions = (data.captions_name, data.captions_revision)
    images = (data.dataset_name, data.dataset_revision, data.dataset_config_name, named)
    return Source(*images, *captions, data.validation_fraction, data.group_by)


def open_images(source: str | Source) -> DatasetDict:
    """
    The datasets of [`load_images`], with labels as stored. The columns of a stage are joined to its images. Other
    columns of images, audio or files are dropped.

    Raises FileNotFoundError if nothing has this name; ValueError without an image column or a named column, for
    captions of other images, an absolute path in a `stage.json`, or a local file in a row of the Hub.
    """
    return _opened(chain_of(Source.of(source)), {}, None)


def _opened(chain: Iterator[Source], names: dict[str, str], config: str | None) -> DatasetDict:
    """
    The first dataset of a chain: its images, or those of the next one with its columns; then joined with captions, and
    with its validation split. `names` are the names of columns by ours, and `config` a configuration; both override
    those of the chain.
    """
    source = next(chain)
    stage = source.stage
    config, names, captions = config or source.config, source.columns | names, None
    if source.captions is not None:
        captions = _open_captions(source.captions, source.captions_revision, names)
        present = {column for split in captions.values() for column in split.column_names}
        replaced = {columns.CAPTION, columns.TEXT_EMBEDS} & present
        names = {ours: theirs for ours, theirs in names.items() if ours not in replaced}
    if stage is None or stage.get("with_images"):
        label, by_folder = names.get(columns.LABEL, columns.LABEL), source.group_by == BY_FOLDER
        splits = _rows(source.name, config, source.revision, stage, label, by_folder)
        hub_id = None if Path(source.name).is_dir() else source.name
        images = DatasetDict({name: standardise(split, name, names, hub_id) for name, split in splits.items()})
    else:
        check_names_images(stage, source.name)
        images = _opened(chain, names, config)
        if stage.get("published"):  # its images may have changed since
            images = join_captions(images, _rows(source.name, None, source.revision, stage), source.name)
        else:
            images = join_stage(images, source.name, stage)
    if captions is not None:
        images = join_captions(images, captions, source.captions)
    images = with_groups(images, source.group_by)
    return hold_out(images, source.validation_fraction) if source.validation_fraction else images


def _rows(
    name: str,
    config: str | None,
    revision: str | None,
    stage: dict[str, Any] | None,
    label: str = columns.LABEL,
    scenes_in_folders: bool = False,
) -> DatasetDict:
    """A dataset as stored, see [`open_data`]; of a stage without its images."""
    if stage is not None and Path(name).is_dir():
        return open_stage(name, stage)
    return open_data(name, config, revision, label, scenes_in_folders)


def _open_captions(name: str, revision: str | None, names: dict[str, str]) -> DatasetDict:
    """Captions to join, with our column names."""
    check_dataset_name(name, "captions_name")
    opened = DatasetDict()
    for split_name, split in _rows(name, None, revision, find_stage(name, revision)).items():
        known = {ours: theirs for ours, theirs in names.items() if theirs in split.column_names}
        if columns.IMAGE_ID in split.column_names:
            known.pop(columns.IMAGE_ID, None)  # the name in the images
        opened[split_name] = _renamed(split, known)
    return opened


def standardise(split: Dataset, split_name: str, names: dict[str, str], hub_id: str | None = None) -> Dataset:
    """The split with our columns. `names`: its names of them; `hub_id`: whose rows may not name local files."""
    current = our_columns(split.features, split_name, names)
    if fields := [theirs for theirs in current.values() if theirs not in split.features]:
        holders = list({theirs.partition(".")[0] for theirs in fields})
        flat = split.select_columns(holders).flatten(max_depth=2)
        split = concatenate_datasets([split, flat.select_columns(fields)], axis=1)
    if split.format["type"] == "custom":
        what = f"Split {split_name!r} has a transform (set_transform), which would not be applied"
        raise ValueError(f"{what}: write its result into the columns with map, or remove it: with_format(None).")
    split = _renamed(split.with_format(None), current)
    if columns.IMAGE not in split.column_names:
        raise ValueError(
            f"Split {split_name!r} has no column 'image'. {columns.its_columns(columns.IMAGE, split.column_names)}"
        )
    try:
        split = split.cast_column(columns.IMAGE, Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        what = f"{split.features[columns.IMAGE]} is no image"
        raise ValueError(f"Split {split_name!r}, column 'image': {what}. Name another with --image_column.") from error
    # Which `datasets` would open with any row, in whatever format
    split = split.remove_columns([column for column in file_columns(split) if column != columns.IMAGE])
    if hub_id is not None:
        check_files(split, split_name, hub_id)
    return with_image_ids(of_fixed_length(split, split_name), split_name)


def _renamed(split: Dataset, named: dict[str, str]) -> Dataset:
    """Rename columns to ours; another column of the same name is dropped."""
    renamed = {theirs: ours for ours, theirs in named.items() if theirs != ours}
    in_the_way = [name for name in renamed.values() if name in split.column_names]
    return split.remove_columns(in_the_way).rename_columns(renamed)


def our_columns(features: Features, split_name: str, names: dict[str, str]) -> dict[str, str]:
    """Our columns that the data has, and its name for each: a column, or a field such as `json.caption`."""
    current = {}
    for ours in columns.ALL:
        theirs = names.get(ours, ours)
        if feature_of(features, theirs) is not None:
            current[ours] = theirs
        elif theirs != ours:
            raise ValueError(
                f"Split {split_name!r} has no column {theirs!r} (given as {ours}_column). "
                f"Its columns: {', '.join(features)}.{did_you_mean(theirs, features)}"
            )
    return current


def feature_of(features: Features, name: str) -> Any:
    """The feature of a column or a field; None without one."""
    column, _, field = name.partition(".")
    of_column = features.get(column)
    return features.get(name) or (of_column.get(field) if isinstance(of_column, dict) else None)
