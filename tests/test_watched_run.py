"""
A run on local data, every stage of it, in processes that are watched: no network, no pickle of a file, nothing read
outside the folders that were named. See tests/watched/sitecustomize.py.
"""

import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from doors import ROOT, spelled
from drawings import ENCODER, STUDENT, TRAINING, draw_folder
from loaded import PYTHON

SYSTEM = ("/dev/", "/etc/", "/lib", "/opt/", "/proc/", "/sys/", "/usr/", "/var/", "/bin/")


# `sitecustomize` is imported at once, as Python itself would
WATCHED = """
import runpy, sys
sys.modules.pop("sitecustomize", None)
import sitecustomize
del sys.argv[0]
exec(sys.argv[1]) if sys.argv[0] == "-c" else runpy.run_path(sys.argv[0], run_name="__main__")
"""


def watched(folder: Path, *command: str) -> tuple[list[str], str]:
    """Runs a command in the folder: what was noted, and what it printed."""
    log = folder.parent / "watched.log"
    log.unlink(missing_ok=True)
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    roots = [*SYSTEM, sys.prefix, sys.base_prefix, str(ROOT), str(folder), str(home), tempfile.gettempdir() + "/tmp"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    watching = {
        "WATCHED": str(log),
        "WATCHED_ROOTS": os.pathsep.join(roots),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "watched"), str(ROOT)]),
        "HF_HOME": str(home),
        "HOME": str(home),
    }
    words, env = [PYTHON, "-c", WATCHED, *command], kept | watching
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return (log.read_text().splitlines() if log.is_file() else []), done.stdout + done.stderr


def test_the_watch_sees_what_it_is_for(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "work" / "a.pkl").write_bytes(pickle.dumps(Path))
    torch.save({"a": torch.zeros(1)}, tmp_path / "work" / "a.pt")
    code = """
import pickle, socket, torch
torch.load("a.pt", weights_only=True)
open("../secret").read()
pickle.load(open("a.pkl", "rb"))
for host in ("203.0.113.1", "localhost", "example.org"):
    try:
        socket.create_connection((host, 9), timeout=1)
    except OSError as error:
        print(error)
"""
    noted, said = watched(tmp_path / "work", "-c", code)
    assert [line.split()[0] for line in noted] == ["open", "pickle", "network", "network"]
    assert noted[0].endswith("/secret") and "example.org" in noted[3]
    assert re.search(r"pathlib(\._local)?\.Path", noted[1])  # another module since Python 3.13
    assert said.count("the network is closed") == 2


@pytest.mark.slow
def test_every_stage_of_a_run_on_local_data_stays_within_its_folders_and_this_machine(tmp_path):
    """There is a file beside the folder that nobody has named."""
    folder = tmp_path / "work"
    draw_folder(folder / "pictures", train=12, validation=4)
    (tmp_path / "secret.png").write_bytes(b"nobody has named it")
    embedded = ENCODER | {"dataset_name": "pictures", "embeddings_dir": "runs/embeddings"}
    run = STUDENT | TRAINING | {"output_dir": "runs/aligned", "max_steps": 4, "ema_decay": 0.9}
    commands = {
        "embed": embedded,
        "train": embedded | run | {"save_strategy": "steps", "save_steps": 2},
        "evaluate": {"run": "runs/aligned", "report": "runs/report.html"},
        "release": {"run": "runs/aligned", "aligned": "true"},
    }

    def unnoted(name: str) -> str:
        noted, said = watched(folder, str(ROOT / "recipes" / f"{name}.py"), *spelled((commands[name],)))
        assert not noted, f"{name}: {noted[:5]}"
        return said

    unnoted("embed")
    unnoted("train")
    aligned = folder / "runs" / "aligned"
    (aligned / "all_results.json").unlink()
    shutil.rmtree(aligned / "checkpoint-4", ignore_errors=True)
    assert "checkpoint-2" in unnoted("train"), "resumed: state of the optimizer, of the schedule and of chance"
    unnoted("evaluate")
    unnoted("release")
    assert (aligned / "student" / "model.safetensors").is_file()
