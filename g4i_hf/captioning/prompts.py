"""What is asked of each image: templates filled in from the columns of its row."""

import difflib
from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value

from .. import columns
from ..data.opening import SPLIT_FOLDERS

# The paper's, with which the published captions of ImageNet were made
PLAIN = "Describe this image in detail."
# Its third version reports that naming the class gives better captions
CLASS = "The main subject of this image is: {label}. Describe this image in detail."
NAMED = {"plain": PLAIN, "class": CLASS}

# Beside these, every ClassLabel tells the class; image_id holds the class folder
TELLING = (columns.LABEL, columns.IMAGE_ID)


class MissingValue(ValueError):
    """A row has no value for a column that its prompt names."""


class Prompts:
    """
    One or several templates, `plain`, `class` or text with columns in braces: `A photo of a {label}, by {artist}.` Two
    braces, `{{`, stand for one. Of a ClassLabel the name is filled in, underscores as spaces.

    Attributes:
        templates: with the names `plain` and `class` replaced. One gives one caption an image, several give several.
        columns: that the templates name: all that `prompts_of` needs of a row.

    Raises:
        ValueError: for a column that does not exist or cannot be put into text, for anything but a name in braces,
            and for a template that is given twice.
    """

    def __init__(self, templates: Iterable[str], features: Features, split_name: str):
        self.templates = resolve(templates)
        self.split_name = split_name
        self._parsed = [_parse(template) for template in self.templates]
        self.columns = tuple(dict.fromkeys(name for parts in self._parsed for _, name in parts if name is not None))
        self._names = {column: _class_names(column, features, split_name) for column in self.columns}

    @property
    def several(self) -> bool:
        """Whether an image gets a list of captions."""
        return len(self.templates) > 1

    def prompts_of(self, row: Mapping[str, Any]) -> list[str]:
        """
        One a template, in their order.

        Raises:
            MissingValue: when a column that a template names is null or blank, or is a label of -1. A split at hand is
                checked before the first question, see `check`; of a streamed one only this row has no prompt.
        """
        values = {column: self._text(column, row[column]) for column in self.columns}
        return ["".join(text + (values[name] if name else "") for text, name in parts) for parts in self._parsed]

    def _text(self, column: str, value: Any) -> str:
        names = self._names[column]
        if names is not None and value is not None:
            value = names[value] if 0 <= value < len(names) else None
        text = "" if value is None else str(value)
        if not text or text.isspace():
            raise MissingValue(f"Column {column!r} is empty, but the prompt names it.")
        return text

    def check(self, split: Dataset) -> None:
        """
        Looks at every value that the prompts need, before anything is asked.

        Raises:
            MissingValue: with the column, how many rows lack it, and the first of them.
        """
        for column in self.columns:
            values = split.select_columns([column])[column][:]
            empty = []
            for row, value in enumerate(values):
                try:
                    self._text(column, value)
                except MissingValue:
                    empty.append(row)
            if empty:
                raise MissingValue(
                    f"Split {self.split_name!r}, column {column!r}: {len(empty):,} of {len(values):,} rows are empty, "
                    f"the first is row {empty[0]}, but the prompt names this column. Fill them in or leave these rows "
                    "out, or use a prompt without it, such as --prompt plain."
                )


def resolve(templates: Iterable[str]) -> list[str]:
    """
    Templates with the names `plain` and `class` replaced by what they stand for.

    Raises:
        ValueError: without any, for an empty one, and for one that is given twice.
    """
    templates = list(templates)
    for template in templates:
        near = difflib.get_close_matches(template, NAMED, n=1, cutoff=0.7)
        if near and template not in NAMED and " " not in template.strip():
            raise ValueError(f"prompt is {template!r}; did you mean {near[0]!r}?")
    resolved = [NAMED.get(template, template) for template in templates]
    if not resolved or not all(template.strip() for template in resolved):
        raise ValueError(f"prompt is {resolved!r}; give a text, or one of {', '.join(NAMED)}.")
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"prompt holds {max(resolved, key=resolved.count)!r} twice; the answers would be the same.")
    return resolved


