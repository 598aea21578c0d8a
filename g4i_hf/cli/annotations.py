"""Annotations and defaults as a user reads them in `--help`."""

import ast
from collections.abc import Iterator

METAVARS = {"bool": "BOOL", "int": "INT", "float": "NUMBER", "str": "TEXT", "dict": "JSON", "list": "JSON"}


def shown(value: object) -> str:
    """A default as a user would write it; None is `unset`."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if value == "":
        return "''"
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


def kind_name(annotation: ast.expr, has_choices: bool = False) -> str:
    """`INT`, `NUMBER`, `TEXT ...`, of an annotation such as `list[str] | None`."""
    found = {last_name(member): member for member in members(annotation)}
    if has_choices and "list" not in found:
        return "CHOICE"
    kinds = dict.fromkeys(METAVARS[name] for name in found if name in METAVARS)
    if isinstance(found.get("list"), ast.Subscript):
        if "str" in found:  # one text on the command line; a list may stand in a YAML file
            return "TEXT"
        return f"{METAVARS.get(last_name(found['list'].slice), 'TEXT')} ..."
    if "JSON" in kinds:  # text beside it only carries the JSON, or names a file of it
        return "JSON"
    return "|".join(kinds) or "VALUE"


def members(annotation: ast.expr) -> Iterator[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        yield from members(annotation.left)
        yield from members(annotation.right)
    elif isinstance(annotation, ast.Subscript) and last_name(annotation) in ("Optional", "Union"):
        for member in getattr(annotation.slice, "elts", [annotation.slice]):
            yield from members(member)
    else:
        yield annotation


def last_name(node: ast.expr) -> str:
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
