"""How an option is declared: a dataclass field with a help text and a type that holds its choices or its interval."""

import inspect
from dataclasses import MISSING, field, fields
from math import inf
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ..files import wrong_choice

# Options of the machine: they are not written into files
NOT_RECORDED = {"use_cpu", "dataloader_pin_memory", "local_rank", "dry_run", "labels_only"}
# Environment variable with the module of `--module`, for processes that start again
OWN_MODULE = "G4I_HF_MODULE"

Count = Annotated[int, "[1, inf)"]
Number = Annotated[int, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
NotNegative = Annotated[float, "[0, inf)"]
Share = Annotated[float, "[0, 1]"]
Fraction = Annotated[float, "(0, 1]"]
BelowOne = Annotated[float, "[0, 1)"]
BadImages = Literal["error", "skip"]


def option(default: Any, help: str) -> Any:
    """A field of an options class; a list or dict as `default` is copied for each instance."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def is_secret(name: str) -> bool:
    return name.endswith(("token", "api_key", "password", "secret"))


def choices_of(hint: Any) -> list[str]:
    """The choices of a `Literal`, or of a union with one."""
    members = [member for member in (hint, *get_args(hint)) if get_origin(member) is Literal]
    return [choice for member in members for choice in get_args(member)]


def check_values(options: Any) -> None:
    """
    Compares the fields of a dataclass with the choices and intervals of their types. None passes: it means unset.

    Raises:
        ValueError: names the field, its value and what is allowed.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name, None)
        if (choices := choices_of(hint)) and isinstance(value, str) and value not in choices:
            raise ValueError(wrong_choice(name, value, choices))
        for member in (hint, *get_args(hint)):
            if get_origin(member) is Annotated and value is not None:
                _check_interval(name, value, member.__metadata__[0])


class Checked:
    """Options whose values are checked when they are given."""

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
    """The fields of a dataclass that its constructor takes, by name."""
    return {each.name: each for each in fields(cls) if each.init}


def grouped(classes: tuple[type, ...]) -> dict[type, dict[str, Any]]:
    """The fields of all classes, grouped by the class that declares them; subclasses come first."""
    groups: dict[type, dict[str, Any]] = {}
    for cls in classes:
        known = names_of(cls)
        for declaring in cls.__mro__:
            own = {name: known[name] for name in inspect.get_annotations(declaring) if name in known}
            if own:
                groups.setdefault(declaring, {}).update(own)
    return groups


def title_of(declaring: type) -> str:
    return declaring.__doc__.splitlines()[0]


def default_of(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def described(field: Any) -> tuple[str, str]:
    """What `--help` says of an option: its text with all choices, and its default, empty where it is unset."""
    default, text = default_of(field), field.metadata["help"]
    choices = choices_of(field.type)
    if choices and not all(choice in text for choice in choices):
        text += f" One of: {', '.join(choices)}."
    if default in (None, "", [], {}):
        return text, ""
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    return text, shown.lower() if isinstance(default, bool) else shown
