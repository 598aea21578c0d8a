"""Answers of a model that was asked for the class: matched with the names of the classes."""

import json
import re
from collections.abc import Iterable, Sequence

import numpy as np

from .classes import terms_of

NONE_OF_THESE = "none of these"
NO_CLASS, NONE = -1, -2  # in place of a class: the answer names none or several; it says that none of them fits
_NO_WORDS = re.compile(r"[\W_]+")


class Matching:
    """
    Finds the class that an answer names, but for case, spaces and punctuation, else the only class whose name it
    contains. An answer may be JSON, `{"answer": "rose"}`.
    """

    def __init__(self, names: Sequence[str]):
        self.names = names
        self.terms = [{_folded(name), *map(_folded, terms_of(name))} - {""} for name in names]
        self.known: dict[str, int] = {}  # by folded answer
        for index, of_class in enumerate(self.terms):
            for term in of_class:
                self.known[term] = NO_CLASS if term in self.known else index  # two classes of one name are none

    def __call__(self, answer: str | None) -> int:
        """The index of a class, `NO_CLASS` or `NONE`."""
        text = _folded(_said(answer or ""))
        if text not in self.known:
            says_none = text == "none" or " none of the" in f" {text}"
            self.known[text] = NONE if says_none else self._only_one_within(text)
        return self.known[text]

    def _only_one_within(self, text: str) -> int:
        """A class whose term is a part of that of another, as `rose` of `rose window`, gives way to it."""
        words = f" {text} "
        within = {
            term: index for index, of_class in enumerate(self.terms) for term in of_class if f" {term} " in words
        }
        longest = {
            index
            for term, index in within.items()
            if not any(term != other and f" {term} " in f" {other} " for other in within)
        }
        return longest.pop() if len(longest) == 1 else NO_CLASS


def matched_answers(answers: Iterable[str | None], names: Sequence[str]) -> np.ndarray:
    """(N,) class indices, negative where there is no answer, or none that names one class."""
    return np.fromiter(map(Matching(names), answers), dtype=np.int64)


def _said(answer: str) -> str:
    if not answer.lstrip().startswith('{"'):
        return answer
    try:
        return str(json.loads(answer)["answer"])
    except (ValueError, LookupError, RecursionError):  # perhaps cut off in the middle of a name
        return ""


def _folded(text: str) -> str:
    return " ".join(_NO_WORDS.sub(" ", text.casefold()).split())
