"""A stage -> a dataset for everyone: Parquet files, a card, and what may be published of its provenance."""

import itertools
import json
import logging
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Image, Value

from .. import columns
from ..captioning.stage import RAW, REASON, STATUS
from ..data.classes import class_names
from ..data.image_metadata import without_metadata
from ..data.joining import check_image_ids
from ..data.labels import LABELS_FILE, with_labels_of
from ..data.loading import images_root, labels_file_of, load_data, open_images, read_classes
from ..data.record import content_digest
from ..data.stage import STAGE_FILE, Source, find_stage, join_stage, known_chain, open_stage, read_stage
from ..files import check_replaceable, replacing
from ..names import HUB_ID, bare_name, is_path, without_private
from ..options import DataArguments
from .card import captions_card
from .push import MANIFEST, OF_DATASET

logger = logging.getLogger(__name__)

TEXTS = (columns.CAPTION, STATUS, REASON, RAW, columns.TEXT_EMBEDS)
COLUMNS = (columns.IMAGE_ID, columns.IMAGE, columns.LABEL, *TEXTS)
LOCAL_ID = r"^(~|/|[A-Za-z]:[\\/]|file:)|\\"
THREADS = 8
SHARD_BYTES = 500_000_000  # of a Parquet file, as `push_to_hub` has them

# What a published stage may hold of a stage; a field that is not known here may be anything
PUBLISHED = (
    *("format", "captioner", "prompts", "status"),
    *("text_encoder", "text_encoder_revision", "text_encoder_digest", "text_encoder_prompt"),
    *("text_embed_dim", "max_tokens", "normalised"),
    *("captions", "captions_over_window", "captions_digest", "image_ids_digest", "versions"),
)
MODELS = {"model", "text_encoder", "file"}  # names, perhaps of folders
# Fields that say where, with what rights or on whose behalf
NOT_PUBLISHED = re.compile(r"url|host|endpoint|user|journal|key|token|secret|password|_env$")


