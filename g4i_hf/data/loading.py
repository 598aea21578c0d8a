"""Opening an image data set through one name, with the columns that the other stages expect."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets

from .. import columns
from .chain import steps
from .hub_rows import check_files, file_columns
from .image_ids import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from .image_ids import with_image_ids
from .joining import join_captions
from .naming import check_dataset_name
from .opening import open_data
from .published import find_stage
from .source import Source, check_relative
from .stage import join_stage, open_stage

WEBDATASET_KEY, WEBDATASET_URL = "__key__", "__url__"  # columns that `datasets` gives a WebDataset


@dataclass
class ColumnNames:
    """What the data set calls its columns, where that differs from our names."""

    image: str | None = None
    label: str | None = None
    image_id: str | None = None
    caption: str | None = None
    text_embeds: str | None = None
    caption_weight: str | None = None


def open_images(
    dataset_name: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    names: ColumnNames | None = None,
    captions_name: str | None = None,
    captions_revision: str | None = None,
) -> DatasetDict:
    """
    Opens a data set and gives its columns our names.

    Args:
        dataset_name: a Hub id; a folder of Parquet files; an imagefolder (class folders, `metadata.jsonl`, or both);
            a folder written by `save_to_disk`; or the folder or Hub id of a stage, whose columns join those of its
            source.
        config_name: configuration of a Hub data set.
        revision: branch, tag or commit of a Hub data set.
        names: the data set's own column names.
        captions_name: Hub id or folder of captions or embeddings with the `image_id` of each; they are joined to the
            images, see [`~g4i_hf.data.joining.join_captions`].
        captions_revision: branch, tag or commit of theirs.

    Returns:
        Splits with `image` (not decoded) and `image_id`; for `label`, see [`class_names`]. Of a data set of the Hub,
        further columns of images, sound or other files are left out.

    Raises:
        ValueError: when there is no image column, a column that was named is missing, captions do not fit, a
            `stage.json` names an absolute path, or a row of the Hub names a file of this machine or an address of its
            network.
        FileNotFoundError: when nothing of that name exists.
    """
    given = {ours: theirs for ours, theirs in vars(names or ColumnNames()).items() if theirs}
    joins: list[Callable[[DatasetDict], DatasetDict]] = []
    for step in steps(Source(dataset_name, revision, config_name, given, captions_name, captions_revision)):
        source, stage = step.source, step.stage
        config_name = config_name or source.config
        given = source.columns | given
        if source.captions is not None:
            captions = _open_captions(source.captions, source.captions_revision, ColumnNames(**given))
            given = _of_images(given, captions)
            joins.append(partial(join_captions, captions=captions, what=source.captions))
        if stage is None or stage.get("with_images"):
            splits = _rows(source.name, config_name, source.revision, stage)
            names = ColumnNames(**given)
            hub_id = None if Path(source.name).is_dir() else source.name
            images = DatasetDict({name: standardise(split, name, names, hub_id) for name, split in splits.items()})
            for join in reversed(joins):
                images = join(images)
            return images
        check_relative(stage, source.name)
        joins.append(partial(_join, source=source, stage=stage))
    raise ValueError(
        f"{source.name} was published without its images, and does not say where they are. Name the images with "
        f"--dataset_name, and with --captions_name {source.name}."
    )


def _join(images: DatasetDict, source: Source, stage: dict[str, Any]) -> DatasetDict:
    """The columns of a stage beside its images, which for readers of a published one may be other ones by now."""
    if stage.get("published"):
        return join_captions(images, _rows(source.name, None, source.revision, stage), source.name)
    return join_stage(images, source.name, stage)


def _rows(name: str, config_name: str | None, revision: str | None, stage: dict[str, Any] | None) -> DatasetDict:
    """A data set as it is, of a stage its own columns alone."""
    if stage is not None and Path(name).is_dir():
        return open_stage(name, stage)
    return open_data(name, config_name, revision)


def _open_captions(name: str, revision: str | None, names: ColumnNames) -> DatasetDict:
    """With our names, as far as there are columns of theirs."""
    check_dataset_name(name, "captions_name")
    splits = _rows(name, None, revision, find_stage(name, revision))
    opened = {}
    for split_name, split in splits.items():
        known = {ours: theirs for ours, theirs in vars(names).items() if theirs in split.column_names}
        if columns.IMAGE_ID in split.column_names:
            known.pop(columns.IMAGE_ID, None)  # the images' name for it
        renamed = renamed_columns(split.column_names, split_name, ColumnNames(**known))
        in_the_way = [ours for ours in renamed.values() if ours in split.column_names]
        opened[split_name] = split.remove_columns(in_the_way).rename_columns(renamed)
    return DatasetDict(opened)


def _of_images(names: dict[str, str], captions: DatasetDict) -> dict[str, str]:
    """Without the names of what the captions hold."""
    held = {column for split in captions.values() for column in split.column_names}
    texts = {columns.CAPTION, columns.TEXT_EMBEDS, columns.CAPTION_WEIGHT} & held
    return {ours: theirs for ours, theirs in names.items() if ours not in texts}


def standardise(split: Dataset, split_name: str, names: ColumnNames, hub_id: str | None = None) -> Dataset:
    """
    The split with our column names, its images not decoded, and `image_id`; see [`open_images`].

    Args:
        hub_id: of a dataset of the Hub, see [`~g4i_hf.data.hub_rows.check_files`].
    """
    names, is_webdataset = webdataset_names(split.features, names), WEBDATASET_URL in split.features
    if fields := json_fields(split.features, names):
        flat = split.select_columns(list({column for column, _ in fields.values()})).flatten(max_depth=2)
        split = concatenate_datasets([split, flat.select_columns(list(fields))], axis=1)
    renamed = renamed_columns(split.column_names, split_name, names)
    in_the_way = [ours for ours in renamed.values() if ours in split.column_names]
    in_the_way += [WEBDATASET_URL] * (WEBDATASET_URL in split.column_names)
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
    if hub_id is not None:
        split = split.remove_columns([column for column in file_columns(split) if column != columns.IMAGE])
        check_files(split, split_name, hub_id)
    return with_image_ids(_with_fixed_length(split) if is_webdataset else split, split_name)


def _with_fixed_length(split: Dataset) -> Dataset:
    """With `text_embeds` as vectors of one length, which JSON cannot declare."""
    feature = split.features.get(columns.TEXT_EMBEDS)
    if not isinstance(feature, List) or feature.length > 0 or isinstance(feature.feature, List):
        return split
    vectors = split[columns.TEXT_EMBEDS][:]
    dim = next((len(vector) for vector in vectors if vector), -1)
    feature = List(Value("float16"), length=dim)
    return split.remove_columns(columns.TEXT_EMBEDS).add_column(columns.TEXT_EMBEDS, vectors, feature=feature)


def webdataset_names(features: Features, names: ColumnNames) -> ColumnNames:
    """Columns of a WebDataset that has the usual names: an image of any type, `cls`, `txt`; the key is the id."""
    if not {WEBDATASET_KEY, WEBDATASET_URL} <= set(features):
        return names
    images = [column for column, feature in features.items() if isinstance(feature, Image)]
    usual = {columns.IMAGE: images[0] if len(images) == 1 else None, columns.LABEL: "cls", columns.CAPTION: "txt"}
    usual[columns.IMAGE_ID] = WEBDATASET_KEY
    found = {ours: theirs for ours, theirs in usual.items() if theirs in features and ours not in features}
    return ColumnNames(**found | {ours: theirs for ours, theirs in vars(names).items() if theirs})


def json_fields(features: Features, names: ColumnNames) -> dict[str, tuple[str, str]]:
    """Of the names that are fields of a column, as in `json.caption`, the column and the field."""
    parts = {theirs: theirs.partition(".") for theirs in vars(names).values() if theirs and theirs not in features}
    of_columns = {theirs: (column, field) for theirs, (column, _, field) in parts.items()}
    return {
        theirs: (column, field)
        for theirs, (column, field) in of_columns.items()
        if isinstance(features.get(column), dict) and field in features[column]
    }


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


def with_class_names(splits: DatasetDict, names: list[str]) -> DatasetDict:
    """
    The splits with `label` as a ClassLabel of these names; a split without labels stays as it is.

    Raises:
        ValueError: for a label that is none of them.
    """
    feature = ClassLabel(names=names)
    named = {name: columns.LABEL in split.column_names for name, split in splits.items()}
    return DatasetDict(
        {name: _cast_label(split, name, feature) if named[name] else split for name, split in splits.items()}
    )


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
