"""Options of the dataset and of the text encoder."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..views.kinds import VIEW_FORMS, check_view
from .fields import Count, Number, check_values, option

DEFAULT_TEXT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
NO_GROUPS, BY_FOLDER, BY_TIME = "none", "folder", "time"
GAP = 60.0  # seconds between two bursts
# Models of transformers without a namespace on the Hub
WITHOUT_NAMESPACE = re.compile(r"(albert|bert|camembert|distilbert|distilroberta|gpt2|roberta|t5|xlm|xlnet)(-|$)")


@dataclass(kw_only=True)  # so that the name of the dataset comes first
class ColumnOptions:
    """Data, versions and columns"""

    about, rare = "data", True
    dataset_config_name: str | None = option(None, "Configuration of a Hub dataset.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of a Hub dataset.")
    captions_revision: str | None = option(None, "Branch, tag or commit of the captions.", about="captions")
    image_column: str | None = option(None, "Image column; `image` by default.")
    label_column: str | None = option(None, "Label column; `label` by default.")
    image_id_column: str | None = option(None, "Column of image ids; `image_id` by default.")
    class_names_file: str | None = option(None, "In place of classes: a text file of a name per line.", path=True)
    caption_column: str | None = option(None, "Caption column; `caption` by default.", about="captions")


@dataclass
class DataArguments(ColumnOptions):
    """Data"""

    dataset_name: str | None = option(None, "Hub id, folder of images or Parquet, or stage.", about="data", path=True)
    captions_name: str | None = option(
        None, "Hub id or folder of captions or embeddings.", about="captions", path=True
    )
    validation_fraction: Annotated[float, "(0, 1)"] | None = option(
        None, "Share of each class of `train` to hold out as `validation`."
    )
    group_by: str | None = option(
        None,
        "Images of one scene: folder, time, time:SECONDS, a regular expression over file names, or none.",
    )
    classes: str | None = option(
        None, "File on classes; `classes.yaml` beside the images by default.", about="data", path=True
    )
    labels_file: str | None = option(
        None,
        "Labels from g4i label; by default `labels.jsonl` beside the images or in the folder of g4i fit.",
        about="data",
        path=True,
    )

    def __post_init__(self):
        check_values(self)
        if not self.dataset_name:
            raise ValueError("dataset_name is missing: give a Hub id or a folder with --dataset_name.")
        self.dataset_name = os.path.expanduser(self.dataset_name)
        check_group_by(self.group_by)
        if self.classes and self.class_names_file:
            raise ValueError("classes and class_names_file are both given. Leave one out.")
        if self.captions_name:
            self.captions_name = os.path.expanduser(self.captions_name)
        if self.captions_revision and not self.captions_name:
            raise ValueError("captions_revision is set, but captions_name is not: name the captions.")


def seconds_of(group_by: str) -> float | None:
    """The longest gap within a group, for `time` and `time:SECONDS`; None for others."""
    kind, _, seconds = group_by.partition(":")
    if kind != BY_TIME or not re.fullmatch(r"(\d+(\.\d+)?)?", seconds):
        return None
    return float(seconds or GAP)


def check_group_by(group_by: str | None) -> None:
    try:
        re.compile(group_by or "")
    except re.error as error:
        kinds = f"{NO_GROUPS}, {BY_FOLDER}, {BY_TIME}"
        raise ValueError(f"group_by is {group_by!r}, neither {kinds} nor a regular expression: {error}.") from error


@dataclass(kw_only=True)
class ShardOptions:
    """Shards"""

    about = "call"
    shards: str | None = option(
        None, "Parquet files or WebDataset tars to take one by one, such as 's3://bucket/photos/*.parquet'."
    )
    out: str | None = option(None, "Folder, also in a bucket, for one Parquet of results per shard.")
    rank: Number = option(0, "This task, from 0: it takes each world_size-th shard.")
    world_size: Count = option(1, "Number of tasks.")

    def check_shards(self) -> None:
        for name, given, other in (("out", self.out, self.shards), ("shards", self.shards, self.out)):
            if other and not given:
                raise ValueError(f"{name} is missing: --shards 's3://bucket/photos/*.parquet' --out s3://bucket/run.")
        if self.rank >= self.world_size:
            last = self.world_size - 1
            raise ValueError(f"rank is {self.rank}, but world_size is {self.world_size}: ranks are 0 to {last}.")


def check_left_out(options: Any, *names: str) -> None:
    """A ValueError for options that have no effect on shards."""
    for name in names:
        if getattr(options, name):
            raise ValueError(f"{name} and shards are given: leave one of both out.")


@dataclass
class DataOrShards(ShardOptions, DataArguments):
    """Data or shards"""

    def __post_init__(self):
        self.check_shards()
        if not self.shards:
            super().__post_init__()
        check_left_out(self, *(["dataset_name", "captions_name"] if self.shards else ()))
        check_values(self)


@dataclass
class ViewArguments:
    """View"""

    view: str | None = option(
        None,
        f"View to make for g4i fit: {VIEW_FORMS}. It is written to embeddings_dir/views. Without it, captions are "
        "embedded for g4i train.",
    )

    student: str | None = option(
        None, "Pretrained timm or transformers model for image:student; that of g4i fit by default."
    )
    overwrite: bool = option(False, "Replace results of shards that were made of others, or with other options.")

    def __post_init__(self):
        if self.view:
            check_view(self.view)


def check_views(views: list[str] | None) -> None:
    """A ValueError for what is neither the name of a view nor a folder."""
    for view in views or []:
        if not Path(view).is_dir():
            check_view(view)


@dataclass
class EncoderArguments:
    """Text encoder"""

    about = "captions"
    text_encoder: str | None = option(
        None, "Hub id or folder: sentence-transformers, CLIP, SigLIP, SigLIP 2.", path=True, in_card=True
    )
    text_encoder_revision: str | None = option(None, "Branch, tag or commit of the encoder.")
    text_encoder_prompt: str | None = option(None, "Text before every caption, such as 'passage: '; empty for none.")
    text_encoder_batch_size: Count = option(64, "Captions per batch.", about="running")
    embeddings_dir: str | None = option(
        None, "Folder for the embeddings; `embeddings` beside the run by default.", about="running", path=True
    )

    def __post_init__(self):
        check_values(self)
        if self.text_encoder:
            self.text_encoder = full_name(self.text_encoder)


def full_name(text_encoder: str) -> str:
    """`all-MiniLM-L6-v2` as `sentence-transformers/all-MiniLM-L6-v2`, as that library does."""
    is_short = "/" not in text_encoder and not WITHOUT_NAMESPACE.match(text_encoder)
    return f"sentence-transformers/{text_encoder}" if is_short and not Path(text_encoder).is_dir() else text_encoder
