"""What chat models put around a description: markup, names of speakers, offers and questions to the user."""

import html
import re

from .sentences import capitalised, is_finished, is_unspaced, join_sentences, split_sentences

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
    sentences = split_sentences(text)
    for _ in range(_MOST_CLOSINGS):
        if not sentences or not _CLOSING.match(sentences[-1][:400]):
            return join_sentences(sentences)
        sentences.pop()
    return join_sentences(sentences)


def has_closing(text: str) -> bool:
    """Whether there is something for [`cut_closings`]; told from the end of the text alone, so that it is quick."""
    tail = text[-500:]
    if _CLOSING_WORDS.search(tail) is None:
        return False
    sentences = split_sentences(tail)
    return bool(sentences) and _CLOSING.match(sentences[-1]) is not None


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
