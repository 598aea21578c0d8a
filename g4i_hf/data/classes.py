"""One list of class names for all splits, to which labels and answers are matched by name."""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from .. import columns
from ..files import did_you_mean
from .images import image_paths

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"n\d{8}[-_ ]*|\d+[.)_-]+(?=[^\W\d])")  # in n02085620-Chihuahua, 005.Crested_Auklet
_MEANINGLESS = re.compile(r"(?:label|class)?[\s_-]*\d*", re.I)
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
_SPACES = re.compile(r"[\s_\-‐‑–—]+")


def same_form(name: str) -> str:
    """A name in one Unicode form, without spaces around it: `é` is two characters on macOS, and one elsewhere."""
    return normalize("NFC", name).strip()


def same_path(name: str) -> str:
    """A path below a folder as all systems may write it."""
    return same_form(name.replace("\\", "/"))


def in_another_case(name: str, names: Iterable[str]) -> str | None:
    """That of the names which differs from this one in case only; None if this one is there itself, or none does."""
    forms = {same_form(other): other for other in names}
    alike = (other for form, other in forms.items() if form.casefold() == same_form(name).casefold())
    return None if same_form(name) in forms else next(alike, None)


def terms_of(name: str) -> list[str]:
    """
    The terms by which a text may name a class: each part of `tench, Tinca tinca`, in lower case, with spaces for
    underscores and hyphens, without leading numbers and text in brackets. Empty for a name without meaning, such as
    `LABEL_3`.
    """
    terms = []
    for part in _IN_BRACKETS.sub("", _NUMBER.sub("", name, count=1)).split(","):
        part = _SPACES.sub(" ", _CAMEL_CASE.sub(" ", part)).strip().casefold()
        is_digit = part.isdecimal() and len(part) <= 2  # a class of digits may be called 7
        if part and part not in terms and (is_digit or not _MEANINGLESS.fullmatch(part)):
            terms.append(part)
    return terms


@dataclass(frozen=True)
class ClassWords:
    """What texts say of a class, beside its name in the labels."""

    name: str = ""  # in place of that
    synonyms: tuple[str, ...] = ()
    description: str = ""
    former: tuple[str, ...] = ()  # that labels and answers may still have

    @property
    def says_anything(self) -> bool:
        return any((self.name, self.synonyms, self.description, self.former))

    def called(self, label: str) -> str:
        return self.name or label


class ClassNames(dict[int, str]):
    """Class names by index, with `words` by name of the class, see [`ClassWords`]."""

    def __init__(self, id2label: Mapping[int, str], words: Mapping[str, ClassWords]):
        super().__init__(id2label)
        self.words = {name: words[name] for name in id2label.values() if name in words}


def words_of(id2label: Mapping[int, str]) -> Mapping[str, ClassWords]:
    """Those of [`ClassNames`]; none of other names."""
    return id2label.words if isinstance(id2label, ClassNames) else {}


def words_as_json(id2label: Mapping[int, str]) -> str:
    """For digests of what depends on them; empty without any."""
    words = {name: asdict(each) for name, each in words_of(id2label).items()}
    return json.dumps(words, sort_keys=True) if words else ""


def texts_of(id2label: Mapping[int, str], index: int) -> tuple[list[str], str]:
    """The names of a class in texts, and its description, perhaps empty."""
    words = words_of(id2label).get(id2label[index], ClassWords())
    return [words.called(id2label[index]), *words.synonyms], words.description


def has_meaning(id2label: Mapping[int, str], index: int) -> bool:
    """Whether texts can name a class: not `LABEL_3` alone."""
    names, description = texts_of(id2label, index)
    return bool(description or any(map(terms_of, names)))


