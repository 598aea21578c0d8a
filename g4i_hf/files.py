"""Atomic writes of files and folders; YAML files of options, and paths in them; nearest names; untrusted text."""

import contextlib
import copy
import difflib
import functools
import glob
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml


def check_replaceable(folder: str | Path, what: str, *marks: str) -> None:
    """Raise ValueError if the folder holds anything but `what`, which has all these files."""
    folder = Path(folder)
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_empty and not all((folder / mark).is_file() for mark in marks):
        raise ValueError(f"{folder} holds no {what}. It would be deleted: choose another folder, or move it away.")


@contextlib.contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """
    Replace a folder as a whole: yields an empty folder next to it, which is renamed at the end. After an error the
    earlier folder is unchanged; after a killed process, [`restore_replaced`] restores it.
    """
    place = Path(folder).resolve()  # the target of a link
    restore_replaced(place)
    staging, earlier = (place.with_name(f"{_temporary_prefix(place, kind)}{os.getpid()}") for kind in ("tmp", "old"))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if place.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            place.rename(earlier)
        try:
            staging.rename(place)
        except OSError:
            if earlier.exists():
                earlier.rename(place)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)


def restore_replaced(folder: str | Path) -> None:
    """Clean up after killed processes of this machine: move an earlier folder back if its place is empty."""
    place = Path(folder).resolve()
    for kind in ("old", "tmp"):
        for left in place.parent.glob(f"{glob.escape(_temporary_prefix(place, kind))}*"):
            process = left.name.rpartition("-")[2]
            if not process.isdecimal() or _is_running(int(process)):
                continue
            with contextlib.suppress(OSError):  # a read-only disk
                if kind == "old" and not place.exists():
                    left.rename(place)
                else:
                    shutil.rmtree(left)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there, `kill` is no question
        return True
    try:
        os.kill(process, 0)  # sends no signal
    except PermissionError:  # of another user
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _temporary_prefix(place: Path, kind: str) -> str:
    """Prefix of the names of temporary folders next to a place; the process id follows."""
    return f".{place.name}.{kind}-{platform.node()}-"


@contextlib.contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yields a place to write to, which becomes the file; after an error, such as a full disk, that is unchanged."""
    staging = Path(path).with_name(f".{uuid.uuid4().hex}.tmp")  # of this process alone
    try:
        yield staging
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def replace_text(path: str | Path, text: str) -> None:
    with replacing_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


def give_usual_permissions(folder: str | Path) -> None:
    """Give weights the permissions of any new file: safetensors 0.8 makes them readable by their owner only."""
    mask = os.umask(0o077)  # setting it is the only way to read it
    os.umask(mask)
    for path in Path(folder).glob("*.safetensors"):
        path.chmod(0o666 & ~mask)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The most similar known name, to suggest for a mistyped one; None without a similar one."""
    lower = {other.lower(): other for other in known}
    matches = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """` Did you mean 'clip'?`, or an empty text if no known name is similar."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {prefix + near!r}?"


def wrong_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """`align_loss is 'clop'; choose one of clip, infonce. Did you mean 'clip'?`"""
    choices = [str(choice) for choice in choices]
    return f"{name} is {brief(value)}; choose one of {', '.join(choices)}.{did_you_mean(str(value), choices)}"


def some(names: Sequence[str]) -> str:
    """The first three, for a message."""
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def brief(value: object) -> str:
    """The `repr` of the value, up to 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# Control characters (ESC and U+009B start a terminal command), line separators, surrogates, and characters without
# width that change the direction of text or hide it. White space below U+0020, and the joiners of emoji, Persian and
# Hindi, are not included
INVISIBLE = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f"
)
_NOT_SHOWN = re.compile(rf"[{INVISIBLE}\t\n\x0b-\x0d\x1c-\x1f\x85\u2028\u2029]")


def printable(text: object) -> str:
    """Untrusted text for the terminal, in one line; characters that move the cursor or hide text are escaped."""
    return _NOT_SHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def printable_lines(text: object) -> str:
    """[`printable`] text that keeps its line breaks."""
    return "\n".join(map(printable, str(text).split("\n")))


