"""Answers of a model -> captions, by pure functions. No pattern is slower than linear in the length of the text."""

import html
import re
from dataclasses import dataclass

from .answers import OK

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
    text, applied = text or "", set()
    if not enabled:
        text = _one_line(_visible(text))
    for _ in range(_MOST_PASSES if enabled else 0):
        before = _one_line(_visible(text))
        text = _clean_once(_visible(text), finish_reason == "length", applied)
        if text == before or "refusals" in applied:
            break
    steps = tuple(step for step in STEPS if step in applied)
    if "refusals" in applied:
        return Cleaned(None, "refused", steps)
    if not any(character.isalnum() for character in text):
        return Cleaned(None, "empty", steps)
    return Cleaned(text, OK, steps)


def _clean_once(lines: str, cut_off: bool, applied: set[str]) -> str:
    """One round of all steps; the names of those that change the text, or find a refusal, are added to `applied`."""
    text = _one_line(lines)

    def step(name: str, changed: str) -> str:
        changed = _one_line(changed)
        if changed != text:
            applied.add(name)
        return changed

    text = step("boilerplate", cut_markup(lines, cut_off))
    if is_refusal(text):
        applied.add("refusals")
        return text
    text = step("openings", cut_openings(text))
    text = step("boilerplate", cut_closings(text))
    text = step("repetitions", cut_loops(text))
    return step("unfinished", cut_unfinished(text))


def _visible(text: str) -> str:
    """Without control characters, and without halves of characters, which a cut-off answer may end with."""
    return _INVISIBLE.sub("", text.encode("utf-8", "ignore").decode())


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- Sentences and words ---------------------------------------------------------------------------------------------

_CLOSERS = "\"'”’»)\\]」』）】*"
_ENDS = ".!?…。！？｡।۔؟"
# The look-behind makes a run of dots one attempt, not one attempt a dot; behind its first character, for speed
_BOUNDARY = re.compile(rf"[.!?](?<![.!?]{{2}})[.!?]*+[{_CLOSERS}]*+(?=\s)")
_ANY_BOUNDARY = re.compile(rf"[.!?…](?<![.!?…]{{2}})[.!?…]*+[{_CLOSERS}]*+(?=\s)|[。！？｡।۔؟]++[{_CLOSERS}]*+")
_ENDED = re.compile(rf"[{_ENDS}][{_CLOSERS}]*$")
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