def class_names(splits: DatasetDict) -> tuple[DatasetDict, dict[int, str]]:
    """
    The splits with `label` as a ClassLabel with one list of names, and the names by index. They are those of `train`
    in their order, then those that only rows of other splits have, with a warning. The name of a number without a name
    is the number.

    Raises ValueError without a label column, for rows with several labels, for labels of another type, or if one split
    has names and another numbers.
    """
    present = [name for name, split in splits.items() if columns.LABEL in split.column_names]
    if not present:
        available = sorted({column for split in splits.values() for column in split.column_names})
        _check_class_folders(splits)
        raise ValueError(f"No column 'label' in the data. {columns.its_columns(columns.LABEL, available)}")
    first, *later = sorted(present, key=lambda name: name != "train")
    feature = splits[first].features[columns.LABEL]
    if isinstance(feature, ClassLabel) and all(splits[name].features[columns.LABEL] == feature for name in later):
        return splits, dict(enumerate(feature.names))
    names = feature.names if isinstance(feature, ClassLabel) else names_of_rows(splits[first], first)
    for other in later:
        known, of_rows = set(map(same_form, names)), names_of_rows(splits[other], other)
        added = [name for name in of_rows if same_form(name) not in known]
        if added and names:
            _check_kinds({first: names, other: of_rows})
            logger.warning(
                "Split %r: %d of its classes are none of %r, such as %r.%s They are added to the list of classes.",
                *(other, len(added), first, added[0], did_you_mean(added[0], names)),
            )
        names = [*names, *added]
    _warn_of_similar(names)
    return with_class_names(splits, names), dict(enumerate(names))


def with_class_names(splits: DatasetDict, names: list[str], whose: str = "that are known") -> DatasetDict:
    """The splits with `label` as a ClassLabel of these names; raises ValueError for any other label."""
    feature = ClassLabel(names=names)
    named = DatasetDict(splits)
    for name, split in splits.items():
        if split.features.get(columns.LABEL) not in (None, feature):
            named[name] = _cast_label(split, name, feature, whose)
    return named


def names_of_rows(split: Dataset, split_name: str) -> list[str]:
    """The class names of the rows, in their order; for numbers all up to the highest."""
    feature = split.features[columns.LABEL]
    if not hasattr(feature, "dtype"):
        what = f"Column 'label' of split {split_name!r} holds lists: multi-label data is not supported"
        raise ValueError(f"{what}. Give one class a row, or name another column with --label_column.")
    values = set(split.unique(columns.LABEL)) - {None, ""}
    if isinstance(feature, ClassLabel):
        return [name for number, name in enumerate(feature.names) if number in values]
    if all(isinstance(value, str) for value in values):
        return sorted({*map(same_form, values)} - {""})
    if all(isinstance(value, int) for value in values):
        return [str(number) for number in range(max(values) + 1)]
    what = f"Column 'label' holds {feature.dtype} in the split {split_name!r}: no class names or class numbers"
    raise ValueError(f"{what}. Store labels as strings, integers or ClassLabel, or name another with --label_column.")


def _check_kinds(names: dict[str, list[str]]) -> None:
    """Raise ValueError if one split has names and the other numbers, which are not names in the first."""
    kinds = {split: "numbers" if all(map(str.isdecimal, values)) else "names" for split, values in names.items()}
    if len(set(kinds.values())) > 1 and not set.intersection(*map(set, names.values())):
        parts = [f"{kinds[split]} in the split {split!r} ({', '.join(values[:3])})" for split, values in names.items()]
        raise ValueError(
            f"Column 'label' holds {' and '.join(parts)}, which cannot be matched. Store class names in both, or give "
            "the names of the numbers in their order with --class_names_file."
        )


def _warn_of_similar(names: list[str]) -> None:
    """Warn of names that differ in case only."""
    similar = defaultdict(list)
    for name in names:
        similar[same_form(name).casefold()].append(name)
    if pairs := [" and ".join(map(repr, group)) for group in similar.values() if len(group) > 1]:
        logger.warning("Classes whose names differ only in case: %s. If they are one, rename it.", ", ".join(pairs))


