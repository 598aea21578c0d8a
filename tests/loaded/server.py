"""
Imports the large libraries once, then forks for each command that client.py brings: see loaded/__init__.py.

    python server.py FOLDER OWNER
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
import traceback
import types
from contextlib import suppress
from pathlib import Path

FOLDER, OWNER = Path(sys.argv[1]), int(sys.argv[2])
os.environ |= {"MPLBACKEND": "Agg", "TQDM_DELAY": "2"}  # read on import; the latter is set by g4i_hf.running
# Nothing of g4i_hf
MODULES = "accelerate datasets evaluate matplotlib.pyplot openai pandas peft pyarrow.parquet scipy.optimize "
MODULES += "sentence_transformers sklearn.linear_model timm torch._dynamo torch.distributed.run "
MODULES += "torch.utils.tensorboard torchvision.transforms.v2 transformers.models.auto.image_processing_auto "
MODULES += "transformers.models.auto.modeling_auto transformers.trainer"


def next_client(listening: socket.socket) -> socket.socket:
    """Forks for each connection and returns it in the child; ends with the process of the tests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    owner = os.pidfd_open(OWNER)
    while True:
        ready, _, _ = select.select([listening, owner], [], [])
        if owner in ready:
            shutil.rmtree(FOLDER, ignore_errors=True)
            os._exit(0)
        client, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            os.close(owner)
            return client
        client.close()


def become_command(client: socket.socket) -> list[str]:
    """
    Forks once more: the child gets streams, folder, variables and group of a process of its own, and returns with the
    words that it is to run. The parent reports how it ends, and ends it if the client is gone.
    """
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as lines:
        asked = json.loads(lines.readline())
    child = os.fork()
    if child:
        client.sendall(f"{child}\n".encode())
        end = os.pidfd_open(child)
        ready, _, _ = select.select([client, end], [], [])
        if end not in ready:
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(OSError):  # the client is gone
            client.sendall(f"{code}\n".encode())
        os._exit(0)
    client.close()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.executable = asked["python"]
    sys.path[:1] = [place for place in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if place]
    return asked["words"]


def run(words: list[str]) -> int:
    """Runs what `python WORDS` does; the exit code that Python would have."""
    words = words[words[0] == "-u" :]
    kind, *rest = words
    try:
        if kind == "-m":
            sys.argv, sys.path[:0] = rest, [os.getcwd()]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind in ("-c", "-"):
            code = rest[0] if kind == "-c" else sys.stdin.read()
            sys.argv, sys.path[:0] = [kind, *rest[kind == "-c" :]], [""]
            module = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), module.__dict__)
        else:
            sys.argv, sys.path[:0] = words, [str(Path(kind).resolve().parent)]
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    gc.disable()  # as in conftest.py
    for module in MODULES.split():
        with suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()  # what is loaded stays shared by all children
    gc.enable()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(FOLDER / "server"))
    listening.listen(64)
    code = run(become_command(next_client(listening)))
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python's own end takes seconds to take apart what was loaded
