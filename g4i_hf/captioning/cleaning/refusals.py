"""Answers in which the model declines. Only English ones are known, and only the beginning is looked at."""

import re

from .sentences import split_sentences

_LOOKED_AT = 400  # characters: no pattern sees more
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
_REFUSAL = re.compile(
    rf"[\s\"'“‘*_#>]*(?:(?:hi|hello|hmm|oh|well|sure|okay|ok)[,.!]+ )?(?:{'|'.join(_PATTERNS)})", re.I
)
# Most captions are done with their first letter
_FIRST = re.compile(r"[\s\"'“‘*_#>]*[iaswumtnpcyhio]", re.I)


def is_refusal(text: str) -> bool:
    """
    Whether an answer declines to describe, or says that there is no image. `A sign says I'm sorry` and `The cat looks
    sorry` do not; neither does a description that says later on what cannot be seen.
    """
    start = text[:_LOOKED_AT]
    if _FIRST.match(start) is None or _REFUSAL.match(start) is None:
        return False
    return not _goes_on_to_describe(text)


def _goes_on_to_describe(text: str) -> bool:
    """`"I'm sorry, I can't come" is written on a card`: quoted, not said."""
    first = split_sentences(text[:_LOOKED_AT])[0].lstrip()
    return (
        first[0] in "\"'“‘"
        and re.search(r"[\"'”’],? (?:is|are|in|on|says|reads|written|appears)\b", first) is not None
    )
