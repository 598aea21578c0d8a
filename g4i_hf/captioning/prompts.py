"""Prompt templates, filled in from the columns of each row, and the check that they leak no class."""

from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value

from .. import columns
from ..data.opening import SPLIT_FOLDERS
from ..files import did_you_mean

# The paper's, with which the published captions of ImageNet were made
PLAIN = "Describe this image in detail."
# Its third version reports that naming the class gives better captions
CLASS = "The main subject of this image is: {label}. Describe this image in detail."
NAMED = {"plain": PLAIN, "class": CLASS}

# Columns that tell the class, beside every ClassLabel; image_id holds the class folder
TELLING = (columns.LABEL, columns.IMAGE_ID)


class MissingValue(ValueError):
    """A row has no value for a column that its prompt names."""


class Prompts:
    """
    One or more templates: `plain`, `class`, or text with columns in braces such as `A {label}, by {artist}.`
    A ClassLabel is filled in by the name of its class, with spaces for underscores. `{{` is a literal brace.

    Attributes:
        templates: with the names `plain` and `class` replaced.
        columns: the columns that the templates name.

    Raises:
        ValueError: for a column that does not exist or cannot be put into text, for anything but a name in braces,
            and for a template that is given twice.
    """

    def __init__(self, templates: Iterable[str], features: Features, split_name: str):
        self.templates = resolve(templates)
        self.split_name = split_name
        self._parsed = [_parse(template) for template in self.templates]
        self.columns = tuple(dict.fromkeys(name for parts in self._parsed for _, name in parts if name is not None))
        self._class_names = {column: _class_names(column, features, split_name) for column in self.columns}

    @property
    def several(self) -> bool:
        """Whether an image gets a list of captions: one for each template."""
        return len(self.templates) > 1

    def prompts_of(self, row: Mapping[str, Any]) -> list[str]:
        """The prompts of a row, one for each template. MissingValue where a column that one names is empty."""
        values = {column: self._text(column, row[column]) for column in self.columns}
        for column in self.columns:
            if not values[column]:
                raise MissingValue(f"Column {column!r} is empty, but the prompt names it.")
        return ["".join(text + (values[name] if name else "") for text, name in parts) for parts in self._parsed]

    def _text(self, column: str, value: Any) -> str:
        """The value as text; empty for a blank one, a null or a label of -1."""
        names = self._class_names[column]
        if names is not None and value is not None:
            value = names[value] if 0 <= value < len(names) else None
        text = "" if value is None else str(value)
        return text if text.strip() else ""

    def check(self, split: Dataset) -> None:
        """Looks at every value that the prompts need, before anything is asked. MissingValue where one is empty."""
        for column in self.columns:
            values = split.select_columns([column])[column][:]
            empty = [row for row, value in enumerate(values) if not self._text(column, value)]
            if empty:
                raise MissingValue(
                    f"Split {self.split_name!r}, column {column!r}: {len(empty):,} of {len(values):,} rows are empty, "
                    f"the first is row {empty[0]}, but the prompt names this column. Fill them in or leave these rows "
                    "out, or use a prompt without it, such as --prompt plain."
                )


def resolve(templates: Iterable[str]) -> list[str]:
    """Templates with the names `plain` and `class` replaced by what they stand for; ValueError for a mistyped name."""
    templates = list(templates)
    for template in templates:
        if template not in NAMED and " " not in template.strip() and (hint := did_you_mean(template, NAMED)):
            raise ValueError(f"prompt is {template!r}.{hint}")
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
    """The names of a ClassLabel, None for a column of other values."""
    if column not in features:
        if any(mark in column for mark in ".[]()"):
            raise ValueError(
                f"prompt: {{{column}}} reaches into a value. Only names of columns may stand in braces: "
                f"{', '.join(features)}."
            )
        raise ValueError(
            f"prompt: split {split_name!r} has no column {column!r}.{did_you_mean(column, features)} Its columns: "
            f"{', '.join(features)}. For a brace that is no column, write two."
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
    Refuses prompts that tell the class of evaluation images: their captions would hold the answer, and every score
    that reads captions (zero-shot, retrieval) would be that of a leak.

    Args:
        splits: those to caption: their rows, or, when they are streamed, their features. A column tells the class if
            it is `label`, `image_id` or a ClassLabel; with rows at hand also if its values go along with the labels.
        train_splits: which of them are for training; by default those called train or training.
    """
    training = set(SPLIT_FOLDERS["train"] if train_splits is None else train_splits)
    for template in resolve(templates):
        for column in (name for _, name in _parse(template) if name):
            for split_name, split in splits.items():
                if split_name not in training and _tells_class(column, split):
                    raise ValueError(
                        f"prompt {template!r} names the column {column!r}, which tells the class, and split "
                        f"{split_name!r} is for evaluation: its captions would hold the answer (a leak), and scores "
                        "that use them would mean nothing. Caption that split with --prompt plain, or leave it out "
                        "with --caption_splits. If it is for training, name it with --train_splits."
                    )


def _tells_class(column: str, split: Dataset | Features) -> bool:
    features = split.features if isinstance(split, Dataset) else split
    if column in TELLING or isinstance(features.get(column), ClassLabel):
        return True
    if not isinstance(split, Dataset) or not isinstance(features.get(column), Value):
        return False  # `Prompts` refuses a column that is missing or holds no text
    if not isinstance(features.get(columns.LABEL), (ClassLabel, Value)):
        return False
    table = split.select_columns([column, columns.LABEL]).to_pandas().dropna()
    table = table[table[columns.LABEL] != -1]
    num_values, num_labels = table.nunique()
    num_pairs = len(table.drop_duplicates())
    # The label follows from a value that several rows share, or, as with a coarser class, the value from the label
    by_value = num_pairs == num_values < len(table) and num_labels > 1
    by_label = num_pairs == num_labels < len(table) and num_values > 1
    return by_value or by_label
