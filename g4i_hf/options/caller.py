"""Messages in the words of the caller: arguments in Python, options on the command line, and the caller's columns."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_type_hints

from .fields import choices_of, members_of


@contextlib.contextmanager
def called_from_python(
    columns: Mapping[str, str | None] | None = None, column: str = "{}_column='...'"
) -> Iterator[None]:
    """
    Errors name arguments in place of options of the command line, and columns as the caller does.

    Args:
        columns: the caller's names, by ours.
        column: how the caller names a column.
    """
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError) as error:
        if [type(part) for part in error.args] == [str]:
            error.args = (_in_python(with_own_columns(error.args[0], columns or {}), column),)
        raise


def own_columns(options: Iterable[Any]) -> dict[str, str]:
    """The names of columns that options give, by ours."""
    named = {ours: f"{ours}_column" for ours in ("image", "label", "caption", "image_id")}
    return {ours: name for each in options for ours in named if (name := getattr(each, named[ours], None))}


def with_own_columns(message: str, columns: Mapping[str, str | None]) -> str:
    """The message with the caller's names of columns in place of ours."""
    for ours, theirs in columns.items():
        message = message.replace(f"olumn {ours!r}", f"olumn {theirs!r}") if theirs else message
    return message


def _in_python(message: str, column: str) -> str:
    from . import OPTIONS_OF

    hints = {name: hint for each in OPTIONS_OF.values() for cls in each for name, hint in get_type_hints(cls).items()}

    def argument(match: re.Match) -> str:
        name, value = match[1], match[2]
        if name not in hints:  # a whole command, or an option of another program
            return match[0]
        if name.endswith("_column"):
            return column.format(name.removesuffix("_column"))
        if value in choices_of(hints.get(name)):
            return f"{name}={value!r}"
        if value in ("true", "false") or (value or "").isupper():
            return f"{name}={value.title() if value.islower() else value}"
        is_switch = value is None and bool in members_of(hints.get(name))
        return f"{name}=True" if is_switch else " ".join(filter(None, (name, value)))

    name_of = column.partition("=")[0]
    message = re.sub(r"given as (\w+)_column", lambda match: f"given as {name_of.format(match[1])}", message)
    # Names of folders hold dashes too, such as runs/OWNER--NAME
    return re.sub(r"g4i \w+[^.,;:]*|(?<![\w\-/.'])--(\w+)(?: (\w+))?", argument, message)
