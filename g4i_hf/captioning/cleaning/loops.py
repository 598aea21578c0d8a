"""Loops: a model that says the same word, phrase or sentence again until its tokens are used up."""

import re

from .sentences import capitalised, is_finished, is_unspaced, join_sentences, split_sentences

# How often a phrase has to be said for a loop: `very very big` and `a cat and a cat` are none
_WORD_TIMES, _PHRASE_TIMES, _UNSPACED_TIMES = 4.0, 2.6, 4.0
_UNSPACED_LENGTH = 12  # characters without a space that a loop has to span there
_RUN = re.compile(r"(\S)\1{9,}")  # !!!!!!!!!!!!
_PUNCTUATION = ".,;:!?\"'“”‘’()"
_DANGLING = re.compile(r"(?:[\s,;:–—-]+(?:and|or|with|a|an|the|of|in|on|to|is|are))*[\s,;:–—-]*$", re.I)
_LONGEST_DANGLING = 60
_JOINING = {"and", "or", "with", "then", "und", "et", "y", "e"}


def cut_loops(text: str) -> str:
    """
    Each sentence, phrase or word that is said again and again is left once. Sentences count when they are the same
    in every word, wherever they stand; phrases of several words from the third time on, words from the fourth.
    """
    text = _RUN.sub(r"\1", text)
    return _cut_phrases(_cut_sentences(text))


def _cut_sentences(text: str) -> str:
    sentences = split_sentences(text)
    if len(sentences) < 2:
        return text
    first: dict[str, str] = {}
    kept = []
    for sentence in sentences:
        key = sentence.strip(_PUNCTUATION).casefold()
        if key in first and (" " in key or is_unspaced(key)):
            continue
        first.setdefault(key, sentence)
        kept.append(sentence)
    if len(kept) == len(sentences):
        return text
    # The loop was cut off in the middle of one more round
    last = kept[-1].casefold()
    if len(kept) > 1 and not is_finished(last) and any(sentence.casefold().startswith(last) for sentence in kept[:-1]):
        kept.pop()
    return join_sentences(kept)


def _cut_phrases(text: str) -> str:
    words = text.split(" ")
    units = [word.strip(_PUNCTUATION).casefold() or word for word in words]
    loops = _loops(units, _WORD_TIMES, _PHRASE_TIMES)
    if loops:
        begin, end, period = loops[-1]
        if end == len(words) - 1 and units[end - period].startswith(units[end]):  # cut off in the middle of a word
            loops[-1] = begin, end + 1, period
        kept, start = [], 0
        for begin, end, period in loops:
            kept += words[start:begin] + _once(words, begin, end, period)
            start = end
        text = " ".join([*kept, *words[start:]])
        if loops[-1][1] == len(words) and not is_finished(text):
            tail = text[-_LONGEST_DANGLING:]
            text = text[: len(text) - len(tail)] + _DANGLING.sub("", tail)
            text += words[-1][-1] if is_finished(words[-1]) else ""
        text = capitalised(text) if words[0][:1].isupper() else text
    if not text.isascii():
        text = " ".join(_cut_unspaced(word) if len(word) > 2 * _UNSPACED_LENGTH else word for word in text.split(" "))
    return text


def _once(words: list[str], begin: int, end: int, period: int) -> list[str]:
    """One round of a loop. `a cat and a cat and a cat` has ended before its `and`: what is left is `a cat`."""
    rest = (end - begin) % period
    last_is_whole = end < len(words) or is_finished(words[end - 1])
    if not last_is_whole:
        return words[begin : begin + period]
    joined = rest == period - 1 and words[begin + rest].casefold() in _JOINING
    return words[end - rest : end] if joined and rest else words[end - rest - period : end]


def _cut_unspaced(word: str) -> str:
    kept, start = "", 0
    for begin, end, period in _loops(list(word), _UNSPACED_TIMES, _UNSPACED_TIMES):
        if end - begin >= _UNSPACED_LENGTH:
            kept += word[start : begin + period]
            start = end
    return kept + word[start:]


def _loops(units: list[str], times_of_one: float, times: float) -> list[tuple[int, int, int]]:
    """
    Stretches (begin, end, period) in which the same `period` units come again. In a loop of any period some three
    units come twice, one period apart; most texts have no such three, and that is all that is looked at.
    """
    if len(units) < 4:
        return []
    threes = list(zip(units, units[1:], units[2:], strict=False))
    if len(set(threes)) == len(threes):
        return []
    found: list[tuple[int, int, int]] = []
    last: dict[tuple[str, ...], int] = {}
    looked_up_to: dict[int, int] = {}  # by period, so that no stretch is walked twice
    free = 0
    for position, three in enumerate(threes):
        begin = last.get(three)
        last[three] = position
        if begin is None or begin < free:
            continue
        period = position - begin
        if looked_up_to.get(period, 0) > position:
            continue
        end = position + 3
        while end < len(units) and units[end] == units[end - period]:
            end += 1
        looked_up_to[period] = end - 2
        if end - begin >= period * (times_of_one if period == 1 else times):
            found.append((begin, end, period))
            free = end
    return found
