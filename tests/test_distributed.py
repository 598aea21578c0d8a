"""Several machines, and weights that are spread over processes: real launchers on the loopback device."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import ROOT, environment, launched
from safetensors.torch import load_file
from streams import save_parquet

WORKER = Path(__file__).parent / "workers" / "distributed_run.py"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
ONE_PROCESS = [launched(WORKER, processes=1)]
SIZES = [9, 1, 14, 6]
TIMEOUT = 420  # seconds; a collective that some process never joins hangs for ever
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(launchers: list[list[str]], folder: Path, *options: str) -> dict:
    """Starts launchers side by side, one a machine; gives what the worker saved, and the weights."""
    folder.mkdir(exist_ok=True)
    started = []
    for machine, launcher in enumerate(launchers):
        with (folder / f"{machine}.log").open("w") as log:
            more = {"stdout": log, "stderr": log, "start_new_session": True}
            command = [*launcher, str(folder / "run"), *options]
            started.append(subprocess.Popen(command, env=environment(), **more))
    logs = [folder / f"{machine}.log" for machine in range(len(launchers))]
    try:
        codes = [process.wait(timeout=TIMEOUT) for process in started]
    except subprocess.TimeoutExpired:
        pytest.fail("\n".join(log.read_text()[-4000:] for log in logs))
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the launcher's processes too
    assert codes == [0] * len(codes), "\n".join(log.read_text()[-4000:] for log in logs)
    found = torch.load(folder / "run" / "result.pt", weights_only=True)
    return found | {"weights": load_file(folder / "run" / "model.safetensors"), "log": logs[0].read_text()}


def machine(number: int, port: int) -> list[str]:
    """The launcher of one of two machines with two processes each."""
    where = ["--num_machines", "2", "--machine_rank", str(number), "--num_processes", "4"]
    where += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--rdzv_backend", "static"]
    return [*LAUNCH, "--multi_gpu", *where, "--mixed_precision", "no", "--dynamo_backend", "no", str(WORKER)]


def assert_same_weights(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, weights in expected.items():
        assert (actual[name] - weights).abs().max() <= tolerance, name


def test_two_machines_train_what_one_process_trains(tmp_path):
    """
    Two launchers with two processes each. 30 rows by 16: the last step has 14 rows, of which the four processes get 4,
    4, 3 and 3.
    """
    save_parquet(tmp_path / "data", SIZES)
    options = [str(tmp_path / "data"), "--num_train_epochs", "2"]
    one = launch(ONE_PROCESS, tmp_path / "one", *options, "--per_device_train_batch_size", "16")
    port = free_port()
    two = launch(
        [machine(number, port) for number in range(2)],
        tmp_path / "two",
        *options,
        "--per_device_train_batch_size",
        "4",
    )
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert_same_weights(two["weights"], one["weights"], 1e-5)


def test_fsdp2_trains_what_one_process_trains_and_goes_on(tmp_path):
    """Weights and states of the optimizer spread over two processes; a checkpoint, and a run that goes on from it."""
    save_parquet(tmp_path / "data", SIZES)
    options = [str(tmp_path / "data"), "--num_train_epochs", "2", "--sgd_momentum", "0.9"]
    fsdp = [
        *LAUNCH,
        "--config_file",
        str(ROOT / "recipes" / "accelerate_configs" / "fsdp2.yaml"),
        "--num_processes",
        "2",
    ]
    fsdp += ["--mixed_precision", "no", "--main_process_port", "0", "--fsdp_min_num_params", "1000", str(WORKER)]
    mine = [*options, "--per_device_train_batch_size", "8", "--save_strategy", "steps", "--save_steps", "2"]
    one = launch(ONE_PROCESS, tmp_path / "one", *options, "--per_device_train_batch_size", "16")
    two = launch([fsdp], tmp_path / "two", *mine)
    assert (
        "FSDP" in two["model"] and sum(two["shards"]) == one["shards"][0] and max(two["shards"]) < sum(two["shards"])
    )
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert_same_weights(two["weights"], one["weights"], 1e-5)
    run = tmp_path / "two" / "run"
    shutil.rmtree(run / "checkpoint-4")
    for name in ("all_results.json", "model.safetensors", "result.pt"):
        (run / name).unlink()
    again = launch([fsdp], tmp_path / "two", *mine)
    assert "Resuming from" in again["log"] and "checkpoint-2" in again["log"]
    assert_same_weights(again["weights"], two["weights"], 0.0)
