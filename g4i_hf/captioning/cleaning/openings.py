"""What models say before they describe: `Sure! Here is a description: The image shows a dog` becomes `A dog`."""

import re

from .sentences import capitalised

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
_FIRST = re.compile(r"[abcdfhilopqrstwy]", re.I)
_LOOKED_AT = 700  # characters: more than any opening and the sentence behind it that is looked into
_MOST = 6  # openings one behind the other
_SENSIBLE = re.compile(r"[^\W_]{2,}")
_NOTHING = re.compile(r"(?:it|this|that|the|an?|there|here|one|is|of)?\W*$", re.I)


def cut_openings(text: str) -> str:
    """
    The text without its opening, beginning with a capital. Where nothing sensible would be left, as of
    `This is an image of it.`, the text stays.
    """
    for _ in range(_MOST):
        found = _OPENING.match(text, 0, _LOOKED_AT) if _FIRST.match(text) else None
        rest = text[found.end() :].lstrip(" ,:;-–—") if found else ""
        if not _SENSIBLE.search(rest[:200]) and not _is_other_script(rest) or _NOTHING.match(rest[:40]):
            return text
        text = capitalised(rest)
    return text


def _is_other_script(text: str) -> bool:
    return any(character.isalnum() and not character.isascii() for character in text[:200])
