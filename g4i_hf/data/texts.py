"""The texts of a split: memory-mapped embeddings, one or several a row, and keys equal for equal texts."""

import copy
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, LargeList, List, Value
from datasets.table import ConcatenationTable

from .. import columns

TEXT = (Value("string"), Value("large_string"), Value("null"))  # a column of nulls has the type null
ROWS = 10_000  # read at once
CHUNK = 65536  # texts converted at once
NO_TEXT = -1
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))  # no whitespace for `str.strip`


def column_alone(split: Dataset, name: str) -> Dataset:
    """One column. A block of a table without columns would lose its rows in a pickle, as `spawn` makes one."""
    chosen = split.select_columns([name])
    if isinstance(chosen.data, ConcatenationTable):
        blocks = [[block for block in row if block.num_columns] for row in chosen.data.blocks]
        chosen._data = ConcatenationTable.from_blocks(blocks)
    return chosen


def values_of(split: Dataset, column: str) -> Iterator[Any]:
    alone = split.select_columns([column])
    for start in range(0, len(split), ROWS):
        yield from alone[start : start + ROWS][column]


# --- Embeddings ------------------------------------------------------------------------------------------------------


class Embeddings:
    """
    (T, D) float16 vectors of `text_embeds`, in the order of the rows; a row has none, one or several. Indexing by a
    number, slice or array reads them from a memory-mapped file. Pickling sends the dataset, not the vectors.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, split: Dataset):
        if not isinstance(feature := split.features[columns.TEXT_EMBEDS], (List, LargeList)):
            raise ValueError(f"Column 'text_embeds': {feature} is no list of numbers. Make it with g4i embed.")
        self._split = column_alone(split, columns.TEXT_EMBEDS)
        self._map()
        starts, counts = self._starts_and_counts()
        if self._split._indices is not None:  # a selection of rows, such as those with a label
            rows = self._split._indices.column(0).to_numpy()
            starts, counts = starts[rows], counts[rows]
        self.counts = counts  # (rows,) number of vectors
        self._places = _ranges(starts, counts)  # of vectors in the mapped column
        self._groups: np.ndarray | None = None  # (T, 2) for means: the first of their places, and their number

    def select(self, numbers: np.ndarray) -> "Embeddings":
        """(t, D), by numbers (t,) or a mask (T,)."""
        some = copy.copy(self)
        if self._groups is None:
            some._places = self._places[numbers]
        else:
            some._groups = self._groups[numbers]
        return some

    def means(self, counts: np.ndarray) -> "Embeddings":
        """(n, D) of unit norm: means of `counts` (n,) consecutive vectors each, computed when read."""
        averaged = copy.copy(self)
        averaged._groups = np.stack([np.cumsum(counts) - counts, counts], axis=1)
        return averaged

    def __len__(self) -> int:
        return len(self._places if self._groups is None else self._groups)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._dim

    def __getitem__(self, rows: Any) -> np.ndarray:
        """(D,) for a number; (n, D) for a slice, numbers (n,) or a mask (T,); float16."""
        if self._groups is None:
            return self._read(np.asarray(self._places[rows]))
        groups = self._groups[rows]
        first, counts = groups.reshape(-1, 2).T
        vectors = self._read(self._places[_ranges(first, counts)]).astype(np.float32)
        sums = np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0) if len(counts) else vectors
        means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return means.astype(np.float16).reshape(*groups.shape[:-1], self._dim)

    def _read(self, places: np.ndarray) -> np.ndarray:
        numbers = np.searchsorted(self._firsts, places, side="right") - 1
        inside = places - self._firsts[numbers]
        vectors = np.empty((places.size, self._dim), dtype=np.float16)
        for vector, number, place in zip(vectors, numbers.flat, inside.flat, strict=True):
            vector[:] = self._parts[number][place]
        return vectors.reshape(*places.shape, self._dim)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_parts", "_firsts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._map()

    def _map(self) -> None:
        """Map each part of the table as a NumPy view, and count the vectors before each."""
        self._parts = [vectors_of(chunk) for chunk in self._split.data.column(columns.TEXT_EMBEDS).chunks]
        self._dim = max((part.shape[1] for part in self._parts), default=0)
        self._firsts = np.cumsum([0, *map(len, self._parts)])[:-1]

    def _starts_and_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows of the table,) the first vector of each row, and the number of its vectors."""
        starts, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for chunk, first in zip(self._split.data.column(columns.TEXT_EMBEDS).chunks, self._firsts, strict=True):
            present = np.asarray(chunk.is_valid())
            if _has_several(chunk.type):
                offsets = chunk.offsets.to_numpy().astype(np.int64)
                starts.append(first + offsets[:-1])
                counts.append(np.where(present, np.diff(offsets), 0))
            else:
                is_fixed = pa.types.is_fixed_size_list(chunk.type)
                starts.append(first + (np.arange(len(chunk)) if is_fixed else np.cumsum(present) - present))
                counts.append(present.astype(np.int64))
        return np.concatenate(starts), np.concatenate(counts)


