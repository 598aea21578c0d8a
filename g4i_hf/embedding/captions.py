"""The column `caption`: one text a row, or several."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import Dataset, DatasetDict, LargeList, List, Value

from .. import columns
from ..data.stage import ids_digest
from ..data.values import values_of

TEXT = (Value("string"), Value("large_string"), Value("null"))  # a column of nulls alone has the type null


@dataclass
class Captions:
    """
    Attributes:
        splits: those with captions.
        several: whether a row can have more than one.
    """

    splits: dict[str, Dataset]
    several: bool

    def of(self, name: str) -> Iterator[list[str]]:
        """For every row of a split the texts that there are, without null and blank ones."""
        return map(_texts, values_of(self.splits[name], columns.CAPTION))

    @cached_property
    def rows(self) -> dict[str, list[list[str]]]:
        """The same of all splits, in memory."""
        return {name: list(self.of(name)) for name in self.splits}

    def unique(self) -> list[str]:
        return sorted({text for name in self.splits for texts in self.of(name) for text in texts})

    def counts(self) -> dict[str, int]:
        return {name: sum(map(len, self.of(name))) for name in self.splits}

    def digests(self) -> dict[str, str]:
        """Of each split: other texts, or the same in other rows, have another one."""
        return {name: ids_digest("\2".join(texts) or "\1" for texts in self.of(name)) for name in self.splits}


def read_captions(images: DatasetDict) -> Captions:
    """
    The captions of the splits that have the column; captions can be there of the training split alone.

    Raises:
        ValueError: when no split has captions, or the column holds something else than texts or lists of texts.
    """
    captioned = {name: split for name, split in images.items() if columns.CAPTION in split.column_names}
    captioned = captioned or images  # whose first one is then complained about
    for name, split in captioned.items():
        _check_split(split, name)
    several = any(isinstance(split.features[columns.CAPTION], (List, LargeList)) for split in captioned.values())
    return Captions(dict(captioned), several)


def _check_split(split: Dataset, name: str) -> None:
    if columns.CAPTION not in split.column_names:
        raise ValueError(
            f"Split {name!r} has no column 'caption'. Its columns: {', '.join(split.column_names)}. Name the right "
            "one with --caption_column."
        )
    feature: Any = split.features[columns.CAPTION]
    inner = feature.feature if isinstance(feature, (List, LargeList)) else feature
    if inner not in TEXT:
        raise ValueError(
            f"Split {name!r}, column 'caption': {feature} is neither text nor a list of texts. Name the right column "
            "with --caption_column."
        )


def _texts(value: str | list[str] | None) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text for text in texts if text and text.strip()]
