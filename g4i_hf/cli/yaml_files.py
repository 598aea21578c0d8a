"""YAML files of options: no key twice, numbers such as 5e-4, paths relative to the file."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from .errors import OptionError, brief

FLOAT = "tag:yaml.org,2002:float"
MAX_CHARACTERS = 1 << 20  # of a file, with what its aliases stand for written out
MAX_DEPTH = 50
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what escapes can write and no UTF-8 holds, or no file name
# YAML 1.1, which PyYAML speaks, takes 5e-4 and 1e5 for text
SCIENTIFIC = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


for _class in (_Loader, _Dumper):  # the dumper too: it quotes text that would be read as a number
    _class.add_implicit_resolver(FLOAT, SCIENTIFIC, list("-+0123456789."))


def read_nodes(path: Path) -> dict[str, yaml.Node]:
    """
    The values of a file as nodes of the parser, which know their text and their line.

    Raises:
        OptionError: when it is no YAML file of `name: value` lines, or holds a key twice, a list in a list in a list
            and so on, or aliases that would fill the memory.
    """
    if not path.is_file():
        what = "this is a folder; name a YAML file in it" if path.is_dir() else "there is no such file"
        raise OptionError(f"--config {path}: {what}.")
    try:
        return _nodes(path, _Loader)
    except ValueError as error:
        raise OptionError(str(error)) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """
    The values of a file that this package or a user wrote.

    Raises:
        OSError: when it cannot be opened.
        ValueError: as [`read_nodes`].
    """
    values = {}
    for name, node in _nodes(path, yaml.SafeLoader).items():
        try:
            values[name] = construct(node)
        except (yaml.YAMLError, ValueError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{path}, line {node.start_mark.line + 1}: {name} cannot be read: {why}") from error
    return values


def _nodes(path: Path, loader: type[yaml.SafeLoader]) -> dict[str, yaml.Node]:
    if path.stat().st_size > MAX_CHARACTERS:
        raise ValueError(f"{path} is larger than a MiB, which no file of options is. Name another one.")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        tabs = " Use spaces instead of tabs." if "\\t" in str(error) else ""
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}{tabs}") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply. Write its values in fewer levels.") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path} must hold `name: value` lines.")
    _check_contents(root, path)
    _refuse_duplicates(root, path)
    return {str(key.value): value for key, value in root.value}


def construct(node: yaml.Node) -> Any:
    """
    What YAML itself makes of a node, and of what is in it.

    Raises:
        ValueError or yaml.YAMLError: for what it cannot read, such as `!!int x`.
    """
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # PyYAML looks at no text before it
        raise ValueError("holds a value that is not what its tag says.") from error
    finally:
        loader.dispose()


def dump(values: dict[str, Any]) -> str:
    """`name: value` lines, a list or mapping in the line of its name."""
    style = {"Dumper": _Dumper, "sort_keys": False, "allow_unicode": True, "width": float("inf")}
    lines = []
    for name, value in values.items():
        if isinstance(value, (list, dict)):
            lines.append(f"{name}: {yaml.dump(value, default_flow_style=True, **style)}")
        else:
            lines.append(yaml.dump({name: value}, default_flow_style=False, **style))
    return "".join(lines)


def relative_to_file(value: str, path: Path) -> str:
    """A path that starts with a dot is relative to the file it is written in."""
    if not starts_with_a_dot(value):
        return value
    relative = os.path.relpath(path.parent / value)
    return relative if relative.startswith((".", "/")) else f"./{relative}"  # never taken for a Hub id


def starts_with_a_dot(value: str) -> bool:
    return value in (".", "..") or value.startswith(("./", "../"))


def _check_contents(root: yaml.Node, path: Path) -> None:
    """
    An alias stands for a whole node, and aliases of aliases for more than any memory holds once they are written out,
    as a merge or a message would.
    """
    known: dict[int, tuple[int, int] | None] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Characters and depth. As aliases only point back, one level more is one call more."""
        if isinstance(node, yaml.ScalarNode):
            if NO_TEXT.search(node.value):
                where = f"{path}, line {node.start_mark.line + 1}"
                raise ValueError(f"{where}: \\0 or half of a character, which no file name or caption can hold.")
            return len(node.value) + 1, 0
        if id(node) not in known:
            known[id(node)] = None
            inside = [child for value in node.value for child in (value if isinstance(value, tuple) else (value,))]
            measured = [measure(child) for child in inside]
            known[id(node)] = (
                1 + sum(size for size, _ in measured),
                1 + max((depth for _, depth in measured), default=0),
            )
        if known[id(node)] is None:
            where = f"{path}, line {node.start_mark.line + 1}"
            raise ValueError(f"{where}: a value holds itself. Write it without alias.")
        return known[id(node)]

    size, depth = measure(root)
    if depth > MAX_DEPTH:
        raise ValueError(f"{path} is nested too deeply. Write its values in fewer levels.")
    if size > MAX_CHARACTERS:
        raise ValueError(f"{path} holds aliases of aliases for more than a MiB of values. Write them out.")


def _refuse_duplicates(root: yaml.MappingNode, path: Path) -> None:
    seen: set[int] = set()
    waiting: list[yaml.Node] = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):  # an alias may name a node many times
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    name = key.value if key.value.isprintable() and len(key.value) < 60 else brief(key.value)
                    raise ValueError(
                        f"{path}, line {line}: {name} is given twice, first in line {lines[key.value]}. Keep one."
                    )
                lines[key.value] = line
            waiting.append(value)
