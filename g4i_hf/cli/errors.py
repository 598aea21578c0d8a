"""What a user reads about a wrong option: one line, with what is wanted and the nearest right one."""

import difflib
import sys
from collections.abc import Iterable


class OptionError(SystemExit):
    """A wrong option: the message goes to the user without a traceback, the exit code is 2."""

    def __init__(self, message: str):
        print(f"error: {message}", file=sys.stderr)
        super().__init__(2)


def did_you_mean(value: str, choices: Iterable[str], prefix: str = "") -> str:
    """` Did you mean 'clip'?`, or nothing when no choice is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(value.lower(), by_lower, n=1)
    return f" Did you mean {prefix + by_lower[near[0]]!r}?" if near else ""


def wrong_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """`align_loss is 'clop'; choose one of clip, infonce. Did you mean 'clip'?`"""
    choices = [str(choice) for choice in choices]
    return f"{name} is {value!r}; choose one of {', '.join(choices)}.{did_you_mean(str(value), choices)}"


def unknown_option(name: str, known: Iterable[str], where: str, prefix: str = "") -> str:
    return f"unknown option {name!r} in {where}.{did_you_mean(name, known, prefix)}"
