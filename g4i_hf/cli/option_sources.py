"""
What the options are, read from the source of their dataclasses: importing those imports torch, which takes seconds.

A class whose source cannot be understood is imported after all, and asked for its fields.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from .annotations import METAVARS, kind_name, last_name, members, shown
from .kinds import kind_of

BANNER = re.compile(r"\s*# --- (.+?) -*\s*$")
# transformers imports lazily, so that its __init__ does not say where a class is
DEFINED_IN = {"transformers.TrainingArguments": "transformers.training_args.TrainingArguments"}


@dataclass(frozen=True)
class Option:
    """
    Attributes:
        kind: `INT`, `TEXT ...`, and so on.
        default: as text; None when a value must be given.
        group: title of the banner comment above it, else the name of its class.
        is_own: whether the class, or a parent in the same package, declares it.
        is_foreign: whether a parent of another package declares it: `TrainingArguments`.
        about: first line of the class, where `group` is its name.
    """

    name: str
    kind: str
    default: str | None
    help: str
    group: str
    choices: tuple[str, ...] = ()
    is_own: bool = True
    is_foreign: bool = False
    about: str = ""


@cache
def options_of(cls: type | str) -> tuple[Option, ...]:
    """
    The options of a dataclass, given as such or by its full name; those of its parents first.

    An option that a child declares anew stays in the group of its parent.
    """
    name = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"
    try:
        options = tuple(_read(name).values())
    except (OSError, SyntaxError, LookupError, ValueError, TypeError, AttributeError):
        options = ()
    if isinstance(cls, str) and options:
        return options
    cls = class_named(cls) if isinstance(cls, str) else cls
    if [option.name for option in options] == [field.name for field in fields(cls) if field.init]:
        return options
    return _ask(cls)


def class_named(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _read(name: str) -> dict[str, Option]:
    """
    Raises:
        OSError, SyntaxError, LookupError, ValueError: when the source is not found or not understood.
    """
    module, _, class_name = DEFINED_IN.get(name, name).rpartition(".")
    lines, tree = _source(module)
    node = _class_node(class_name, tree)
    options: dict[str, Option] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            parent = _full_name(base.id, module, tree)
            options |= _read(parent)
            if parent.split(".")[0] != module.split(".")[0]:
                options = {key: replace(option, is_own=False, is_foreign=True) for key, option in options.items()}
    # the docstring of a child speaks of its parent
    about = "" if options else (ast.get_docstring(node) or "").split("\n")[0]
    group = own_group = _title(class_name)
    last_line = node.lineno
    for statement in node.body:
        for line in lines[last_line : statement.lineno]:
            banner = BANNER.match(line)
            group = banner.group(1) if banner else group
        last_line = statement.lineno
        if not _is_field(statement):
            continue
        key = statement.target.id
        option = _option(statement, node, module, tree, options.get(key))
        if key in options:
            earlier = options[key]
            options[key] = replace(option, group=earlier.group, about=earlier.about, is_foreign=earlier.is_foreign)
        else:
            options[key] = replace(option, group=group, about=about if group == own_group else "")
    return options


def _class_node(name: str, tree: ast.Module) -> ast.ClassDef:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"no class {name}")


def _is_field(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
        return False
    return "ClassVar" not in ast.unparse(statement.annotation) and not statement.target.id.startswith("_")


def _option(
    statement: ast.AnnAssign, owner: ast.ClassDef, module: str, tree: ast.Module, inherited: Option | None
) -> Option:
    default, metadata = statement.value, {}
    if isinstance(default, ast.Call) and ast.unparse(default.func).split(".")[-1] == "field":
        keywords = {keyword.arg: keyword.value for keyword in default.keywords}
        default = keywords.get("default")
        if "default_factory" in keywords:
            factory = keywords["default_factory"]
            is_lambda = isinstance(factory, ast.Lambda)
            default = factory.body if is_lambda else ast.Call(func=factory, args=[], keywords=[])
        if "metadata" in keywords:
            pairs = zip(keywords["metadata"].keys, keywords["metadata"].values, strict=True)
            metadata = {ast.literal_eval(key): value for key, value in pairs}
    text = ast.literal_eval(metadata["help"]) if "help" in metadata else ""
    choices = tuple(_enumerated(statement.annotation, module, tree))
    if "choices" in metadata:
        choices = tuple(str(choice) for values in _values(metadata["choices"], (tree,)) for choice in values)
    return Option(
        name=statement.target.id,
        kind=kind_name(statement.annotation, bool(choices)),
        default=None if default is None else _default_text(default, (owner, tree), inherited),
        help=" ".join(text.replace("%%", "%").split()),
        group="",
        choices=choices,
    )


def _default_text(default: ast.expr, scopes: tuple[ast.AST, ...], inherited: Option | None) -> str:
    found = [shown(value) for value in _values(default, scopes)]
    if found:
        return " or ".join(dict.fromkeys(found))
    text = ast.unparse(default)
    if text.endswith(".default") and inherited is not None and inherited.default is not None:
        return inherited.default
    return text


def _values(node: ast.expr, scopes: tuple[ast.AST, ...]) -> list[Any]:
    """What an expression may be: a literal, or a variable that is set in its class or file, perhaps by version."""
    try:
        return [ast.literal_eval(node)]
    except ValueError:
        pass
    name = ast.unparse(node)
    if name in ("list()", "dict()"):
        return [[]]
    for scope in scopes if isinstance(node, ast.Name) else ():
        every = [each for each in ast.walk(scope) if isinstance(each, ast.Assign)]
        assigned = [each.value for each in every if name in map(ast.unparse, each.targets)]
        if assigned:
            return [value for each in assigned for value in _values(each, ())]
    return []


def _enumerated(annotation: ast.expr, module: str, tree: ast.Module) -> Iterator[str]:
    """The values of an enumeration, as in `SchedulerType | str`, or of a `Literal`."""
    for member in members(annotation):
        if last_name(member) == "Literal":
            for value in getattr(member.slice, "elts", [member.slice]):
                if isinstance(ast.literal_eval(value), str):
                    yield ast.literal_eval(value)
        if not isinstance(member, ast.Name) or member.id in METAVARS or not member.id[0].isupper():
            continue
        try:
            source, _, name = _full_name(member.id, module, tree).rpartition(".")
            found = _class_node(name, _source(source)[1])
        except (OSError, LookupError):
            continue
        if any("Enum" in ast.unparse(base) for base in found.bases):
            for node in found.body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    yield str(node.value.value)


def _full_name(name: str, module: str, tree: ast.Module) -> str:
    """Where a name of a module comes from."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return f"{module}.{name}"
        if isinstance(node, ast.ImportFrom) and name in (alias.asname or alias.name for alias in node.names):
            package = module.split(".")[: -node.level] if node.level else []
            return ".".join([*package, *([node.module] if node.module else []), name])
    raise LookupError(f"{name} is not in {module}")


