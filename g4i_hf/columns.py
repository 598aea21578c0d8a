"""Names and features of the dataset columns: the one thing that every stage agrees on."""

from typing import Any

from datasets import Features, List, Value

IMAGE = "image"
LABEL = "label"
IMAGE_ID = "image_id"
CAPTION = "caption"
TEXT_EMBEDS = "text_embeds"
CAPTION_WEIGHT = "caption_weight"
SOFT_LABELS = "soft_labels"
CAPTION_RAW = "caption_raw"
CAPTION_STATUS = "caption_status"
CAPTION_REASON = "caption_reason"

ALL = (IMAGE, LABEL, IMAGE_ID, CAPTION, TEXT_EMBEDS, CAPTION_WEIGHT)
# What was made of a caption or is said of it: it fits no other one
OF_CAPTION = (TEXT_EMBEDS, CAPTION_WEIGHT, CAPTION_RAW, CAPTION_STATUS, CAPTION_REASON)


def text_embeds_features(dim: int, several: bool = False) -> Features:
    """
    Columns that the embedding stage writes: `image_id` and `text_embeds`, float16 of shape (`dim`,), or (K, `dim`)
    where an image can have several captions, K of the row's own.
    """
    vector = List(Value("float16"), length=dim)
    return Features({IMAGE_ID: Value("string"), TEXT_EMBEDS: List(vector) if several else vector})


def text_embed_dim_of(feature: Any) -> int | None:
    """D of the feature of `text_embeds`, of one vector or several a row; None where it is no list of fixed length."""
    if isinstance(feature, List) and isinstance(feature.feature, List):
        feature = feature.feature
    return feature.length if isinstance(feature, List) and feature.length > 0 else None
