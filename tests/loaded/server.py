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
import selectors
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
# What reads no variable of Hugging Face when it is imported, and what does; nothing of g4i_hf
OTHERS = "matplotlib.pyplot openai pandas pyarrow.parquet scipy.optimize sklearn.linear_model torch._dynamo "
OTHERS += "torch.distributed.run torch.utils.tensorboard torchvision.transforms.v2"
HUGGING_FACE = "accelerate datasets evaluate peft sentence_transformers timm transformers.trainer "
HUGGING_FACE += "transformers.models.auto.modeling_auto transformers.models.auto.image_processing_auto"


def load(modules: str) -> None:
    for name in modules.split():
        with suppress(ImportError):
            importlib.import_module(name)


def serve(listening: socket.socket) -> tuple[dict, socket.socket]:
    """Forks for each connection and reports how the child ends; returns in the children, with what each is to run."""
    gc.freeze()  # what is loaded stays shared by all children
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ, None)
    waiting.register(os.pidfd_open(OWNER), selectors.EVENT_READ, "owner")
    while True:
        for key, _ in waiting.select():
            if key.data == "owner":
                shutil.rmtree(FOLDER, ignore_errors=True)
                os._exit(0)
            if key.data is None:
                connection, _ = listening.accept()
                _, files, _, _ = socket.recv_fds(connection, 1, 3)
                text = b""
                while not text.endswith(b"\n"):
                    text += connection.recv(1 << 20)
                child = os.fork()
                if child == 0:
                    waiting.close()
                    listening.close()
                    return json.loads(text) | {"files": files}, connection
                for file in files:
                    os.close(file)
                connection.sendall(f"{child}\n".encode())
                waiting.register(os.pidfd_open(child), selectors.EVENT_READ, (child, connection))
            else:
                child, connection = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(OSError):  # the client is gone
                    connection.sendall(f"{code}\n".encode())
                connection.close()
                waiting.unregister(key.fd)
                os.close(key.fd)


def obey(client: socket.socket) -> None:
    """Passes on the signals that the client gets, and ends with it."""
    while number := client.recv(1):
        os.kill(os.getpid(), number[0])
    os.killpg(0, signal.SIGKILL)


def become(asked: dict, client: socket.socket) -> None:
    """Streams, folder, variables and group of a process of its own."""
    os.setsid()
    for number, file in enumerate(asked["files"]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.executable = asked["python"]
    sys.path[:1] = [place for place in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if place]
    threading.Thread(target=obey, args=[client], daemon=True).start()


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
    load(OTHERS)
    is_second = not os.fork()
    if is_second:
        load(HUGGING_FACE)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(FOLDER / ("hugging_face" if is_second else "others")))
    listening.listen(64)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the client that has started this waits for the end of the pipe
    asked, client = serve(listening)
    become(asked, client)
    code = run(asked["words"])
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python's own end takes seconds to take apart what was loaded
