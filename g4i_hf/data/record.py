"""What a result was made from, by content, a row an image; the comparison of two such records."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset
from PIL import Image as PILImage

from .. import columns
from ..files import replacing_file, some
from ..output import progress_bar
from .images import TURNS, content_of, open_image, to_rgb
from .texts import Embeddings, caption_keys, values_of

RECORD_FILE = "data_record.parquet"
SPLIT, DIGEST, STAT, LEARNED = "split", columns.IMAGE_DIGEST, columns.IMAGE_STAT, "learned"
# Compared for each image; other columns, such as image features, are added by name
COMPARED = {
    columns.LABEL: "labels",
    columns.CAPTION: "captions",
    columns.TEXT_EMBEDS: "text embeddings",
    columns.SOFT_LABELS: "soft labels",
    columns.REVIEW: "reviews",
    columns.VOTES: "votes of annotators",
    columns.GROUP: "groups",
}
IMAGES_AT_ONCE, THREADS, MANY = 64, 8, 10_000
JUST_WRITTEN = 2  # seconds: a newer file may change again without a new time
_READ: dict[tuple[str, str], str] = {}  # digests of files, by path and stat


@dataclass
class Record:
    # text columns: `split`, `image_id`, `image_digest`, `image_stat`, the label by name, and a digest of each other
    # value; `learned` where images of other splits than `train` were trained on
    rows: pa.Table
    class_names: list[str]  # in their order
    # other inputs, such as a text encoder, by their name in messages; None: unknown
    inputs: dict[str, str | int | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        splits: Mapping[str, Dataset],
        class_names: Iterable[str],
        *,
        inputs: Mapping[str, str | int | None] | None = None,
        earlier: "Record | None" = None,
    ) -> "Record":
        """
        The record of splits with `image` (not decoded), `image_id`, and a `label` of these classes.
        Reads every image, except files with the size and times of an `earlier` record.
        """
        class_names = list(class_names)
        parts = [_text_table(dict.fromkeys((SPLIT, columns.IMAGE_ID, DIGEST, STAT, *COMPARED), []))]
        for name, split in splits.items():
            values = image_digests(split, None if earlier is None else earlier.of_splits([name]).rows)
            for column in COMPARED:
                present = column in split.column_names
                values[column] = list(_values(split, column, class_names)) if present else [None] * len(split)
            parts.append(_text_table({SPLIT: [name] * len(split)} | values))
        return cls(pa.concat_tables(parts), class_names, dict(inputs or {}))

    @property
    def digest(self) -> str:
        """Of everything except the times of files."""
        digest = hashlib.blake2b(json.dumps([self.class_names, self.inputs]).encode(), digest_size=16)
        for column in sorted({*self.rows.column_names} - {STAT}):
            digest.update(json.dumps([column, self.rows[column].to_pylist()]).encode())
        return digest.hexdigest()

    @property
    def splits(self) -> list[str]:
        return self.rows[SPLIT].unique().to_pylist()

    def of_splits(self, names: Iterable[str]) -> "Record":
        is_wanted = pc.is_in(self.rows[SPLIT], pa.array(names, pa.string()))
        return Record(self.rows.filter(is_wanted), self.class_names, self.inputs)

    def labelled(self) -> "Record":
        return Record(self.rows.filter(self.rows[columns.LABEL].is_valid()), self.class_names, self.inputs)

    def with_learned(self, split: str, image_ids: Iterable[str]) -> "Record":
        """That these images of a split were trained on, too."""
        are_learned = {(split, image_id) for image_id in image_ids}
        rows = zip(self.rows[SPLIT].to_pylist(), self.rows[columns.IMAGE_ID].to_pylist(), strict=True)
        learned = pa.array(["yes" if row in are_learned else None for row in rows], pa.string())
        return Record(self.rows.append_column(LEARNED, learned), self.class_names, self.inputs)

    def learned(self) -> set[str]:
        """Digests of the images that were trained on."""
        is_learned = pc.equal(self.rows[SPLIT], "train")
        if LEARNED in self.rows.column_names:
            is_learned = pc.or_(is_learned, self.rows[LEARNED].is_valid())
        return {*self.rows.filter(is_learned)[DIGEST].to_pylist()} - {None}

    def with_splits_of(self, other: "Record") -> "Record":
        """With the splits of another record added, replacing those of the same name."""
        kept = self.of_splits([name for name in self.splits if name not in other.splits])
        rows = pa.concat_tables([kept.rows, other.rows], promote_options="default")
        return Record(rows, self.class_names, self.inputs)

    def write(self, folder: str | Path) -> None:
        facts = json.dumps({"class_names": self.class_names, "inputs": self.inputs})
        with replacing_file(Path(folder) / RECORD_FILE) as staging:
            pq.write_table(self.rows.replace_schema_metadata({"g4i_hf": facts}), staging)

    @classmethod
    def read(cls, folder: str | Path) -> "Record | None":
        """The record in a folder; None if it is missing or damaged."""
        try:
            rows = pq.read_table(Path(folder) / RECORD_FILE)
            facts = json.loads(rows.schema.metadata[b"g4i_hf"])
            return cls(rows.replace_schema_metadata(), facts["class_names"], facts["inputs"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _text_table(values: Mapping[str, list[str | None]]) -> pa.Table:
    return pa.table(values, schema=pa.schema([(column, pa.string()) for column in values]))


# --- Digests ---------------------------------------------------------------------------------------------------------


def image_digests(split: Dataset, known: pa.Table | None = None) -> dict[str, list[str | None]]:
    """
    By column, for each row: `image_id`; `image_digest`, of the bytes as stored, None for an unreadable image;
    `image_stat`, size and times of its file, or for bytes in a table its fingerprint, which `datasets` makes from its
    files. Images that are `known` by `image_id` and `image_stat` are not read.
    """
    earlier: dict[tuple[str | None, ...], str | None] = {}
    if known is not None:
        parts = (known[column].to_pylist() for column in (columns.IMAGE_ID, STAT, DIGEST))
        earlier = {(image_id, stat): digest for image_id, stat, digest in zip(*parts, strict=True) if stat}

    def digests(image_id: str, image: Any) -> tuple[str, str | None, str | None]:
        try:
            stat = _stat_of(image, table)
            digest = earlier.get((image_id, stat)) or _digest_of_image(image, stat)
            if stat not in (None, table):
                _READ[image["path"], stat] = digest
            return image_id, digest, stat
        except (OSError, ValueError):
            return image_id, None, None

    rows: list[tuple[str, str | None, str | None]] = []
    table = f"table {split._fingerprint}"
    images = split.select_columns([columns.IMAGE_ID, columns.IMAGE])
    with ThreadPoolExecutor(THREADS) as pool:  # hashing and reading release the GIL
        starts = range(0, len(images), IMAGES_AT_ONCE)
        for start in progress_bar(starts, desc="Comparing images", leave=False, shown=len(images) >= MANY):
            batch = images[start : start + IMAGES_AT_ONCE]
            rows += pool.map(digests, batch[columns.IMAGE_ID], batch[columns.IMAGE])
    return {column: [row[place] for row in rows] for place, column in enumerate((columns.IMAGE_ID, DIGEST, STAT))}


def _digest_of_pixels(image: Any) -> str:
    opened = open_image(image)
    with TURNS.of(opened):
        pixels = to_rgb(opened)
        return hashlib.blake2b(str(pixels.size).encode() + pixels.tobytes(), digest_size=16).hexdigest()


def known_images(stage: Path) -> pa.Table | None:
    """The argument `known` of [`image_digests`] from a Parquet file of a stage; None without digests."""
    names = [columns.IMAGE_ID, DIGEST, STAT]
    is_known = stage.is_file() and set(names) <= set(pq.read_schema(stage).names)
    return pq.read_table(stage, columns=names) if is_known else None


def _stat_of(image: Any, table: str) -> str | None:
    """Size and times of a file; None if it is so new that it could change within its time."""
    if not isinstance(image, dict) or image["bytes"] is not None:
        return table
    stat = os.stat(image["path"])
    changed = max(stat.st_mtime_ns, stat.st_ctime_ns)
    is_settled = time.time_ns() - changed > JUST_WRITTEN * 10**9
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}" if is_settled else None


def _digest_of_image(image: Any, stat: str | None) -> str | None:
    if image is None:
        return None
    if isinstance(image, PILImage.Image):
        return content_digest(image.tobytes())
    return _READ.get((image["path"], stat)) or content_digest(content_of(image))


def content_digest(content: bytes) -> str:
    """32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _values(split: Dataset, column: str, class_names: list[str]) -> Iterator[Any]:
    """The values of a column that are compared: names or digests; None for null."""
    if column == columns.LABEL:
        return _label_names(split, class_names)
    if column == columns.CAPTION:
        return captions_of_rows(split)
    if column == columns.TEXT_EMBEDS and columns.text_embed_dim_of(split.features[column]) is not None:
        embeds = Embeddings(split)
        return vectors_of_rows(embeds, embeds.counts)
    return map(_digest_of_value, values_of(split, column))


