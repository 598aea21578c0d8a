"""Messages in the words of the caller: arguments in Python, options on the command line, and the caller's columns."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


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
    """Options without their dashes; a column is named as in a call."""

    def argument(match: re.Match) -> str:
        command, name, value = match.groups()
        if command is None and name.endswith("_column"):
            return column.format(name.removesuffix("_column"))
        return command or name + (f"={value.title()}" if value else "")

    name_of = column.partition("=")[0]
    message = re.sub(r"given as (\w+)_column", lambda match: f"given as {name_of.format(match[1])}", message)
    # Whole commands stay, and names of folders, which hold dashes too: runs/OWNER--NAME
    return re.sub(r"(g4i \w+[^.,;:]*)|(?<![\w\-/.'])--(\w+)(?: (true|false)\b)?", argument, message)
