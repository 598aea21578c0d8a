"""Names and features of the dataset columns, shared by all stages."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from datasets import Features, List, Value

IMAGE = "image"
LABEL = "label"
IMAGE_ID = "image_id"
CAPTION = "caption"
ANSWER = "answer"  # of a model that was asked for the class: its name, null where there is none
ANSWER_IS_NONE = "answer_is_none"  # whether it was asked, and said that none fits
TEXT_EMBEDS = "text_embeds"
SOFT_LABELS = "soft_labels"
REVIEW = "review"  # of a label that a person gave or confirmed: how its image was picked
# Of what a row of a stage was made from: its image, the size and times of the file that it was, its captions
IMAGE_DIGEST = "image_digest"
IMAGE_STAT = "image_stat"
CAPTION_DIGEST = "caption_digest"
CAPTION_RAW = "caption_raw"
CAPTION_STATUS = "caption_status"
CAPTION_REASON = "caption_reason"

ALL = (IMAGE, LABEL, IMAGE_ID, CAPTION, TEXT_EMBEDS)
# Columns that belong to a caption, and are dropped with it
OF_CAPTION = (TEXT_EMBEDS, CAPTION_RAW, CAPTION_STATUS, CAPTION_REASON)
# What other datasets call them
OTHER_NAMES = {
    IMAGE: ("img", "images", "picture", "pictures", "jpg", "png", "pixels"),
    LABEL: ("labels", "class", "category", "fine_label", "target", "y", "cls"),
    CAPTION: ("text", "captions", "texts", "description", "txt", "alt_text", "sentence", "sentences"),
}


def name_it(ours: str, present: Iterable[str]) -> str:
    """What to do where a column is missing: the option that names it, with a likely one of those present."""
    found = {name.lower(): name for name in present}
    likely = next((found[name] for name in OTHER_NAMES.get(ours, ()) if name in found), None)
    if likely is None:
        return f"Name the right one with --{ours}_column."
    return f"Did you mean --{ours}_column {likely}?"


def its_columns(ours: str, present: Iterable[str]) -> str:
    """The columns that are present, and [`name_it`]."""
    present = list(present)
    return f"Its columns: {', '.join(present)}. {name_it(ours, present)}"


def text_embeds_features(dim: int, several: bool = False) -> Features:
    """
    Columns of the embedding stage: `image_id` and `text_embeds`, float16 of shape (`dim`,); with several captions an
    image (K, `dim`), where K differs between rows.
    """
    vector = List(Value("float16"), length=dim)
    return Features({IMAGE_ID: Value("string"), TEXT_EMBEDS: List(vector) if several else vector})


def text_embed_dim_of(feature: Any) -> int | None:
    """D of `text_embeds`, with one vector or several a row; None if the length is not fixed."""
    if isinstance(feature, List) and isinstance(feature.feature, List):
        feature = feature.feature
    return feature.length if isinstance(feature, List) and feature.length > 0 else None


@contextlib.contextmanager
def named_in_python(remedy: str) -> Iterator[None]:
    """Errors about columns of a dataset in memory: `remedy`, with `{name}`, stands for the option of the command."""
    try:
        yield
    except ValueError as error:
        words = re.sub(
            r"[Nn]ame (?:the right one|another) with --(\w+?)_column", lambda m: remedy.format(name=m[1]), str(error)
        )
        raise ValueError(re.sub(r"(--|given as )(\w+?)_column", r"\1\2", words).replace("--", "")) from error
