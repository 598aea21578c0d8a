"""Names and features of the dataset columns, shared by all stages."""

from collections.abc import Iterable
from typing import Any

from datasets import List

IMAGE = "image"
LABEL = "label"
IMAGE_ID = "image_id"
CAPTION = "caption"
ANSWER = "answer"  # the class that a model answered, by name; null without one
ANSWER_IS_NONE = "answer_is_none"  # whether the model answered that no class fits
ANSWER_TEXT = "answer_text"  # as it came
TEXT_EMBEDS = "text_embeds"
SOFT_LABELS = "soft_labels"
REVIEW = "review"  # how an image with a reviewed label was selected
VOTES = "votes"  # JSON: the label of each annotator of an image, where there are several
GROUP = "group"  # of the images of one scene, see `data.groups`; null for a single image
# The source of a row of a stage: digest of its image, size and times of its file, digest of its captions
IMAGE_DIGEST = "image_digest"
IMAGE_STAT = "image_stat"
CAPTION_DIGEST = "caption_digest"
CAPTION_RAW = "caption_raw"
CAPTION_STATUS = "caption_status"
CAPTION_REASON = "caption_reason"

ALL = (IMAGE, LABEL, IMAGE_ID, CAPTION, TEXT_EMBEDS)
# Columns that are dropped with their caption
OF_CAPTION = (TEXT_EMBEDS, CAPTION_RAW, CAPTION_STATUS, CAPTION_REASON)
# Names in other datasets
OTHER_NAMES = {
    IMAGE: ("img", "images", "picture", "pictures", "jpg", "png", "pixels"),
    LABEL: ("labels", "class", "category", "fine_label", "target", "y", "cls"),
    CAPTION: ("text", "captions", "texts", "description", "txt", "alt_text", "sentence", "sentences"),
}


def name_it(ours: str, present: Iterable[str]) -> str:
    """The remedy for a missing column, with a likely one of those present."""
    by_lower_case = {name.lower(): name for name in present}
    likely = next((by_lower_case[name] for name in OTHER_NAMES.get(ours, ()) if name in by_lower_case), None)
    which = "Rename the right one" if likely is None else f"Did you mean {likely!r}? Rename it"
    return f"{which} to {ours!r}, or name it with --{ours}_column."


def its_columns(ours: str, present: Iterable[str]) -> str:
    """The columns that are present, and [`name_it`]."""
    present = list(present)
    return f"Its columns: {', '.join(present)}. {name_it(ours, present)}"


def text_embed_dim_of(feature: Any) -> int | None:
    """D of `text_embeds`, for one or several vectors a row; None if the length is not fixed."""
    if isinstance(feature, List) and isinstance(feature.feature, List):
        feature = feature.feature
    return feature.length if isinstance(feature, List) and feature.length > 0 else None
