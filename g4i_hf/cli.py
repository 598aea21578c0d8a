"""Options of a command, as instances of its dataclasses: defaults < options of a run < YAML file < command line."""

import gc
import importlib
import os
import re
import shutil
import sys
import textwrap
from argparse import SUPPRESS, ArgumentError, ArgumentParser
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from .files import brief, did_you_mean, portable, read_lines, relative_to_file, yaml_lines
from .names import OPTIONS_FILE, check_dataset_exists, run_of
from .options import (
    OWN_MODULE,
    CheckArguments,
    DataArguments,
    EvaluateArguments,
    TrainingOptions,
    option,
    other_trainer_options,
)
from .options.fields import (
    OptionError,
    about_of,
    default_of,
    described,
    grouped,
    is_secret,
    members_of,
    names_of,
    title_of,
    typed,
    wanted,
)
from .output import say

# Names of options in other tools, to suggest ours for an unknown option
ALIASES = {
    **{"lr": "learning_rate", "epochs": "num_train_epochs", "num_epochs": "num_train_epochs", "wd": "weight_decay"},
    **{"batch_size": "per_device_train_batch_size", "output": "output_dir", "workers": "dataloader_num_workers"},
    **{"dataset": "dataset_name", "data": "dataset_name", "encoder": "text_encoder", "size": "image_size"},
    **{"model": "student", "model_name_or_path": "student", "captions": "captions_name"},
}
# Options that only apply to the dataset of a run
OF_THE_DATA = set(names_of(DataArguments)) - {"dataset_name", "class_names_file", "classes"}
OF_TRAINER = "Trainer: other options"
Groups = dict[str, dict[str, str]]  # title -> option -> its description
SHORT_FORMS = {"import_file": "--import", "export_file": "--export"}
OUTPUTS = ("output_dir", "captions_dir", "check_dir", "predictions", "embeddings_dir")


# --- Parsing ---------------------------------------------------------------------------------------------------------


@dataclass
class CommonOptions:
    """This command"""

    config: str | None = option(None, "YAML file of options; paths from ./ or ../ are relative to it.")
    print_config: bool = option(False, "Print the resolved options as such a file, and stop.")
    module: str | None = option(None, "Python file or module to import first, for custom students.")


class Parser(ArgumentParser):
    """argparse splits the command line into words; [`typed`] converts these, and the values of a YAML file."""

    def __init__(self, classes: tuple[type, ...]):
        super().__init__(allow_abbrev=False, add_help=False, exit_on_error=False, argument_default=SUPPRESS)
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf)")  # argparse would take -1e-3 for an option
        self.classes = (CommonOptions, *classes)
        self.hints: dict[str, Any] = {}
        for cls in self.classes:
            self.hints |= {name: hint for name, hint in get_type_hints(cls).items() if name in names_of(cls)}
        for name, hint in self.hints.items():
            members = members_of(hint)
            if bool in members:
                self.add_argument(f"--{name}", nargs="?", const="true")
                self.add_argument(f"--no_{name}", dest=name, action="store_const", const="false")
            elif name == "classes" and CheckArguments in classes:
                self.add_argument(f"--{name}", nargs="?", const="")  # alone: to write the usual file
            else:
                self.add_argument(f"--{name}", nargs="+" if list in members and str not in members else None)
        if TrainingOptions in classes:
            for name in other_trainer_options():
                self.hints[name] = Any  # `AlignmentArguments` converts it
                self.add_argument(f"--{name}", nargs="*")

    def command_line(self, argv: list[str]) -> dict[str, Any]:
        first = []
        for name in first_words(self.hints):
            if argv and not argv[0].startswith("-"):
                first += [f"--{name}", argv[0]]
                argv = argv[1:]
        argv = first + [self._in_full(word) for word in argv]
        if (output := output_option(self.hints)) is not None:
            argv = [f"--{output}" if word in ("-o", "--output_dir") else word for word in argv]
        try:
            parsed, unknown = self.parse_known_args(argv)
        except ArgumentError as error:
            name = error.argument_name or ""
            raise OptionError(f"{name} needs a value: {wanted(self.hints[name.removeprefix('--')])}.") from error
        if unknown:
            word, where = unknown[0], "in the command line"
            if word.startswith("--"):
                raise OptionError(self.unknown(word[2:].split("=")[0], "the command line", "--"))
            if word.startswith("-"):
                raise OptionError(f"unknown option {word!r} {where}; names start with two dashes.")
            places = [name for name in first_words(self.hints) if f"--{name}" not in first]
            remedy = f"Put {places[0]} before the options." if places else "Put a value with spaces in quotes."
            raise OptionError(f"{word!r} {where} belongs to no option. {remedy}")
        values = {name: typed(self.hints[name], value, f"--{name}") for name, value in vars(parsed).items()}
        for name in [name for name in values if self.hints[name] is Any and len(values[name]) < 2]:
            values[name] = values[name][0] if values[name] else "true"  # `--full_determinism` alone
        return values

    def _in_full(self, word: str) -> str:
        """`--import_file=labels.csv` of `--import=labels.csv`."""
        short, equals, value = word.partition("=")
        names = [name for name, each in SHORT_FORMS.items() if each == short and name in self.hints]
        return f"--{names[0]}{equals}{value}" if names else word

    def unknown(self, name: str, where: str, prefix: str = "") -> str:
        name = name.replace("-", "_")
        alias = ALIASES.get(name, name)
        hint = f" Did you mean {prefix + alias!r}?" if alias in self.hints else did_you_mean(name, self.hints, prefix)
        return f"unknown option {brief(prefix + name)} in {where}.{hint}"

    def yaml_file(self, path: Path, strict: bool = True) -> dict[str, Any]:
        """The options in a file; without `strict`, unknown ones are ignored."""
        if not path.is_file():
            what = "a folder; name a YAML file in it" if path.is_dir() else "no file"
            raise OptionError(f"The options are to be read from {path}, which is {what}.")
        values: dict[str, Any] = {}
        for name, (value, line) in read_lines(path).items():
            where = f"{path}, line {line}"
            if name in self.hints and name not in ("config", "print_config"):
                values[name] = relative_to_file(typed(self.hints[name], value, f"{where}: {name}"), path)
            elif strict:
                raise OptionError(self.unknown(name, where))
        return values


