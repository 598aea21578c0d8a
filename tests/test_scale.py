"""Captioning by many tasks, on the real executors: killed and run again, the stage is that of one process."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_caption_kills import ROOT, caption_server, picture_of, stats

IMAGES = 160
SCRIPT = [sys.executable, str(ROOT / "recipes" / "scale" / "caption.py")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "pictures"
    for number in range(IMAGES):
        place = folder / "train" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        picture_of(number).save(place / f"{number}.png")
    return folder


def words(pictures: Path, captions: Path, server: str) -> list[str]:
    options = {"dataset_name": pictures, "captions_dir": captions, "base_url": f"{server}/v1"}
    options |= {"captioner_model": "tiny", "report": "false", "max_concurrency": 4}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def environment() -> dict[str, str]:
    """As a user has it: what pytest's own processes were told is not for others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RANK", "WORLD_SIZE"))}
    return kept | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def run(*command: str, timeout: float = 240) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def right(captions: Path) -> None:
    """Every image has the caption with its own number, in its own row."""
    found = pq.read_table(captions / "train.parquet").to_pydict()
    assert len(found["image_id"]) == IMAGES
    assert found["caption"] == [f"number {name.split('/')[1].removesuffix('.png')}" for name in found["image_id"]]


@pytest.mark.slow
def test_killed_and_run_again_four_tasks_write_what_one_process_does(pictures, tmp_path):
    with caption_server() as server:
        lost = 0
        for moment in (20, 60, 100):
            process = subprocess.Popen(
                [*SCRIPT, "--tasks", "4", *words(pictures, tmp_path / "captions", server)],
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            deadline = time.monotonic() + 120
            while stats(server)["whole"] < moment and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            lost += 16  # four tasks of four requests each may have been under way
        run(*SCRIPT, "--tasks", "3", *words(pictures, tmp_path / "captions", server))
        assert IMAGES <= stats(server)["requests"] <= IMAGES + lost
        right(tmp_path / "captions")
        before = stats(server)["requests"]
        alone = words(pictures, tmp_path / "alone", server)
        run(sys.executable, "-m", "g4i_hf", "caption", *alone, "--journal_dir", str(tmp_path / "captions.journal"))
        assert stats(server)["requests"] == before
    for name in ("train.parquet", "stage.json"):
        one, many = ((tmp_path / folder / name).read_bytes() for folder in ("alone", "captions"))
        assert one == many, name


@pytest.mark.slow
def test_limits_are_those_of_all_tasks_together(pictures, tmp_path):
    with caption_server() as server:
        asked = [*words(pictures, tmp_path / "captions", server), "--max_requests", "10"]
        run(*SCRIPT, "--tasks", "2", *asked)
        assert stats(server)["requests"] == 10 and not (tmp_path / "captions").exists()
        run(*SCRIPT, "--tasks", "2", *asked, "--partial")
        assert stats(server)["requests"] == 20
    found = pq.read_table(tmp_path / "captions" / "train.parquet")["caption"].to_pylist()
    assert len(found) - found.count(None) == 20


@pytest.mark.slow
def test_on_ray(pictures, tmp_path):
    with caption_server() as server:
        run(
            *[*SCRIPT, "--executor", "ray", "--tasks", "2", "--executor_options", '{"cpus_per_task": 1}'],
            *words(pictures, tmp_path / "captions", server),
        )
        assert stats(server)["requests"] == IMAGES
    right(tmp_path / "captions")


@contextlib.contextmanager
def slurm(folder: Path):
    """A cluster of this machine alone, with its own configuration; the key of munge is that of the machine."""
    host = os.uname().nodename.split(".")[0]
    for name in ("spool", "state"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={host}\nSlurmUser=root\nSlurmdUser=root\nAuthType=auth/munge\n"
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\nProctrackType=proctrack/linuxproc\n"
        f"SlurmctldPidFile={folder}/ctld.pid\nSlurmdPidFile={folder}/d.pid\nTaskPlugin=task/none\n"
        f"SlurmctldLogFile={folder}/ctld.log\nSlurmdLogFile={folder}/d.log\nSelectType=select/cons_tres\n"
        f"ReturnToService=2\nNodeName={host} CPUs=2 RealMemory=8000 State=UNKNOWN\n"
        f"PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
    )
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons = [subprocess.Popen([name, "-D"], stderr=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")]
    try:
        yield
    finally:
        subprocess.run(["scancel", "--user", "root"], check=False)
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
        del os.environ["SLURM_CONF"]


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("slurmctld")
    or os.geteuid() != 0
    or subprocess.run(["munge", "-n"], capture_output=True).returncode,
    reason="needs Slurm and munge, installed and munged running, and root: apt-get install slurm-wlm",
)
def test_on_slurm(pictures, tmp_path):
    options = {"partition": "all", "time": "00:10:00", "mem_per_cpu_gb": 2, "mail_type": "NONE"}
    options |= {"venv_path": f"{sys.prefix}/bin/activate"}
    with caption_server() as server, slurm(tmp_path / "slurm"):
        asked = words(pictures, tmp_path / "captions", server)
        run(*SCRIPT, "--executor", "slurm", "--tasks", "3", "--executor_options", json.dumps(options), *asked)
        deadline = time.monotonic() + 200
        while not (tmp_path / "captions" / "stage.json").exists() and time.monotonic() < deadline:
            time.sleep(1)
        assert stats(server)["requests"] == IMAGES
    right(tmp_path / "captions")
