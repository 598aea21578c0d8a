"""The texts of a split: embeddings, one or several a row, and what tells equal ones."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from .. import columns

CHUNK = 65536  # texts converted at once
Key = Callable[[Iterable[Any]], np.ndarray]  # values -> integers, equal for equal ones


def keys_of(values: Iterable[Any]) -> np.ndarray:
    """Equal values get equal integers; a null gets -1."""
    numbers: dict[Any, int] = {}
    keys = [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return np.asarray(keys, dtype=np.int64)


def hashed_keys(values: Iterable[Any]) -> np.ndarray:
    """As [`keys_of`], by the value alone: 63 bits of its digest. For rows of which nobody sees all."""
    keys = [-1 if value is None else _hash(value) for value in values]
    return np.asarray(keys, dtype=np.int64)


@dataclass
class Texts:
    """
    T text embeddings of a split's rows, one after the other; rows without a caption have none.

    Args:
        embeds: (T, D) float16.
        starts: (rows + 1,) where the texts of each row start.
        text_keys: (T,) integers, equal for equal texts.
        caption_keys: (rows, C) integers of all captions of a row, equal for equal captions, -1 where there are fewer.
    """

    embeds: np.ndarray
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
        embeds, counts = _embeddings(split)
        captions = split[columns.CAPTION][:] if columns.CAPTION in split.column_names else None
        if captions is None:
            text_keys, starts = key(map(_digest, embeds)), _starts(counts)
            caption_keys = _padded(text_keys, starts)
        else:
            blank = np.asarray([is_blank(caption) for caption in captions], dtype=bool)
            if (counts[blank] > 0).any():
                embeds = embeds[np.repeat(~blank, counts)]
                counts = np.where(blank, 0, counts)
            starts, caption_keys = _starts(counts), caption_key_table(captions, key)
            text_keys = _caption_of_each_text(caption_keys, counts)
            if text_keys is None:  # which vector is of which caption cannot be told
                text_keys = key(map(_digest, embeds))
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
        captioned = self.counts > 0
        first = self.starts[:-1][captioned]
        means = np.empty((len(first), self.embeds.shape[1]), dtype=np.float16)
        for start in range(0, len(first), CHUNK):
            ends = np.append(first, self.starts[-1])[start : start + CHUNK + 1]
            vectors = self.embeds[ends[0] : ends[-1]].astype(np.float32)
            sums = np.add.reduceat(vectors, ends[:-1] - ends[0], axis=0)
            means[start : start + CHUNK] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return Texts(
            embeds=means,
            starts=_starts(captioned),
            text_keys=key(map(_digest, means)),
            caption_keys=self.caption_keys,
        )

    def mean(self) -> np.ndarray:
        """(D,) float32: the mean over the rows with a text of the mean of their texts."""
        captioned = self.counts[self.counts > 0]
        weights = np.repeat(1.0 / captioned, captioned) / len(captioned)
        total = np.zeros(self.embeds.shape[1])
        for start in range(0, len(weights), CHUNK):
            chunk = slice(start, start + CHUNK)
            total += weights[chunk] @ self.embeds[chunk].astype(np.float64)
        return total.astype(np.float32)


def caption_key_table(captions: list, key: Key = keys_of) -> np.ndarray:
    """(rows, C) integers, equal for equal captions, -1 where a row has fewer than the most; a null is no caption."""
    lists = [caption if isinstance(caption, list) else [caption] for caption in captions]
    flat = [caption for row in lists for caption in row if not is_blank(caption)]
    counts = [sum(not is_blank(caption) for caption in row) for row in lists]
    return _padded(key(flat), _starts(counts))


def is_blank(caption: str | list[str] | None) -> bool:
    """Whether there is nothing to read: the row is then trained on its label alone."""
    texts = caption if isinstance(caption, list) else [caption]
    return not any(text and text.strip() for text in texts)


def _hash(value: str | bytes) -> int:
    content = value.encode() if isinstance(value, str) else value
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def _padded(keys: np.ndarray, starts: np.ndarray) -> np.ndarray:
    counts = np.diff(starts)
    table = np.full((len(counts), max(1, counts.max(initial=1))), -1, dtype=np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    table[rows, np.arange(len(keys)) - np.repeat(starts[:-1], counts)] = keys
    return table


def _embeddings(split: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) float16 and the number of vectors of each row."""
    table = split.select_columns([columns.TEXT_EMBEDS]).with_format("arrow")[:]
    array = table[columns.TEXT_EMBEDS].combine_chunks()
    is_null = np.asarray(array.is_null())
    several = hasattr(array.type.value_type, "value_type")
    vectors = array.drop_null()
    counts = np.zeros(len(split), dtype=np.int64)
    counts[~is_null] = np.asarray(vectors.value_lengths()) if several else 1
    if several:
        vectors = vectors.flatten()
    dim = vectors.value_lengths()[0].as_py() if len(vectors) else 0
    embeds = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), dim)
    return embeds.astype(np.float16, copy=False), counts


def _starts(counts: np.ndarray | list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _digest(vector: np.ndarray) -> bytes:
    return hashlib.blake2b(vector.tobytes(), digest_size=8).digest()


def _caption_of_each_text(caption_keys: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """(T,) keys of the captions, where every row with texts has as many captions; else None."""
    has_texts = counts > 0
    keys = caption_keys[has_texts]
    return keys[keys >= 0] if np.array_equal((keys >= 0).sum(1), counts[has_texts]) else None
