"""
A run on local data, every stage of it, in processes that are watched: no network, no pickle of a file, nothing written
outside its folders. See tests/watched/sitecustomize.py.
"""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from doors import ROOT, spelled
from drawings import ENCODER, STUDENT, TRAINING, draw_folder

pytestmark = pytest.mark.slow


def watched(folder: Path, *command: str) -> tuple[list[str], str]:
    """Runs a command in the folder: what was noted, and what it printed."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    log = home / "watched.log"
    log.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    env |= dict.fromkeys(("HOME", "HF_HOME", "TMPDIR"), str(home)) | {"PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "watched"), str(ROOT)])
    env |= {"WATCHED": str(log), "WATCHED_ROOTS": os.pathsep.join([str(folder), str(home), "/dev/"])}
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return (log.read_text().splitlines() if log.is_file() else []), done.stdout + done.stderr


def test_the_watch_sees_what_it_is_for(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.pkl").write_bytes(pickle.dumps(Path))
    torch.save({"a": torch.zeros(1)}, folder / "a.pt")
    code = """
import pickle, socket, torch
torch.load("a.pt", weights_only=True)
open("mine", "w")
open("../outside", "w")
pickle.load(open("a.pkl", "rb"))
for host in ("203.0.113.1", "localhost", "example.org"):
    try:
        socket.create_connection((host, 9), timeout=1)
    except OSError as error:
        print(error)
"""
    noted, said = watched(folder, "-c", code)
    assert [line.split()[0] for line in noted] == ["write", "pickle", "network", "network"]
    assert noted[0].endswith("/outside") and "example.org" in noted[3]
    assert said.count("the network is closed") == 2


def test_every_stage_of_a_run_on_local_data_stays_within_its_folders_and_this_machine(tmp_path):
    folder = tmp_path / "work"
    draw_folder(folder / "pictures", train=12, validation=4)
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
