"""What is known of the images of a split without opening them."""

import os
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from .. import columns

BATCH = 10_000  # rows looked at together
NONE = -1


@dataclass
class ImageFacts:
    """
    Attributes:
        sizes: (rows,) int64 bytes of each image; -1 where there is none, or where it lies on a server.
        mtimes: (rows,) int64 nanoseconds; -1 where the bytes lie in a table.
    """

    sizes: np.ndarray
    mtimes: np.ndarray

    @classmethod
    def of(cls, split: Dataset) -> "ImageFacts":
        """
        Args:
            split: rows with `image` of type `Image(decode=False)`. Bytes in a table are not read, files not opened.
        """
        facts = cls(np.full(len(split), NONE, dtype=np.int64), np.full(len(split), NONE, dtype=np.int64))
        images = split.select_columns([columns.IMAGE]).with_format("arrow")
        for start in range(0, len(split), BATCH):
            column = images[start : start + BATCH][columns.IMAGE]  # in chunks: joined, their bytes would be copied
            lengths = pc.binary_length(pc.struct_field(column, "bytes")).combine_chunks()
            has_bytes = np.asarray(lengths.is_valid())
            stop = start + len(lengths)
            facts.sizes[start:stop][has_bytes] = np.asarray(lengths.fill_null(NONE))[has_bytes]
            if has_bytes.all():
                continue
            paths = pc.struct_field(column, "path").to_pylist()
            for inside in np.flatnonzero(~has_bytes):
                facts._note_file(start + int(inside), paths[inside])
        return facts

    def of_row(self, row: int) -> tuple[int | None, int | None]:
        """Size and mtime, None for what is not known."""
        size, mtime = int(self.sizes[row]), int(self.mtimes[row])
        return (None if size == NONE else size), (None if mtime == NONE else mtime)

    def _note_file(self, row: int, path: str | None) -> None:
        if not path or "://" in path:
            return
        try:
            found = os.stat(path)
        except OSError:
            return
        self.sizes[row], self.mtimes[row] = found.st_size, found.st_mtime_ns
