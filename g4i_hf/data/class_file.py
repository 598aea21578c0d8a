"""`classes.yaml`: what texts say of each class, and which classes were renamed, merged or dropped."""

import functools
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import ClassLabel, DatasetDict

from .. import columns
from ..files import did_you_mean, nearest, some
from .checks import labels_of
from .classes import ClassWords, names_of_rows, same_form, with_class_names

logger = logging.getLogger(__name__)

CLASSES_FILE = "classes.yaml"
TEXTS, LISTS = ("name", "description", "merge_into"), ("synonyms", "former")
FIELDS = ("name", "synonyms", "description", "former", "merge_into", "drop")
HEAD = (
    "# Fields of a class, all optional: name, synonyms, description, former (names that labels may still have),\n"
    "# merge_into (another class), drop: true. After a rename, its name goes into `former` of the new one.\n"
)


@dataclass(frozen=True)
class ClassEntry(ClassWords):
    """A class in the file."""

    merge_into: str = ""
    drop: bool = False
    line: int = 0


@dataclass(frozen=True)
class Classes:
    """`entries` by name of the class, in the order of the file."""

    file: str
    entries: Mapping[str, ClassEntry]
    is_complete: bool = False  # a list of names: a label of another name is an error

    @cached_property
    def _now(self) -> dict[str, str | None]:
        now: dict[str, str | None] = {}
        for name, entry in self.entries.items():
            last = self.merged(name)[-1]
            is_dropped = last in self.entries and self.entries[last].drop
            now |= dict.fromkeys(map(same_form, (*entry.former, name)), None if is_dropped else last)
        return now

    def now(self, label: str) -> str | None:
        """The class of a label, perhaps of a former name or of a class that was merged; None if it was dropped."""
        return self._now.get(same_form(label), label)

    def present(self, labels: Iterable[str]) -> list[str]:
        """The classes of these labels, each once."""
        return list(dict.fromkeys(now for now in map(self.now, labels) if now is not None))

    def knows(self, label: str) -> bool:
        return same_form(label) in self._now

    def merged(self, name: str) -> list[str]:
        """A class, and those that it was merged into in turn, up to the first that would be there twice."""
        chain = [name]
        while chain[-1] in self.entries and (into := self.entries[chain[-1]].merge_into) and into not in chain:
            chain.append(into)
        return chain

    def other_names(self) -> dict[str, str]:
        """Present class by each other name that people may write for it, in one case."""
        names: dict[str, str] = {}
        for name, words in self.words().items():
            for other in (*words.former, words.name, *words.synonyms):
                names.setdefault(same_form(other).casefold(), name)
        return names

    def words(self) -> dict[str, ClassWords]:
        """By present class. Answers may also name a class that was merged into it."""
        words: dict[str, ClassWords] = {}
        for name, entry in self.entries.items():
            if (now := self.now(name)) is not None:
                of = self.entries.get(now, ClassEntry())
                of_class = words.get(now) or ClassWords(of.name, of.synonyms, of.description, of.former)
                merged = (name, entry.name, *entry.synonyms, *entry.former) if now != name else ()
                words[now] = replace(of_class, former=(*of_class.former, *filter(None, merged)))
        return {name: each for name, each in words.items() if each.says_anything}


# --- Reading ---------------------------------------------------------------------------------------------------------


