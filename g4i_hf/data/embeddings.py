"""Text embeddings where they lie: in the memory-mapped column of a data set, read a batch at a time."""

from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .. import columns


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
