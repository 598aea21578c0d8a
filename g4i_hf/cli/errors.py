"""What a user reads about a wrong option: one line, with what is wanted and the nearest right one."""

import difflib
import sys
from collections.abc import Iterable

CLOSE = 0.6  # of 1 for the same; what is less alike is no help
LONGEST_NAME, LONGEST_VALUE = 60, 200  # characters: the comparison takes time, and a message is to be read


class OptionError(SystemExit):
    """A wrong option: the message goes to the user without a traceback, the exit code is 2."""

    def __init__(self, message: str):
        print(f"error: {printable(message)}", file=sys.stderr)
        super().__init__(2)


def printable(text: str) -> str:
    """Control characters, which a terminal would obey, as their escapes; lines stay lines."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def brief(value: object) -> str:
    """The value as Python writes it, up to [`LONGEST_VALUE`]: what a file holds can be as long as it likes."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def did_you_mean(value: str, choices: Iterable[str], prefix: str = "") -> str:
    """` Did you mean 'clip'?`, or nothing when no choice is near."""
    value, nearest, best = value.lower(), None, CLOSE
    if len(value) > LONGEST_NAME:
        return ""
    for choice in choices:
        lower = choice.lower()
        whole, begun = (difflib.SequenceMatcher(None, value, text).ratio() for text in (lower, lower[: len(value)]))
        score = max(whole, 0.95 * begun)  # `adamm` is rather a mistyped beginning of adamw_torch than adalomo
        if score > best:
            nearest, best = choice, score
    return f" Did you mean {prefix + nearest!r}?" if nearest is not None else ""


def wrong_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """`align_loss is 'clop'; choose one of clip, infonce. Did you mean 'clip'?`"""
    choices = [str(choice) for choice in choices]
    return f"{name} is {brief(value)}; choose one of {', '.join(choices)}.{did_you_mean(str(value), choices)}"


def unknown_option(name: str, known: Iterable[str], where: str, prefix: str = "") -> str:
    return f"unknown option {brief(name)} in {where}.{did_you_mean(name, known, prefix)}"
