"""How much nearer a caption is to the others of its class than to those of any other class."""

import tempfile
from collections.abc import Callable, Sequence

import numpy as np

BLOCK = 4096  # captions encoded, and compared with all classes, at once


def class_margins(
    captions: Sequence[str | None],
    labels: np.ndarray,
    encode: Callable[[list[str]], np.ndarray],
    block: int = BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """
    With unit vectors e_i and the sum S_c of those of class c, the margin of caption i of class y is

        e_i · (S_y - e_i) / |S_y - e_i|  -  max over c ≠ y of  e_i · S_c / |S_c|

    so that a caption does not speak for itself. Each distinct caption is encoded once; vectors wait on the disk, and
    memory holds a block of them and one vector a class.

    Args:
        captions: N texts; None where there is none.
        labels: (N,) classes, -1 where a row is not labelled.
        encode: gives unit vectors (n, D) of n texts.
        block: texts at once.

    Returns:
        (N,) float32 margins and (N,) int64 nearest other classes; NaN and -1 without caption or label, and where no
        other caption of the class, or no other class, is there to compare with.

    Raises:
        ValueError: when `encode` gives another number of vectors, or vectors that are not finite.
    """
    used = [row for row, caption in enumerate(captions) if caption is not None and labels[row] >= 0]
    margins = np.full(len(captions), np.nan, dtype=np.float32)
    nearest = np.full(len(captions), -1, dtype=np.int64)
    if not used:
        return margins, nearest
    numbers: dict[str, int] = {}
    texts_of = np.asarray([numbers.setdefault(captions[row], len(numbers)) for row in used])
    rows = np.asarray(used)
    classes, of_class = np.unique(labels[rows], return_inverse=True)
    sizes = np.bincount(of_class)
    with tempfile.TemporaryFile() as file:
        vectors = _encoded(list(numbers), encode, block, file)
        sums = np.zeros((len(classes), vectors.shape[1]), dtype=np.float64)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            np.add.at(sums, of_class[part], vectors[texts_of[part]].astype(np.float64))
        centroids = _unit(sums).astype(np.float32)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            own, mine = of_class[part], vectors[texts_of[part]].astype(np.float32)
            nearness = mine @ centroids.T
            nearness[np.arange(len(own)), own] = -np.inf
            others = nearness.argmax(1)
            own_nearness = (mine * _unit(sums[own] - mine)).sum(1)
            found = own_nearness - nearness[np.arange(len(own)), others]
            comparable = (sizes[own] > 1) & np.isfinite(found)
            margins[rows[part]] = np.where(comparable, found, np.nan)
            nearest[rows[part]] = np.where(comparable, classes[others], -1)
        del vectors
    return margins, nearest


def _encoded(texts: list[str], encode: Callable[[list[str]], np.ndarray], block: int, file) -> np.ndarray:
    """(n, D) float16, on the disk."""
    vectors = None
    for start in range(0, len(texts), block):
        some = texts[start : start + block]
        encoded = np.asarray(encode(some))
        if encoded.ndim != 2 or len(encoded) != len(some):
            raise ValueError(f"{len(some)} captions were encoded to an array of shape {encoded.shape}, not (n, D).")
        if not np.isfinite(encoded).all():
            bad = some[int(np.flatnonzero(~np.isfinite(encoded).all(1))[0])]
            raise ValueError(
                f"The embedding of the caption {bad[:80]!r} is not finite. Choose another quality_encoder."
            )
        if vectors is None:
            vectors = np.memmap(file, dtype=np.float16, mode="w+", shape=(len(texts), encoded.shape[1]))
        vectors[start : start + block] = encoded
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