def names_in_lines(file: str) -> Classes:
    """A name a line, or those in the `config.json` of a classifier; ValueError for no, empty or repeated names."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"class_names_file is {file!r}, but there is no such file.")
    text = Path(file).read_text(encoding="utf-8-sig")
    if is_config(file):
        try:
            config = json.loads(text)
            lines = config.get("label_names") or [
                config["id2label"][str(row)] for row in range(len(config["id2label"]))
            ]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"class_names_file is {file}, which names no classes.") from error
    else:
        lines = [line.strip() for line in text.rstrip().split("\n")]
    names = [same_form(line) for line in lines]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"class_names_file is {file}: give every class a line with a name of its own.")
    return Classes(file, dict.fromkeys(names, ClassEntry()), is_complete=True)


def is_config(file: str | None) -> bool:
    """Whether the classes are those of a classifier, and not of labels that the images may have."""
    return Path(file or "").suffix == ".json"


def read_class_file(file: str | Path, labels: Collection[str] | None = None) -> Classes:
    """
    Raises ValueError for all that is wrong with the file, a line each. With the names that labels of the data have,
    also for a merge into a class that is nowhere, and if no class is left.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"classes is {str(file)!r}, but there is no such file.")
    faults: list[tuple[int, str]] = []
    entries: dict[str, ClassEntry] = {}
    for line, name, value in _parsed(Path(file)):
        if not name:
            what = "is no name of a class. Write one before the colon"
        elif name in entries:
            what = f"is given twice, first in line {entries[name].line}. Keep one of them"
        elif isinstance(value, dict | None):
            entries[name], wrong = _entry(value or {}, line)
            faults += [(line, f"{name!r}: {each}") for each in wrong]
            continue
        else:
            what = f"has fields, not {_kind(value)}. Write {{description: ...}} for a text, or nothing"
        faults.append((line, f"{name!r} {what}"))
    classes = Classes(str(file), entries)
    faults += [(entries[name].line, f"{name!r}: {what}") for name, what in _conflicts(classes, labels)]
    if faults:
        raise ValueError("\n".join(f"{file}, line {line}: {what}." for line, what in sorted(faults)))
    if labels is not None and entries and not any(map(classes.now, (*entries, *labels))):
        raise ValueError(f"{file}: every class is dropped. Keep two or more.")
    return classes


def _parsed(file: Path) -> Iterator[tuple[int, str, Any]]:
    """Line, name as written and value of each class; as `yaml.safe_load`, which would keep one of two equal names."""
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        values = [loader.construct_object(node, deep=True) for _, node in pairs]
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError, AttributeError) as error:
        tabs = " Use spaces instead of tabs." if "\\t" in str(error) else ""
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}{tabs}") from error
    if not isinstance(root, yaml.MappingNode | None) or not all(isinstance(key, yaml.ScalarNode) for key, _ in pairs):
        raise ValueError(f"{file} holds no names of classes. Write a line for each: its name, then a colon.")
    for (key, _), value in zip(pairs, values, strict=True):
        yield key.start_mark.line + 1, same_form(key.value.strip()), value