@cache
def _source(module: str) -> tuple[list[str], ast.Module]:
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded is not None:
        path = Path(loaded)
    else:  # find_spec would import the packages above the module
        top, *rest = module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            raise LookupError(f"no package {top}")
        path = Path(next(iter(spec.submodule_search_locations)), *rest)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    return text.splitlines(), ast.parse(text)


def _title(class_name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", class_name.removesuffix("Arguments")).split()
    return " ".join(words).capitalize() or class_name


def _ask(cls: type) -> tuple[Option, ...]:
    """The options of a class that is imported, without groups."""
    package = cls.__module__.split(".")[0]
    own = {
        name
        for parent in cls.__mro__
        if parent.__module__.split(".")[0] == package
        for name in getattr(parent, "__annotations__", {})
    }
    hints, options = get_type_hints(cls), []
    for field in fields(cls):
        if not field.init:
            continue
        choices = kind_of(hints[field.name], field.metadata).choices
        annotation = ast.parse(inspect.formatannotation(hints[field.name]), mode="eval").body
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        is_own = field.name in own
        options.append(
            Option(
                name=field.name,
                kind=kind_name(annotation, bool(choices)),
                default=None if default is MISSING else shown(getattr(default, "value", default)),
                help=" ".join(field.metadata.get("help", "").replace("%%", "%").split()),
                group=_title(cls.__name__) if is_own else "Trainer",
                choices=choices,
                is_own=is_own,
                is_foreign=not is_own,
            )
        )
    return tuple(options)
