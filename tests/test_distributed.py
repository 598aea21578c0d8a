"""Weights that are spread over processes (FSDP2): real launchers on the loopback device."""

import shutil
from pathlib import Path

import pytest
import torch
from loaded import ACCELERATE
from processes import ROOT, launched
from safetensors.torch import load_file
from shards import save_parquet
from test_invariance import finish
from tiny_training import same

WORKER = Path(__file__).parent / "workers" / "distributed_run.py"
ONE_PROCESS = launched(WORKER, processes=1)
SIZES = [9, 1, 14, 6]
pytestmark = pytest.mark.slow


def launch(launcher: list[str], folder: Path, *options: str) -> dict:
    """What the worker saved, the weights, and the log."""
    folder.mkdir(exist_ok=True)
    finish([*launcher, str(folder / "run"), *options], folder / "log")
    found = torch.load(folder / "run" / "result.pt", weights_only=True)
    weights = load_file(folder / "run" / "model.safetensors")
    return found | {"weights": weights, "log": (folder / "log").read_text()}


def test_fsdp2_trains_what_one_process_trains_and_goes_on(tmp_path):
    """Weights and states of the optimizer spread over two processes; a checkpoint, and a run that goes on from it."""
    save_parquet(tmp_path / "data", SIZES)
    options = [str(tmp_path / "data"), "--num_train_epochs", "2", "--sgd_momentum", "0.9"]
    config = str(ROOT / "recipes" / "accelerate_configs" / "fsdp2.yaml")
    fsdp = [ACCELERATE, "launch", "--config_file", config, "--num_processes", "2"]
    fsdp += ["--mixed_precision", "no", "--main_process_port", "0", "--fsdp_min_num_params", "1000", str(WORKER)]
    mine = [*options, "--per_device_train_batch_size", "8", "--save_strategy", "steps", "--save_steps", "2"]
    one = launch(ONE_PROCESS, tmp_path / "one", *options, "--per_device_train_batch_size", "16")
    two = launch(fsdp, tmp_path / "two", *mine)
    assert "FSDP" in two["model"] and max(two["shards"]) < sum(two["shards"]) == one["shards"][0]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for name, weights in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weights, rtol=0, atol=1e-5, msg=name)
    run = tmp_path / "two" / "run"
    shutil.rmtree(run / "checkpoint-4")
    for name in ("all_results.json", "model.safetensors", "result.pt"):
        (run / name).unlink()
    again = launch(fsdp, tmp_path / "two", *mine)
    assert "Resuming from" in again["log"] and "checkpoint-2" in again["log"]
    assert same(again["weights"], two["weights"])
