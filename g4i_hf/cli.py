"""Options of a command, as instances of its dataclasses: defaults < options of a run < YAML file < command line."""

import gc
import importlib
import json
import logging
import os
import re
import shutil
import sys
import textwrap
from argparse import SUPPRESS, ArgumentError, ArgumentTypeError
from collections.abc import Container, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from transformers.hf_argparser import HfArgumentParser, string_to_bool

from .files import (
    brief,
    did_you_mean,
    portable,
    printable_lines,
    read_lines,
    relative_to_file,
    scalar,
    wrong_choice,
    yaml_lines,
)
from .names import check_dataset_exists, run_of
from .options import (
    NOT_RECORDED,
    OPTIONS_OF,
    OTHER_TRAINER_OPTIONS,
    OTHER_TRAINER_OPTIONS_OF,
    OWN_DEFAULTS,
    OWN_MODULE,
    DataArguments,
    FitArguments,
    TrainerGroup,
    TrainingOptions,
    is_secret,
    option,
)
from .options.fields import default_of, described, grouped, names_of, title_of

# Names of options in other tools, for the hint after an unknown option
ALIASES = {
    **{"lr": "learning_rate", "epochs": "num_train_epochs", "num_epochs": "num_train_epochs", "wd": "weight_decay"},
    **{"batch_size": "per_device_train_batch_size", "output": "output_dir", "workers": "dataloader_num_workers"},
    **{"dataset": "dataset_name", "data": "dataset_name", "encoder": "text_encoder", "size": "image_size"},
    **{"model": "student", "model_name_or_path": "student", "captions": "captions_name"},
}
# Options that fit the dataset of a run only
OF_THE_DATA = set(names_of(DataArguments)) - {"dataset_name", "class_names_file"}
NAMES_OF_DATA = ("dataset_name", "run", "stage")  # one of them is needed
OUTPUTS = ("output_dir", "captions_dir", "check_dir", "student_dir", "embeddings_dir")
WANTED = {int: "a whole number", float: "a number", string_to_bool: "true or false", str: "text", dict: "JSON"}


class OptionError(ValueError):
    """A wrong option."""


# --- Parsing ---------------------------------------------------------------------------------------------------------


@dataclass
class CommonOptions:
    """This command"""

    config: str | None = option(None, "YAML file of options; paths that start with a dot are relative to it.")
    print_config: bool = option(False, "Print the resolved options as such a file, and stop.")
    module: str | None = option(None, "Python file or module to import first, which registers a student of yours.")