def _label_names(split: Dataset, class_names: list[str]) -> Iterator[str | None]:
    feature = split.features[columns.LABEL]
    names = feature.names if isinstance(feature, ClassLabel) else class_names
    for label in values_of(split, columns.LABEL):
        if isinstance(label, int) and label < len(names):
            yield names[label] if label >= 0 else None
        else:
            yield None if label is None else str(label)


def captions_of_rows(split: Dataset) -> Iterator[str | None]:
    """A digest of the captions of each row; None without one."""
    for keys in caption_keys(split).tolist():
        yield ",".join(f"{key:x}" for key in keys if key >= 0) or None


def vectors_of_rows(vectors: Embeddings | np.ndarray, counts: np.ndarray) -> Iterator[str | None]:
    """A digest of the vectors (n, D) of each row, which has `counts` (rows,) of them."""
    ends = np.cumsum(counts)
    for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
        yield content_digest(np.ascontiguousarray(vectors[end - count : end]).tobytes()) if count else None


def _digest_of_value(value: Any) -> str | None:
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(repr(value))
    return content_digest(array.tobytes() if array.dtype.kind in "biuf" else repr(value).encode())


# --- Differences -----------------------------------------------------------------------------------------------------


def differences(earlier: Record, current: Record) -> dict[str, str]:
    """
    The changes as text, by kind: a column, `new`, `removed`, `order`, `class_names` or the name of an input. Images
    are matched by content, otherwise by name. Only columns and inputs of both records are compared.
    """
    before, after = (record.rows.drop_columns([STAT]) for record in (earlier, current))
    changes = {} if before.equals(after) else _of_rows(before.to_pydict(), after.to_pydict())
    if earlier.class_names != current.class_names:
        changes["class_names"] = _class_names(earlier.class_names, current.class_names)
    for name in earlier.inputs.keys() & current.inputs.keys():
        values = earlier.inputs[name], current.inputs[name]
        if None not in values and values[0] != values[1]:
            is_number = isinstance(values[0], int)
            changes[name] = f"{name} ({values[0]:,} there, {values[1]:,} here)" if is_number else name
    return changes


