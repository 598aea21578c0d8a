"""Match the answers of a model, which was asked for the class, with the names of the classes."""

import json
import re
from collections.abc import Iterable, Sequence

import numpy as np

from .classes import terms_of

NONE_OF_THESE = "none of these"
NO_CLASS, NONE = -1, -2  # in place of a class: the answer names none or several; it says that none fits
_NO_WORDS = re.compile(r"[\W_]+")


class Matching:
    """
    Finds the class that an answer names, ignoring case, spaces and punctuation, otherwise the only class whose name it
    contains. An answer may be JSON, `{"answer": "rose"}`.
    """

    def __init__(self, names: Sequence[str]):
        self.names = names
        self.terms = [{_folded(name), *map(_folded, terms_of(name))} - {""} for name in names]
        self.known: dict[str, int] = {}  # by folded answer
        for index, of_class in enumerate(self.terms):
            for term in of_class:
                self.known[term] = NO_CLASS if term in self.known else index  # a name of two classes is ambiguous

    def __call__(self, answer: str | None) -> int:
        """The index of a class, `NO_CLASS` or `NONE`."""
        text = _folded(_text_of(answer or ""))
        if text not in self.known:
            says_none = text == "none" or " none of the" in f" {text}"
            self.known[text] = NONE if says_none else self._only_one_within(text)
        return self.known[text]

    def _only_one_within(self, text: str) -> int:
        """The only class in the text. A term within a longer one, such as `rose` in `rose window`, does not count."""
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
    """(N,) class indices, negative without an answer or if it does not name one class."""
    return np.fromiter(map(Matching(names), answers), dtype=np.int64)


def _text_of(answer: str) -> str:
    if not answer.lstrip().startswith('{"'):
        return answer
    try:
        return str(json.loads(answer)["answer"])
    except (ValueError, LookupError, RecursionError):  # perhaps truncated
        return ""


def _folded(text: str) -> str:
    return " ".join(_NO_WORDS.sub(" ", text.casefold()).split())