class Parser(HfArgumentParser):
    """argparse reads the command line as text; [`typed`] converts it, and the values of a YAML file."""

    def __init__(self, classes: tuple[type, ...]):
        super().__init__((CommonOptions, *classes), allow_abbrev=False, add_help=False, exit_on_error=False)
        for name in other_trainer_options() if TrainingOptions in classes else ():
            self.add_argument(f"--{name}", nargs="*")
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf)")  # argparse takes -1e-3 for an option
        # Types of our options by name, and argparse's converter and choices of all
        self.hints = {name: hint for cls in self.dataclass_types for name, hint in get_type_hints(cls).items()}
        self.kinds = {action.dest: (action.type, action.choices) for action in self._actions if action.nargs != 0}
        for action in self._actions:
            if action.type is string_to_bool:
                action.nargs, action.const = "?", "true"
            action.default, action.required, action.type, action.choices = SUPPRESS, False, None, None

    def command_line(self, argv: list[str]) -> dict[str, Any]:
        """The options that are given, by name."""
        first = []
        for name in first_words(self.kinds):
            if argv and not argv[0].startswith("-"):
                first += [f"--{name}", argv[0]]
                argv = argv[1:]
        argv = first + argv
        if (output := output_option(self.kinds)) is not None:
            argv = [f"--{output}" if word in ("-o", "--output_dir") else word for word in argv]
        try:
            given, unknown = self.parse_known_args(argv)
        except ArgumentError as error:
            name = (error.argument_name or "").split("/")[0]
            wanted = WANTED.get(self.kinds.get(name.removeprefix("--"), (None, None))[0], "a value")
            raise OptionError(f"{name} needs a value: {wanted}.") from error
        if unknown:
            word, where = unknown[0], "in the command line"
            if word.startswith("--"):
                raise OptionError(self.unknown(word[2:].split("=")[0], "the command line", "--"))
            if word.startswith("-"):
                raise OptionError(f"unknown option {word!r} {where}; names start with two dashes.")
            raise OptionError(f"{word!r} {where} belongs to no option. Put a value with spaces in quotes.")
        values = {name: self.typed(name, value, f"--{name}") for name, value in vars(given).items()}
        for name in [name for name in values if name not in self.hints and len(values[name]) < 2]:
            values[name] = values[name][0] if values[name] else "true"  # `--full_determinism` alone
        return values

    def typed(self, name: str, value: Any, where: str) -> Any:
        """
        The value in the type of its option: of text or a list of texts, from YAML also None, a list or a mapping.
        `where` is what a message calls the option.
        """
        kind, choices = self.kinds[name]
        hint = self.hints.get(name, str | None)
        union = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        members = {getattr(member, "__origin__", member) for member in union}
        if value is None and type(None) not in members:
            raise OptionError(f"{where} has no value; {WANTED.get(kind, 'a value')} is wanted.")
        if value is None or name not in self.hints:  # `AlignmentArguments` converts other options of Trainer
            return value
        if list in members and str not in members and not isinstance(value, dict):
            return [self._one(kind, choices, item, where) for item in (value if isinstance(value, list) else [value])]
        if not isinstance(value, (dict, list)):
            return self._one(kind, choices, value, where)
        if type(value) not in members:
            raise OptionError(f"{where} is {brief(value)}; {WANTED.get(kind, 'one value')} is wanted.")
        if isinstance(value, dict):
            return value
        return [scalar(item) if isinstance(item, str) else item for item in value]

    def _one(self, kind: Any, choices: Any, value: Any, where: str) -> Any:
        text = os.path.expanduser(value) if kind is str and str(value).startswith("~/") else str(value)
        if choices is not None:
            if text not in choices:
                raise OptionError(wrong_choice(where, text, choices))
            return text
        if kind is string_to_bool and text.lower() in ("on", "off"):  # as YAML knows them too
            return text.lower() == "on"
        try:
            value = json.loads(text) if kind is dict else kind(text)
            if kind is dict and not isinstance(value, dict):
                raise ValueError(text)
            return value
        except (ValueError, TypeError, ArgumentTypeError) as error:
            raise OptionError(f"{where} is {brief(text)}; {WANTED.get(kind, 'another value')} is wanted.") from error

    def unknown(self, name: str, where: str, prefix: str = "") -> str:
        """The message about an option that does not exist."""
        name = name.replace("-", "_")
        alias = ALIASES.get(name, name)
        if alias in self.kinds:
            hint = f" Did you mean {prefix + alias!r}?"
        elif FitArguments in self.dataclass_types and alias in Parser(OPTIONS_OF["train"]).kinds:
            hint = " It is an option of g4i train, which fit chooses."
        else:
            hint = did_you_mean(name, self.kinds, prefix)
        return f"unknown option {brief(prefix + name)} in {where}.{hint}"

    def yaml_file(self, path: Path, strict: bool = True) -> dict[str, Any]:
        """The options in a file; without `strict`, those among them that are options here."""
        if not path.is_file():
            what = "this is a folder; name a YAML file in it" if path.is_dir() else "there is no such file"
            raise OptionError(f"--config {path}: {what}.")
        values: dict[str, Any] = {}
        for name, (value, line) in read_lines(path).items():
            where = f"{path}, line {line}"
            if name in self.kinds and name not in ("config", "print_config"):
                typed = self.typed(name, value, f"{where}: {name}")
                values[name] = relative_to_file(typed, path)
            elif strict:
                raise OptionError(self.unknown(name, where))
        return values


