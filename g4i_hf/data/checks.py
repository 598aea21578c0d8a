"""Labels of a split, and checks of the data before training."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, List, Value

from .. import columns
from ..files import brief, did_you_mean
from ..output import progress_bar
from .images import BadImageError, bad_image, error_of, why_bad
from .joining import check_image_ids
from .record import image_digests
from .texts import Embeddings, caption_lists, num_captioned, values_of

logger = logging.getLogger(__name__)

UNLABELLED = -100
DECODED_AT_ONCE, THREADS = 64, 8
SHOWN = 10  # images named in a warning
# With more unreadable images, the cause is the disk or the folder
MOST_BAD, MOST_BAD_SHARE = 10, 0.01
TOO_MANY = f"too many to be left out (at most {MOST_BAD_SHARE:.0%}, or {MOST_BAD})"
CHECK_ALL_BELOW = 50_000  # images, above which only a sample of this size is decoded
NORM_TOLERANCE = 0.01  # for the rounding of float16
BATCH = 10_000  # vectors checked at once
FIRST, LIST_AS_TEXT = 100, re.compile(r"""\[\s*["'].*["']\s*\]""", re.DOTALL)


def labels_of(split: Dataset) -> np.ndarray:
    """(rows,) int64, -100 for a row without a label: null or negative, or no column."""
    if columns.LABEL not in split.column_names:
        return np.full(len(split), UNLABELLED)
    labels = values_of(split, columns.LABEL)
    return np.fromiter((UNLABELLED if label is None or label < 0 else label for label in labels), dtype=np.int64)


def with_labels(split: Dataset, labels: np.ndarray) -> Dataset:
    """The split with these labels (rows,), null where negative; the column is added if there is none."""
    values = [label if label >= 0 else None for label in labels.tolist()]
    feature = split.features.get(columns.LABEL, Value("int64"))
    unlabelled = split.select_columns([name for name in split.column_names if name != columns.LABEL])
    return unlabelled.add_column(columns.LABEL, values, feature=feature)


def labelled_rows(split: Dataset) -> Dataset:
    """The rows with a label; raises ValueError if there are none."""
    rows = np.flatnonzero(labels_of(split) >= 0)
    if len(rows) == len(split):
        return split
    if not len(rows):
        raise ValueError("unlabelled is 'drop', but no row of the training split has a label. Set it to keep.")
    logger.info("unlabelled is drop: %d of %d training rows are left.", len(rows), len(split))
    return split.select(rows)


# --- Checks ----------------------------------------------------------------------------------------------------------


def check_split(
    split: Dataset,
    name: str,
    *,
    num_labels: int,
    text_embed_dim: int | None = None,
    training: bool = True,
    require_labels: bool = True,
) -> None:
    """
    Check ids, labels and text embeddings of a split. Raises ValueError for the first error. With `text_embed_dim`,
    that of the model, the split must have text embeddings. `training` warns of missing labels, examples and captions.
    """
    check_image_ids(split, name)
    warnings = _check_labels(split, name, num_labels, require_labels)
    warnings += _check_text_embeds(split, name, text_embed_dim)
    for warning in [*(warnings if training else ()), *_lists_as_text(split)]:
        logger.warning("Split %r: %s", name, warning)


def captioned_splits(images: DatasetDict) -> dict[str, Dataset]:
    """The splits with captions. Raises ValueError if there is none."""
    captioned = {name: split for name, split in images.items() if columns.CAPTION in split.column_names}
    if not captioned:
        name, split = next(iter(images.items()))
        raise ValueError(
            f"Split {name!r} has no column 'caption'. Its columns: {', '.join(split.column_names)}. "
            f"{columns.name_it(columns.CAPTION, split.column_names)} Write captions with g4i caption, or leave out "
            "what needs them, such as --text_encoder in g4i check."
        )
    return captioned


def check_captioned(splits: Mapping[str, Dataset], name: str) -> None:
    """Raise ValueError if no row of the split has a caption or an embedding; the message names splits that have."""
    split = splits[name]
    if num_captioned(split):
        return
    captioned = [other for other, rows in splits.items() if other != name and num_captioned(rows)]
    what = f"has no captions; they are in {', '.join(captioned)} alone" if captioned else "has no captions"
    raise ValueError(
        f"Split {name!r} {what}. {columns.its_columns(columns.CAPTION, split.column_names)} Write captions with g4i "
        "caption, or set align_weight to 0 to train without them."
    )


def _check_labels(split: Dataset, name: str, num_labels: int, require_labels: bool) -> list[str]:
    """Warnings. ValueError for a label out of range or, if they are required, a missing one."""
    if columns.LABEL not in split.column_names:
        if require_labels:
            raise ValueError(
                f"Split {name!r} has no column 'label'. {columns.its_columns(columns.LABEL, split.column_names)}"
            )
        return [f"{len(split):,} rows without a label"]
    counts: Counter[int | None] = Counter()
    for row, label in enumerate(values_of(split, columns.LABEL)):
        counts[label] += 1
        where = f"Split {name!r}, column 'label', row {row}"
        if label is not None and not -1 <= label < num_labels:
            known = f"there are {num_labels} classes (0 to {num_labels - 1}). Correct it"
            raise ValueError(f"{where}: {label} is out of range, {known}.")
        if label in (None, -1) and require_labels:
            remedy = "Label the row, remove it, or give --unlabelled keep, or drop."
            raise ValueError(f"{where}: unlabelled ({label}). {remedy}")
    unlabelled = counts[None] + counts[-1]
    warnings = [f"{unlabelled:,} rows without a label"] if unlabelled else []
    if empty := sorted(set(range(num_labels)) - set(counts)):
        first, feature = f"class {empty[0]}", split.features[columns.LABEL]
        if isinstance(feature, ClassLabel):  # perhaps a misspelt folder of another split
            unseen = feature.names[empty[0]]
            first = repr(unseen) + did_you_mean(unseen, [other for other in feature.names if other != unseen])
        warnings.append(f"{len(empty):,} classes without an example, the first is {first}")
    return warnings


def _lists_as_text(split: Dataset) -> list[str]:
    """A warning where captions are the text of lists, as in tables that were CSV once."""
    if columns.CAPTION not in split.column_names:
        return []
    first = [text for text in split.select(range(min(len(split), FIRST)))[columns.CAPTION] if text]
    if not first or not all(isinstance(text, str) and LIST_AS_TEXT.fullmatch(text.strip()) for text in first):
        return []
    how = "Split them, so that each row has a list of captions: ast.literal_eval(row['caption'])"
    return [f"captions are lists written as text, such as {brief(first[0])}. {how}."]


def _check_text_embeds(split: Dataset, name: str, dim: int | None) -> list[str]:
    """Warnings. ValueError for a wrong vector or, for a model of `dim` dimensions, none."""
    if columns.TEXT_EMBEDS not in split.column_names:
        if dim is None:
            return []
        raise ValueError(
            f"Split {name!r} has no column 'text_embeds'. Its columns: {', '.join(split.column_names)}. Make it with "
            "g4i embed, rename yours, or give --text_encoder."
        )
    where = f"Split {name!r}, column 'text_embeds', "
    feature = split.features[columns.TEXT_EMBEDS]
    several = isinstance(feature, List) and isinstance(feature.feature, List)
    vector, width = feature.feature if several else feature, columns.text_embed_dim_of(feature)
    if width is None or not vector.feature.dtype.startswith("float"):
        raise ValueError(
            f"{where}every row: {feature} is no list of floats of fixed length. Store it as List(Value('float16'), "
            "length=D), as g4i embed does; several a row as a List of these."
        )
    if width != (dim or width):
        raise ValueError(f"{where}every row: {width} dimensions, but the model expects {dim}. Embed with its encoder.")
    parts = split.data.column(columns.TEXT_EMBEDS).chunks
    has_nulls = several and any(part.flatten().null_count for part in parts)
    for row, vectors in enumerate(values_of(split, columns.TEXT_EMBEDS) if has_nulls else ()):
        if vectors is not None and None in vectors:
            raise ValueError(f"{where}row {row}: one of several embeddings is null. Leave it out of the row's list.")
    embeds = Embeddings(split)
    rows = np.repeat(np.arange(len(split)), embeds.counts)
    for start in range(0, len(embeds), BATCH):
        norms = np.linalg.norm(embeds[start : start + BATCH].astype(np.float32), axis=1)
        faults = {
            "NaN or infinite": ~np.isfinite(norms),
            "a norm of zero": norms == 0,
            "a norm other than 1": abs(norms - 1) > NORM_TOLERANCE,
        }
        for what, bad in faults.items():
            if bad.any():
                raise ValueError(
                    f"{where}row {rows[start + bad.argmax()]}: {what}. Embed this caption again, with unit norm, or "
                    "set the row's text_embeds to null to train it on its label alone."
                )
    has_text = embeds.counts > 0
    if columns.CAPTION in split.column_names:
        has_text &= np.fromiter(map(bool, caption_lists(split)), dtype=bool)
    if has_text.all():
        return []
    without, first = (~has_text).sum(), has_text.argmin()
    return [f"{without:,} rows without caption or text_embeds, trained on their label alone (first: row {first})"]


def sampled(rows: Sequence[int]) -> Sequence[int]:
    """All of them, or at most CHECK_ALL_BELOW at equal distances."""
    return [rows[place] for place in np.linspace(0, len(rows) - 1, min(len(rows), CHECK_ALL_BELOW)).astype(int)]


def bad_images(split: Dataset, name: str, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Each of these rows whose image cannot be decoded, and what [`bad_image`] says of it."""
    images, starts = split.select_columns([columns.IMAGE]), range(0, len(rows), DECODED_AT_ONCE)
    with ThreadPoolExecutor(THREADS) as pool:  # decoding releases the GIL
        for start in progress_bar(starts, desc=f"Reading images of {name}", leave=False, shown=len(rows) >= 1000):
            some = rows[start : start + DECODED_AT_ONCE]
            for row, reason in zip(some, pool.map(why_bad, images[some][columns.IMAGE]), strict=True):
                if reason is not None:
                    yield row, bad_image(images, split, row, reason)


def are_too_many(unreadable: int, split: Dataset) -> bool:
    """For --on_bad_images skip."""
    return unreadable > max(MOST_BAD, MOST_BAD_SHARE * len(split))


def readable_rows(split: Dataset, name: str, on_bad_images: str = "skip", decoded: Collection[str] = ()) -> Dataset:
    """
    The rows whose image can be decoded. Raises BadImageError for too many others; with "error" ValueError for the
    first, and then a large split is sampled. Images of a digest in `decoded` were decoded before.
    """
    rows: Sequence[int] = range(len(split))
    unreadable: dict[int, str] = {}
    if decoded:
        digests = image_digests(split)[columns.IMAGE_DIGEST]
        rows = [row for row in rows if digests[row] not in decoded]
    if on_bad_images == "error":
        rows = sampled(rows)
    for row, bad in bad_images(split, name, rows):
        if on_bad_images == "error":
            raise ValueError(f"Split {name!r}, column 'image', row {row}: {error_of(bad)}")
        unreadable[row] = bad
        if are_too_many(len(unreadable), split):
            raise BadImageError(
                f"{len(unreadable):,} of {len(split):,} images cannot be read, {TOO_MANY}. The last: {bad}. Is the "
                "folder of the images there, and the disk well?"
            )
    if not unreadable:
        return split
    shown = "; ".join([*unreadable.values()][:SHOWN]) + "; ..." * (len(unreadable) > SHOWN)
    text = "Split %r: %d of %d images cannot be read and are left out: %s"
    logger.warning(text, name, len(unreadable), len(split), shown)
    return split.select([row for row in range(len(split)) if row not in unreadable])