# --- Markup, and what chat models say around a description -----------------------------------------------------------

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});")
_NESTED_AMPERSAND = re.compile(r"&(?:amp;)+(?=#|\w)")
_TAG = re.compile(r"</?(?:b|i|u|em|strong|p|br|ul|ol|li|div|span|h[1-6])\s?/?>", re.I)
_TOKEN = re.compile(
    r"<\|[\w/-]{1,30}\|>|</?s>|<(?:image|eos|bos|pad|unk|end_of_\w{1,20}|start_of_\w{1,20})>|\[/?INST\]", re.I
)
# The model goes on with what the user might say next
_NEXT_TURN = re.compile(r"\n[ \t]*+(?:Human|User|HUMAN|USER) ?:|(?<=[^#])#{3} ?(?:Human|Instruction|Question)\b")
_SPEAKER = re.compile(r"\s*(?:#{2,} ?)?(?:assistant|chatbot|ai|gpt)\s?:\s*", re.I)
_HEADING = re.compile(r"#{1,6}\s+")
_BULLET = re.compile(r"(?:[-*+•‣▪●◦–]|\d{1,2}[.)])\s+")
_BOLD = re.compile(r"\*\*[^*]+\*\*:?$|\*\*[^*]+(?::\*\*|\*\*:)")  # a line of its own, or a label
_RULE = re.compile(r"(?:[-*_=]{3,}|#+|`{3}\w*)$")
_EMPHASIS = re.compile(r"(?<![\w*])(?:\*{1,3}|__)(?=[\w\"'“‘(\[<])|(?<=[^\s*_])(?:\*{1,3}|__)(?![\w*])|`+")
_LINK = re.compile(r"!?\[([^\[\]\n]{0,300})\]\([^()\s]{0,500}\)")
_MARKS = re.compile(r"[&<*_`#\[|]")
_TITLE = re.compile(
    r"(?:(?:detailed|brief|short|image|picture|photo|overall|general|visual|scene) )*"
    r"(?:description|caption|summary|overview|analysis|details|answer|image|picture|scene|impression)\s?:?$",
    re.I,
)
_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’"}
_CLOSING = re.compile(
    r"(?:please )?(?:let me know|feel free to|don['’]t hesitate to)\b|"
    r"(?:i )?hope (?:this|that|it)(?: \w+){0,2}? (?:helps|is helpful|was helpful|meets|answers)\b|"
    r"if (?:you|there)(?:['’]d|['’]re| would| is| are| have| need| want| like)[^.!?]{0,120}?"
    r"(?:let me know|feel free|please ask|just ask|i can (?:help|provide)|i['’]d be happy|hesitate)|"
    r"(?:i['’]m|i am) (?:happy|glad|here) to (?:help|assist|provide|answer)\b|"
    r"(?:is|was) there anything (?:else|more|specific)\b[^.!]*\?|"
    r"(?:would|do|did|are|can|could|shall|should|may|might) (?:you|i)\b[^.!]*\?|"
    r"(?:what|how|which)(?: \w+){0,3}? (?:would|do|can|could|may|else can|should) (?:you|i)\b[^.!]*\?|"
    r"(?:please )?note(?: that|:) (?:this (?:description|caption)|the (?:description|caption) (?:is|was)|"
    r"i (?:am|cannot|can['’]t)|as an ai)|"
    r"(?:thank you|thanks)(?: \w+){0,6}[.!]",
    re.I,
)
_CLOSING_WORDS = re.compile(r"\?|[ltnhTLNH](?:et me|ope|hank|ote)|free|hesitate|happy|glad|here to")
_MOST_CLOSINGS = 4


def cut_markup(text: str, cut_off: bool) -> str:
    """
    Plain prose: entities and markdown are undone, the items of a list become sentences, speakers' names, tokens of
    the chat template and the next turn of a dialogue go.

    Args:
        text: with its lines.
        cut_off: whether the model was; the last item of a list then gets no full stop.
    """
    if _MARKS.search(text):
        text = html.unescape(_NESTED_AMPERSAND.sub("&", text)) if _ENTITY.search(text) else text
        text = _LINK.sub(r"\1", _TAG.sub(" ", _TOKEN.sub(" ", text)))
    next_turn = _NEXT_TURN.search(text)
    if next_turn:
        text = text[: next_turn.start()]
    speaker = _SPEAKER.match(text)
    if speaker:
        text = text[speaker.end() :]
    text = _join_lines([line.strip() for line in text.splitlines() if line.strip()], cut_off)
    return _unquoted(text)


def cut_closings(text: str) -> str:
    """Without the offers, thanks and questions to the user that it ends with."""
    tail = text[-500:]  # most texts are known by their end to have none
    if not _CLOSING_WORDS.search(tail) or not _CLOSING.match((split_sentences(tail) or [""])[-1]):
        return text
    sentences = split_sentences(text)
    for _ in range(_MOST_CLOSINGS):
        if sentences and _CLOSING.match(sentences[-1][:400]):
            sentences.pop()
    return join_sentences(sentences)


def _join_lines(lines: list[str], cut_off: bool) -> str:
    lines = [line for line in lines if not _RULE.match(line)]
    parts: list[str] = []
    for number, line in enumerate(lines):
        heading, bullet = _HEADING.match(line), _BULLET.match(line)
        plain = line[(heading or bullet).end() :] if heading or bullet else line
        plain = _EMPHASIS.sub("", plain) if _MARKS.search(plain) else plain
        is_last = number == len(lines) - 1
        if not is_last and _TITLE.match(plain[:80]):
            continue
        stands_alone = heading or bullet or _BOLD.match(line)
        if bullet:
            plain = capitalised(plain)
        if stands_alone and plain and len(lines) > 1 and not (is_last and cut_off) and plain[-1] not in ",;:":
            plain += "" if is_finished(plain) else "。" if is_unspaced(plain[-1]) else "."
        parts.append(plain)
    return join_sentences(parts)


