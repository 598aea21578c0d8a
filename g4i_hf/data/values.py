"""Columns of millions of rows, of which some thousand are in memory at once."""

from collections.abc import Iterator
from typing import Any

from datasets import Dataset

ROWS = 10_000  # read together


def values_of(split: Dataset, column: str) -> Iterator[Any]:
    """The values of a column, row by row."""
    column_alone = split.select_columns([column])
    for start in range(0, len(split), ROWS):
        yield from column_alone[start : start + ROWS][column]
