"""Class names in captions: does a caption name its class, by the label, a part of it, or a synonym?"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files import did_you_mean, read_mapping
from .cleaning import UNSPACED

UNKNOWN, NOT_NAMED, NAMED = -1, 0, 1

_NUMBER = re.compile(r"n\d{8}[-_ ]*|\d+[.)_-]+(?=[^\W\d])")  # of n02085620-Chihuahua, 005.Crested_Auklet
_MEANINGLESS = re.compile(r"(?:label|class)?[\s_-]*\d*", re.I)
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
_SPACES = re.compile(r"[\s_\-‐‑–—]+")
# Endings of plurals and what stands for them in the singular, and the other way round: berries, foxes, dogs; leaves
_SINGULARS = ((r"(\w\w)ies$", r"\1y"), (r"(s|x|z|ch|sh|o)es$", r"\1"), (r"([^siu])s$", r"\1"))
_PLURALS = (
    *((r"$", "s"), (r"$", "'s"), (r"(s|x|z|ch|sh|o)$", r"\1es"), (r"([^aeiou])y$", r"\1ies")),
    *((r"([^f])f$", r"\1ves"), (r"fe$", "ves"), (r"man$", "men")),
)


def read_synonyms(path: str | Path | None, names: Sequence[str]) -> dict[str, list[str]]:
    """
    Synonyms by class, from a YAML file of `class name: [word, other word]` lines; none without a file.

    Raises:
        ValueError: for another kind of file, or an unknown class.
    """
    if path is None:
        return {}
    try:
        found = {
            str(name): words if isinstance(words, list) else [words] for name, words in read_mapping(path).items()
        }
    except (OSError, ValueError) as error:
        wanted, why = "it must hold `class name: [word, other word]` lines", " ".join(str(error).split())
        raise ValueError(f"synonyms_file {str(path)!r} cannot be read; {wanted}: {why}") from error
    for name, words in found.items():
        where = f"synonyms_file {str(path)!r}, class {name!r}"
        if name not in names:
            raise ValueError(f"{where}: there is no such class.{did_you_mean(name, names)}")
        if not all(isinstance(word, str | int | float) for word in words):
            raise ValueError(f"{where}: give a list of words.")
    return {name: list(map(str, words)) for name, words in found.items()}


def terms_of(name: str, synonyms: Sequence[str] = ()) -> list[str]:
    """
    The terms by which a caption may name a class: each part of `tench, Tinca tinca`, with spaces for underscores and
    hyphens, without leading numbers and text in brackets. None for a meaningless name such as `LABEL_3`.
    """
    terms = []
    for part in [*_IN_BRACKETS.sub("", _NUMBER.sub("", name, count=1)).split(","), *synonyms]:
        part = _SPACES.sub(" ", _CAMEL_CASE.sub(" ", part)).strip().casefold()
        is_digit = part.isdecimal() and len(part) <= 2  # of digits, a class may be called 7
        if part and part not in terms and (is_digit or not _MEANINGLESS.fullmatch(part)):
            terms.append(part)
    return terms


def names_label(
    captions: Sequence[str | None],
    labels: np.ndarray,
    names: Sequence[str],
    synonyms: Mapping[str, list[str]] | None = None,
) -> np.ndarray:
    """
    Finds the class name, or a synonym, in each of N captions, in singular or plural, as a whole word.

    Returns:
        (N,) int8: 1 for a caption that names its class, 0 for one that does not, -1 without caption, label or a
        meaningful class name.
    """
    patterns = [_pattern_of(terms_of(name, (synonyms or {}).get(name, ()))) for name in names]
    named = np.full(len(captions), UNKNOWN, dtype=np.int8)
    for row, (caption, label) in enumerate(zip(captions, labels, strict=True)):
        pattern = patterns[label] if caption is not None and label >= 0 else None
        if pattern is not None:
            named[row] = NAMED if pattern.search(caption.casefold()) else NOT_NAMED
    return named


def _pattern_of(terms: Sequence[str]) -> re.Pattern | None:
    """A pattern for text in lower case; None without terms."""
    alternatives = []
    for term in terms:
        *before, last = term.split(" ")
        forms = "|".join(sorted(map(re.escape, _forms(last)), key=len, reverse=True))
        found = _SPACES.pattern.join([*map(re.escape, before), f"(?:{forms})"])
        has_words = not re.search(f"[{UNSPACED}]", term)
        alternatives.append(rf"(?<![^\W_]){found}(?![^\W_])" if has_words else found)
    return re.compile("|".join(alternatives)) if alternatives else None


def _forms(word: str) -> set[str]:
    """The word in singular and plural, by its ending."""
    if not word.isalpha():
        return {word}
    singulars = {word}
    if len(word) > 3:
        singulars |= {re.sub(ending, singular, word) for ending, singular in _SINGULARS}
    plurals = {re.sub(ending, plural, one) for one in singulars for ending, plural in _PLURALS}
    return singulars | plurals