def _parse(template: str) -> list[tuple[str, str | None]]:
    """Text and the column after it, None at the end. Nothing is formatted, so that braces can reach no attributes."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"prompt {template!r}: {error}. Write {{column}} for a column, and {{{{ or }}}} for a brace."
        ) from error
    for _, name, spec, conversion in parts:
        if name is not None and (not name.strip() or spec or conversion):
            given = f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
            raise ValueError(
                f"prompt {template!r}: {given} is no name of a column. Write {{column}} and nothing else in braces, "
                "and {{ or }} for a brace."
            )
    return [(text, name) for text, name, _, _ in parts]


def _class_names(column: str, features: Features, split_name: str) -> list[str] | None:
    """Names by class of a ClassLabel, None for a column of other values."""
    if column not in features:
        if any(mark in column for mark in ".[]()"):
            raise ValueError(
                f"prompt: {{{column}}} reaches into a value. Only names of columns may stand in braces: "
                f"{', '.join(features)}."
            )
        near = difflib.get_close_matches(column, list(features), n=1)
        hint = f" Did you mean {{{near[0]}}}?" if near else ""
        raise ValueError(
            f"prompt: split {split_name!r} has no column {column!r}.{hint} Its columns: {', '.join(features)}. For a "
            "brace that is no column, write two."
        )
    feature, wrong = features[column], None
    if isinstance(feature, ClassLabel):
        return [name.replace("_", " ") for name in feature.names]
    if not isinstance(feature, Value) or "binary" in feature.dtype:
        wrong = f"{feature}, which is no text"
    elif column == columns.LABEL and "int" in feature.dtype:
        wrong = "numbers, no names of classes"
    if wrong:
        raise ValueError(
            f"prompt: column {column!r} of split {split_name!r} holds {wrong}. Name a column of texts, numbers or "
            "class labels."
        )
    return None


def check_leak(
    templates: Iterable[str],
    splits: Mapping[str, Dataset] | Mapping[str, Features],
    train_splits: Iterable[str] | None = None,
) -> None:
    """
    A caption that was written with the class at hand holds the answer. On training images that is the purpose; on
    evaluation images every score that reads captions (zero-shot, retrieval) would be that of a leak. Captions that
    exist already tell nothing of how they were made and cannot be checked.

    Args:
        templates: the prompts.
        splits: those to caption: their rows, or, when they are streamed, their features. A column tells the class if
            it is `label`, `image_id` or a ClassLabel; with rows at hand also if its values go along with the labels.
        train_splits: which of them are for training; by default those called train or training. All others count as
            evaluation.

    Raises:
        ValueError: when a prompt names such a column and a split is for evaluation: says which, why, and what to do.
    """
    parsed = {template: [name for _, name in _parse(template) if name] for template in resolve(templates)}
    training = set(SPLIT_FOLDERS["train"] if train_splits is None else train_splits)
    for split_name, split in splits.items():
        if split_name in training:
            continue
        for template, names in parsed.items():
            for name in names:
                if _tells_class(name, split):
                    raise ValueError(
                        f"prompt {template!r} names the column {name!r}, which tells the class, and split "
                        f"{split_name!r} is for evaluation: its captions would hold the answer (a leak), and scores "
                        "that use them would mean nothing. Caption that split with --prompt plain, or leave it out "
                        "with --caption_splits. If it is for training, name it with --train_splits."
                    )


def _tells_class(column: str, split: Dataset | Features) -> bool:
    features = split.features if isinstance(split, Dataset) else split
    if column in TELLING or isinstance(features.get(column), ClassLabel):
        return True
    if not isinstance(split, Dataset) or columns.LABEL not in features or not isinstance(features.get(column), Value):
        return False  # of a column that is missing, or holds no text, `Prompts` will say so
    pairs = split.select_columns([column, columns.LABEL])
    rows = [
        (value, label)
        for value, label in zip(pairs[column][:], pairs[columns.LABEL][:], strict=True)
        if value is not None and label not in (None, -1)
    ]
    together, values, labels = len(set(rows)), {value for value, _ in rows}, {label for _, label in rows}
    # The label follows from a value that several rows share, or, as with a coarser class, the value from the label
    by_value = together == len(values) < len(rows) and len(labels) > 1
    by_label = together == len(labels) < len(rows) and len(values) > 1
    return by_value or by_label