def _check_class_folders(splits: DatasetDict) -> None:
    """Raise ValueError if image files are in no class folders."""
    name, split = next(iter(splits.items()))
    known = {columns.LABEL, *columns.OTHER_NAMES[columns.LABEL]}
    path, has_bytes = None, True
    if columns.IMAGE in split.column_names and not known & set(split.column_names):
        path, has_bytes = next(image_paths(split), (None, True))
    if not has_bytes and Path(path or "").is_file():
        raise ValueError(
            f"The images of split {name!r} have no classes: they lie in no folders, or in one alone. Move each image "
            f"into a folder named after its class, such as {Path(path).parent / 'cats' / Path(path).name}, or write "
            'its class into metadata.jsonl: "label": "cats". Without any label, name the classes: --class_names_file.'
        )


def _cast_label(split: Dataset, split_name: str, feature: ClassLabel, whose: str) -> Dataset:
    """The labels as `feature`, matched by name if they have names."""
    values, current = split[columns.LABEL][:], split.features[columns.LABEL]
    if isinstance(current, ClassLabel):
        values = [current.names[i] if i is not None and 0 <= i < current.num_classes else i for i in values]
    values = [None if isinstance(value, str) and not value.strip() else value for value in values]  # as in metadata
    index = {same_form(name): number for number, name in enumerate(feature.names)}
    texts = {value for value in values if isinstance(value, str)}
    number_of = {text: index.get(same_form(text)) for text in texts}
    if all(number is None and text.isdecimal() for text, number in number_of.items()):  # CSV files have no types
        number_of = {text: int(text) for text in texts}
    if unknown := [row for row, value in enumerate(values) if isinstance(value, str) and number_of[value] is None]:
        where, what = f"Split {split_name!r}, column 'label', row {unknown[0]}", repr(values[unknown[0]])
        raise ValueError(f"{where}: {what} is none of the {feature.num_classes} classes {whose}. Correct it.")
    if all(map(str.isdecimal, index)):  # a number is its own name
        number_of |= {number: index.get(str(number), number) for number in set(values) - {None} - texts}
    values = [number_of.get(value, value) for value in values]
    values = [int(value) if isinstance(value, bool) else value for value in values]
    split = split.remove_columns(columns.LABEL)
    if all(value is None or -1 <= value < feature.num_classes for value in values):
        return split.add_column(columns.LABEL, values, feature=feature)
    return split.add_column(columns.LABEL, values)  # out of range, which `check_split` reports


# --- Answers of a model that was asked for the class -----------------------------------------------------------------


NONE_OF_THESE = "none of these"
NO_CLASS, NONE = -1, -2  # in place of a class: the answer names none or several; it says that none fits
_NO_WORDS = re.compile(r"[\W_]+")
_NOT = re.compile(r"\b(is|are|was|were|do|does|did|has|have)n[\W_]?t\b|n['’]t\b")
_CLAUSE_ENDS = re.compile(r"[()\n–—]|[.,;:!?]+(?=\s|$)")
_ARTICLE = re.compile(r"^(an?|the) ")
_NO_DENIAL = re.compile(r"\b((no|without( an?y?)?) doubt|not (only|just))\b")
_DENIAL = r"\b(?:not|no|nor|neither|never|without|cannot|rather than|instead of)\b"
_ITS_END = r"\b(?:but|and|(?<!think )(?<!believe )(?<!that )(?<!if )(?<!whether )it (?:is|s))\b"
_DENIED = re.compile(f"{_DENIAL}.*?(?={_ITS_END}|$)")
_RULED = re.compile(f"{_DENIAL}|{_ITS_END}")


