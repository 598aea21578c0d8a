"""The texts of a split: embeddings where they lie, one or several a row, and what tells equal ones."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .. import columns

ROWS = 10_000  # read together
CHUNK = 65536  # texts converted at once
NO_TEXT = -1
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))  # which are no space to Python
Key = Callable[[Iterable[str | bytes | None]], np.ndarray]  # values -> integers, equal for equal ones


def values_of(split: Dataset, column: str) -> Iterator[Any]:
    """The values of a column, row by row."""
    column_alone = split.select_columns([column])
    for start in range(0, len(split), ROWS):
        yield from column_alone[start : start + ROWS][column]


# --- Vectors where they lie ------------------------------------------------------------------------------------------


class Embeddings:
    """
    (T, D) vectors of `text_embeds`, one after the other over the rows; a row has none, one or several. They are read
    as float16 when they are indexed, by a number, a slice or an array, and shared with every process that maps the
    same file. Another process is sent the data set, not the vectors.

    Args:
        split: with `text_embeds`.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, split: Dataset):
        self._split = split.select_columns([columns.TEXT_EMBEDS])
        self._map()
        starts, counts = self._starts_and_counts()
        if self._split._indices is not None:  # rows of a larger table, such as those with a label
            rows = self._split._indices.column(0).to_numpy()
            starts, counts = starts[rows], counts[rows]
        self.counts = counts  # (rows,) number of vectors
        before = np.repeat(np.cumsum(counts) - counts, counts)
        self._places = np.repeat(starts, counts) + np.arange(len(before)) - before  # (T,) in the mapped column

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._dim

    def __getitem__(self, rows: Any) -> np.ndarray:
        """(D,) of a number, (n, D) of a slice, of numbers (n,) or of a mask (T,); float16."""
        places = np.asarray(self._places[rows])
        numbers = np.searchsorted(self._firsts, places, side="right") - 1
        inside = places - self._firsts[numbers]
        found = np.empty((places.size, self._dim), dtype=np.float16)
        for vector, number, place in zip(
            found, numbers.reshape(-1).tolist(), inside.reshape(-1).tolist(), strict=True
        ):
            vector[:] = self._parts[number][place]
        return found.reshape(*places.shape, self._dim)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_parts", "_firsts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._map()

    def _map(self) -> None:
        """The vectors of each part of the table, as NumPy sees them, and the number of the first of each."""
        self._parts = [_vectors(chunk) for chunk in _chunks(self._split)]
        self._dim = max((part.shape[1] for part in self._parts), default=0)
        lengths = [len(part) for part in self._parts]
        self._firsts = np.cumsum([0, *lengths[:-1]])

    def _starts_and_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows of the table,) where the vectors of each row start in the mapped column, and how many they are."""
        starts, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for chunk, first in zip(_chunks(self._split), self._firsts, strict=True):
            present = np.asarray(chunk.is_valid())
            if _has_several(chunk.type):
                offsets = chunk.offsets.to_numpy().astype(np.int64)
                starts.append(first + offsets[:-1])
                counts.append(np.where(present, np.diff(offsets), 0))
            else:
                places = np.arange(len(chunk)) if _is_fixed(chunk.type) else np.cumsum(present) - present
                starts.append(first + places)
                counts.append(present.astype(np.int64))
        return np.concatenate(starts), np.concatenate(counts)


class Selected:
    """Some of the vectors, read when they are indexed, as [`Embeddings`] are; `numbers` (t,) say which."""

    dtype = np.dtype(np.float16)

    def __init__(self, embeds: Any, numbers: np.ndarray):
        self._embeds, self._numbers = embeds, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._embeds.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._embeds[self._numbers[rows]]


def _chunks(split: Dataset) -> list[pa.Array]:
    return split.data.column(columns.TEXT_EMBEDS).chunks


def _has_several(kind: pa.DataType) -> bool:
    return hasattr(kind.value_type, "value_type")


def _is_fixed(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind)


def _vectors(chunk: pa.Array) -> np.ndarray:
    """(vectors, D) of a part of the column, as they lie in it where they all have the same length by their type."""
    if _has_several(chunk.type):
        chunk = chunk.values  # of the whole part: offsets count from its start
    if _is_fixed(chunk.type):
        dim = chunk.type.list_size
        values = chunk.values.slice(chunk.offset * dim, len(chunk) * dim)
    else:
        chunk = chunk.drop_null()
        dim, values = (chunk.value_lengths()[0].as_py() if len(chunk) else 0), chunk.flatten()
    values = values.to_numpy(zero_copy_only=False).reshape(-1, dim or 1)
    return values if dim else values.reshape(0, 0)


# --- What tells equal texts ------------------------------------------------------------------------------------------


def keys_of(values: Iterable[str | bytes | None]) -> np.ndarray:
    """
    Equal values get equal integers, counted from the first; a null gets -1. Values are known by a digest of 63 bits,
    so that they need not stay in memory: of two million, two different ones are taken for equal once in four million
    data sets.
    """
    digests = hashed_keys(values)
    is_null = digests < 0
    _, first, inverse = np.unique(digests[~is_null], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    keys = np.full(len(digests), -1)
    keys[~is_null] = rank[inverse]
    return keys


def hashed_keys(values: Iterable[str | bytes | None]) -> np.ndarray:
    """As [`keys_of`], by the value alone: 63 bits of its digest. For rows of which nobody sees all."""
    return np.fromiter((-1 if value is None else _hash(value) for value in values), dtype=np.int64)


# --- Texts of rows ---------------------------------------------------------------------------------------------------


@dataclass
class Texts:
    """
    T text embeddings of a split's rows, one after the other; rows without a caption have none.

    Args:
        embeds: (T, D) float16, indexed by a number, a slice or an array; those of a data set stay on the disk, see
            [`~g4i_hf.data.texts.Embeddings`].
        starts: (rows + 1,) where the texts of each row start.
        text_keys: (T,) integers, equal for equal texts.
        caption_keys: (rows, C) integers of all captions of a row, equal for equal captions, -1 where there are fewer.
    """

    embeds: "np.ndarray | Embeddings | Selected | _Averaged"
    starts: np.ndarray
    text_keys: np.ndarray
    caption_keys: np.ndarray

    @classmethod
    def of(cls, split: Dataset, choice: str = "sample", key: Key = keys_of) -> "Texts | None":
        """
        Args:
            split: rows with `text_embeds`, a vector or a list of vectors each, and perhaps `caption`.
            choice: what becomes of several captions: `sample` and `all` keep them, `mean` averages them.
            key: gives equal values equal integers; [`keys_of`] by default.

        Returns:
            None for a split without text embeddings.
        """
        if columns.TEXT_EMBEDS not in split.column_names:
            return None
        embeds = Embeddings(split)
        counts = embeds.counts
        if columns.CAPTION not in split.column_names:
            text_keys, starts = _keys_of_vectors(embeds, key), _starts(counts)
            caption_keys = _padded(text_keys, starts)
        else:
            caption_keys = caption_key_table(values_of(split, columns.CAPTION), key)
            blank = (caption_keys < 0).all(1)
            if (counts[blank] > 0).any():
                embeds = Selected(embeds, np.flatnonzero(np.repeat(~blank, counts)))
                counts = np.where(blank, 0, counts)
            starts, text_keys = _starts(counts), _caption_of_each_text(caption_keys, counts)
            if text_keys is None:  # which vector is of which caption cannot be told
                text_keys = _keys_of_vectors(embeds, key)
        texts = cls(embeds, starts, text_keys, caption_keys)
        return texts.averaged(key) if choice == "mean" else texts

    @property
    def counts(self) -> np.ndarray:
        """(rows,) number of texts."""
        return np.diff(self.starts)

    def averaged(self, key: Key) -> "Texts":
        """One text a row, the mean of its texts, of unit norm; `key` as in [`Texts.of`]."""
        if self.counts.max(initial=0) <= 1:
            return self
        means = _Averaged(self.embeds, self.starts)
        return Texts(
            embeds=means,
            starts=_starts(self.counts > 0),
            text_keys=_keys_of_vectors(means, key),
            caption_keys=self.caption_keys,
        )

    def chosen(self, rows: np.ndarray, draw_seeds: np.ndarray, per_row: int) -> np.ndarray:
        """
        (n, `per_row`) numbers of the texts of rows (n,), and `NO_TEXT` where there are fewer; of more, one that the
        seed of the draw (n,) decides.
        """
        counts, first = self.counts_of(rows)[:, None], self.starts[rows][:, None]
        place = np.arange(per_row)
        drawn = draw_seeds[:, None] % np.maximum(counts, 1)
        is_there = np.where(counts > per_row, place == 0, place < counts)
        return np.where(is_there, first + np.where(counts > per_row, drawn, place), NO_TEXT)

    def counts_of(self, rows: np.ndarray) -> np.ndarray:
        return self.starts[rows + 1] - self.starts[rows]

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """(..., D) float16 of texts (...), zeros for `NO_TEXT`."""
        embeds = np.zeros((*numbers.shape, self.embeds.shape[1]), dtype=np.float16)
        embeds[numbers >= 0] = self.embeds[numbers[numbers >= 0]]
        return embeds

    def mean(self) -> np.ndarray:
        """(D,) float32: the mean over the rows with a text of the mean of their texts."""
        captioned = self.counts[self.counts > 0]
        weights = np.repeat(1.0 / captioned, captioned) / len(captioned)
        total = np.zeros(self.embeds.shape[1])
        for start in range(0, len(weights), CHUNK):
            chunk = slice(start, start + CHUNK)
            total += weights[chunk] @ self.embeds[chunk].astype(np.float64)
        return total.astype(np.float32)


class _Averaged:
    """(rows with a text, D) float16: the mean of the texts of each, of unit norm, made when it is read."""

    dtype = np.dtype(np.float16)

    def __init__(self, embeds: np.ndarray | Embeddings | Selected, starts: np.ndarray):
        self._embeds = embeds
        captioned = np.diff(starts) > 0
        self._first, self._counts = starts[:-1][captioned], np.diff(starts)[captioned]

    def __len__(self) -> int:
        return len(self._first)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._embeds.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        first, counts = np.atleast_1d(self._first[rows]), np.atleast_1d(self._counts[rows])
        ends = np.cumsum(counts)
        numbers = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + counts, counts)
        if len(numbers) == 0:
            return np.zeros((0, self.shape[1]), dtype=np.float16)
        sums = np.add.reduceat(self._embeds[numbers].astype(np.float32), ends - counts, axis=0)
        means = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float16)
        return means.reshape(*np.shape(self._first[rows]), -1)


def caption_key_table(captions: Iterable[Any], key: Key = keys_of) -> np.ndarray:
    """(rows, C) integers, equal for equal captions, -1 where a row has fewer than the most; a null is no caption."""
    counts: list[int] = []

    def present() -> Iterator[str]:
        for caption in captions:
            texts = [text for text in (caption if isinstance(caption, list) else [caption]) if not is_blank(text)]
            counts.append(len(texts))
            yield from texts

    keys = key(present())
    return _padded(keys, _starts(counts))


def is_blank(caption: str | list[str] | None) -> bool:
    """Whether there is nothing to read: the row is then trained on its label alone."""
    texts = caption if isinstance(caption, list) else [caption]
    return not any(text and text.translate(INVISIBLE).strip() for text in texts)


def _hash(value: str | bytes) -> int:
    content = value.encode() if isinstance(value, str) else value
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def _keys_of_vectors(embeds: Any, key: Key) -> np.ndarray:
    chunks = (embeds[start : start + CHUNK] for start in range(0, len(embeds), CHUNK))
    return key(vector.tobytes() for chunk in chunks for vector in chunk)


def _padded(keys: np.ndarray, starts: np.ndarray) -> np.ndarray:
    counts = np.diff(starts)
    table = np.full((len(counts), max(1, counts.max(initial=1))), -1, dtype=np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    table[rows, np.arange(len(keys)) - np.repeat(starts[:-1], counts)] = keys
    return table


def _starts(counts: np.ndarray | list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _caption_of_each_text(caption_keys: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """(T,) keys of the captions, where every row with texts has as many captions; else None."""
    has_texts = counts > 0
    keys = caption_keys[has_texts]
    return keys[keys >= 0] if np.array_equal((keys >= 0).sum(1), counts[has_texts]) else None
