"""Cleaning: the caption in the answer of a model. All patterns take time linear in the length of the text."""

import html
import re
from dataclasses import dataclass

from ..files import INVISIBLE
from .answers import OK

_MOST_PASSES = 6
_INVISIBLE = re.compile(rf"[{INVISIBLE}\ufffd]")
_PUNCTUATION = " .,;:!?…。！？\"'“”‘’()"
# Scripts without spaces between words, of which each character counts as a word
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]\s*|[^\s{UNSPACED}]+\s*")


@dataclass(frozen=True)
class Cleaned:
    """A cleaned answer."""

    caption: str | None  # None if nothing remains
    status: str  # `ok`, `refused` or `empty`
    applied: tuple[str, ...] = ()  # the [`STEPS`] that changed the answer, in their order


def clean(text: str | None, finish_reason: str | None = None) -> Cleaned:
    """
    The caption in an answer. [`STEPS`] are repeated until none changes the text, as a quotation may hold another
    opening. White space is always normalised. `finish_reason` is `length` for a truncated answer.
    """
    text, applied = _INVISIBLE.sub("", text or ""), set()
    if finish_reason == "length" and _LAST_ITEM.search(text):
        text, applied = _LAST_ITEM.sub("", text), {"unfinished"}
    for _ in range(_MOST_PASSES):
        before = text
        for name, step in STEPS.items():
            changed = _one_line(step(text))
            if changed != _one_line(text):
                applied.add(name)
            text = changed
        if text == before:
            break
    text = _one_line(text)
    steps = tuple(name for name in STEPS if name in applied)
    if "refusals" in applied:
        return Cleaned(None, "refused", steps)
    if not any(character.isalnum() for character in text):
        return Cleaned(None, "empty", steps)
    return Cleaned(text, OK, steps)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _capitalised(text: str) -> str:
    """With a capital at its start, except for words such as iPhone."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


# --- Sentences -------------------------------------------------------------------------------------------------------

_CLOSERS = "\"'”’»)\\]」』*"
_ENDS = ".!?…。！？।۔؟"
# The look-behind makes a run of dots one attempt, not one attempt for each dot
_BOUNDARY = re.compile(rf"(?<![{_ENDS}])(?:[{_ENDS}]++[{_CLOSERS}]*+\s|[。！？]++[{_CLOSERS}]*+)")
_FINISHED = re.compile(rf"[{_ENDS}][{_CLOSERS}]*$")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|no|vs|etc|approx|jr|sr|ft|[a-z]|\d{1,2})$", re.I)


def split_sentences(text: str) -> list[str]:
    """Sentences of a text in one line, each with the space after it; the last one may be unfinished."""
    sentences, start = [], 0
    for boundary in _BOUNDARY.finditer(text):
        if boundary[0] == ". " and _ABBREVIATION.search(text, max(start, boundary.start() - 8), boundary.start()):
            continue  # `Dr. `, `e.g. `, `J. `, `1. `
        sentences.append(text[start : boundary.end()])
        start = boundary.end()
    return [*sentences, text[start:]] if text[start:] else sentences


def is_finished(text: str) -> bool:
    """Whether the text ends like a sentence, perhaps followed by a quote or bracket."""
    return _FINISHED.search(text[-12:].rstrip()) is not None


# --- Boilerplate: markup, and remarks of chat models around a description --------------------------------------------

_LAST_ITEM = re.compile(r"\n[ \t]*+(?:[-*•]|\d{1,2}[.)]) [^\n]*$")
_TOKEN = re.compile(  # of chat templates and HTML
    r"<\|[\w/-]{1,30}\|>|</?s>|<(?:image|eos|bos|pad)>|^[#\s]*+assistant\s?:|</?(?:b|i|em|strong|p|br|ul|ol|li)\s?/?>",
    re.I,
)
_NEXT_TURN = re.compile(r"(?:\n|### ?)(?:human|user)\s?:.*", re.I | re.S)  # an invented reply of the user
_ITEM = re.compile(r"(?:#{1,6}|[-*•]|\d{1,2}[.)])\s+|(?=\*\*)")
_RULE = re.compile(r"[-*_=#`]{3,}\w*$")
_EMPHASIS = re.compile(
    r"(?<![\w*])(?:\*{1,3}|__)(?=[\w\"'“‘(\[<])|(?<=[^\s*_])(?:\*{2,3}|__)(?![\w*])|"
    r"(?<=[^\s*_\d])\*(?![\w*])|`+"  # `a 3* hotel`
)
_TITLE = re.compile(r"(?:(?:detailed|brief|short|image|scene) )*(?:description|caption|answer|overview):?$", re.I)
_QUOTED = re.compile(r"[\"“]([^\"“”]+)[\"”]$")
_CLOSING = re.compile(
    r"(?:please )?(?:let me know|feel free|don['’]t hesitate)\b|i hope (?:this|that|it)\b|"
    r"(?:thank you|thanks)(?= for\b|(?: very| so) much\b|[!.,]| *$)|"
    r"if you (?:have|need|want|would like|['’]d like)\b|(?:i['’]m|i am) (?:happy|glad|here) to\b|"
    r"(?:(?:would|do|did|are|can|could) you|(?:can|could|should|may) i|(?:is there )?anything else)\b[^.!]*\?",
    re.I,
)


def cut_boilerplate(text: str) -> str:
    """
    Plain prose: entities and markdown are undone, and list items become sentences. Names of speakers, tokens, the next
    turn of a dialogue, and a last offer of help or question to the user are removed, unless it is the only sentence.
    """
    text = _INVISIBLE.sub("", html.unescape(text))
    text = _NEXT_TURN.sub("", _TOKEN.sub(" ", text))
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _RULE.match(line)]
    sentences = split_sentences(_one_line(" ".join(_plain_line(line, len(lines) > 1) for line in lines)))
    while sentences and _CLOSING.match(sentences[-1]) and (len(sentences) > 1 or sentences[0].rstrip().endswith("?")):
        sentences.pop()
    text = "".join(sentences).strip()
    quoted = _QUOTED.match(text)
    return quoted[1] if quoted else text


def _plain_line(line: str, one_of_several: bool) -> str:
    item = _ITEM.match(line)
    plain = _EMPHASIS.sub("", line[item.end() :] if item else line)
    if one_of_several and _TITLE.match(plain):
        return ""
    if item:
        plain = _capitalised(plain)
        plain += "." if one_of_several and plain and not is_finished(plain) and plain[-1] not in ",;:" else ""
    return plain


# --- Refusals. Only English ones are detected, and only at the beginning ---------------------------------------------

_IMAGE = r"(?:image|picture|photo|file|attachment)s?"
_CANNOT = (
    r"i(?: can(?:no|['’])t(?! help but)|(?: am|['’]m) (?:unable|not able) to| do(?: not|n['’]t) (?:have|see any))\b"
)
_ABSENT = rf"(?:no {_IMAGE} (?:is|was|were|has)|(?:the|your|this) {_IMAGE} (?:is|was|has|could|can)(?: ?not|n['’]t))"
_GIVEN = r"(?: been| be)? ?(?:visible|available|provided|loaded|displayed|attached|uploaded|accessible|viewed)"
_REFUSAL = re.compile(
    r"[\s*_#>]*+(?:(?:sure|okay|ok|well|oh)[,.!] )?(?:it (?:seems|looks|appears) (?:like |that )?)?(?:"
    rf"(?:(?:i['’]m|i am)(?: \w+)? sorry|sorry|my apologies|i apologi[sz]e|unfortunately)"
    rf"(?:[.!]?$|[^?]{{0,80}}?\b(?:{_CANNOT}|{_ABSENT}))|"
    rf"as an ai\b|i(?: am|['’]m) (?:just )?an ai\b|i (?:must|have to) (?:decline|refuse)|"
    rf"unable to (?:load|see|view)(?:[.!]?$| (?:\w+ ){{0,3}}{_IMAGE}\b)|"
    rf"{_CANNOT}|{_ABSENT}{_GIVEN}|please (?:provide|upload|attach|share|send) [^.!?]{{0,40}}?{_IMAGE}|"
    r"you (?:have not|haven['’]t|did not|didn['’]t) (?:provide|attach|upload|share))",
    re.I,
)


def drop_refusal(text: str) -> str:
    """Empty if the answer declines to describe. `A sign says I'm sorry` and `The cat looks sorry` do not."""
    return "" if _REFUSAL.match(text[:400]) else text


# --- Openings: `Sure! Here is a description: The image shows a dog` becomes `A dog` ----------------------------------

# Words that say nothing about the image; `drawing` or `painting` describe its look, and stay
_NOUN = r"(?:image|picture|photo|photograph|snapshot)"
_THIS = rf"(?:the|this|your) (?:provided |given )?{_NOUN}(?: you(?: have)? (?:provided|shared|uploaded|sent))?"
_SHOWS = (
    r"(?:(?:shows|depicts|displays|features|captures|portrays|presents|contains|showcases|illustrates)(?: that| us)?|"
    r"is of|(?:appears|seems) to (?:be|show|depict))"
)
# `The image shows how ...` and `The image shows off ...` are not followed by a noun phrase
_THING = r" (?!(?:how|why|where|when|what|who|off|up|it|them)\b)(?=[\"'“(]?\w)"
# An image that hangs on a wall is the subject: `a picture of` is only removed if no verb follows
_NO_VERB = r"(?![^.!?]{0,200}\b(?:is|are|has|hangs?|sits?|stands?|lies|rests?|shows?)\b)"
_OPENING = re.compile(
    r"(?:(?:"
    r"(?:sure|certainly|of course|absolutely)[!.,:]|"
    r"here(?:['’]s| is) (?:an?|the)(?: [\w-]+){0,4}? (?:description|caption|summary)(?: [\w-]+){0,8}? ?[:.!]|"
    r"(?:i['’]d|i would) be (?:happy|glad) to(?: [\w'’-]+){0,12}? ?[:.!]|"
    r"(?:(?:detailed|brief|short|image) )*(?:description|caption|image|answer) ?:|"
    rf"(?:looking at|based on) {_THIS},|"
    rf"in {_THIS}(?:,|(?= (?:there|we|you|i)\b))(?: (?:we|you|i)(?: can)? see\b)?|"
    r"(?:we|you|i) can see(?= (?:an?|the|some|several|two|three|many|people)\b)|"
    rf"{_THIS}(?: \w+ly)? {_SHOWS}{_THING}|"
    rf"{_THIS} is(?= (?:an?|the) )|"
    rf"(?:this is )?(?:an? |the )?{_NOUN} of{_THING}{_NO_VERB}|"
    r"this is(?= an? )"
    r")\s*)++",
    re.I,
)


def cut_openings(text: str) -> str:
    """The text without its openings, beginning with a capital."""
    opening = _OPENING.match(text)
    return _capitalised(text[opening.end() :]) if opening else text


# --- Loops: the same word, phrase or sentence until the token limit --------------------------------------------------

_RUN = re.compile(r"(\S)\1{9,}")  # !!!!!!!!!!!!
_LOOP = re.compile(r"(?<![a-z])(\S.{3,60}?)\1{2,}", re.I)
_DANGLING = re.compile(r"(?: and| or)?[ .,;:]*$")


def cut_loops(text: str) -> str:
    """Keep one copy of text that occurs three times in a row, and of a repeated sentence anywhere."""
    sentences: dict[str, str] = {}
    for sentence in split_sentences(_RUN.sub(r"\1", text)):
        sentences.setdefault(sentence.strip(_PUNCTUATION).casefold(), sentence)
    *before, last = sentences.values() or [""]
    if not is_finished(last) and any(sentence.startswith(last.rstrip()) for sentence in before):
        last = ""  # one more repetition, truncated
    text, kept, start = "".join([*before, last]).rstrip(), "", 0
    for loop in _LOOP.finditer(text):
        kept += text[start : loop.start()] + loop[1]
        start = loop.end()
    tail = text[start:]
    if start and loop[1].casefold().startswith(tail.rstrip(_PUNCTUATION).casefold()):
        return kept[:-12] + _DANGLING.sub("", kept[-12:]) + (tail[-1:] if is_finished(tail) else "")
    return kept + tail


def cut_unfinished(text: str) -> str:
    """Remove an unfinished last sentence, unless it is the only one: `a red circle on white` is a fine caption."""
    sentences = [] if is_finished(text) else split_sentences(text)
    return "".join(sentences[:-1]) if len(sentences) > 1 else text


# In this order: a refusal may follow markup, and an opening may follow both. A loop is removed before its last,
# truncated repetition counts as an unfinished sentence
STEPS = {
    "boilerplate": cut_boilerplate,
    "refusals": drop_refusal,
    "openings": cut_openings,
    "repetitions": cut_loops,
    "unfinished": cut_unfinished,
}
