"""The kind of a field, from its annotation: what it admits, and how text and YAML are read as it."""

import json
import types
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from .errors import brief, wrong_choice
from .yaml_files import construct

NULL = "tag:yaml.org,2002:null"
SWITCHES = dict.fromkeys(("true", "yes", "on", "1", "y", "t"), True)
SWITCHES |= dict.fromkeys(("false", "no", "off", "0", "n", "f"), False)
WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping (JSON)"}


@dataclass(frozen=True)
class Kind:
    """
    What a field admits. Its readers raise `ArgumentTypeError` with a message that follows the field's name.

    Attributes:
        scalars: of bool, int, float, str and dict, those that are admitted.
        choices: the only admitted texts, where there are such.
        optional: whether None is admitted.
        is_list: whether lists are admitted; `item` is the kind of their values, None where any will do.
    """

    scalars: tuple[type, ...] = ()
    choices: tuple[str, ...] = ()
    optional: bool = False
    is_list: bool = False
    item: "Kind | None" = None

    def from_text(self, text: str) -> Any:
        if self.choices and text in self.choices:
            return text
        if bool in self.scalars and text.lower() in SWITCHES:
            return SWITCHES[text.lower()]
        for number in (int, float):
            if number in self.scalars:
                try:
                    return number(text)
                except ValueError:
                    continue
        if dict in self.scalars and (text.startswith("{") or str not in self.scalars):
            value = self._from_json(text)
            return value if str not in self.scalars else text  # text is read as JSON by the class itself
        if str in self.scalars and not self.choices:
            return text
        raise ArgumentTypeError(self._wrong(text))

    def item_from_text(self, text: str) -> Any:
        """One word of a list."""
        return text if self.item is None else self.item.from_text(text)

    def from_yaml(self, node: yaml.Node) -> Any:
        """
        The field's type decides, not YAML's: it reads 5e-4 as text, 0123456 as an octal number and no as False.
        """
        if isinstance(node, yaml.ScalarNode):
            if node.tag == NULL:
                if self.optional:
                    return None
                raise ArgumentTypeError(f"has no value; {self.wanted()} is wanted.")
            if node.tag not in yaml.SafeLoader.yaml_constructors:
                raise ArgumentTypeError(f"has the tag {brief(node.tag)}, which is not read here.")
            text = node.value
            if float in self.scalars and text.lower().lstrip("+-") in (".inf", ".nan"):
                text = text.replace(".", "", 1)
            return [self.item_from_text(text)] if self._is_list_alone() else self.from_text(text)
        if isinstance(node, yaml.SequenceNode) and self.is_list:
            return construct(node) if self.item is None else [self.item.from_yaml(item) for item in node.value]
        if isinstance(node, yaml.MappingNode) and dict in self.scalars:
            return construct(node)
        raise ArgumentTypeError(self._wrong(construct(node)))

    def wanted(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        found = [WANTED[scalar] for scalar in self.scalars if scalar in WANTED]
        if self.is_list:
            of = f" of which each is {self.item.wanted()}" if self.item is not None else ""
            found.append(f"a list{of}")
        return " or ".join(found) or "a value that only Python can give"

    def _is_list_alone(self) -> bool:
        return self.is_list and not self.scalars and not self.choices

    def _from_json(self, text: str) -> dict:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
            raise ArgumentTypeError(f"is {brief(text)}, which is not JSON: {error}.") from error
        if not isinstance(value, dict):
            raise ArgumentTypeError(self._wrong(text))
        return value

    def _wrong(self, value: Any) -> str:
        if self.choices and isinstance(value, str):
            return wrong_choice("", value, self.choices).lstrip()
        return f"is {brief(value)}; {self.wanted()} is wanted."


def kind_of(hint: Any, metadata: Mapping[str, Any] = types.MappingProxyType({})) -> Kind:
    """
    Args:
        hint: the annotation, resolved.
        metadata: that of the field; `choices` are admitted alone, and a `const` of True admits switches.
    """
    scalars: list[type] = []
    choices = [str(choice) for choice in metadata.get("choices", ())]
    optional, is_list, item = False, False, None
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for member in members:
        origin = get_origin(member) or member
        if member is type(None):
            optional = True
        elif origin is Literal:
            choices += [value for value in get_args(member) if isinstance(value, str)]
            scalars += [type(value) for value in get_args(member) if not isinstance(value, str)]
        elif isinstance(origin, type) and issubclass(origin, Enum):
            choices += [str(choice.value) for choice in origin]
        elif origin in (list, tuple):
            is_list = True
            item = kind_of(get_args(member)[0]) if get_args(member) else None
        elif origin in WANTED:
            scalars.append(origin)
        elif origin is Any:
            scalars.append(str)
    if metadata.get("const") is True and bool not in scalars:
        scalars.append(bool)
    return Kind(tuple(scalars), tuple(choices), optional, is_list, item)