def other_trainer_options() -> list[str]:
    """Options of `TrainingArguments` beside ours; a newer transformers than the tested one is asked for them."""
    if version("transformers").startswith(f"{OTHER_TRAINER_OPTIONS_OF}."):
        return OTHER_TRAINER_OPTIONS.split()
    from transformers import TrainingArguments

    return [name for name in names_of(TrainingArguments) if name not in names_of(TrainingOptions)]


def parse_options(
    classes: tuple[type, ...],
    argv: list[str] | None = None,
    *,
    command: str = "COMMAND",
    description: str = "",
    default_config: Path | None = None,
    run_options: str | None = None,
) -> tuple[Any, ...]:
    """
    Reads dataclasses, whose fields are the options, from a YAML file (`--config`) and the command line: one instance a
    class. `TrainingOptions` has further options of Trainer in its attribute `others`. `--help` and `--print_config`
    print and exit.

    Args:
        default_config: YAML file for a command line without options, but for those of the machine.
        run_options: name of the YAML file in the folder `run`; `--config` overrides its options. Options that do not
            exist here are ignored, and with another dataset those of the run's dataset.

    Raises:
        OptionError: for an unknown option, naming the nearest one, a value of the wrong type, or no dataset.
        ValueError: for values that a class refuses.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & {word.split("=")[0] for word in argv}:
        print_and_exit(help_text(classes, argv, command, description))
    parser = Parser(classes)
    given = parser.command_line([with_underscores(word) for word in argv])
    print_config, config = given.pop("print_config", False), given.pop("config", None)
    if config is None and not set(NAMES_OF_DATA) & set(given):
        config = default_config
        if config is not None:
            _check_alone(parser, given, command, config)
            if not config.is_file():
                raise OptionError(
                    f"name a folder of images: g4i {command} pictures. The photographs of the demo, which {command} "
                    "takes without one, are in a clone of the repository and not in the package."
                )
    in_file = {} if config is None else parser.yaml_file(Path(config))
    values = _complete(parser, in_file | given, run_options)
    if values.get("module"):
        import_module(values["module"])
    options = tuple(_build(cls, values) for cls in classes)
    if print_config:
        print_and_exit(resolved_yaml(classes, values))
    return options


def _check_alone(parser: Parser, given: dict[str, Any], command: str, config: Path) -> None:
    """An OptionError for options, other than those of the machine, without the data that they are meant for."""
    named = [name for name in ("run", "stage") if name in parser.kinds] or ["dataset_name"]
    others = sorted(set(given) - NOT_RECORDED - {"module"})
    if others and named[0] in parser.kinds:
        inside = os.path.relpath(config)
        raise OptionError(
            f"--{others[0]} is given without {' or '.join(f'--{name}' for name in named)}: name yours, as in g4i "
            f"{command} --{named[0]} FOLDER. The bundled example takes options after --config "
            f"{config if inside.startswith('..') else inside}."
        )


def first_words(known: Container[str]) -> list[str]:
    """The options that first words without dashes stand for: `g4i train DATASET_NAME`, `g4i search RUN QUERY`."""
    first = "run" if "run" in known else "dataset_name"
    return [name for name in (first, "query") if name in known]


def with_underscores(word: str) -> str:
    """`--learning-rate=1` as `--learning_rate=1`; a word that is no option is unchanged."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def build_options(classes: tuple[type, ...], given: dict[str, Any], run_options: str | None = None) -> tuple[Any, ...]:
    """[`parse_options`] for keyword arguments of Python. An unknown one is a TypeError, which names the nearest."""
    parser = Parser(classes)
    for name in given:
        if name not in parser.kinds or hasattr(CommonOptions, name):
            raise TypeError(parser.unknown(name, "the arguments"))
    typed = {}
    for name, value in given.items():
        value = list(value) if isinstance(value, tuple) else value
        as_it_is = value is None or isinstance(value, (str, list, dict))
        typed[name] = parser.typed(name, value if as_it_is else str(value), name)
    values = _complete(parser, typed, run_options)
    return tuple(_build(cls, values) for cls in classes)