def parse_options(
    classes: tuple[type, ...],
    argv: list[str] | None = None,
    *,
    command: str = "COMMAND",
    description: str = "",
    default_config: Path | None = None,
) -> tuple[Any, ...]:
    """
    Parse dataclasses, whose fields are the options, from a YAML file (`--config`) and the command line: one instance
    for each class. `TrainingOptions` has further options of Trainer in its attribute `others`; `EvaluateArguments` has
    the options of its run as defaults, but for those of the data of another dataset. `--help` and `--print_config`
    print and exit.

    Args:
        default_config: YAML file for a command line without options, except those of the machine.

    Raises:
        OptionError: for an unknown option, with the nearest name, a value of the wrong type, or no dataset.
        ValueError: for values that a class rejects.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & {word.split("=")[0] for word in argv}:
        print_and_exit(help_text(classes, argv, command, description))
    parser = Parser(classes)
    from_words = parser.command_line([with_underscores(word) for word in argv])
    print_config, config = from_words.pop("print_config", False), from_words.pop("config", None)
    about = about_of(parser.classes)
    is_alone = all(name == "module" or about.get(name) == "call" for name in from_words)
    if config is None and default_config is not None and is_alone:
        config = default_config
        if not config.is_file():
            raise OptionError(
                f"name a folder of images: g4i {command} pictures. The photographs of the demo, which {command} "
                "takes without one, are in a clone of the repository and not in the package."
            )
    in_file = {} if config is None else parser.yaml_file(Path(config))
    values = _complete(parser, in_file | from_words)
    if values.get("module"):
        import_module(values["module"])
    options = tuple(_build(cls, values) for cls in classes)
    if print_config:
        print_and_exit(resolved_yaml(classes, values))
    return options


def first_words(known: Container[str]) -> list[str]:
    """The options for first words without dashes: `g4i train DATASET_NAME`, `g4i search RUN QUERY`."""
    if "predictions" in known:
        return ["model", "images"]
    first = "run" if "run" in known and "pick" not in known else "dataset_name"  # `g4i label` is about images
    return [name for name in (first, "query") if name in known]


def with_underscores(word: str) -> str:
    """`--learning-rate=1` as `--learning_rate=1`; other words are unchanged."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def build_options(classes: tuple[type, ...], given: dict[str, Any]) -> tuple[Any, ...]:
    """[`parse_options`] for keyword arguments. Raises TypeError for an unknown one, with the nearest name."""
    parser = Parser(classes)
    for name in given:
        if name not in parser.hints or hasattr(CommonOptions, name):
            raise TypeError(parser.unknown(name, "the arguments"))
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    values = {name: typed(parser.hints[name], value, name) for name, value in lists.items()}
    values = _complete(parser, values)
    return tuple(_build(cls, values) for cls in classes)


def _complete(parser: Parser, values: dict[str, Any]) -> dict[str, Any]:
    """The values, to evaluate with the options of the run folder `run` as defaults."""
    if EvaluateArguments in parser.classes and values.get("run"):
        of_run = parser.yaml_file(run_of(values["run"]) / OPTIONS_FILE, strict=False)
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
    """The option of a command that `-o` stands for, the folder of its result."""
    outputs = OUTPUTS[:-1] if "run" in names else OUTPUTS  # with a run, embeddings are read
    return next((name for name in outputs if name in names), None)


# --- Printing --------------------------------------------------------------------------------------------------------


