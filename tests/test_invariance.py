"""One process with the whole batch and W processes with a part each take the same step, and log the same."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import make
import numpy as np
import pytest
import torch
from doors import LAUNCHER, ROOT
from loaded import ACCELERATE
from safetensors.torch import load_file
from tiny_training import same

WORKER = Path(__file__).parent / "workers" / "one_step.py"
TIMEOUT = 420  # seconds; a collective that some process never joins hangs for ever
TERMS = ["loss", "loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1"]
OPTIONAL = ["loss_soft_labels", "logit_scale", "logit_bias"]
pytestmark = pytest.mark.slow
PROCESSES = 4  # tests/contract has two, fast


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """What tests/workers/one_step.py saved: number of processes -> scenario -> change, logs and errors."""
    folder = tmp_path_factory.mktemp("one_step")
    return {processes: launch(processes, folder / f"{processes}.pt") for processes in (1, PROCESSES)}


def launched(worker: Path, processes: int) -> list[str]:
    # `--cpu` starts one process, whatever --num_processes says; `--multi_gpu` starts several, also without any GPU
    kind = ["--cpu"] if processes == 1 else ["--multi_gpu", "--main_process_port", "0"]
    return [ACCELERATE, "launch", *kind, "--num_processes", str(processes), *LAUNCHER, str(worker)]


def finish(command: list[str], log: Path) -> None:
    with log.open("w") as stream:
        pipes = {"stdout": stream, "stderr": stream, "start_new_session": True}
        started = subprocess.Popen(command, **pipes)
    try:
        code = started.wait(timeout=TIMEOUT)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)  # the launcher's processes too
    assert code == 0, log.read_text()[-4000:]


def launch(num_processes: int, path: Path) -> dict[str, Any]:
    finish([*launched(WORKER, num_processes), str(path)], path.with_suffix(".log"))
    found = torch.load(path, weights_only=True)
    assert all(result["world_size"] == num_processes for result in found.values())
    return found


def test_steps_and_logs_do_not_depend_on_the_number_of_processes(results):
    """
    Every objective and option of the loss, in one step and in epochs whose last batch is uneven or leaves processes
    without a row.
    """
    for scenario, whole in results[1].items():
        if scenario.startswith(("official", "spoiled")) or "mixup" in scenario:  # which mixes within a process
            continue
        shared = results[PROCESSES][scenario]
        assert shared["change"].keys() == whole["change"].keys()
        for part, expected in whole["change"].items():
            assert expected.dtype == torch.float64
            learns = part != "projector" or whole["aligns"]
            assert (expected.norm() > 1e-3) if learns else not expected.any(), (scenario, part)
            assert (shared["change"][part] - expected).norm() <= 1e-9 * expected.norm(), (scenario, part)
        assert len(shared["logs"]) == len(whole["logs"])
        for ours, theirs in zip(shared["logs"], whole["logs"], strict=True):
            assert ours.keys() == theirs.keys(), scenario
            terms = TERMS if whole["aligns"] else ["loss", "loss_ce"]
            for name in terms + [name for name in OPTIONAL if name in theirs]:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-7), (scenario, name)


@pytest.mark.parametrize("objective, divided", [("clip", True), ("cosine", False)])
def test_official_gradient_divides_the_alignment_of_clip_alone(results, objective, divided):
    """The official code gathers without gradient for its CLIP loss; DDP then averages what should be added up."""
    found = results[PROCESSES]
    factor = PROCESSES if divided else 1
    for part in ("student", "projector"):
        baseline = found["baseline"]["change"][part]
        official = found[f"official {objective}"]["change"][part] - baseline
        invariant = found[f"step {objective}"]["change"][part] - baseline
        assert (official * factor - invariant).norm() < 1e-9 * invariant.norm()


def test_a_loss_that_becomes_nan_on_one_process_ends_all_with_the_same_error(results):
    errors = results[PROCESSES]["spoiled"]["errors"]
    assert len(errors) == PROCESSES and len(set(errors)) == 1
    assert errors[0].startswith("In step 2 of 3 loss_align became")


# --- Weights that are spread over processes (FSDP2) ------------------------------------------------------------------

RUN_WORKER = Path(__file__).parent / "workers" / "distributed_run.py"
ONE_PROCESS = launched(RUN_WORKER, 1)


def launch_run(launcher: list[str], folder: Path, *options: str) -> dict:
    """What the worker saved, the weights, and the log."""
    folder.mkdir(exist_ok=True)
    finish([*launcher, str(folder / "run"), *options], folder / "log")
    found = torch.load(folder / "run" / "result.pt", weights_only=True)
    weights = load_file(folder / "run" / "model.safetensors")
    return found | {"weights": weights, "log": (folder / "log").read_text()}


def test_fsdp2_trains_what_one_process_trains_and_goes_on(tmp_path):
    """Weights and states of the optimizer spread over two processes; a checkpoint, and a run that goes on from it."""
    embeds, captions = (
        make.unit(np.random.default_rng(0).normal(size=(30, 8))),
        [f"caption {row}" for row in range(30)],
    )
    rows = make.rows(30, "abc", lambda row: make.noise(row, 32), caption=captions, text_embeds=embeds)
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    options = [str(tmp_path / "data"), "--num_train_epochs", "2", "--sgd_momentum", "0.9"]
    config = str(ROOT / "recipes" / "accelerate_configs" / "fsdp2.yaml")
    fsdp = [ACCELERATE, "launch", "--config_file", config, "--num_processes", "2"]
    fsdp += ["--mixed_precision", "no", "--main_process_port", "0", "--fsdp_min_num_params", "1000", str(RUN_WORKER)]
    mine = [*options, "--per_device_train_batch_size", "8", "--save_strategy", "steps", "--save_steps", "2"]
    one = launch_run(ONE_PROCESS, tmp_path / "one", *options, "--per_device_train_batch_size", "16")
    two = launch_run(fsdp, tmp_path / "two", *mine)
    assert "FSDP" in two["model"] and max(two["shards"]) < sum(two["shards"]) == one["shards"][0]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for name, weights in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weights, rtol=0, atol=1e-5, msg=name)
    run = tmp_path / "two" / "run"
    shutil.rmtree(run / "checkpoint-4")
    for name in ("all_results.json", "model.safetensors", "result.pt"):
        (run / name).unlink()
    again = launch_run(fsdp, tmp_path / "two", *mine)
    assert "Resuming from" in again["log"] and "checkpoint-2" in again["log"]
    assert same(again["weights"], two["weights"])
