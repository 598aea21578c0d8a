"""
Imports the large libraries once, then forks for each line of its input and runs a script there: see doors.Preloaded.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

# The public names that commands begin with; nothing of g4i_hf
import datasets  # noqa: F401
import evaluate  # noqa: F401
import sentence_transformers  # noqa: F401
import sklearn.linear_model  # noqa: F401
import timm  # noqa: F401
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer  # noqa: F401


def serve() -> dict:
    """Forks for each line; returns in the children, with what each is to run."""
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            return asked
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(code, flush=True)
    os._exit(0)


def become(asked: dict) -> None:
    """Streams, folder, variables and words of the command."""
    for number, name in ((0, os.devnull), (1, asked["out"]), (2, asked["err"])):
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = asked["argv"]
    sys.path[0] = str(Path(asked["argv"][0]).parent)  # as Python does for a script
    signal.alarm(240)


def run_script(path: str) -> int:
    """The exit code that Python would give it."""
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    gc.freeze()  # what is loaded stays shared by all children
    asked = serve()
    become(asked)
    code = run_script(asked["argv"][0])
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python's own end takes seconds to take apart what was loaded