def build_dataset(
    stage: str | Path,
    output_dir: str | Path,
    *,
    with_images: bool = False,
    images_id: str | None = None,
    license: str | None = None,
    repo_id: str | None = None,
) -> Path:
    """
    Writes the captions or embeddings of a stage as a folder that `load_dataset` opens, and returns it. The folder is
    whole or not there. The same stage gives the same bytes.

    Args:
        stage: of captions or embeddings.
        output_dir: where the dataset goes; an earlier one is replaced.
        with_images: publish images and labels too, without the metadata of the images.
        images_id: Hub id of the images, where the stage has them as a folder. Their ids must be those of the stage.
        license: identifier of the Hub, as in `cc-by-4.0`; `other` by default.
        repo_id: of the card's snippets.

    Raises:
        ValueError: when it is no stage, an image cannot be read, an id is a path, `repo_id` is that of the images, or
            `output_dir` holds something else.
        FileNotFoundError: when images or captions of the stage are gone.
    """
    stage, output_dir = Path(stage), Path(output_dir)
    _check_stage(stage)
    check_replaceable(output_dir, *OF_DATASET)
    splits, answers = _rows(stage, with_images)
    features = _common_features(splits)
    for name, split in splits.items():
        _check_ids(split, name)
    public = public_stage(stage, with_images=with_images, images_id=images_id)
    public |= {"num_rows": {name: len(split) for name, split in splits.items()}, "columns": list(features)}
    ours, theirs = (repo_id or "").lower(), (public["source"] or "").lower()
    if ours and ours in (theirs, theirs.rpartition("/")[2]):  # a push would remove images that g4i release has pushed
        raise ValueError(f"repo_id is {repo_id}, that of the images. Give it an id of its own, as in me/my-captions.")
    if public.get("source_name") and not with_images:
        words = "The images are a local folder (%s), which readers cannot open. If the Hub has them, give --images_id."
        logger.warning(words, public["source_name"])
    shown = [column for column in (columns.LABEL, columns.CAPTION) if column in features]
    public["nulls"] = {column: {name: _nulls(split, column) for name, split in splits.items()} for column in shown}
    date = datetime.fromtimestamp((stage / STAGE_FILE).stat().st_mtime, UTC).date().isoformat()
    card = captions_card(public, repo_id=repo_id or "path/to/captions", date=date, license=license)
    with replacing(output_dir) as folder:
        (folder / "data").mkdir()
        card.save(folder / "README.md")
        for name, split in splits.items():
            _write_split(split, name, features, folder / "data")
        if answers:
            (folder / LABELS_FILE).write_text(_lines_of(splits, answers), encoding="utf-8")
        (folder / STAGE_FILE).write_text(json.dumps(public, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / MANIFEST).touch()
    return output_dir


def _check_stage(folder: Path) -> None:
    made = read_stage(folder)
    if made is None or made.get("stage") == "view" or made.get("published"):
        what = "is a dataset already: push it as it is" if made and made.get("published") else "is no such stage"
        raise ValueError(f"{folder} {what}. Name a folder of captions or embeddings, which holds a {STAGE_FILE}.")


def _rows(folder: Path, with_images: bool) -> tuple[DatasetDict, dict[str, dict[int, dict[str, Any]]]]:
    """What is published of every row; with images, the answers that gave reviewed labels too, by split and row."""
    answers: dict[str, dict[int, dict[str, Any]]] = {}
    if with_images:
        data = DataArguments(str(folder))
        splits = load_data(data)
        labels = {repr(split.features[columns.LABEL]) for split in splits.values() if columns.LABEL in split.features}
        splits = class_names(splits)[0] if len(labels) > 1 else splits
        if file := labels_file_of(data, folder.parent):
            splits, answers = with_labels_of(splits, file, images_root(data), read_classes(data))
    else:
        splits = _texts(folder)
    wanted = COLUMNS if with_images else (columns.IMAGE_ID, *TEXTS)
    published = {
        name: split.select_columns([column for column in wanted if column in split.column_names])
        for name, split in splits.items()
    }
    return DatasetDict(published), answers


def _lines_of(splits: DatasetDict, answers: dict[str, dict[int, dict[str, Any]]]) -> str:
    """`labels.jsonl` of the images as they are published: by `image_id`, with the digest of their bytes."""
    lines = []
    for name, of_rows in answers.items():
        rows = splits[name].select(list(of_rows))
        for row, given in zip(rows, of_rows.values(), strict=True):
            digest = content_digest(without_metadata(row[columns.IMAGE])["bytes"])
            answer = {name: given[name] for name in ("label", "none", "pick", "time") if name in given}
            lines.append({columns.IMAGE_ID: row[columns.IMAGE_ID], "digest": digest} | answer | {"by": "person"})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _texts(folder: Path) -> DatasetDict:
    """The stage's own rows, joined to the captions that it was made of, or else to the data that has them."""
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


def _common_features(splits: DatasetDict) -> Features:
    """The columns of all splits, as `load_dataset` needs them; one that a split has not is null there."""
    features = {}
    for column in COLUMNS:
        present = [split.features[column] for split in splits.values() if column in split.features]
        known = [feature for feature in present if feature != Value("null")]
        if known:
            features[column] = Image() if column == columns.IMAGE else known[0]
    if not set(features) & set(TEXTS):
        raise ValueError("There are neither captions nor embeddings in this stage.")
    return Features(features)


def _check_ids(split: Dataset, name: str) -> None:
    """ValueError for an id that is null, is there twice, or is a path of this machine."""
    check_image_ids(split, name)
    for batch in split.select_columns([columns.IMAGE_ID]).with_format("arrow").iter(10_000):
        image_ids = batch[columns.IMAGE_ID]
        local = image_ids.filter(pc.match_substring_regex(image_ids, LOCAL_ID))
        if len(local):
            raise ValueError(
                f"Split {name!r}, column 'image_id': {local[0].as_py()!r} is a path of this machine. Give the images "
                "other ids, or leave the column out to have them made from file names."
            )


def _nulls(split: Dataset, column: str) -> int:
    """Rows without a label, or without a caption."""
    if column not in split.column_names:
        return len(split)
    return sum(value in (None, -1, [], [None]) for value in split[column][:])


def _write_split(split: Dataset, name: str, features: Features, folder: Path) -> None:
    """Files of about `SHARD_BYTES`; their number is in their names."""
    size = split.data.nbytes
    if columns.IMAGE in features:
        split = split.cast_column(columns.IMAGE, Image(decode=False))
        files = (image["path"] for image in split[columns.IMAGE] if image and not image["bytes"] and image["path"])
        size += sum(os.path.getsize(file) for file in files if os.path.isfile(file))
    for column in features:
        if column not in split.column_names:
            split = split.add_column(column, [None] * len(split), feature=features[column])
    count = min(max(math.ceil(size / SHARD_BYTES), 1), max(len(split), 1))
    for number in range(count):
        shard = split.shard(count, number, contiguous=True)
        if columns.IMAGE in features:
            first = number * (len(split) // count) + min(number, len(split) % count)
            shard = _without_metadata(shard, name, first)
        shard = shard.select_columns(list(features)).cast(features, keep_in_memory=True)
        shard.to_parquet(folder / f"{name}-{number:05d}-of-{count:05d}.parquet")


def _without_metadata(shard: Dataset, name: str, first: int) -> Dataset:
    """The same rows, whose images are bytes without metadata; `first` is where in the split they begin."""

    def stripped(image: dict[str, Any] | None, image_id: str, row: int) -> dict[str, Any]:
        try:
            return without_metadata(image)
        except ValueError as error:
            raise ValueError(
                f"split {name!r}, row {row}, image {image_id!r}: {error}. Repair the image or remove it from "
                "the data, or publish without images."
            ) from error

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        images = list(pool.map(stripped, shard[columns.IMAGE], shard[columns.IMAGE_ID], itertools.count(first)))
    return shard.remove_columns(columns.IMAGE).add_column(columns.IMAGE, images, feature=Image(decode=False))


# --- Provenance without anything of this machine ---------------------------------------------------------------------


def public_stage(folder: str | Path, *, with_images: bool = False, images_id: str | None = None) -> dict[str, Any]:
    """
    The `stage.json` of a stage for everyone: `source` is a Hub id or None, with the bare `source_name` of what was a
    folder; models that were folders are bare names; addresses and paths are gone. `captions_stage` is that of captions
    which were embedded. Rows and columns are to be added.
    """
    stage = read_stage(folder)
    images, captions = _images_and_captions(folder)
    where: dict[str, Any] = {"source": images_id, "source_revision": None}
    if images is not None:
        # By its form: a folder of this name may lie here, and another be meant
        is_local = not HUB_ID.fullmatch(images.name)
        if is_local and images_id is None:
            where["source_name"] = bare_name(str(Path(images.name).resolve()))
        elif not is_local and images_id in (None, images.name):
            where |= {"source": images.name, "source_revision": images.revision}
            where |= {"source_config": images.config} if images.config else {}
        of_images = (columns.IMAGE, columns.LABEL, columns.IMAGE_ID)
        named = {ours: theirs for ours, theirs in images.columns.items() if ours in of_images and ours != theirs}
        where |= {"source_columns": named} if named else {}
    public = {
        "stage": stage.get("stage"),
        "published": True,
        **where,
        "with_images": with_images,
        **_facts_of(stage),
    }
    if captions is not None and stage.get("stage") != "captioning":
        public["captions_stage"] = {"stage": "captioning", **_facts_of(captions)}
    return public


def _images_and_captions(folder: str | Path) -> tuple[Source | None, dict[str, Any] | None]:
    """Where the images of a stage lie, and the `stage.json` of its captions; None for what is not known."""
    captions: dict[str, Any] | None = None
    named: dict[str, str] = {}
    chain = known_chain(Source(str(folder)))
    for source in chain:
        for each in filter(None, (source.captions_stage(), source.stage)):
            captions = captions or (each if each.get("stage") == "captioning" else each.get("captions_stage"))
        named = source.columns | named
    last = chain[-1]
    holds_images = last.stage is None or last.stage.get("with_images") or last.stage.get("source") is None
    return (replace(last, columns=named) if len(chain) > 1 and holds_images else None), captions


def _facts_of(stage: dict[str, Any]) -> dict[str, Any]:
    return {name: _public(stage[name], name) for name in PUBLISHED if name in stage}


def _public(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _public(inner, key)
            for key, inner in value.items()
            if isinstance(inner, (int, float)) or not NOT_PUBLISHED.search(key)
        }
    if isinstance(value, list):
        return [_public(inner, name) for inner in value]
    if isinstance(value, str):
        return bare_name(value) if name in MODELS or is_path(value) else without_private(value)
    return value
