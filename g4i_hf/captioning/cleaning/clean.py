"""Answers -> captions: pure functions, applied in a fixed order."""

import re
from dataclasses import dataclass

from ..answers import OK
from .loops import cut_loops
from .markup import cut_closings, cut_markup, has_closing
from .openings import cut_openings
from .refusals import is_refusal
from .sentences import is_finished, join_sentences, split_sentences

# What can happen to an answer, in this order. The order matters: a refusal may stand behind markup, an opening behind
# neither; a loop has to go before its last, broken round is taken for an unfinished sentence
STEPS = {
    "boilerplate": "markup, questions back and offers of help",
    "refusals": "the model declined",
    "openings": "`The image shows` and the like",
    "repetitions": "a word, phrase or sentence said again and again",
    "unfinished": "a last sentence that ends in the middle",
}
_MOST_PASSES = 6
_INVISIBLE = re.compile("[\u0000-\u0008\u000e-\u001b\u007f\u00ad\u200b\u2060\ufeff\ufffd\ud800-\udfff]")


@dataclass(frozen=True)
class Cleaned:
    """
    Attributes:
        caption: what is left; None where there is no caption.
        status: `ok`, `refused` or `empty`.
        applied: names of the [`STEPS`] that changed the answer, in their order.
    """

    caption: str | None
    status: str
    applied: tuple[str, ...] = ()


def clean(text: str | None, finish_reason: str | None, enabled: bool = True) -> Cleaned:
    """
    The caption in an answer. Cleaning what is clean changes nothing: the steps are repeated until they find no more,
    since an opening may stand before a quotation, and a quotation hold another opening. White space becomes single
    spaces, and characters that cannot be seen go, in any case.

    Args:
        text: the answer as the model gave it.
        finish_reason: `length` when the model was cut off.
        enabled: whether the steps are taken.
    """
    applied: set[str] = set()
    text = text or ""
    if not enabled:
        text = _one_line(_visible(text))
    for _ in range(_MOST_PASSES if enabled else 0):
        text, refused, changed = _clean_once(text, finish_reason == "length", applied)
        if refused:
            return Cleaned(None, "refused", _ordered(applied))
        if not changed:
            break
    if not any(character.isalnum() for character in text):
        return Cleaned(None, "empty", _ordered(applied))
    return Cleaned(text, OK, _ordered(applied))


def _clean_once(text: str, cut_off: bool, applied: set[str]) -> tuple[str, bool, bool]:
    """One round of all steps: the text, whether it is a refusal, and whether a step changed anything."""
    start = _visible(text)
    text = _one_line(start)
    first = text

    def step(name: str, changed: str) -> str:
        changed = _one_line(changed)
        if changed != text:
            applied.add(name)
        return changed

    text = step("boilerplate", cut_markup(start, cut_off))
    if is_refusal(text):
        applied.add("refusals")
        return text, True, True
    text = step("openings", cut_openings(text))
    if has_closing(text):
        text = step("boilerplate", cut_closings(text))
    text = step("repetitions", cut_loops(text))
    if text and not is_finished(text):
        text = step("unfinished", _cut_unfinished(text))
    return text, False, text != first


def _cut_unfinished(text: str) -> str:
    """Without a last sentence that lacks its end. A single one stays: `a red circle on white` is a fine caption."""
    sentences = split_sentences(text)
    return join_sentences(sentences[:-1]) if len(sentences) > 1 else text


def _visible(text: str) -> str:
    """Without control characters, and without halves of characters, which a cut-off answer may end with."""
    if text.isascii():
        return _INVISIBLE.sub("", text) if not text.isprintable() else text
    return _INVISIBLE.sub("", text.encode("utf-8", "ignore").decode())


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _ordered(applied: set[str]) -> tuple[str, ...]:
    return tuple(step for step in STEPS if step in applied)
