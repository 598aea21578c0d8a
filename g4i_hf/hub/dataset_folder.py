"""From a stage to a data set for everyone: Parquet files, a card, and what is public of its provenance."""

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image, Value, load_dataset_builder
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import DatasetCard
from tqdm import tqdm

from .. import columns
from ..captioning.stage import RAW, REASON, STATUS
from ..data.image_metadata import without_metadata
from ..data.joining import check_image_ids, id_form
from ..data.loading import class_names, open_images
from ..data.stage import STAGE_FILE, Source, find_stage, join_stage, open_stage, read_stage
from ..files import replacing
from .captions_card import captions_card
from .licences import licence_fields
from .named_images import check_named_images
from .public_stage import public_stage

logger = logging.getLogger(__name__)

TEXTS = (columns.CAPTION, columns.CAPTION_WEIGHT, STATUS, REASON, RAW, columns.TEXT_EMBEDS)
ROWS, ROWS_WITH_IMAGES = 10_000, 100  # of a row group: the Hub's viewer reads one at a time
LOCAL_ID = r"^(~|/|[A-Za-z]:[\\/]|file:)|\\"
THREADS = 8


def build_dataset(
    stage: str | Path,
    output_dir: str | Path,
    *,
    with_images: bool = False,
    images_id: str | None = None,
    license: str | None = None,
    repo_id: str | None = None,
    max_shard_size: int | str = "500MB",
) -> Path:
    """
    Writes the captions or embeddings of a stage as a folder that `load_dataset` opens, there or pushed to the Hub. The
    captions of embeddings come along. It is written beside its place and renamed when the card has been validated. The
    same stage gives the same bytes.

    Args:
        stage: folder of a captioning or embedding stage.
        output_dir: where the data set goes; an earlier one is replaced.
        with_images: publish images and labels too, without their metadata (see
            [`~g4i_hf.data.image_metadata.without_metadata`]). Otherwise rows are known by `image_id`.
        images_id: Hub id of the images, where the stage knows them as a local folder; where it can be read, some ids
            there are compared with those of the stage.
        license: identifier of the Hub, as in `cc-by-4.0`, or the name of another; `other` by default.
        repo_id: what the card passes to `load_dataset`.
        max_shard_size: most of a Parquet file, in bytes or as in `"500MB"`.

    Returns:
        The folder.

    Raises:
        ValueError: when it is no stage, the license is misspelt, an image cannot be read, an id is a path of this
            machine, the card is not valid, `repo_id` is that of the images, the ids of those in `images_id` are
            others, or `output_dir` holds something else.
        FileNotFoundError: when the images or captions of the stage are gone.
    """
    stage, output_dir = Path(stage), Path(output_dir)
    _check(stage, output_dir, license)
    max_bytes = convert_file_size_to_int(max_shard_size)
    splits = _rows(stage, with_images)
    features = _common_features(splits, with_images)
    for name, split in splits.items():
        _check_ids(split, name)
    public = public_stage(stage, with_images=with_images, images_id=images_id) | {
        "num_rows": {name: len(split) for name, split in splits.items()},
        "columns": list(features),
    }
    _check_source(public, repo_id)
    has_ids = check_named_images(public, splits) if images_id and not with_images else None
    public["ids_from"] = "column" if has_ids else _ids_from(splits)
    date = datetime.fromtimestamp((stage / STAGE_FILE).stat().st_mtime, UTC).date().isoformat()
    card = captions_card(public, repo_id=repo_id or "path/to/captions", date=date, license=license)
    with replacing(output_dir) as folder:
        (folder / "data").mkdir()
        card.save(folder / "README.md")
        for name, split in splits.items():
            _write_split(split, name, features, folder / "data", max_bytes)
        (folder / STAGE_FILE).write_text(json.dumps(public, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _validate(folder, list(splits))
    return output_dir


def _check(stage: Path, output_dir: Path, license: str | None) -> None:
    made = read_stage(stage)
    if made is None:
        raise ValueError(f"{stage} is no stage: it holds no {STAGE_FILE}. Name a folder of captions or embeddings.")
    if made.get("published"):
        raise ValueError(f"{stage} is a data set that was made of a stage already. Push it as it is.")
    is_ours = (read_stage(output_dir) or {}).get("published")
    if output_dir.exists() and not is_ours and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} holds something else than such a data set. Choose another --dataset_dir.")
    licence_fields(license)


def _check_source(public: dict[str, Any], repo_id: str | None) -> None:
    """
    Raises:
        ValueError: when a stage would be published as the data set of the images that it belongs to.
    """
    ours, theirs = (repo_id or "").lower(), (public["source"] or "").lower()
    if ours and (ours == theirs or ("/" not in ours and ours == theirs.split("/")[-1])):
        raise ValueError(
            f"repo_id is {repo_id}, and the images are {public['source']}: what is published there would point at "
            "itself. Give it an id of its own, with its namespace, as in me/my-captions."
        )
    if public.get("source_name") and not public["with_images"]:
        logger.warning(
            "The images are a local folder (%s), which readers cannot open: if the Hub has them, name that data set "
            "with --images_id.",
            public["source_name"],
        )


# --- Rows --------------------------------------------------------------------------------------------------------


def _rows(folder: Path, with_images: bool) -> DatasetDict:
    """What is published of every row. The images are not looked for where they are not needed."""
    wanted = (columns.IMAGE_ID, *TEXTS)
    if with_images:
        splits = open_images(str(folder))
        labels = {repr(split.features[columns.LABEL]) for split in splits.values() if columns.LABEL in split.features}
        splits = class_names(splits)[0] if len(labels) > 1 else splits
        wanted = (columns.IMAGE_ID, columns.IMAGE, columns.LABEL, *TEXTS)
    else:
        splits = _texts(folder)
    return DatasetDict(
        {
            name: split.select_columns([column for column in wanted if column in split.column_names])
            for name, split in splits.items()
        }
    )


def _texts(folder: Path) -> DatasetDict:
    stage = read_stage(folder)
    own = open_stage(folder, stage)
    if any(columns.CAPTION in split.column_names for split in own.values()):
        return own
    source = Source.read(stage, folder)
    if source.captions is None and Path(source.name).is_dir():
        behind = find_stage(source.name)
        rows = open_stage(source.name, behind) if behind else DatasetDict()
        if any(columns.CAPTION in split.column_names for split in rows.values()):
            return join_stage(DatasetDict({name: rows[name] for name in own}), folder, stage)
    whole = open_images(str(folder))
    return DatasetDict({name: whole[name] for name in own})


def _common_features(splits: DatasetDict, with_images: bool) -> Features:
    """All splits get the same columns, as `load_dataset` wants it; what one has not is null there."""
    order = (columns.IMAGE_ID, columns.IMAGE, columns.LABEL, *TEXTS)
    features = {}
    for column in order:
        found = [split.features[column] for split in splits.values() if column in split.features]
        known = [feature for feature in found if feature != Value("null")]
        if known:
            features[column] = Image() if column == columns.IMAGE else known[0]
    if not set(features) & set(TEXTS):
        raise ValueError("There are neither captions nor embeddings in this stage.")
    return Features(features)


def _check_ids(split: Dataset, name: str) -> None:
    """
    Raises:
        ValueError: for an id that is null, comes twice, or is a path of this machine.
    """
    check_image_ids(split, name)
    for batch in split.select_columns([columns.IMAGE_ID]).with_format("arrow").iter(ROWS):
        image_ids = batch[columns.IMAGE_ID]
        local = image_ids.filter(pc.match_substring_regex(image_ids, LOCAL_ID))
        if len(local):
            raise ValueError(
                f"Split {name!r}, column 'image_id': {local[0].as_py()!r} is a path of this machine, which would be "
                "published. Give the images other ids, or leave the column out to have them made from file names."
            )


def _ids_from(splits: DatasetDict) -> str | None:
    """
    What the ids were made from: `file` names, the `content` of images, or a `column` of the data. None where they were
    made from both, or where images had the same and had to be told apart: the snippet of the card cannot do that.
    """
    ids = {image_id for split in splits.values() for image_id in split[columns.IMAGE_ID][:]}
    forms = set(map(id_form, ids))
    if "column" in forms:  # made ids are of the other forms
        return "column"
    return forms.pop() if len(forms) == 1 and not any("#" in image_id for image_id in ids) else None


# --- Files -------------------------------------------------------------------------------------------------------


def _tables(split: Dataset, name: str, features: Features) -> Iterator[pa.Table]:
    """The rows of a split, a row group a table."""
    with_images = columns.IMAGE in features
    rows = ROWS_WITH_IMAGES if with_images else ROWS
    schema = features.arrow_schema
    split = split.cast_column(columns.IMAGE, Image(decode=False)) if with_images else split
    with (
        tqdm(total=len(split), desc=f"Writing {name}", unit=" rows", unit_scale=True) as bar,
        ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool,
    ):
        for start in range(0, max(len(split), 1), rows):
            batch = split.with_format("arrow")[start : start + rows]
            arrays = {
                field.name: batch[field.name].cast(field.type)
                if field.name in batch.column_names and field.name != columns.IMAGE
                else pa.nulls(len(batch), field.type)
                for field in schema
            }
            if with_images:
                image_ids = batch[columns.IMAGE_ID].to_pylist()
                places = [f"split {name!r}, row {start + i}, image {key!r}" for i, key in enumerate(image_ids)]
                images = list(pool.map(_without_metadata, batch[columns.IMAGE].to_pylist(), places))
                arrays[columns.IMAGE] = pa.array(images, schema.field(columns.IMAGE).type)
            yield pa.table(arrays, schema=schema)
            bar.update(len(batch))


def _without_metadata(image: dict[str, Any] | None, place: str) -> dict[str, Any]:
    try:
        return without_metadata(image)
    except ValueError as error:
        raise ValueError(
            f"{place}: {error}. Repair the image or remove it from the data, or publish without images."
        ) from error


def _write_split(split: Dataset, name: str, features: Features, folder: Path, max_bytes: int) -> None:
    """Files of `max_bytes` and a footer, or of one row group where that is more; their number is in their names."""
    parts: list[Path] = []
    file = writer = None
    for table in _tables(split, name, features):
        if writer is None:
            parts.append(folder / f"{name}-{len(parts)}.part")
            file = parts[-1].open("wb")
            writer = pq.ParquetWriter(
                file, features.arrow_schema, use_content_defined_chunking=True, write_page_index=True
            )
        before = file.tell()
        writer.write_table(table, row_group_size=max(len(table), 1))
        if 2 * file.tell() - before > max_bytes:  # another row group would be too much
            writer.close()
            file.close()
            file = writer = None
    if writer is not None:
        writer.close()
        file.close()
    for number, part in enumerate(parts):
        part.rename(folder / f"{name}-{number:05d}-of-{len(parts):05d}.parquet")


def _validate(folder: Path, splits: list[str]) -> None:
    """
    Raises:
        ValueError: when `load_dataset` would not find the splits by the card.
    """
    DatasetCard.load(folder / "README.md")
    found = load_dataset_builder(str(folder)).config.data_files or {}
    if list(map(str, found)) != splits:
        raise ValueError(f"The card names the splits {', '.join(map(str, found))}, not {', '.join(splits)}.")
