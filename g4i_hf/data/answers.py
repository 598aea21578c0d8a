"""Answers of a model that was asked for the class: matched with the names of the classes."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from .classes import terms_of

_NO_WORDS = re.compile(r"[\W_]+")


def matched_answers(answers: Iterable[str | None], names: Sequence[str]) -> np.ndarray:
    """
    (N,) class indices: of the class that an answer names, but for case, spaces and punctuation, else of the only class
    whose name it contains; -1 where there is no answer, or none that names one class.
    """
    terms = [{_folded(name), *map(_folded, terms_of(name))} for name in names]
    exact: dict[str, int] = {}
    for index, of_class in enumerate(terms):
        for term in of_class:
            exact[term] = -1 if term in exact else index  # two classes of one name are none
    known: dict[str, int] = {}
    found = []
    for answer in answers:
        text = _folded(answer or "")
        if text not in known:
            known[text] = exact.get(text, _only_one_within(text, terms))
        found.append(known[text])
    return np.array(found, dtype=np.int64)


def _folded(text: str) -> str:
    return " ".join(_NO_WORDS.sub(" ", text.casefold()).split())


def _only_one_within(text: str, terms: Sequence[set[str]]) -> int:
    """A class whose term is a part of that of another, as `rose` of `rose window`, gives way to it."""
    words = f" {text} "
    within = {term: index for index, of_class in enumerate(terms) for term in of_class if f" {term} " in words}
    longest = {
        index
        for term, index in within.items()
        if not any(term != other and f" {term} " in f" {other} " for other in within)
    }
    return longest.pop() if len(longest) == 1 else -1