def _unquoted(text: str) -> str:
    inner = text[1:-1]
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1] and text[0] not in inner and text[-1] not in inner:
        return inner.strip()
    return text


# --- Refusals. Only English ones are known, and only the beginning is looked at --------------------------------------

_IMAGE = r"(?:image|picture|photo|photograph|file|attachment|link|url)s?"
_CANNOT = (
    r"(?:can(?:no|['’])t|can not|could(?: not|n['’]t)|am(?: currently)? (?:unable|not able) to|"
    r"['’]m (?:unable|not able) to|"
    r"won['’]t|will not|do(?: not|n['’]t) (?:have|feel comfortable|see (?:any|an|the|a) (?:attached )?"
    rf"{_IMAGE}\b))"
)
_DOING = (
    r"(?:assist|help|provide|describe|see|view|comply|fulfill?|identify|process|access|create|generate|comment|"
    r"discuss|analy[sz]e|interpret|answer|continue|engage|display|open|read|recogni[sz]e|determine|do|give|offer|"
    r"complete|perform|the ability|the capability|the capacity|access|any|an|enough|visual|comfortable)"
)
_ABSENT = (
    r"(?:(?:is|was)(?: not|n['’]t)|has(?: not|n['’]t) been|could(?: not|n['’]t) be|can(?:no|['’])t be|"
    r"did(?: not|n['’]t)|"
    r"failed to) (?:visible|available|provided|loaded?|displayed?|attached|accessible|viewed|processed|described|"
    r"uploaded|included|opened|shown|come through|appear|be (?:loaded|displayed|processed|opened))"
)
_SORRY = (
    r"(?:(?:i['’]m|i am|we['’]re|we are)(?: \w+){0,2}? sorry|(?:my )?(?:sincere )?apologies|"
    r"(?:i|we)(?: \w+)? apologi[sz]e|sorry|unfortunately|i regret)"
)
_PATTERNS = (
    # sorry, and in the same sentence that something is not possible
    rf"{_SORRY}\b[^.!?]{{0,160}}?(?:\bi ?{_CANNOT}|\b{_IMAGE} {_ABSENT}|"
    rf"\bno {_IMAGE}\b|\bi was(?: not|n['’]t) able to|\bnot possible for me)",
    rf"{_SORRY}[\s.!]*$",
    rf"{_SORRY}[.!]\s+i ?{_CANNOT}",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model|text[- ]based|virtual assistant)\b",
    r"i(?:['’]m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model|text[- ]based)\b",
    rf"i {_CANNOT}\s+(?:\w+ly )?{_DOING}\b",
    rf"i do(?: not|n['’]t) see (?:any|an|the|a) (?:attached )?{_IMAGE}\b",
    r"i(?:['’]m| am) (?:currently )?(?:unable|not able) to\b",
    r"i(?:['’]m| am)(?: \w+)? not comfortable\b",
    r"i (?:must|have to|need to) (?:decline|refuse)\b",
    rf"(?:i['’]m )?unable to (?:{_DOING}|load|retrieve|detect)\b",
    rf"(?:the|this|your|that) (?:\w+ )?{_IMAGE} {_ABSENT}\b",
    rf"(?:there is |there['’]s |i see )?no {_IMAGE} "
    r"(?:was|is|has been|were|provided|attached|uploaded|found|available)\b",
    rf"(?:please|could you(?: please)?|can you(?: please)?) (?:re-?)?(?:provide|upload|attach|share|send)\b"
    rf"[^.!?]{{0,60}}?\b{_IMAGE}\b",
    rf"you (?:have(?: not|n['’]t)|did(?: not|n['’]t)) (?:provided?|attach(?:ed)?|upload(?:ed)?|shared?|included?)\b"
    rf"[^.!?]{{0,40}}?\b{_IMAGE}\b",
    rf"it (?:seems|looks|appears)(?: like| that| as if)*(?: \w+){{0,3}}? (?:"
    rf"you (?:have(?: not|n['’]t)|did(?: not|n['’]t)|forgot)|no {_IMAGE}|(?:the|your) {_IMAGE} {_ABSENT})",
    r"(?:this|your) (?:request|content|prompt|image) (?:may |might )?(?:violates?|goes against)\b",
)
_QUOTED = re.compile(r"[\"'”’],? (?:is|are|in|on|says|reads|written|appears)\b")
_REFUSAL = re.compile(
    rf"[\s\"'“‘*_#>]*(?:(?:hi|hello|hmm|oh|well|sure|okay|ok)[,.!]+ )?(?:{'|'.join(_PATTERNS)})", re.I
)


