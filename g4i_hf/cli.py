"""Options of a script: defaults < YAML file < command line."""

import difflib
import json
import logging
import os
import re
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import yaml


class OptionError(SystemExit):
    """A wrong option: the message goes to the user without a traceback, the exit code is 2."""

    def __init__(self, message: str):
        print(f"error: {message}", file=sys.stderr)
        super().__init__(2)


def parse_options(
    classes: tuple[type, ...],
    argv: list[str] | None = None,
    *,
    description: str = "",
    default_config: Path | None = None,
    run_options: str | None = None,
) -> tuple[Any, ...]:
    """
    Reads dataclasses from a YAML file (`--config`) and the command line.

    Args:
        classes: dataclasses whose fields are the options, each with a `help`.
        argv: the command line; that of the process by default.
        description: first lines of `--help`.
        default_config: YAML file read when the command line names neither a configuration nor any data.
        run_options: name of the YAML file in the folder given as `run`; its options, as far as they are options here,
            come before those of `--config`.

    Returns:
        One instance a class.

    Raises:
        OptionError: for an unknown key, naming the nearest known one, or a value of the wrong kind.
    """
    from transformers import HfArgumentParser

    argv = list(sys.argv[1:] if argv is None else argv)
    config_path = _value_of("--config", argv)
    named = any(word.split("=")[0] in ("--dataset_name", "--run") for word in argv)
    if config_path is None and default_config is not None and not named:
        config_path = default_config
    parser = HfArgumentParser(classes, description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="YAML", help="File of options; the command line goes before it.")
    known = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    values = {} if config_path is None else _read_yaml(Path(config_path), known)
    run = _value_of("--run", argv) or values.get("run")
    if run_options is not None and run and not Path(run).is_dir():
        raise OptionError(f"run is {run!r}, but there is no such folder.")
    if run_options is not None and run and (Path(run) / run_options).is_file():
        values = _read_yaml(Path(run) / run_options, known, strict=False) | values
    if values:
        parser.set_defaults(**values)
        for action in parser._actions:
            action.required = action.required and parser.get_default(action.dest) is None
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    except (ValueError, TypeError) as error:
        raise OptionError(str(error)) from error
    parsed = [value for value in parsed if not hasattr(value, "config") or hasattr(value, "__dataclass_fields__")]
    if unknown:
        raise OptionError(_unknown(unknown[0].lstrip("-").split("=")[0], known, "the command line"))
    return tuple(parsed)


def _value_of(option: str, argv: list[str]) -> str | None:
    for position, word in enumerate(argv):
        if word == option and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1]
    return None


def _read_yaml(path: Path, known: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    if not path.is_file():
        raise OptionError(f"--config {path}: there is no such file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise OptionError(f"{path} must hold `name: value` lines.")
    for name, value in list(values.items()):
        if name not in known and not strict:
            del values[name]
            continue
        if name not in known:
            raise OptionError(_unknown(str(name), known, str(path)))
        values[name] = _cast(name, value, known[name], path)
    return values


def _cast(name: str, value: Any, action: Any, path: Path) -> Any:
    """YAML reads 5e-4 as a string, 1 as an integer and no as False: the field's type decides."""
    if isinstance(value, str) and (value in (".", "..") or value.startswith(("./", "../"))):
        relative = os.path.relpath(path.parent / value)  # a path that starts with a dot is relative to the file
        return relative if relative.startswith((".", "/")) else f"./{relative}"  # and is never taken for a Hub id
    if value is None or action.type is None:
        return value
    if action.nargs in ("*", "+"):
        return [_cast_scalar(name, item, action, path) for item in (value if isinstance(value, list) else [value])]
    if action.type not in (int, float) and isinstance(value, (dict, list)):
        return json.dumps(_with_numbers(value)) if isinstance(value, dict) else value
    return _cast_scalar(name, value, action, path)


def _cast_scalar(name: str, value: Any, action: Any, path: Path) -> Any:
    choices = action.choices or ()
    if value is False and "no" in choices:
        value = "no"
    if isinstance(value, bool) and action.type not in (int, float):
        return value
    try:
        if isinstance(value, (bool, dict, list)):
            raise ValueError("a number is wanted.")
        cast = action.type(value if isinstance(value, str) else str(value))
    except (ValueError, TypeError, ArgumentTypeError) as error:
        raise OptionError(f"{path}: {name} is {value!r}: {error}") from error
    if choices and cast not in choices:
        raise OptionError(f"{path}: {name} is {value!r}; choose one of {', '.join(map(str, choices))}.")
    return cast


def _with_numbers(value: Any) -> Any:
    """Numbers like 5e-4 within a mapping, which no field's type tells from text."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    return float(value) if is_number else value


def quiet_libraries(main_process: bool) -> None:
    """Our own messages and progress bars from the main process; from the libraries only warnings."""
    import datasets
    import transformers

    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, format="%(message)s")
    for name in ("httpx", "sentence_transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    datasets.config.USE_PARQUET_EXPORT = False  # would ask another host for every data set
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    if not main_process:
        datasets.disable_progress_bars()


def _unknown(name: str, known: dict[str, Any], where: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown option {name!r} in {where}." + (f" Did you mean {near[0]!r}?" if near else "")