def _of_rows(before: dict[str, list], after: dict[str, list]) -> dict[str, str]:
    pairs = _paired(before, after)

    def changed(column: str) -> list[bool]:
        return [before[column][old] != after[column][new] for old, new in pairs]

    compared = [name for name in before if name in after and name not in (SPLIT, columns.IMAGE_ID, DIGEST)]
    counts = {column: (sum(changed(column)), COMPARED.get(column, repr(column))) for column in compared}
    # An image that moves into the folder of another class has another name too
    renamed = zip(changed(columns.IMAGE_ID), changed(columns.LABEL), strict=True)
    counts[columns.IMAGE_ID] = sum(has_name and not has_label for has_name, has_label in renamed), "names"
    counts[DIGEST] = sum(changed(DIGEST)), "contents"
    counts[SPLIT] = sum(changed(SPLIT)), "the split"
    changes = {kind: f"{words} of {_images(count)}" for kind, (count, words) in counts.items() if count}
    if added := len(after[SPLIT]) - len(pairs):
        changes["new"] = _images(added, "new ")
    if removed := len(before[SPLIT]) - len(pairs):
        changes["removed"] = f"{_images(removed)} removed"
    if not changes and _are_in_another_order(pairs, before[SPLIT]):
        changes["order"] = "the order of the images"
    return changes


def _are_in_another_order(pairs: list[tuple[int, int]], splits: list[str]) -> bool:
    """Within a split of the first, whichever split comes first."""
    last: dict[str, int] = {}
    for old, new in pairs:
        if new < last.get(splits[old], -1):
            return True
        last[splits[old]] = new
    return False


def _paired(before: dict[str, list], after: dict[str, list]) -> list[tuple[int, int]]:
    """Row numbers of equal images in both, in the order of the first."""
    left, right = list(range(len(before[SPLIT]))), list(range(len(after[SPLIT])))
    pairs: list[tuple[int, int]] = []
    for keys in ((SPLIT, columns.IMAGE_ID, DIGEST), (SPLIT, DIGEST), (DIGEST,), (SPLIT, columns.IMAGE_ID)):
        unpaired: dict[tuple, list[int]] = {}
        for row in reversed(left):
            unpaired.setdefault(tuple(before[key][row] for key in keys), []).append(row)
        unmatched = []
        for row in right:
            key = tuple(after[key][row] for key in keys)
            is_known = DIGEST not in keys or after[DIGEST][row] is not None
            if is_known and unpaired.get(key):
                pairs.append((unpaired[key].pop(), row))
            else:
                unmatched.append(row)
        left, right = sorted(row for rows in unpaired.values() for row in rows), unmatched
    return sorted(pairs)


def _images(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}image{'' if count == 1 else 's'}"


def _class_names(there: list[str], here: list[str]) -> str:
    added = [name for name in here if name not in there]
    gone = [name for name in there if name not in here]
    if not added and not gone:
        return "the order of the class names"
    parts = [f"{what}: {some([*map(repr, names)])}" for what, names in (("new", added), ("gone", gone)) if names]
    return f"class names ({'; '.join(parts)})"


# --- Equal images ----------------------------------------------------------------------------------------------------


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


def order_of(split: Dataset, by_pixels: bool = False) -> tuple[list[str], np.ndarray]:
    """
    Digests of the images, and for each a number (N,) by its content, the same for equal ones; `by_pixels` whatever
    format holds them, as `datasets` encodes images in memory by their kind.
    """
    images = split.select_columns([columns.IMAGE_ID, columns.IMAGE])
    if by_pixels:
        digests = list[str]()
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(images), IMAGES_AT_ONCE):
                digests += pool.map(_digest_of_pixels, images[start : start + IMAGES_AT_ONCE][columns.IMAGE])
    else:
        digests = image_digests(images)[columns.IMAGE_DIGEST]
    return digests, np.fromiter((int(digest[:15], 16) for digest in digests), dtype=np.int64, count=len(digests))
