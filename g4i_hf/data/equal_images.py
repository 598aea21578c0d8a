"""Images that are equal, byte for byte, within a split and across splits; and equal images with different labels."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from .. import columns
from .record import DIGEST, SPLIT, image_digests


def describe_equal_images(rows: pa.Table) -> list[str]:
    """Lines on equal images in the rows of a [`~g4i_hf.data.record.Record`]; empty if all images differ."""
    images = rows.select([SPLIT, columns.IMAGE_ID, DIGEST, columns.LABEL]).to_pandas().dropna(subset=[DIGEST])
    return [*_shared(images), *_several_labels(images)]


def _shared(images: pd.DataFrame) -> list[str]:
    """A line on images that two splits share, and on copies within a split."""
    by_split = dict(iter(images.groupby(SPLIT, sort=False)))
    names = sorted(by_split, key=lambda name: ("train", "validation", name).index(name))  # evaluation splits last
    parts, judging = [], []
    for other, name in itertools.combinations(names, 2):
        first = by_split[other].drop_duplicates(DIGEST).set_index(DIGEST)[columns.IMAGE_ID]
        shared = by_split[name][by_split[name][DIGEST].isin(first.index)]
        if len(shared):
            example = shared.iloc[0]
            parts.append(
                f"{len(shared):,} of {len(by_split[name]):,} images of {name!r} are in {other!r} too, such as "
                f"{example[columns.IMAGE_ID]!r} ({first[example[DIGEST]]!r} there)"
            )
            judging.append(repr(name))
    for name in names:
        copies = by_split[name][by_split[name].duplicated(DIGEST)]
        if len(copies):
            same = by_split[name][by_split[name][DIGEST] == copies.iloc[0][DIGEST]][columns.IMAGE_ID]
            parts.append(
                f"{len(copies):,} of {len(by_split[name]):,} images of {name!r} are copies of others in it, such as "
                f"{same.iloc[1]!r} of {same.iloc[0]!r}"
            )
    if not parts:
        return []
    which = " and ".join(dict.fromkeys(judging))
    remedy = f". Remove them from {which}: what a model has seen says little about new images." if judging else "."
    return [f"Equal images: {'; '.join(parts)}{remedy}"]


def _several_labels(images: pd.DataFrame) -> list[str]:
    labelled = images.dropna(subset=[columns.LABEL]).drop_duplicates([DIGEST, columns.LABEL])
    several = labelled[labelled.duplicated(DIGEST, keep=False)]
    if several.empty:
        return []
    first, second = several[several[DIGEST] == several.iloc[0][DIGEST]].iloc[:2].itertuples()
    number = several[DIGEST].nunique()
    return [
        f"Equal images: {number:,} {'image has' if number == 1 else 'images have'} several labels, such as "
        f"{first.image_id!r} ({first.label!r}) and {second.image_id!r} ({second.label!r}). Correct them."
    ]


def order_of(split: Dataset) -> tuple[list[str], np.ndarray]:
    """Digests of the images, and for each a number (N,) by its content, the same for equal ones."""
    digests = image_digests(split.select_columns([columns.IMAGE_ID, columns.IMAGE]))[columns.IMAGE_DIGEST]
    return digests, np.fromiter((int(digest[:15], 16) for digest in digests), dtype=np.int64, count=len(digests))