def _complete(parser: Parser, values: dict[str, Any], run_options: str | None) -> dict[str, Any]:
    """With the options of the run folder `run` as defaults."""
    if run_options is not None and values.get("run"):
        run = Path(values["run"])
        if not run.is_dir():
            raise OptionError(f"run is {str(run)!r}, but there is no such folder.")
        run = run_of(run)
        if not (run / run_options).is_file():
            raise OptionError(f"{run} is no run folder: it holds no {run_options}.")
        of_run = parser.yaml_file(run / run_options, strict=False)
        if "dataset_name" in values:
            of_run = {name: value for name, value in of_run.items() if name not in OF_THE_DATA}
        values = of_run | values
    return values


def _build(cls: type, values: dict[str, Any]) -> Any:
    built = cls(**{name: value for name, value in values.items() if name in names_of(cls)})
    if cls is TrainingOptions:
        built.others = {name: values[name] for name in other_trainer_options() if name in values}
    return built


def output_option(names: Container[str]) -> str | None:
    """The option of a command that `-o` stands for: where its result goes."""
    given = OUTPUTS[:-1] if "run" in names else OUTPUTS  # with a run, embeddings are read
    return next((name for name in given if name in names), None)


# --- Printing --------------------------------------------------------------------------------------------------------


def resolved_yaml(classes: tuple[type, ...], values: dict[str, Any]) -> str:
    """Our options, and those of Trainer that differ from their defaults, as a file for `--config`."""
    blocks = ["# The resolved options; repeat them with --config on this file, from the same folder.\n"]
    if values.get("module"):
        blocks.append(yaml_lines({"module": portable(values["module"])}))
    groups = {}
    for declaring, group in grouped(classes).items():
        given = {name: values.get(name, default_of(field)) for name, field in group.items()}
        if issubclass(declaring, TrainerGroup):
            changed = {name for name, value in given.items() if value != default_of(group[name])}
            given = {name: given[name] for name in given if name in changed or name in OWN_DEFAULTS}
        groups[title_of(declaring)] = given
    if TrainingOptions in classes:
        groups[title_of(TrainerGroup)] = {name: values[name] for name in other_trainer_options() if name in values}
    for title, group in groups.items():
        hidden = {name for name in group if name in NOT_RECORDED or is_secret(name)}
        if shown := {name: portable(value) for name, value in group.items() if name not in hidden}:
            blocks.append(f"# --- {title} ---\n{yaml_lines(shown)}")
    return "\n".join(blocks).rstrip()


def help_text(classes: tuple[type, ...], argv: list[str], command: str, description: str) -> str:
    """`--help`: usage and our options; `--help all`: all of Trainer's too; `--help WORD`: those with the word."""
    place = next(i for i, word in enumerate(argv) if word.split("=")[0] in ("-h", "--help"))
    following = [argv[place].partition("=")[2], *argv[place + 1 : place + 2]]
    topic = next((word for word in following if word and not word.startswith("-")), "")
    groups: dict[str, dict[str, str]] = {}
    for declaring, group in grouped((CommonOptions, *classes)).items():
        texts = {name: described(field) for name, field in group.items()}
        groups[title_of(declaring)] = {
            name: f"{text} [{default}]" if default else text for name, (text, default) in texts.items()
        }
    groups["This command"]["help"] = (
        "This page; `--help all`: every option; `--help WORD`: those with WORD in their name."
    )
    if TrainingOptions in classes and topic:
        others = dict.fromkeys(other_trainer_options(), "See TrainingArguments of transformers.")
        groups[title_of(TrainerGroup)] = others
    if topic not in ("", "all"):
        part = topic.lower().replace("-", "_")
        found = {title: {name: group[name] for name in group if part in name} for title, group in groups.items()}
        if not any(found.values()):  # a word of a title
            found = {title: group for title, group in groups.items() if part in title.lower()}
        if not any(found.values()):
            near = did_you_mean(part, [name for group in groups.values() for name in group])
            raise OptionError(f"--help {topic}: no option has that in its name.{near} --help all lists every one.")
        return "\n".join(help_page(found))
    names = [name for group in groups.values() for name in group]
    first = "".join(f"[{name.upper()}] " for name in first_words(names))
    usage = f"usage: g4i {command} {first}[--config YAML] [--NAME VALUE ...]"
    usage += f", or accelerate launch recipes/{command}.py"
    about = "Defaults are in brackets; an option without one is unset. `--NAME` alone sets a switch to true."
    return "\n".join([usage, "", description.strip(), "", about, *help_page(groups)])


