"""
The product as a user meets it: its commands, as processes that begin with torch and transformers loaded, see `loaded`.
Every contract test starts them here, so that one place changes when a command gets another name.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loaded import ACCELERATE, PYTHON

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ("fit", "caption", "embed", "check", "train", "evaluate", "release")
WAIT = 300  # seconds that a command may take
LAUNCHER = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
TWO_PROCESSES = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0", *LAUNCHER)
HEAVY = {"torch", "datasets", "accelerate", "timm", "sentence_transformers", "sklearn"}  # seconds to import


@dataclass
class Done:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def command_line(command: str, words: tuple, launcher: tuple | None = None, python: str = PYTHON) -> list[str]:
    """`launcher`: options of `accelerate launch`; `python`: sys.executable for what is about imports."""
    start = [python] if launcher is None else [ACCELERATE, "launch", *launcher]
    return [*start, str(ROOT / "recipes" / f"{command}.py"), *spelled(words)]


def spelled(words: tuple) -> list[str]:
    """Options and values; a mapping stands for `--name value` of each, and a list for several values."""
    found = []
    for word in words:
        pairs = [(f"--{name}", value) for name, value in word.items()] if isinstance(word, dict) else [(word,)]
        parts = [part for pair in pairs for part in pair]
        found += [str(word) for part in parts for word in (part if isinstance(part, list) else [part])]
    return found


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """The variables of a command; `more` replaces, and a value of None removes."""
    return {name: value for name, value in (os.environ | (more or {})).items() if value is not None}


def run(command: str, *words, env: dict | None = None, cwd: Path = ROOT, **started) -> Done:
    """A command to its end, whatever that is; `started` as in [`command_line`]."""
    return ended(command_line(command, words, **started), env, cwd)


def ended(command: list[str], env: dict | None, cwd: Path) -> Done:
    pipes = {"capture_output": True, "text": True, "timeout": WAIT}
    done = subprocess.run(command, cwd=cwd, env=environment(env), **pipes)
    return Done(done.returncode, done.stdout, done.stderr)


def refused_by_windows(folder: Path) -> list[str]:
    """Paths in a folder that Windows does not allow."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    forbidden = re.compile(r'[<>:"\\|?*\x00-\x1f]|[. ](/|$)|(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)', re.IGNORECASE)
    return [name for name in names if forbidden.search(name)]


def succeed(command: str, *words, **kwargs) -> Done:
    done = run(command, *words, **kwargs)
    assert done.code == 0, f"{command} {spelled(words)} ended with {done.code}\n{done.out[-2000:]}\n{done.err[-4000:]}"
    return done


def python(code: str, *words, env: dict | None = None, cwd: Path = ROOT, start: str = PYTHON) -> str:
    """What a Python process without any of our commands prints."""
    done = ended([start, "-c", code, *map(str, words)], env, cwd)
    assert done.code == 0, f"{done.out[-2000:]}\n{done.err[-4000:]}"
    return done.out


def imports_of(done: Done) -> set[str]:
    """The modules that a process with PYTHONPROFILEIMPORTTIME has imported."""
    return {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
