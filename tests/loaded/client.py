"""Stands for `python`, `g4i` or `accelerate`: a child of server.py runs the words, on the streams of this process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

FOLDER = os.path.dirname(os.path.abspath(sys.argv[0]))
READ_ON_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DATASETS_", "HOME", "XDG_CACHE_HOME")


def read_on_import(variables):
    return {name: value for name, value in variables.items() if name.startswith(READ_ON_IMPORT) and name != "HF_TOKEN"}


def start_server(settings):
    """Once, by the client that is first: the log is there afterwards."""
    words, nothing = [sys.executable, settings["server"], FOLDER, str(settings["owner"])], subprocess.DEVNULL
    with contextlib.suppress(FileExistsError), open(f"{FOLDER}/log", "x") as log:
        streams = {"stdin": nothing, "stdout": nothing, "stderr": log}
        subprocess.Popen(words, **streams, env=settings["env"], cwd="/", start_new_session=True)


def connect():
    server = socket.socket(socket.AF_UNIX)
    for _ in range(1200):
        try:
            server.connect(f"{FOLDER}/server")
            return server
        except OSError:  # it still imports
            time.sleep(0.1)
    sys.exit(f"{FOLDER}/log says why nothing is served")


def main():
    with open(f"{FOLDER}/settings.json") as file:
        settings = json.load(file)
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if name != "python":
        words = [os.path.join(os.path.dirname(sys.executable), name), *words]
    if read_on_import(os.environ) != read_on_import(settings["env"]):
        os.execv(sys.executable, [sys.executable, *words])
    start_server(settings)
    server = connect()
    asked = {"words": words, "env": dict(os.environ), "cwd": os.getcwd(), "python": f"{FOLDER}/python"}
    socket.send_fds(server, [b"\n"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode() + b"\n")
    said = server.makefile()
    with open(f"{FOLDER}/{os.getpid()}", "w") as file:
        file.write(said.readline())
    code = int(said.readline())
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
