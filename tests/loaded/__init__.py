"""
`python`, `g4i` and `accelerate` without the eight seconds that each process takes to import torch and transformers.

PYTHON stands for `sys.executable`: a process that imported them once forks for each command. BIN has all three, for
PATH. Exit codes are passed on. A command with other variables of Hugging Face, which are read on import, begins anew.
What is about imports takes `sys.executable`, and so does everything where there is no Linux.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def prepare() -> None:
    """In the process that starts the tests; its workers find the folder in their environment."""
    folder = Path(tempfile.mkdtemp(prefix="loaded-"))
    os.environ |= {"HF_HOME": str(folder / "home"), "G4I_TESTS_LOADED": str(folder)}
    client = (HERE / "client.py").read_text()
    for name in ("python", "g4i", "accelerate"):
        (folder / name).write_text(f"#!{sys.executable} -IS\n{client}")
        (folder / name).chmod(0o755)
    settings = {"server": str(HERE / "server.py"), "owner": os.getpid(), "env": dict(os.environ)}
    (folder / "settings.json").write_text(json.dumps(settings))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


LINUX = hasattr(os, "pidfd_open")
if "G4I_TESTS_LOADED" not in os.environ:
    prepare()
BIN = Path(os.environ["G4I_TESTS_LOADED"]) if LINUX else Path(sys.executable).parent
PYTHON, ACCELERATE = str(BIN / "python"), str(BIN / "accelerate")


def real(number: int) -> int:
    """The process that runs the command of a client: the one to kill, or whose children to look for."""
    return int((BIN / str(number)).read_text()) if LINUX else number


def kill(process: subprocess.Popen) -> None:
    """SIGKILL, as by the kernel when memory is short; nothing of the process runs after it."""
    os.kill(real(process.pid), signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
