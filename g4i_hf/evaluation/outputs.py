"""Outputs of a model for a whole split, kept in a file and mapped: memory does not grow with the split."""

import tempfile
from collections.abc import Iterator

import numpy as np

BLOCK = 1024  # rows looked at together


class OutputFile:
    """Rows are appended, then mapped. The file has no name and is gone with the last who maps it."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed once it is mapped
        self._rows, self._row = 0, np.empty(0)

    def append(self, values: np.ndarray) -> None:
        """(m, ...) of the shape and type of those before."""
        self._file.write(np.ascontiguousarray(values).data)
        self._rows, self._row = self._rows + len(values), values[0]

    def mapped(self) -> np.ndarray:
        """(n, ...)"""
        with self._file as file:
            file.flush()
            return np.memmap(file, self._row.dtype, "c", shape=(self._rows, *self._row.shape))


def blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))