def spreadsheet_text(text: str | None) -> str | None:
    """Untrusted text for a cell of a CSV file: quoted if a spreadsheet would take it for a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r\n" else text


class _Loader(yaml.SafeLoader):
    """Reads 5e-4 as a number, which is text in YAML 1.1, and raises an error for duplicate keys."""

    def construct_mapping(self, node, deep=False):
        known: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (first := known.setdefault(key.value, key)) is not key:
                lines = [scalar_node.start_mark.line + 1 for scalar_node in (key, first)]
                raise ValueError(f"line {lines[0]}: {key.value} is given twice, first in line {lines[1]}. Keep one.")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that [`_Loader`] would read as a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


def read_lines(path: str | Path, as_text: bool = True) -> dict[str, tuple[Any, int]]:
    """
    The values of a YAML file, each with its line number; ValueError for other content or duplicate keys. `as_text`
    keeps scalars as written, so that the type of an option, not YAML, determines the value of 012, no or 5e-4.
    """
    try:
        nodes, values = _parsed(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError, AttributeError) as error:
        tabs = " Use spaces instead of tabs." if "\\t" in str(error) else ""
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}{tabs}") from error
    lines = {}
    for (name, node), value in zip(nodes.items(), copy.deepcopy(values).values(), strict=True):
        lines[name] = (_text(node, value) if as_text else value, node.start_mark.line + 1)
    return lines


@functools.lru_cache
def _parsed(text: str) -> tuple[dict[str, yaml.Node], dict[str, Any]]:
    """Nodes and values by name. A command reads some files several times, and parsing takes long."""
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("a file of options holds `name: value` lines.")
    values = loader.construct_document(root)
    return {str(key.value): value for key, value in root.value}, values


def _text(node: yaml.Node, value: Any) -> Any:
    """A scalar, or the scalars of a list, as written; null is None."""
    nodes, values = (node.value, value) if isinstance(node, yaml.SequenceNode) else ([node], [value])
    texts = [
        item.value if isinstance(item, yaml.ScalarNode) and current is not None else current
        for item, current in zip(nodes, values, strict=True)
    ]
    return texts if isinstance(node, yaml.SequenceNode) else texts[0]


def scalar(text: str) -> Any:
    """The value of a scalar in YAML."""
    return _Loader(text).get_single_data()


def yaml_lines(values: dict[str, Any]) -> str:
    """`name: value` lines; a list or mapping is on the line of its name."""
    style = {"Dumper": _Dumper, "sort_keys": False, "allow_unicode": True, "width": float("inf")}
    return "".join(
        f"{name}: {yaml.dump(value, default_flow_style=True, **style)}"
        if isinstance(value, (list, dict))
        else yaml.dump({name: value}, default_flow_style=False, **style)
        for name, value in values.items()
    )


def relative_to_file(value: Any, path: Path) -> Any:
    """Resolve paths that start with a dot, also in a list: they are relative to the file that contains them."""
    if isinstance(value, list):
        return [relative_to_file(item, path) if isinstance(item, str) else item for item in value]
    if not starts_with_a_dot(value):
        return value
    return relative_path(path.parent / value)


def relative_path(path: str | Path, base: str | Path = ".") -> str:
    """As files store it: with `/`, and a dot first, unlike a Hub id. Absolute on another drive of Windows."""
    try:
        relative = os.path.relpath(path, base).replace(os.sep, "/")
    except ValueError:
        return os.path.abspath(path)
    return relative if starts_with_a_dot(relative) else f"./{relative}"


def starts_with_a_dot(value: Any) -> bool:
    return isinstance(value, str) and f"{value.replace(os.sep, '/')}/".startswith(("./", "../"))


def portable(value: Any) -> Any:
    """Paths for a YAML file in any folder: those that start with a dot would be relative to that file."""
    if isinstance(value, list):
        return [portable(item) if isinstance(item, str) else item for item in value]
    if not starts_with_a_dot(value):
        return value
    inside = os.path.relpath(value).replace(os.sep, "/")
    is_found = not starts_with_a_dot(inside) and Path(inside).exists()
    return inside if is_found else os.path.abspath(value)  # a missing path could be taken for a Hub id
