"""Caption quality: doubts about captions, and the share of captions that name the class of their image."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset

from .. import columns
from ..data.classes import terms_of
from .cleaning import UNSPACED
from .stage import CLEANED, RAW, REASON, STATUS, Captioned


def judge_captions(captioned: Captioned, splits: Mapping[str, Dataset]) -> dict[str, pd.DataFrame]:
    """Judge the captions of each split by [`judge`], and add the metrics to `captioned`. `splits`: the rows."""
    if not captioned.describes:
        return {}
    judged = {name: judge(*caption_table(split, splits[name])) for name, split in captioned.splits.items()}
    for name, table in judged.items():
        captioned.quality[name] = {key: value for key, value in figures(table).items() if value is not None}
    return judged


def caption_table(split: Dataset, images: Dataset | None) -> tuple[pd.DataFrame, list[str] | None]:
    """A line for each caption, with the `row` of its image and its `label` (-1 without); and the class names."""
    table = pd.DataFrame(split.to_dict(), dtype=object)
    table = table.explode([columns.CAPTION, RAW, STATUS, REASON, CLEANED])
    table = table.astype(object).where(table.notna(), None)
    table[columns.LABEL], names = -1, None
    feature = None if images is None else images.features.get(columns.LABEL)
    if isinstance(feature, ClassLabel):
        labels = np.array([-1 if label is None else label for label in images[columns.LABEL]], dtype=int)
        table[columns.LABEL], names = labels[table.index], feature.names
    table = table[table[STATUS].notna()]  # an image without a question may have an empty list
    return table.reset_index(names="row"), names


def judge(table: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of [`caption_table`] with `class`, `named` (see [`names_class`]) and `doubts`, with commas."""
    table, captions, labels = table.copy(), table[columns.CAPTION], table[columns.LABEL]
    class_of = dict(enumerate(names or ()))
    table["class"] = [class_of.get(label, "") for label in labels]
    table["named"] = np.nan if names is None else names_class(captions, labels, names)
    is_present = captions.notna()
    is_labelled = is_present & (labels >= 0)
    same_text = captions.str.rstrip(". ").str.casefold()
    classes_of_text = labels.where(is_labelled).groupby(same_text).transform("nunique")
    doubts = {
        "cut off": table[CLEANED].str.contains("unfinished", na=False),
        "in a loop": table[CLEANED].str.contains("repetitions", na=False),
        "given to other classes too": is_labelled & (classes_of_text > 1),
    }
    table["doubts"] = ""
    for reason, is_doubted in doubts.items():
        table.loc[is_present & is_doubted, "doubts"] += f"{reason}, "
    table["doubts"] = table["doubts"].str.removesuffix(", ")
    return table


def figures(judged: pd.DataFrame) -> dict[str, Any]:
    """Counts and shares for `stage.json`; None for unknown ones."""
    captioned = judged[judged[columns.CAPTION].notna()]
    return {
        "captions": len(captioned),
        "without_caption": len(judged) - len(captioned),
        "doubtful": int((captioned["doubts"] != "").sum()),
        "names_label": float(captioned["named"].mean()) if captioned["named"].notna().any() else None,
    }


def names_class(captions: Sequence[str | None], labels: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """
    Whether each of N captions contains its class name as a whole word, perhaps in the plural: (N,) 1, 0, or NaN
    without caption, label or meaningful name.
    """
    patterns = [_pattern_of(terms_of(name)) for name in names]
    named = np.full(len(captions), np.nan)
    for row, (caption, label) in enumerate(zip(captions, labels, strict=True)):
        pattern = patterns[label] if caption is not None and label >= 0 else None
        if pattern is not None:
            named[row] = bool(pattern.search(caption.casefold()))
    return named


def _pattern_of(terms: Sequence[str]) -> re.Pattern | None:
    """A pattern for text in lower case; None without terms."""
    alternatives = []
    for term in terms:
        pattern = r"[\W_]+".join(map(re.escape, term.split(" ")))
        has_words = not re.search(f"[{UNSPACED}]", term)
        alternatives.append(rf"(?<![^\W_]){pattern}(?:e?s)?(?![^\W_])" if has_words else pattern)
    return re.compile("|".join(alternatives)) if alternatives else None