def help_page(groups: dict[str, dict[str, str]]) -> Iterator[str]:
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    output = output_option([name for group in groups.values() for name in group])
    for title, group in groups.items():
        if group:
            yield f"\n{title}"
        for name, text in group.items():
            lines = textwrap.wrap(text, width - 34, break_on_hyphens=False)
            first = (f"  -o, --{name}" if name == output else f"  --{name}").ljust(34)
            yield first + lines.pop(0) if len(first) == 34 else first
            yield from (" " * 34 + line for line in lines)


def print_and_exit(text: str) -> None:
    try:
        say(text)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(0)


# --- Shared by the commands ------------------------------------------------------------------------------------------


def check_data(data: DataArguments) -> None:
    check_dataset_exists(data.dataset_name, "dataset_name", data.dataset_revision)
    if data.captions_name:
        check_dataset_exists(data.captions_name, "captions_name", data.captions_revision)


def check_paths(**paths: str | list[str] | None) -> None:
    """A FileNotFoundError for a file or folder that an option names and that does not exist."""
    for name, named in paths.items():
        for path in [named] if isinstance(named, str) else named or []:
            if path and not Path(path).exists():
                raise FileNotFoundError(f"{name} is {path!r}, but there is no such file or folder.")


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Prints, in the first of several processes."""
    if is_first_process():
        print(printable_lines(text), flush=True)


class PrintableFormatter(logging.Formatter):
    """The message alone, without what would move the cursor or hide something."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def import_module(name: str) -> None:
    """Imports the module of `--module`: a Python file by its path, or a module by its name."""
    os.environ[OWN_MODULE] = name
    path = Path(name)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise OptionError(f"--module {name}: there is no such file.")
    sys.path.append(str(path.parent.resolve()) if is_file else os.getcwd())
    try:
        module = importlib.import_module(path.stem if is_file else name)
    except Exception as error:  # the user's own code
        raise OptionError(f"--module {name} cannot be imported: {type(error).__name__}: {error}") from error
    if is_file and Path(module.__file__ or "").resolve() != path.resolve():
        raise OptionError(f"--module {name} cannot be imported as {path.stem!r}; give the file another name.")


def quiet_libraries(main_process: bool) -> None:
    """Shows our messages and progress bars of the main process, and only warnings of the libraries."""
    import datasets
    import transformers

    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, handlers=[handler])
    for name in ("httpx", "httpx2", "sentence_transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    datasets.config.USE_PARQUET_EXPORT = False  # would ask another host for every dataset
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    if not main_process:
        datasets.disable_progress_bars()


def end_processes() -> None:
    """
    Destroys the process group at the end of a command: threads of a group can abort a process that exits, and a model
    that outlives its group can keep it from exiting (torch 2.13, gloo).
    """
    if "accelerate" not in sys.modules:
        return
    from accelerate import PartialState

    if PartialState._shared_state:
        gc.collect()
        PartialState().destroy_process_group()
