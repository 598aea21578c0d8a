"""
The product as a user meets it: its commands, as processes. Every contract test starts them here, so that one place
changes when a command gets another name.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ("fit", "caption", "embed", "check", "train", "evaluate", "release")
WAIT = 300  # seconds that a command may take
ACCELERATE = str(Path(sys.executable).parent / "accelerate")
LAUNCHER = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
TWO_PROCESSES = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0", *LAUNCHER)
# Another number of processes would be read from a configuration of the launcher
FOREIGN = ("ACCELERATE_CONFIG_FILE",)


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


def command_line(command: str, words: tuple, launcher: tuple | None = None) -> list[str]:
    """
    Args:
        command: one of COMMANDS.
        words: options and values; a mapping stands for `--name value` of each.
        launcher: options of `accelerate launch`, to start the command with it.
    """
    start = [sys.executable] if launcher is None else [ACCELERATE, "launch", *launcher]
    return [*start, str(ROOT / "recipes" / f"{command}.py"), *spelled(words)]


def spelled(words: tuple) -> list[str]:
    found = []
    for word in words:
        pairs = [(f"--{name}", value) for name, value in word.items()] if isinstance(word, dict) else [(word,)]
        found += [str(part) for pair in pairs for part in pair]
    return found


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """The variables of a command; `more` replaces, and a value of None removes."""
    variables = {name: value for name, value in os.environ.items() if name not in FOREIGN} | (more or {})
    return {name: value for name, value in variables.items() if value is not None}


def start(command: str, *words, env: dict | None = None, cwd: Path = ROOT, launcher: tuple | None = None):
    """A command that runs on; its output is read with `communicate`."""
    return subprocess.Popen(
        command_line(command, words, launcher),
        cwd=cwd,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: str, *words, env: dict | None = None, cwd: Path = ROOT, launcher: tuple | None = None) -> Done:
    """A command to its end, whatever that is."""
    done = subprocess.run(
        command_line(command, words, launcher),
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def succeed(command: str, *words, **kwargs) -> Done:
    return succeeded(run(command, *words, **kwargs), command, words)


def succeeded(done: Done, command: str, words: tuple) -> Done:
    assert done.code == 0, f"{command} {spelled(words)} ended with {done.code}\n{done.out[-2000:]}\n{done.err[-4000:]}"
    return done


def python(code: str, *words, env: dict | None = None, cwd: Path = ROOT) -> str:
    """What a Python process without any of our commands prints."""
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


class Preloaded:
    """
    Commands without the seconds that every process takes to import torch and transformers: one process imports them
    and forks for each command, which runs the same script with the same words as a process of its own.

    What depends on imports, signals or variables that libraries read when imported takes [`run`] instead.
    """

    def __init__(self, env: dict[str, str] | None = None):
        """`env`: all variables of the commands; by default those of this process."""
        command = [sys.executable, str(Path(__file__).with_name("preload.py"))]
        self.env = environment() if env is None else env
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env, cwd=ROOT
        )

    def run(self, command: str, *words, env: dict | None = None, cwd: Path = ROOT) -> Done:
        return self._run(command_line(command, words)[1:], env, cwd)

    def succeed(self, command: str, *words, **kwargs) -> Done:
        return succeeded(self.run(command, *words, **kwargs), command, words)

    def python(self, code: str, *words, cwd: Path = ROOT) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(code)
            script.flush()
            return succeeded(self._run([script.name, *map(str, words)], None, cwd), "python", words).out

    def _run(self, words: list[str], env: dict | None, cwd: Path) -> Done:
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder) / name for name in ("out", "err"))
            out.touch()
            err.touch()
            asked = {"argv": words, "env": self.env | (env or {}), "cwd": str(cwd), "out": str(out), "err": str(err)}
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            code = self.process.stdout.readline()
            assert code, "the process that forks for each command is gone"
            return Done(int(code), out.read_text(), err.read_text())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=WAIT)
        self.process.stdout.close()


@contextlib.contextmanager
def caption_server(*options: str) -> Iterator[str]:
    """Address of an OpenAI-compatible server on this machine, see tests/workers/caption_server.py."""
    command = [sys.executable, str(ROOT / "tests" / "workers" / "caption_server.py"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.kill()
        process.wait()


def server_stats(server: str) -> dict:
    with urllib.request.urlopen(f"{server}/stats") as reply:
        return json.load(reply)


def times_of_children() -> float:
    """Seconds of CPU time of the processes that have ended; unlike the clock, the same on a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
