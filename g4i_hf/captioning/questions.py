"""Questions about the rows of a split: prompts, filled in from columns, and keys that identify their answers."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value

from .. import columns
from ..data.census import SPLIT_OF
from ..data.classes import NONE_OF_THESE, ClassWords, Matching, terms_of
from ..data.images import content_of, why_unreadable
from ..data.record import content_digest
from ..files import did_you_mean
from .answers import Answer, AnswerStore, Keys, Question

logger = logging.getLogger(__name__)

BATCH = 1000  # rows that are read, and whose answers are looked up, at once
# The prompt of the paper, with which the published captions of ImageNet were made
PLAIN = "Describe this image in detail."
# The third version of the paper reports better captions if the class is named
CLASS = "The main subject of this image is: {label}. Describe this image in detail."
# The list is the same for every image, so it leaks no class
CHOOSE = f"Which of these does the image show? {{class_names}}. Answer with one of the names, or: {NONE_OF_THESE}."
NAMED = {"plain": PLAIN, "class": CLASS, "choose": CHOOSE}
CLASS_NAMES = "class_names"  # in braces, not a column but the names of all classes; the prompt then asks for the class

# Columns that leak the class, like every ClassLabel; image_id holds the class folder
TELLING = (columns.LABEL, columns.IMAGE_ID)


class Prompts:
    """
    Templates: a name in [`NAMED`], or text with columns in braces such as `A {label}, by {artist}.` A
    ClassLabel is filled in by its name, with spaces for underscores. `{class_names}` stands for the names of all
    classes, with their descriptions: such a template asks for the class. `{{` is a literal brace. Raises ValueError
    for anything but a column of text in braces, and for a repeated template.

    Attributes:
        class_names: names of the classes in the labels, if a template asks for the class.
        matching: finds the class that an answer names.
    """

    def __init__(
        self,
        templates: Iterable[str],
        features: Features,
        split_name: str,
        words: Mapping[str, ClassWords] | None = None,
    ):
        self.templates = resolve(templates)
        self.split_name = split_name
        self._parsed = [_parse(template) for template in self.templates]
        named = [[name for _, name in parts if name is not None] for parts in self._parsed]
        self.asks_class = [CLASS_NAMES in of_template for of_template in named]
        self.class_names = _all_class_names(features, split_name) if any(self.asks_class) else []
        self.words = words or {}
        self.matching = Matching(self.class_names, self.words)
        described = {self._called(name): self._of(name).description.rstrip(".") for name in self.class_names}
        self._in_words = "; ".join(f"{name} ({text})" if text else name for name, text in described.items())
        # The possible answers to each template; empty for any text
        self.choices = [(*described, NONE_OF_THESE) if asks_class else () for asks_class in self.asks_class]
        self.columns = tuple(dict.fromkeys(name for names in named for name in names if name != CLASS_NAMES))
        self._class_names = {column: _class_names(column, features, split_name) for column in self.columns}
        if self._class_names.get(columns.LABEL) is not None:
            self._class_names[columns.LABEL] = [self._called(name) for name in features[columns.LABEL].names]

    def _of(self, name: str) -> ClassWords:
        return self.words.get(name, ClassWords())

    def _called(self, name: str) -> str:
        return self._of(name).called(name).replace("_", " ")

    def prompts_of(self, row: Mapping[str, Any]) -> list[str]:
        """The prompts of a row, one for each template."""
        values = {column: self._text(column, row[column]) for column in self.columns} | {CLASS_NAMES: self._in_words}
        return ["".join(text + (values[name] if name else "") for text, name in parts) for parts in self._parsed]

    def _text(self, column: str, value: Any) -> str:
        """The value as text; empty for a blank one, a null or a label of -1."""
        names = self._class_names[column]
        if names is not None and value is not None:
            value = names[value] if 0 <= value < len(names) else None
        text = "" if value is None else str(value)
        return text if text.strip() else ""

    def check(self, split: Dataset) -> None:
        """Check every value that the prompts need, before any request. Raises ValueError for an empty one."""
        for column in self.columns:
            values = split.select_columns([column])[column][:]
            empty = [row for row, value in enumerate(values) if not self._text(column, value)]
            if empty:
                raise ValueError(
                    f"Split {self.split_name!r}, column {column!r}: {len(empty):,} of {len(values):,} rows are empty, "
                    f"the first is row {empty[0]}. Fill them in, or use a prompt without it, such as --prompt plain."
                )


def digest_of_words(words: Mapping[str, ClassWords]) -> str | None:
    """Of the names and descriptions that a question for the class has beside the labels; None without any."""
    described = {name: [each.name, each.description] for name, each in words.items() if each.name or each.description}
    return content_digest(json.dumps(described, sort_keys=True).encode()) if described else None


def resolve(templates: Iterable[str]) -> list[str]:
    """Templates with the names in [`NAMED`] replaced by their text; raises ValueError for a mistyped name."""
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
    """Text and the column after it, None at the end. Nothing is formatted, so that braces cannot access attributes."""
    try:
        parts = list(Formatter().parse(template))
        if any(name is not None and (not name.strip() or spec or conversion) for _, name, spec, conversion in parts):
            raise ValueError("only the name of a column may stand in braces")
    except ValueError as error:
        message = f"prompt {template!r}: {error}. Write {{column}} for a column, and {{{{ or }}}} for a brace."
        raise ValueError(message) from error
    return [(text, name) for text, name, _, _ in parts]


def _all_class_names(features: Features, split_name: str) -> list[str]:
    feature = features.get(columns.LABEL)
    if not isinstance(feature, ClassLabel) or not any(map(terms_of, feature.names)):
        raise ValueError(
            f"prompt: split {split_name!r} has no names of classes to choose from. Give them with --class_names_file, "
            "a line for each class, or name their column with --label_column."
        )
    return feature.names


def _class_names(column: str, features: Features, split_name: str) -> list[str] | None:
    """The names of a ClassLabel, None for a column of other values."""
    if column not in features:
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
        raise ValueError(f"prompt: column {column!r} of split {split_name!r} holds {wrong}. Name one of texts.")
    return None


def check_leak(
    templates: Iterable[str],
    splits: Mapping[str, Dataset],
    train_splits: Iterable[str] | None = None,
) -> None:
    """
    Raise ValueError for prompts that leak the class of evaluation images: their captions would contain it, and every
    metric from captions would measure the leak. A column leaks the class if it is `label`, `image_id` or a ClassLabel,
    or if its values determine the labels or follow from them.
    """
    training = {word for word in SPLIT_OF if SPLIT_OF[word] == "train"} if train_splits is None else set(train_splits)
    for template in resolve(templates):
        for column in (name for _, name in _parse(template) if name):
            for split_name, split in splits.items():
                if split_name not in training and _tells_class(column, split):
                    raise ValueError(
                        f"prompt {template!r} names the column {column!r}, which tells the class, and split "
                        f"{split_name!r} is for evaluation: its captions would hold the answer (a leak). Use --prompt "
                        "plain, or leave the split out with --caption_splits. If it is for training, name it with "
                        "--train_splits."
                    )


def _tells_class(column: str, split: Dataset) -> bool:
    features = split.features
    if column in TELLING or isinstance(features.get(column), ClassLabel):
        return True
    if not isinstance(features.get(column), Value):
        return False  # `Prompts` rejects a missing column, or one without text
    if not isinstance(features.get(columns.LABEL), (ClassLabel, Value)):
        return False
    table = split.select_columns([column, columns.LABEL]).to_pandas().dropna()
    table = table[table[columns.LABEL] != -1]
    num_values, num_labels = table.nunique()
    num_pairs = len(table.drop_duplicates())
    # The label follows from a value of several rows or, with a coarser class, the value from the label
    by_value = num_pairs == num_values < len(table) and num_labels > 1
    by_label = num_pairs == num_labels < len(table) and num_values > 1
    return by_value or by_label


@dataclass
class Row:
    """A row of a split."""

    number: int
    image_id: str
    prompts: list[str]
    places: list[str]  # of the prompts


class Questions:
    """One for each row, with `image` (not decoded), `image_id` and the columns in the prompts, and each prompt."""

    def __init__(self, split: Dataset, name: str, prompts: Prompts, keys: Keys):
        self.split, self.name, self.prompts, self.keys = split, name, prompts, keys
        self.images = split.select_columns([columns.IMAGE])

    def __len__(self) -> int:
        return len(self.split) * len(self.prompts.templates)

    def part(self, rows: list[int]) -> "Questions":
        return Questions(self.split.select(rows), self.name, self.prompts, self.keys)

    def batches(self) -> Iterator[list[Row]]:
        """All rows, in parts; no image is opened."""
        light = self.split.select_columns(list(dict.fromkeys([columns.IMAGE_ID, *self.prompts.columns])))
        images = self.images.with_format("arrow")
        for start in range(0, len(light), BATCH):
            batch, rows = light[start : start + BATCH], []
            known = sizes_and_times(images[start : start + BATCH][columns.IMAGE])
            for inside, (image_id, (size, mtime)) in enumerate(zip(batch[columns.IMAGE_ID], known, strict=True)):
                prompts = self.prompts.prompts_of({name: batch[name][inside] for name in self.prompts.columns})
                # A file has a time of change; bytes in a table change with the table
                table = self.split._fingerprint if mtime is None and size is not None else self.name
                places = [self.keys.place(image_id, size, mtime, prompt, table) for prompt in prompts]
                rows.append(Row(start + inside, image_id, prompts, places))
            yield rows

    def of_row(self, row: Row) -> list[Question]:
        """Read the image once, so that its key is a digest of the bytes that the captioner receives."""
        image = self.images[row.number][columns.IMAGE]
        try:
            image = {"bytes": content_of(image), "path": (image or {}).get("path")}
            digest = content_digest(image["bytes"])
        except (OSError, ValueError) as error:  # the captioner will answer `undecodable`
            image, digest = {"bytes": None, "path": None, "why": why_unreadable(error)}, f"unreadable {row.image_id}"
        keys = [self.keys.key(digest, prompt) for prompt in row.prompts]
        parts = zip(row.prompts, keys, row.places, self.prompts.choices, strict=True)
        return [Question(row.image_id, image, *part) for part in parts]

    def answers(
        self, store: AnswerStore | None, look_closer: bool = False
    ) -> Iterator[tuple[Row, list[Answer | None]]]:
        """
        Each row, and the stored answers to its prompts. `look_closer` reads an image with an unknown place, as its
        file may have been moved or touched.
        """
        for batch in self.batches():
            known = store.find_many([place for row in batch for place in row.places]) if store else {}
            for row in batch:
                answers = [known.get(place) for place in row.places]
                if look_closer and not all(answers):
                    answers = [store.find(question.key) for question in self.of_row(row)]
                yield row, answers


def sizes_and_times(images: Any) -> list[tuple[int | None, int | None]]:
    """(bytes, later of the times of change and content in ns) of each image of an Arrow column; None: unknown."""
    lengths = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
    paths = pc.struct_field(images, "path").to_pylist()
    known: list[tuple[int | None, int | None]] = []
    for length, path in zip(lengths, paths, strict=True):
        try:
            file = os.stat(path or "") if length is None else None
            known.append((file.st_size, max(file.st_mtime_ns, file.st_ctime_ns)) if file else (length, None))
        except OSError:  # a missing file, or a URL
            known.append((None, None))
    return known