def _kind(value: object) -> str:
    """A value for a message; containers are not printed, as aliases can make them endless."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)[:60]


def _entry(fields: dict[Any, Any], line: int) -> tuple[ClassEntry, list[str]]:
    """An entry of the fields that are right, and what is wrong with the others."""
    faults, right = [], dict[str, Any]()
    for field, value in fields.items():
        if value is None:
            continue
        if field not in FIELDS:
            near = did_you_mean(str(field), FIELDS)
            faults.append(f"{_kind(field)} is no field of a class.{near} There are {', '.join(FIELDS)}")
        elif field in TEXTS:
            if isinstance(value, str):
                right[field] = same_form(" ".join(value.split()))
            else:
                faults.append(f"{field} is {_kind(value)}. Write a text, in quotes if need be")
        elif field in LISTS:
            if isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value):
                right[field] = tuple(same_form(" ".join(each.split())) for each in value)
            else:
                faults.append(f"{field} is {_kind(value)}. Write a list of texts, as [one, two], in quotes if need be")
        elif isinstance(value, bool):
            right[field] = value
        else:
            faults.append(f"drop is {_kind(value)}. Write true, or leave it out")
    if right.get("drop") and right.get("merge_into"):
        faults.append(f"it is dropped, and merged into {right['merge_into']!r}. Keep one of drop and merge_into")
    return ClassEntry(**right, line=line), faults


def _conflicts(classes: Classes, labels: Iterable[str] | None) -> Iterator[tuple[str, str]]:
    """Name of a class, and what is wrong about it and others."""
    entries, known = classes.entries, None if labels is None else set(map(same_form, labels))
    for name, entry in entries.items():
        into, chain = entry.merge_into, classes.merged(name)
        if not into or entry.drop:
            continue
        if into not in entries:
            if known is not None and into not in known:
                near = did_you_mean(into, [*entries, *known])
                yield name, f"merge_into is {into!r}, which is no class.{near} Add it, or name another"
        elif entries[chain[-1]].merge_into:  # which is in the chain
            yield name, f"it is merged in a circle: {some([*chain, entries[chain[-1]].merge_into])}. Let one stay"
        elif entries[into].drop:
            yield name, f"merge_into is {into!r}, which is dropped. Drop this one too, or keep the other"
    owners: dict[str, tuple[str, str]] = {}
    for name in entries:  # their own names first
        owners.setdefault(name.casefold(), (name, "a class"))
    for name, entry in entries.items():
        if classes.now(name) is None:
            continue
        kinds = {"name": [entry.name] if entry.name else [], "synonym": entry.synonyms, "former name": entry.former}
        for kind, terms in kinds.items():
            for term in terms:
                owner, what = owners.setdefault(term.casefold(), (name, f"a {kind} of {name!r}"))
                if classes.merged(owner)[-1] != classes.merged(name)[-1] and classes.now(owner) is not None:
                    yield name, f"its {kind} {term!r} is also {what}. Take it from one of them, or merge them"


# --- In the data -----------------------------------------------------------------------------------------------------


def names_of_labels(splits: DatasetDict) -> list[str]:
    """Those that labels of the data have, first of `train`; none where labels are numbers."""
    names: dict[str, str] = {}
    for name in sorted(splits, key=lambda name: name != "train"):
        feature = splits[name].features.get(columns.LABEL)
        of_split = feature.names if isinstance(feature, ClassLabel) else []
        if feature is not None and not isinstance(feature, ClassLabel):
            of_rows = names_of_rows(splits[name], name)
            of_split = [] if all(map(str.isdecimal, of_rows)) else of_rows
        for each in of_split:
            names.setdefault(same_form(each), each)
    return list(names.values())


def with_classes(splits: DatasetDict, classes: Classes) -> tuple[DatasetDict, dict[str, list[int]]]:
    """
    The splits with `label` as a ClassLabel of the present classes: those of the data in their order, then others of
    the file; where labels are numbers, those of the file. A class of a former name takes its place. Also returns the
    rows of dropped classes by split; they have no label. Raises ValueError for a label that a complete list lacks.
    """
    of_data, listed = names_of_labels(splits), list(classes.entries)
    is_named = of_data and not classes.is_complete
    known = set(map(same_form, of_data))
    names = [*of_data, *(name for name in listed if name not in known)] if is_named else listed
    if is_named:
        _say_unused(classes, of_data)
    splits = DatasetDict(splits)
    for split_name, split in splits.items():
        if columns.LABEL not in split.column_names:
            unlabelled = ClassLabel(names=names)
            splits[split_name] = split.add_column(columns.LABEL, [None] * len(split), feature=unlabelled)
    splits = with_class_names(splits, names, f"of {classes.file}")
    now, present = [classes.now(name) for name in names], classes.present(names)
    if present == names:
        return splits, {}
    index, dropped = np.array([*(-1 if name is None else present.index(name) for name in now), -1]), {}
    for split_name, split in splits.items():
        before = labels_of(split)
        if before.max(initial=-1) < len(names):  # else `check_split` reports it
            after = index[np.maximum(before, -1)]  # the last for none
            values = [None if label < 0 else label for label in after.tolist()]
            column = split.remove_columns(columns.LABEL).add_column
            splits[split_name] = column(columns.LABEL, values, feature=ClassLabel(names=present))
            dropped[split_name] = np.flatnonzero((before >= 0) & (after < 0)).tolist()
    if gone := sum(map(len, dropped.values())):
        gone_names = [name for name, new in zip(names, now, strict=True) if new is None]
        _say_once(logging.INFO, f"{classes.file}: {gone:,} images of dropped classes ({some(gone_names)}).")
    return splits, dropped


def _say_unused(classes: Classes, of_data: list[str]) -> None:
    """A warning of a class without a label that is perhaps mistyped: labels of the data have a similar name."""
    there, unlisted = set(map(same_form, of_data)), [name for name in of_data if not classes.knows(name)]
    for name, entry in classes.entries.items():
        if there.isdisjoint((name, *entry.former)) and (near := nearest(name, unlisted)):
            what = f"{classes.file}, line {entry.line}: no label is {name!r}. Did you mean {near!r}?"
            _say_once(logging.WARNING, f"{what} If it waits for images, all is well.")


@functools.cache
def _say_once(level: int, line: str) -> None:
    """A command opens the data several times."""
    logger.log(level, "%s", line)


# --- Writing ---------------------------------------------------------------------------------------------------------


def first_class_file(names: Iterable[str], words: Mapping[str, ClassWords]) -> str:
    """A text with each class and a description to fill in."""
    described = {name: {"description": words[name].description if name in words else ""} for name in names}
    return HEAD + yaml.safe_dump(described, allow_unicode=True, sort_keys=False, width=10_000)
