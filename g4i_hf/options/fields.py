"""Declaration of an option: a dataclass field with a help text, and a type with its choices or its interval."""

import functools
import inspect
import json
import os
from dataclasses import MISSING, field, fields
from math import inf
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..files import brief, scalar, wrong_choice

# Environment variable with the module of `--module`, for the processes of a launcher
OWN_MODULE = "G4I_HF_MODULE"

Count = Annotated[int, "[1, inf)"]
Number = Annotated[int, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
NotNegative = Annotated[float, "[0, inf)"]
Share = Annotated[float, "[0, 1]"]
Fraction = Annotated[float, "(0, 1]"]
BelowOne = Annotated[float, "[0, 1)"]
BadImages = Literal["error", "skip"]

About = Literal["training", "captions", "data", "running", "call"]
WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
SWITCH = {**dict.fromkeys(("true", "yes", "on", "1", "t", "y"), True)}
SWITCH |= dict.fromkeys(("false", "no", "off", "0", "f", "n"), False)


def option(default: Any, help: str, *, about: About | None = None, path: bool = False, in_card: bool = False) -> Any:
    """
    A field of an options class. If the class has the attribute `rare`, only `--help all` describes it.

    Args:
        default: a list or dict is copied for each instance.
        about: "training", what a run learns; "captions", in which a baseline may differ; "data", compared by content;
            "running", which a resumed run may change; "call", which no file records. By default, the attribute `about`
            of its class, otherwise "training".
        path: whether it may name a file or folder, whose path a run records relative to itself.
        in_card: whether the card of a student shows it even if it is the default.
    """
    metadata = {"help": help, "about": about, "path": path, "in_card": in_card}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def is_secret(name: str) -> bool:
    return name.endswith(("token", "api_key", "password", "secret"))


# --- Values ----------------------------------------------------------------------------------------------------------


class OptionError(ValueError):
    """An invalid option."""


def choices_of(hint: Any) -> list[str]:
    """The choices of a `Literal`, or of a union with one."""
    members = [member for member in (hint, *get_args(hint)) if get_origin(member) is Literal]
    return [choice for member in members for choice in get_args(member)]


def members_of(hint: Any) -> set[Any]:
    """The types that a value may have: {int, NoneType} for `int | None`."""
    union = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(member) or member for member in union}


def wanted(hint: Any) -> str:
    if choices := choices_of(hint):
        return f"one of {', '.join(choices)}"
    return WANTED[_kind(members_of(hint))]


def _kind(members: set[Any]) -> type:
    return next((kind for kind in (str, bool, int, float) if kind in members), str)


def typed(hint: Any, value: Any, where: str) -> Any:
    """A word, a list of words, or a value of YAML as the type of its option; `where` names it in an OptionError."""
    members = members_of(hint)
    if value is None or hint is Any:
        if value is None and type(None) not in members and hint is not Any:
            raise OptionError(f"{where} has no value; {wanted(hint)} is wanted.")
        return value
    if list in members and str not in members and not isinstance(value, dict):
        return [_converted(hint, word, where) for word in (value if isinstance(value, list) else [value])]
    if not isinstance(value, (dict, list)):
        return _converted(hint, value, where)
    if type(value) not in members:
        raise OptionError(f"{where} is {brief(value)}; {wanted(hint)} is wanted.")
    return value if isinstance(value, dict) else [scalar(item) if isinstance(item, str) else item for item in value]


def _converted(hint: Any, value: Any, where: str) -> Any:
    choices, kind = choices_of(hint), _kind(members_of(hint))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if choices and text not in choices:
        raise OptionError(wrong_choice(where, text, choices))
    try:
        if kind is str:
            return os.path.expanduser(text) if text.startswith("~/") else text
        return SWITCH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise OptionError(f"{where} is {brief(text)}; {wanted(hint)} is wanted.") from error


def from_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is {text!r}, which is not JSON: {error}") from error


def check_values(options: Any) -> None:
    """
    Raise ValueError for a field, with its name, value and the valid values, that is outside of the choices or interval
    of its type. None passes, as it means unset.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name, None)
        if (choices := choices_of(hint)) and isinstance(value, str) and value not in choices:
            raise ValueError(wrong_choice(name, value, choices))
        for member in (hint, *get_args(hint)):
            if get_origin(member) is Annotated and value is not None:
                _check_interval(name, value, member.__metadata__[0])


class Checked:
    """Options that check their values."""

    def __post_init__(self):
        check_values(self)


def _check_interval(name: str, value: float, interval: str) -> None:
    low, high = map(float, interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    if not (above and below):
        words = f"{'above' if interval[0] == '(' else 'at least'} {low:g}"
        words += "" if high == inf else f" and {'below' if interval[-1] == ')' else 'at most'} {high:g}"
        raise ValueError(f"{name} is {value}; it must be {words}.")


# --- Listing ---------------------------------------------------------------------------------------------------------


def names_of(cls: type) -> dict[str, Any]:
    """The fields of a dataclass that are arguments of its constructor, by name."""
    return {field.name: field for field in fields(cls) if field.init}


def grouped(classes: tuple[type, ...]) -> dict[type, dict[str, Any]]:
    """The fields of all classes, grouped by the class that declares them; subclasses come first."""
    groups: dict[type, dict[str, Any]] = {}
    for cls in classes:
        known = names_of(cls)
        for declaring in cls.__mro__:
            declared = {name: known[name] for name in inspect.get_annotations(declaring) if name in known}
            if declared:
                groups.setdefault(declaring, {}).update(declared)
    return groups


@functools.cache
def about_of(classes: tuple[type, ...]) -> dict[str, About]:
    """What each option is about, see [`option`]."""
    return {
        name: field.metadata.get("about") or vars(declaring).get("about", "training")
        for declaring, group in grouped(classes).items()
        for name, field in group.items()
    }


def title_of(declaring: type) -> str:
    return declaring.__doc__.splitlines()[0]


def default_of(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def described(field: Any) -> tuple[str, str]:
    """The text of `--help` for an option, with all choices, and its default, empty if it is unset."""
    default, text = default_of(field), field.metadata["help"]
    choices = choices_of(field.type)
    if choices and not all(choice in text for choice in choices):
        text += f" One of: {', '.join(choices)}."
    if default in (None, "", [], {}):
        return text, ""
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    return text, shown.lower() if isinstance(default, bool) else shown
