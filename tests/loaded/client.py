"""Stands for `python`, `g4i` or `accelerate`: a child of server.py runs the words, on the streams of this process."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

FOLDER = os.path.dirname(os.path.abspath(sys.argv[0]))
READ_ON_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DATASETS_", "HOME", "XDG_CACHE_HOME")
READ_LATER = ("HF_TOKEN",)


def read_on_import(variables):
    names = {name for name in variables if name.startswith(READ_ON_IMPORT)}
    return {name: variables[name] for name in names.difference(READ_LATER)}


def start_server(settings):
    """Once, by the client that is first."""
    with open(f"{FOLDER}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(f"{FOLDER}/log"):
            return
        with open(f"{FOLDER}/log", "w") as log:
            words = [settings["python"], settings["server"], FOLDER, str(settings["owner"])]
            server = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=settings["env"],
                cwd="/",
                start_new_session=True,
            )
        server.stdout.read()  # closed when both parts listen


def connect():
    with open(f"{FOLDER}/settings.json") as file:
        settings = json.load(file)
    start_server(settings)
    as_loaded = read_on_import(os.environ) == read_on_import(settings["env"])
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{FOLDER}/{'hugging_face' if as_loaded else 'others'}")
    return server, settings["python"]


def main():
    server, python = connect()
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if name != "python":
        words = [os.path.join(os.path.dirname(python), name), *words]
    asked = {"words": words, "env": dict(os.environ), "cwd": os.getcwd(), "python": f"{FOLDER}/python"}
    socket.send_fds(server, [b"\n"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode() + b"\n")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
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
