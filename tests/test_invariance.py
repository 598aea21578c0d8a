"""One process with the whole batch and W processes with a part each take the same step, and log the same."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from doors import LAUNCHER
from loaded import ACCELERATE

WORKER = Path(__file__).parent / "workers" / "one_step.py"
TERMS = ["loss", "loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1"]
OPTIONAL = ["loss_soft_labels", "logit_scale", "logit_bias"]
pytestmark = pytest.mark.slow
PROCESSES = 4  # tests/contract has two, fast


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """What tests/workers/one_step.py saved: number of processes -> scenario -> change, logs and errors."""
    folder = tmp_path_factory.mktemp("one_step")
    return {processes: launch(processes, folder / f"{processes}.pt") for processes in (1, PROCESSES)}


def launch(num_processes: int, path: Path) -> dict[str, Any]:
    # `--cpu` starts one process, whatever --num_processes says; `--multi_gpu` starts several, also without any GPU
    kind = ["--cpu"] if num_processes == 1 else ["--multi_gpu", "--main_process_port", "0"]
    command = [ACCELERATE, "launch", *kind, "--num_processes", str(num_processes), *LAUNCHER, str(WORKER), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = torch.load(path, weights_only=True)
    assert all(result["world_size"] == num_processes for result in found.values())
    return found


def test_steps_and_logs_do_not_depend_on_the_number_of_processes(results):
    """
    Every objective and option of the loss, in one step and in epochs whose last batch is uneven or leaves processes
    without a row.
    """
    for scenario, whole in results[1].items():
        if scenario.startswith(("official", "spoiled")):
            continue
        shared = results[PROCESSES][scenario]
        learns = {"student": True, "projector": whole["aligns"], "logits": "logit_scale" in whole["logs"][0]}
        for part, expected in whole["change"].items():
            assert expected.dtype == torch.float64
            assert (expected.norm() > 1e-3) if learns[part] else not expected.any(), (scenario, part)
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
