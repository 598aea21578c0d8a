"""One process with the whole batch and W processes with a part each take the same step, and log the same."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import environment, launched

WORKER = Path(__file__).parent / "workers" / "one_step.py"
TIMEOUT = 420  # seconds; a collective that some process never joins hangs for ever
TERMS = ["loss", "loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1"]
OPTIONAL = ["loss_soft_labels", "logit_scale", "logit_bias"]
pytestmark = pytest.mark.slow
PROCESSES = 4  # tests/contract has two, fast


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """What tests/workers/one_step.py saved: number of processes -> scenario -> change, logs and drawn rows."""
    folder = tmp_path_factory.mktemp("one_step")
    return {processes: launch(processes, folder / f"{processes}.pt") for processes in (1, PROCESSES)}


def finish(command: list[str], log: Path) -> None:
    with log.open("w") as stream:
        pipes = {"stdout": stream, "stderr": stream, "start_new_session": True}
        started = subprocess.Popen(command, env=environment(), **pipes)
    try:
        code = started.wait(timeout=TIMEOUT)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)  # the launcher's processes too
    assert code == 0, log.read_text()[-4000:]


def launch(num_processes: int, path: Path) -> dict[str, Any]:
    finish(launched(WORKER, path, processes=num_processes), path.with_suffix(".log"))
    found = torch.load(path, weights_only=True)
    assert all(result["world_size"] == num_processes for result in found.values())
    return found


def test_steps_and_logs_do_not_depend_on_the_number_of_processes(results):
    """
    Every objective and option of the loss, in one step and in epochs whose last batch is uneven or leaves processes
    without a row.
    """
    for scenario, whole in results[1].items():
        if scenario.startswith("official") or "mixup" in scenario:  # images are mixed within a process
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
            for name in TERMS + [name for name in OPTIONAL if name in theirs]:
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


@pytest.mark.parametrize("num_processes", [1, PROCESSES])
@pytest.mark.parametrize("rows, global_batch", [(10, 16), (9, 8)])
def test_an_epoch_uses_every_row_once_and_repeats_come_together(results, rows, global_batch, num_processes):
    name = f"epoch of {rows} by {global_batch}"
    drawn = results[num_processes][f"{name}, mixup"]["drawn"]
    assert sorted(row for rank in drawn for row, padding in rank if not padding) == list(range(rows))
    assert sum(padding for rank in drawn for _, padding in rank) == max(0, num_processes - rows % global_batch)
    repeated = results[1][f"{name}, repeated, weight over time"]
    assert len({log["align_weight"] for log in repeated["logs"]}) == len(repeated["logs"]) > 1
    drawn = [row for row, _ in repeated["drawn"][0]]
    assert len(drawn) == 2 * rows
    assert all(len(set(epoch)) == -(-rows // 3) for epoch in (drawn[:rows], drawn[rows:]))