def is_refusal(text: str) -> bool:
    """
    Whether an answer declines to describe, or says that there is no image. `A sign says I'm sorry` and `The cat looks
    sorry` do not; neither does a description that says later on what cannot be seen.
    """
    start = text[:400]
    if not _REFUSAL.match(start):
        return False
    # `"I'm sorry, I can't come" is written on a card`: quoted, not said
    first = split_sentences(start)[0].lstrip()
    return first[0] not in "\"'“‘" or not _QUOTED.search(first)


# --- Openings: `Sure! Here is a description: The image shows a dog` becomes `A dog` ----------------------------------

# Words that say nothing about the picture; `drawing` or `painting` say what it looks like, and stay
_NOUN = r"(?:image|picture|photo|photograph|pic|snapshot)"
_EMPTY = r"(?:provided |given |attached |uploaded |above |following |entire |whole |current |input )?"
_YOU_SENT = r"(?:that |which )?you(?:['’]ve| have)? (?:provided|shared|uploaded|sent|attached)"
_YOURS = rf"(?: (?:provided|above|below|here|{_YOU_SENT}))?"
_THIS = rf"(?:the|this|that|your) {_EMPTY}{_NOUN}{_YOURS}"
_SEE = r"(?:see|observe|notice|spot|find|make out)"
_WE = rf"(?:we|you|i|one)(?: can| could)?(?: \w+ly)? {_SEE}(?: that| here)?"
# `The image shows how ...` and `The image shows off ...` have no noun phrase behind them
_OBJECT = (
    r"(?!(?:how|why|whether|when|where|what|who|off|up|through|to|in|on|at|by|with|for|from|and|or|is|are)\b)"
    r"(?=[\"'“‘(]?\w)"
)
_SHOWS = (
    r"(?:shows|depicts|displays|features|captures|portrays|presents|contains|showcases|illustrates|represents|"
    r"includes|is (?:of|showing|depicting|displaying|featuring)|(?:appears|seems) to (?:show|depict|be|feature)|"
    r"provides a (?:view|glimpse) of|gives a view of)"
)
_KIND = (
    r"(?:image|picture|photo|photograph|snapshot|shot|painting|drawing|illustration|sketch|rendering|cartoon|icon|"
    r"screenshot)"
)
_DESCRIPTION = r"(?:description|caption|summary|depiction|analysis|overview|breakdown|alt text)"
# A picture that hangs on a wall is the subject itself: `a picture of` goes only where no verb follows in the sentence
_NO_VERB = (
    r"(?![^.!?]{0,400}?\b(?:is|are|was|were|has|have|had|hangs?|sits?|stands?|lies|rests?|shows?|appears?|can|"
    r"seems?|leans?|decorates?|adorns?)\b)"
)