class Matching:
    """
    Finds the class that an answer, perhaps JSON, names, or the only one whose name it contains, else the only one in
    the plural; what it denies, as in `not a rose`, does not count. `words` has further names of some.
    """

    def __init__(self, names: Sequence[str], words: Mapping[str, ClassWords] | None = None):
        self.names = names
        exact = [
            (_folded(term), index)
            for index, name in enumerate(names)
            for other in _all_names(name, (words or {}).get(name, ClassWords()))
            for term in (other, *terms_of(other))
        ]
        self.terms = _classes_of((term, index) for term, index in exact if term)
        plurals = _classes_of((_plural(term), index) for term, index in self.terms.items())
        singulars = ((each, index) for term, index in self.terms.items() for each in _singulars(term))
        self.whole = _classes_of([*plurals.items(), *singulars])  # within a text, `new` is not one of the `news`
        # A term such as `no entry` denies nothing: a word that no text has stands for it
        denying = [term for term in sorted(self.terms, key=len, reverse=True) if _RULED.search(term)]
        self.stands_for = {term: f"_{number}" for number, term in enumerate(denying)}
        self.terms |= {word: self.terms[term] for term, word in self.stands_for.items()}
        self.denying = re.compile(rf"\b({'|'.join(map(re.escape, denying)) or '(?!)'})\b")
        self.within = plurals | self.terms
        self.longest = max((len(term.split()) for term in self.terms), default=0)
        self.known: dict[str, int] = {}  # by answer

    def __call__(self, answer: str | None) -> int:
        """The index of a class, `NO_CLASS` or `NONE`."""
        text = _text_of(answer or "")
        if text not in self.known:
            folded = _folded(text)
            says_none = folded == "none" or " none of the" in f" {folded}"
            label = self.terms.get(folded, self.whole.get(_ARTICLE.sub("", folded)))
            self.known[text] = label if label is not None else NONE if says_none else self._only_one_within(text)
        return self.known[text]

    def _only_one_within(self, text: str) -> int:
        """The only class in the text. A term within a longer one, such as `rose` in `rose window`, does not count."""
        folded = map(_folded, _CLAUSE_ENDS.split(text))
        clauses = (self.denying.sub(lambda term: self.stands_for[term[0]], clause) for clause in folded)
        affirmed = " ".join(_DENIED.sub("", _NO_DENIAL.sub("", clause)) for clause in clauses)
        within = self._terms_in(affirmed.split())
        longest = [
            term for term in within if not any(term != other and f" {term} " in f" {other} " for other in within)
        ]
        exact = [term for term in longest if term in self.terms]
        classes = {self.within[term] for term in exact or longest}
        return classes.pop() if len(classes) == 1 else NO_CLASS

    def _terms_in(self, words: list[str]) -> list[str]:
        spans = ((start, end) for start in range(len(words)) for end in range(start + 1, start + self.longest + 1))
        return [term for start, end in spans if (term := " ".join(words[start:end])) in self.within]


def _all_names(name: str, words: ClassWords) -> list[str]:
    return [name, *filter(None, (words.name, *words.synonyms, *words.former))]


def _classes_of(named: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The class of each term; a term of two classes is ambiguous."""
    classes: dict[str, int] = {}
    for term, index in named:
        classes[term] = index if classes.get(term, index) == index else NO_CLASS
    return classes


def _plural(term: str) -> str:
    """By the rules of English; it may be no word."""
    if len(term) < 3 or not term[-1].isalpha():
        return term
    return re.sub(r"(?<=[^aeiou])y$", "ie", term) + ("es" if re.search(r"(s|x|z|ch|sh)$", term) else "s")


def _singulars(term: str) -> set[str]:
    """By the rules of English; some are no words."""
    singulars = {term[: -len(end)] + instead for end, instead in (("ies", "y"), ("s", "")) if term.endswith(end)}
    singulars |= {term[:-2]} if re.search(r"(s|x|z|ch|sh)es$", term) else set()
    return {each for each in singulars if len(each) > 2 and not term.endswith("ss")}


def matched_answers(
    answers: Iterable[str | None], names: Sequence[str], words: Mapping[str, ClassWords] | None = None
) -> np.ndarray:
    """(N,) class indices, negative without an answer or if it does not name one class."""
    return np.fromiter(map(Matching(names, words), answers), dtype=np.int64)


def _text_of(answer: str) -> str:
    if not answer.lstrip().startswith('{"'):
        return answer
    try:
        return str(json.loads(answer)["answer"])
    except (ValueError, LookupError, RecursionError):  # perhaps truncated
        return ""


def _folded(text: str) -> str:
    return " ".join(_NO_WORDS.sub(" ", _NOT.sub(r"\1 not", text.casefold())).split())