def resolved_yaml(classes: tuple[type, ...], values: dict[str, Any]) -> str:
    """All our options, and the given ones of Trainer, as a file for `--config`."""
    blocks = ["# The resolved options; repeat them with --config on this file, from the same folder.\n"]
    if values.get("module"):
        blocks.append(yaml_lines({"module": portable(values["module"])}))
    groups = {
        title_of(declaring): {name: values.get(name, default_of(field)) for name, field in group.items()}
        for declaring, group in grouped(classes).items()
    }
    if TrainingOptions in classes:
        groups[OF_TRAINER] = {name: values[name] for name in other_trainer_options() if name in values}
    about = about_of(classes)
    for title, group in groups.items():
        shown = {name: value for name, value in group.items() if about.get(name) != "call" and not is_secret(name)}
        if shown:
            blocks.append(f"# --- {title} ---\n{yaml_lines({name: portable(shown[name]) for name in shown})}")
    return "\n".join(blocks).rstrip()


def help_text(classes: tuple[type, ...], argv: list[str], command: str, description: str) -> str:
    """`--help`: usage and the usual options; `--help all`: all of ours."""
    shows_all = bool({"all", "--help=all"} & set(argv))
    groups: Groups = {}
    rare: Groups = {}
    for declaring, group in grouped((CommonOptions, *classes)).items():
        texts = {name: described(field) for name, field in group.items()}
        target = rare if not shows_all and vars(declaring).get("rare") else groups
        target[title_of(declaring)] = {
            name: f"{text} [{default}]" if default else text for name, (text, default) in texts.items()
        }
    groups["This command"]["help"] = "This page; `--help all`: every option."
    names = [name for group in groups.values() for name in group]
    first = "".join(f"[{name.upper()}] " for name in first_words(names))
    usage = f"usage: g4i {command} {first}[--config YAML] [--NAME VALUE ...]"
    usage += f", or accelerate launch recipes/{command}.py"
    about = "Defaults are in brackets. `--NAME` alone sets a boolean option to true."
    if TrainingOptions in classes:
        about += "\nThe other options of transformers' TrainingArguments, such as --fsdp, are options here too."
    return "\n".join([usage, "", description.strip(), "", about, *help_page(groups), *rare_page(rare)])


def rare_page(groups: Groups) -> Iterator[str]:
    if groups:
        yield "\nMore, described by `--help all`"
    for title, group in groups.items():
        line = f"  {title.replace(':', ',')}: {', '.join(group)}"
        yield from textwrap.wrap(line, _width(), subsequent_indent="    ")


def help_page(groups: Groups) -> Iterator[str]:
    width = _width()
    output = output_option([name for group in groups.values() for name in group])
    for title, group in groups.items():
        if group:
            yield f"\n{title}"
        for name, text in group.items():
            lines = textwrap.wrap(text, width - 34, break_on_hyphens=False)
            short = "-o" if name == output else SHORT_FORMS.get(name)
            first = (f"  {short}, --{name}" if short else f"  --{name}").ljust(34)
            yield first + lines.pop(0) if len(first) == 34 else first
            yield from (" " * 34 + line for line in lines)


def _width() -> int:
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


def print_and_exit(text: str) -> None:
    try:
        say(text)
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(0)


# --- Shared by the commands ------------------------------------------------------------------------------------------


def check_data(options: Iterable[Any]) -> None:
    for data in options:
        if isinstance(data, DataArguments) and data.dataset_name:
            check_dataset_exists(data.dataset_name, "dataset_name", data.dataset_revision)
            if data.captions_name:
                check_dataset_exists(data.captions_name, "captions_name", data.captions_revision)


def check_paths(**paths: str | None) -> None:
    """Raise FileNotFoundError for a missing file or folder that an option names."""
    for name, path in paths.items():
        if path and not Path(path).exists():
            raise FileNotFoundError(f"{name} is {path!r}, but there is no such file or folder.")


def import_module(name: str) -> None:
    """Import the module of `--module`: a Python file by its path, or a module by its name."""
    os.environ[OWN_MODULE] = name
    path = Path(name)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise OptionError(f"--module {name}: there is no such file.")
    sys.path.append(str(path.parent.resolve()) if is_file else os.getcwd())
    try:
        module = importlib.import_module(path.stem if is_file else name)
    except Exception as error:  # from the code of the user
        raise OptionError(f"--module {name} cannot be imported: {type(error).__name__}: {error}") from error
    if is_file and Path(module.__file__ or "").resolve() != path.resolve():
        raise OptionError(f"--module {name} cannot be imported as {path.stem!r}; give the file another name.")


def end_processes() -> None:
    """
    Destroy the process group at the end of a command. Its threads can abort a process that exits, and a model that
    outlives its group can block the exit (torch 2.13, gloo). A command that needed no torch does not import it here.
    """
    if "accelerate" not in sys.modules:
        return
    from accelerate import PartialState

    if PartialState._shared_state:
        gc.collect()
        PartialState().destroy_process_group()
