"""The column `caption`: one text a row, or several."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict, LargeList, List, Value

from .. import columns
from ..data.stage import ids_digest

TEXT = (Value("string"), Value("large_string"), Value("null"))  # a column of nulls alone has the type null


@dataclass
class Captions:
    """
    Attributes:
        rows: for every split and row the texts that there are, without null and blank ones.
        several: whether a row can have more than one.
    """

    rows: dict[str, list[list[str]]]
    several: bool

    def unique(self) -> list[str]:
        return sorted({text for rows in self.rows.values() for texts in rows for text in texts})

    def counts(self) -> dict[str, int]:
        return {name: sum(map(len, rows)) for name, rows in self.rows.items()}

    def digests(self) -> dict[str, str]:
        """Of each split: other texts, or the same in other rows, have another one."""
        return {name: ids_digest("\2".join(texts) or "\1" for texts in rows) for name, rows in self.rows.items()}


def read_captions(images: DatasetDict) -> Captions:
    """
    The captions of the splits that have the column; captions can be there of the training split alone.

    Raises:
        ValueError: when no split has captions, or the column holds something else than texts or lists of texts.
    """
    captioned = {name: split for name, split in images.items() if columns.CAPTION in split.column_names}
    captioned = captioned or images  # whose first one is then complained about
    read = {name: _read_split(split, name) for name, split in captioned.items()}
    several = any(isinstance(split.features[columns.CAPTION], (List, LargeList)) for split in captioned.values())
    rows = {name: [_texts(value) for value in values] for name, values in read.items()}
    return Captions(rows, several)


def _read_split(split: Dataset, name: str) -> list[str | list[str] | None]:
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
    return split[columns.CAPTION][:]


def _texts(value: str | list[str] | None) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text for text in texts if text and text.strip()]