_OPENINGS = (
    # Sure! / Certainly, / Of course:
    r"(?:sure(?: thing)?|certainly|of course|absolutely)(?:[!.:]|[,-](?= ?(?:here|i|let|the|this)\b))+",
    # Here is a detailed description of the image:
    rf"here(?:['’]s| is| are) (?:an?|the|my|your|one|some)(?: [\w-]+,?){{0,4}}? "
    rf"{_DESCRIPTION}s?(?: [\w-]+){{0,8}}? ?[:.!]",
    r"here(?:['’]s| is) what (?:i|you|we)(?: can)? see(?: [\w-]+){0,5}? ?[:.]",
    # I'd be happy to describe the image for you.
    r"(?:i['’]d|i would|i['’]ll|i will|let me|i am|i['’]m)(?: be)?(?: (?:happy|glad|going|try))?(?: to)? "
    r"(?:help|describe|provide)\b(?: [\w'’-]+,?){0,12}? ?[:.!]",
    # Description: / Image caption:
    rf"(?:(?:the |an? )?(?:(?:detailed|brief|short|image|picture|photo) )*{_DESCRIPTION}|{_NOUN}|answer|output|"
    r"response) ?:",
    # In this image, we can see / In the photo there is
    rf"(?:looking at|based on|from|according to) {_THIS},",
    rf"as (?:we can |you can |can be )?(?:see|seen|shown|depicted) in {_THIS},",
    rf"(?:here )?in {_THIS}(?:,|:|(?= (?:there|we|you|i|one)\b)),?(?: {_WE}\b)?",
    rf"(?:here,? )?{_WE}\b(?= (?:an?|the|some|several|two|three|many|multiple|various|people)\b)",
    r"here we (?:can )?(?:see|have)\b(?= (?:an?|the|some|several|two|three|many|multiple|various|people)\b)",
    # The image shows / The picture you sent is a
    rf"{_THIS}(?: \w+ly)? {_SHOWS}(?: that| us)?(?: ?:)?(?: {_OBJECT}|(?<=:) ?)",
    rf"{_THIS} is (?=(?:an?|the) )",
    # This is an image of / A picture of / Photo of
    rf"(?:this|it|that)(?: is|['’]s| appears to be| seems to be) (?:an? |the )?{_NOUN} "
    rf"(?:of|showing|that shows|depicting|featuring) {_OBJECT}",
    rf"(?:an? |the )?{_NOUN} (?:of|showing|depicting|featuring) {_OBJECT}{_NO_VERB}",
    # This is a black and white photo of: keeps what kind of picture it is
    rf"(?:this|it) is (?=an? (?:[\w-]+ ){{0,4}}{_KIND}\b)",
)
_OPENING = re.compile(rf"(?:{'|'.join(_OPENINGS)})\s*[-–—]?\s*", re.I)
_OPENING_AT_MOST = 700  # characters, with the sentence behind it that is looked into
_MOST_OPENINGS = 6  # one behind the other
_SENSIBLE = re.compile(r"[^\W_]{2,}")
_NOTHING = re.compile(r"(?:it|this|that|the|an?|there|here|one|is|of)?\W*$", re.I)


def cut_openings(text: str) -> str:
    """
    The text without its opening, beginning with a capital. Where nothing sensible would be left, as of
    `This is an image of it.`, the text stays.
    """
    for _ in range(_MOST_OPENINGS):
        found = _OPENING.match(text, 0, _OPENING_AT_MOST)
        if not found:
            break
        rest = text[found.end() :].lstrip(" ,:;-–—")
        is_other_script = any(character.isalnum() and not character.isascii() for character in rest[:200])
        if not (_SENSIBLE.search(rest[:200]) or is_other_script) or _NOTHING.match(rest[:40]):
            break
        text = capitalised(rest)
    return text


# --- Loops: the same word, phrase or sentence until the tokens are used up -------------------------------------------

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


def cut_unfinished(text: str) -> str:
    """Without a last sentence that lacks its end. A single one stays: `a red circle on white` is a fine caption."""
    sentences = [] if is_finished(text) else split_sentences(text)
    return join_sentences(sentences[:-1]) if len(sentences) > 1 else text
