"""What a user reads about a wrong option: one line, with what is wanted and the nearest right one."""

import difflib
import sys
from collections.abc import Iterable

CLOSE = 0.6  # of 1 for the same; what is less alike is no help


class OptionError(SystemExit):
    """A wrong option: the message goes to the user without a traceback, the exit code is 2."""

    def __init__(self, message: str):
        print(f"error: {message}", file=sys.stderr)
        super().__init__(2)


def did_you_mean(value: str, choices: Iterable[str], prefix: str = "") -> str:
    """` Did you mean 'clip'?`, or nothing when no choice is near."""
    value, nearest, best = value.lower(), None, CLOSE
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
    return f"{name} is {value!r}; choose one of {', '.join(choices)}.{did_you_mean(str(value), choices)}"


def unknown_option(name: str, known: Iterable[str], where: str, prefix: str = "") -> str:
    return f"unknown option {name!r} in {where}.{did_you_mean(name, known, prefix)}"
