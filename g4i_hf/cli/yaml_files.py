"""YAML files of options: no key twice, numbers such as 5e-4, paths relative to the file."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from .errors import OptionError

FLOAT = "tag:yaml.org,2002:float"
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
        OptionError: when it is no YAML file of `name: value` lines, or holds a key twice.
    """
    if not path.is_file():
        what = "this is a folder; name a YAML file in it" if path.is_dir() else "there is no such file"
        raise OptionError(f"--config {path}: {what}.")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        tabs = " Use spaces instead of tabs." if "\\t" in str(error) else ""
        raise OptionError(f"{path} is not valid YAML: {' '.join(str(error).split())}{tabs}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise OptionError(f"{path} must hold `name: value` lines.")
    _refuse_duplicates(root, path)
    return {str(key.value): value for key, value in root.value}


def construct(node: yaml.Node) -> Any:
    """What YAML itself makes of a node, and of what is in it."""
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
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
                    raise OptionError(
                        f"{path}, line {line}: {key.value} is given twice, first in line {lines[key.value]}. Keep one."
                    )
                lines[key.value] = line
            waiting.append(value)
