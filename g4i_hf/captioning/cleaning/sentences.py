"""Sentences and words of an answer. No pattern here, or in the other rooms of cleaning, is slower than linear."""

import re

CLOSERS = "\"'”’»)\\]」』）】*"
_ENDS = ".!?…。！？｡।۔؟"
# The look-behind makes a run of dots one attempt, not one attempt a dot; behind its first character, for speed
_BOUNDARY = re.compile(rf"[.!?](?<![.!?]{{2}})[.!?]*+[{CLOSERS}]*+(?=\s)")
_ANY_BOUNDARY = re.compile(rf"[.!?…](?<![.!?…]{{2}})[.!?…]*+[{CLOSERS}]*+(?=\s)|[。！？｡।۔؟]++[{CLOSERS}]*+")
_ENDED = re.compile(rf"[{_ENDS}][{CLOSERS}]*$")
_ABBREVIATIONS = re.compile(
    r"mr|mrs|ms|dr|prof|st|no|vs|etc|approx|e\.g|i\.e|cf|fig|inc|ltd|jr|sr|al|ca|ft|sq|lb|oz|mt|u\.s|u\.k|p\.m|a\.m",
    re.I,
)
# Scripts that put no space between words: each of their characters counts as a word
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in one line; the last one may lack its end. Nothing but spaces between them is lost."""
    sentences, start = [], 0
    for boundary in (_BOUNDARY if text.isascii() else _ANY_BOUNDARY).finditer(text):
        if boundary[0] == "." and _is_abbreviation(text, start, boundary.start()):
            continue
        sentences.append(text[start : boundary.end()].strip())
        start = boundary.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def is_finished(sentence: str) -> bool:
    """Whether it ends as a sentence does, perhaps with a quote or bracket behind."""
    return _ENDED.search(sentence[-12:]) is not None


def is_unspaced(text: str) -> bool:
    """Whether it holds characters of a script without spaces between words, as Chinese or Thai."""
    return not text.isascii() and re.search(f"[{_UNSPACED}]", text) is not None


def count_words(text: str) -> int:
    """Runs of characters without a space; each character in scripts that do not separate words."""
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))


def join_sentences(sentences: list[str]) -> str:
    """One text: with spaces, except behind the end of a Chinese or Japanese sentence."""
    text = ""
    for sentence in sentences:
        text += sentence if not text or text[-1] in "。！？｡」』" else f" {sentence}"
    return text


def capitalised(text: str) -> str:
    """With a capital at its start; a word such as iPhone stays."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def _is_abbreviation(text: str, start: int, end: int) -> bool:
    """Whether the word before a full stop is one that is written with it: `Dr.`, `e.g.`, `J.`, `1.`"""
    word = text[max(start, end - 12) : end].rpartition(" ")[2].lstrip("\"'“‘([")
    if word.isdigit():  # `1.` of a list or of an order, not a year
        return len(word) <= 2
    return _ABBREVIATIONS.fullmatch(word) is not None or (len(word) == 1 and word.isalpha() and word.isupper())
