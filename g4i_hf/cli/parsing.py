"""`parse_options`: one instance a class, from the command line, a YAML file and the defaults."""

import os
import re
import sys
from argparse import SUPPRESS, ArgumentError, ArgumentTypeError
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from .errors import OptionError, did_you_mean, unknown_option
from .help import asked_topic, help_text
from .kinds import Kind, kind_of
from .option_sources import class_named
from .resolved import resolved_yaml
from .yaml_files import read_nodes, relative_to_file

SCRIPT_OPTIONS = ("config", "print_config", "help")
# Of the data that a run was trained with, and of no other
OF_THE_DATA = ("dataset_config_name", "dataset_revision", "captions_name", "captions_revision")


def parse_options(
    classes: tuple[type | str, ...],
    argv: list[str] | None = None,
    *,
    description: str = "",
    default_config: Path | None = None,
    run_options: str | None = None,
) -> tuple[Any, ...]:
    """
    Reads dataclasses from a YAML file (`--config`) and the command line.

    With `--help` or `--print_config` it prints and exits with code 0.

    Args:
        classes: dataclasses whose fields are the options, each with a `help`; or their full names, which are imported
            only when there is something to parse, so that `--help` is fast.
        argv: the command line; that of the process by default.
        description: first lines of `--help`.
        default_config: YAML file read when the command line names neither a configuration nor any data, run or stage.
        run_options: name of the YAML file in the folder given as `run`; its options, as far as they are options here,
            come before those of `--config`. Where other data is named, those of its version are left out.

    Returns:
        One instance a class.

    Raises:
        OptionError: for an unknown key, naming the nearest known one, or a value of the wrong kind.
    """
    argv = _normalised(sys.argv[1:] if argv is None else argv)
    topic = asked_topic(argv)
    if topic is not None:
        _print_and_exit(help_text(classes, topic, description))
    classes = tuple(class_named(name) if isinstance(name, str) else name for name in classes)
    kinds = {name: kind for cls in classes for name, kind in _kinds(cls).items()}
    named = any(word.split("=")[0] in ("--dataset_name", "--run", "--stage") for word in argv)
    config = _value_of("--config", argv) or (None if named else default_config)
    values = {} if config is None else _values_of(Path(config), kinds)
    run = _value_of("--run", argv) or values.get("run")
    if run_options is not None and run:
        if not Path(run).is_dir():
            raise OptionError(f"run is {run!r}, but there is no such folder.")
        if not (Path(run) / run_options).is_file():
            raise OptionError(f"{run} is no run folder: it holds no {run_options}.")
        of_run = _values_of(Path(run) / run_options, kinds, strict=False)
        if "dataset_name" in values or _value_of("--dataset_name", argv) is not None:
            of_run = {name: value for name, value in of_run.items() if name not in OF_THE_DATA}
        values = of_run | values
    given = _values_of_command_line(classes, kinds, argv)
    print_config = given.pop("print_config", False)
    given.pop("config", None)
    values |= given
    parsed = tuple(_build(cls, values) for cls in classes)
    if print_config:
        _print_and_exit(resolved_yaml(classes, kinds, values))
    return parsed


def _normalised(argv: list[str]) -> list[str]:
    """Hyphens in names become underscores; a negative number such as -1e-3 is joined to its option."""
    words: list[str] = []
    for word in argv:
        if word.startswith("--"):
            name, *rest = word.split("=", 1)
            word = "=".join(["--" + name[2:].replace("-", "_"), *rest])
        elif re.fullmatch(r"-(\d+\.?\d*|\.\d+)[eE][-+]?\d+|-inf", word) and words and _is_bare_option(words[-1]):
            word = f"{words.pop()}={word}"  # argparse takes it for an option
        words.append(word)
    return words


def _is_bare_option(word: str) -> bool:
    return word.startswith("--") and "=" not in word


def _print_and_exit(text: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:  # accelerate starts several processes
        try:
            print(text, flush=True)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(0)


def _kinds(cls: type) -> dict[str, Kind]:
    hints = get_type_hints(cls)
    return {field.name: kind_of(hints[field.name], field.metadata) for field in fields(cls) if field.init}


def _value_of(option: str, argv: list[str]) -> str | None:
    """The last value, as in argparse."""
    found = None
    for position, word in enumerate(argv):
        if word == option and position + 1 < len(argv):
            found = argv[position + 1]
        if word.startswith(f"{option}="):
            found = word.split("=", 1)[1]
    return found


def _values_of(path: Path, kinds: dict[str, Kind], strict: bool = True) -> dict[str, Any]:
    values = {}
    for name, node in read_nodes(path).items():
        where = f"{path}, line {node.start_mark.line + 1}"
        if name not in kinds:
            if strict:
                raise OptionError(unknown_option(name, kinds, where))
            continue
        try:
            value = kinds[name].from_yaml(node)
        except (ArgumentTypeError, yaml.YAMLError, ValueError) as error:
            raise OptionError(f"{where}: {name} {_one_line(error)}") from error
        values[name] = relative_to_file(value, path) if isinstance(value, str) else value
    return values


def _values_of_command_line(classes: tuple[type, ...], kinds: dict[str, Kind], argv: list[str]) -> dict[str, Any]:
    """Only what was given; defaults are those of the dataclasses."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(classes, allow_abbrev=False, add_help=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--print_config", action="store_true")
    for action in parser._actions:
        action.default, action.required, action.choices = SUPPRESS, False, None
        kind = kinds.get(action.dest)
        if kind is None or action.nargs == 0:
            continue
        action.type = kind.item_from_text if action.nargs == "+" else kind.from_text
        if bool in kind.scalars and action.nargs is None:
            action.nargs, action.const = "?", True
    try:
        given, unknown = parser.parse_known_args(argv)
    except ArgumentError as error:
        raise OptionError(_explained(error, kinds)) from error
    if unknown:
        raise OptionError(_stray(unknown[0], (*kinds, *SCRIPT_OPTIONS)))
    return vars(given)


def _explained(error: ArgumentError, kinds: dict[str, Kind]) -> str:
    option = (error.argument_name or "").split("/")[0]
    name = option.removeprefix("--")
    if error.message.startswith(("is ", "has ")):  # from Kind
        return f"{option} {error.message}"
    if name in kinds or name == "config":
        wanted = kinds[name].wanted() if name in kinds else "the path of a YAML file"
        with_dash = f" (Write one that starts with a dash as {option}=VALUE.)" if wanted == "text" else ""
        return f"{option} needs a value: {wanted}.{with_dash}"
    return f"{option} takes no value." if option else error.message


def _stray(word: str, known: tuple[str, ...]) -> str:
    if not word.startswith("-"):
        return f"{word!r} in the command line belongs to no option. Put a value with spaces in quotes."
    name = word.lstrip("-").split("=")[0]
    if not word.startswith("--"):
        return f"unknown option {word!r} in the command line; names start with two dashes." + did_you_mean(
            name, known, "--"
        )
    return unknown_option(name, known, "the command line")


def _build(cls: type, values: dict[str, Any]) -> Any:
    arguments = {}
    for field in fields(cls):
        if field.init and field.name in values:
            arguments[field.name] = values[field.name]
        elif field.init and field.default is MISSING and field.default_factory is MISSING:
            raise OptionError(f"{field.name} is missing: give it with --{field.name}, or in the file of --config.")
    try:
        return cls(**arguments)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise OptionError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