def _has_several(kind: pa.DataType) -> bool:
    return hasattr(kind.value_type, "value_type")


def column_of(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors (n, D) as a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def vectors_of(chunk: pa.Array) -> np.ndarray:
    """(vectors, D) of a part of a column; not copied if their type has a fixed length."""
    if _has_several(chunk.type):
        chunk = chunk.values  # of the whole part, as offsets count from its start
    if pa.types.is_fixed_size_list(chunk.type):
        dim = chunk.type.list_size
        values = chunk.values.slice(chunk.offset * dim, len(chunk) * dim)
    else:
        chunk = chunk.drop_null()
        dim, values = (chunk.value_lengths()[0].as_py() if len(chunk) else 0), chunk.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(-1 if dim else 0, dim)


def read_vectors(file: str | Path, *others: str) -> tuple[np.ndarray, list[list]]:
    """
    `values` (n, D) of a Parquet file, and other columns; ValueError of one line for a file that holds anything else.
    """
    try:
        table = pq.read_table(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {str(error).splitlines()[0].rstrip('.')}.") from error
    if lacking := [name for name in ("values", *others) if name not in table.column_names]:
        raise ValueError(f"{file}: no column {lacking[0]!r}. Its columns: {', '.join(table.column_names)}.")
    column = table["values"].combine_chunks()
    inner = getattr(column.type, "value_type", pa.string())
    if not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise ValueError(f"{file}: column 'values' holds {column.type}, not lists of numbers.")
    lengths = pc.list_value_length(column).to_pylist()
    if odd := [row for row, length in enumerate(lengths) if length is None or length != lengths[0]]:
        what = f"column 'values', row {odd[0]}: {lengths[odd[0]]} numbers, not {lengths[0]}"
        raise ValueError(f"{file}: {what}. All rows need as many.")
    return vectors_of(column), [table[name].to_pylist() for name in others]


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(sum of counts,) the concatenated ranges start, start + 1, ... of `counts` numbers each."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


# --- Keys of texts ---------------------------------------------------------------------------------------------------


def keys_of(values: Iterable[str | bytes | None]) -> np.ndarray:
    """Equal integers for equal values, -1 for null: 63 bits of a digest, which hardly ever collide."""

    def key(value: str | bytes | None) -> int:
        if value is None:
            return -1
        content = value.encode() if isinstance(value, str) else value
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1

    return np.fromiter(map(key, values), dtype=np.int64)


def caption_lists(split: Dataset) -> Iterator[list[str]]:
    """
    The captions of each row that have a visible character. A text is a list of one; no column, no captions. Raises
    ValueError if the column holds something else.
    """
    feature = split.features.get(columns.CAPTION, Value("null"))
    if (feature.feature if isinstance(feature, (List, LargeList)) else feature) not in TEXT:
        what = f"Column 'caption': {feature} is neither text nor a list of texts"
        raise ValueError(f"{what}. Name the right column with --caption_column.")
    for caption in values_of(split, columns.CAPTION) if columns.CAPTION in split.column_names else [None] * len(split):
        yield visible_texts(caption)


def visible_texts(caption: list[str | None] | str | None) -> list[str]:
    """Those of one row that have a visible character."""
    texts = caption if isinstance(caption, list) else [caption]
    return [text for text in texts if text and text.translate(INVISIBLE).strip()]


def of_fixed_length(split: Dataset, split_name: str) -> Dataset:
    """
    The split with `text_embeds` as lists of their one length, where `map` has stored lists of any length. Raises
    ValueError if lengths differ.
    """
    feature = split.features.get(columns.TEXT_EMBEDS)
    several = isinstance(feature, List) and isinstance(feature.feature, List)
    vector = feature.feature if several else feature
    if not isinstance(vector, List) or vector.length != -1 or not str(vector.feature.dtype).startswith("float"):
        return split
    embeds, dim, first = split.select_columns([columns.TEXT_EMBEDS]).with_format("arrow"), None, 0
    for start in range(0, len(split), CHUNK):
        values = embeds[start : start + CHUNK][columns.TEXT_EMBEDS].combine_chunks()
        rows = pc.list_parent_indices(values) if several else pa.array(range(len(values)))
        lengths = pc.list_value_length(pc.list_flatten(values) if several else values)
        rows, lengths = start + rows.filter(lengths.is_valid()).to_numpy(), lengths.drop_null().to_numpy()
        if dim is None and len(rows):
            dim, first = int(lengths[0]), int(rows[0])
        if len(other := np.flatnonzero(lengths != dim)):
            what = f"row {rows[other[0]]}: {lengths[other[0]]} dimensions, but row {first} has {dim}"
            raise ValueError(
                f"Split {split_name!r}, column 'text_embeds', {what}. Embed all captions with one encoder."
            )
    fixed = List(vector.feature, length=dim or -1)
    return split.cast_column(columns.TEXT_EMBEDS, List(fixed) if several else fixed)


def caption_keys(split: Dataset) -> np.ndarray:
    """(rows, C) integers, equal for equal captions, -1 if a row has fewer than C."""
    captions = list(caption_lists(split))
    counts = np.asarray(list(map(len, captions)), dtype=np.int64)
    return _table(keys_of(itertools.chain.from_iterable(captions)), counts)


def num_captioned(split: Dataset) -> int:
    """Number of rows with a caption or an embedding."""
    if columns.TEXT_EMBEDS in split.column_names:
        return int((Texts.of(split).counts > 0).sum())
    return sum(map(bool, caption_lists(split)))


def _keys_of_vectors(embeds: Embeddings) -> np.ndarray:
    chunks = (embeds[start : start + CHUNK] for start in range(0, len(embeds), CHUNK))
    return keys_of(vector.tobytes() for chunk in chunks for vector in chunk)


def _table(keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(rows, C) keys in the order of the rows, `counts` (rows,) each, -1 elsewhere."""
    table = np.full((len(counts), max(1, counts.max(initial=1))), -1, dtype=np.int64)
    table[np.arange(table.shape[1]) < counts[:, None]] = keys
    return table


# --- Texts -----------------------------------------------------------------------------------------------------------


@dataclass
class Texts:
    """T text embeddings in the order of the rows of a split; rows without a caption have none."""

    embeds: np.ndarray | Embeddings  # (T, D) float16, indexed by a number, slice or array
    starts: np.ndarray  # (rows + 1,) the first text of each row
    text_keys: np.ndarray  # (T,) integers, equal for equal texts
    caption_keys: np.ndarray  # (rows, C) integers, equal for equal captions, -1 if a row has fewer than C

    @classmethod
    def of(cls, split: Dataset, choice: str = "sample") -> "Texts | None":
        """
        The texts of rows with `text_embeds`, a vector or a list of vectors each, and perhaps `caption`; None without
        embeddings. For several captions, `mean` averages them into one text of unit norm; `sample` and `all` keep
        them.
        """
        if columns.TEXT_EMBEDS not in split.column_names:
            return None
        embeds, text_keys, table = Embeddings(split), None, None
        counts = embeds.counts
        if columns.CAPTION in split.column_names:
            table = caption_keys(split)
            captions = (table >= 0).sum(1)
            embeds, counts = embeds.select(np.repeat(captions > 0, counts)), np.where(captions > 0, counts, 0)
            has_texts = counts > 0
            if np.array_equal(captions[has_texts], counts[has_texts]):  # otherwise no vector belongs to one caption
                text_keys = table[has_texts][table[has_texts] >= 0]
        if text_keys is None:
            text_keys = _keys_of_vectors(embeds)
        if table is None:
            table = _table(text_keys, counts)
        if choice == "mean" and counts.max(initial=0) > 1:
            embeds, counts = embeds.means(counts[counts > 0]), (counts > 0).astype(np.int64)
            text_keys = _keys_of_vectors(embeds)
        return cls(embeds, np.concatenate([[0], np.cumsum(counts)]), text_keys, table)

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.starts)

    def select(self, rows: np.ndarray, draw_seeds: np.ndarray, per_row: int) -> np.ndarray:
        """(n, `per_row`) numbers of the texts of rows (n,), `NO_TEXT` beyond; of more, the seed (n,) draws one."""
        first, counts = self.starts[rows][:, None], (self.starts[rows + 1] - self.starts[rows])[:, None]
        place = np.arange(per_row)
        drawn = draw_seeds[:, None] % np.maximum(counts, 1)
        is_present = np.where(counts > per_row, place == 0, place < counts)
        return np.where(is_present, first + np.where(counts > per_row, drawn, place), NO_TEXT)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """(..., D) float16 embeddings of texts (...), zeros for `NO_TEXT`."""
        embeds = np.zeros((*numbers.shape, self.embeds.shape[1]), dtype=np.float16)
        embeds[numbers >= 0] = self.embeds[numbers[numbers >= 0]]
        return embeds

    def mean(self) -> np.ndarray:
        """(D,) float32: mean over rows of the mean of their texts."""
        captioned = self.counts[self.counts > 0]
        weights = np.repeat(1.0 / captioned, captioned) / len(captioned)
        total = np.zeros(self.embeds.shape[1])
        for start in range(0, len(weights), CHUNK):
            chunk = slice(start, start + CHUNK)
            total += weights[chunk] @ self.embeds[chunk].astype(np.float64)
        return total.astype(np.float32)


def mean_embeds(split: Dataset) -> np.ndarray:
    """(rows, D) float16, the mean of the `text_embeds` of each row, NaN without any."""
    texts = Texts.of(split, "mean")
    rows = np.flatnonzero(texts.counts)
    embeds = np.full((len(split), texts.embeds.shape[1]), np.nan, dtype=np.float16)
    embeds[rows] = texts.embeds[texts.starts[rows]]
    return embeds
