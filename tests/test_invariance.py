"""One process with the whole batch and W processes with a part each take the same step, and log the same."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from g4i_hf.losses import OBJECTIVES

WORKER = Path(__file__).parent / "workers" / "one_step.py"
PROCESSES = [1, 2, 4]
TIMEOUT = 240  # seconds; a collective that some process never joins hangs for ever
EPOCHS = [(10, 8), (10, 16), (9, 8)]  # rows, global batch
TERMS = ["loss", "loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1"]
pytestmark = pytest.mark.slow  # a minute for all scenarios; test_alignment_scale.py has a fast one of gradients
several = pytest.mark.parametrize("num_processes", PROCESSES[1:])


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """What tests/workers/one_step.py saved, by number of processes."""
    folder = tmp_path_factory.mktemp("one_step")

    class Results(dict):
        def __missing__(self, processes: int) -> dict[str, Any]:
            self[processes] = launch(processes, folder / f"{processes}.pt")
            return self[processes]

    return Results()


def launch(num_processes: int, path: Path) -> dict[str, Any]:
    # `--cpu` starts one process, whatever --num_processes says; `--multi_gpu` starts several, also without any GPU
    kind = ["--cpu"] if num_processes == 1 else ["--multi_gpu", "--main_process_port", "0"]
    counts = ["--num_processes", str(num_processes), "--num_machines", "1", "--num_cpu_threads_per_process", "1"]
    precision = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *kind, *counts, *precision, WORKER, path]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    log = path.with_suffix(".log")
    with log.open("w") as stream:
        started = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        code = started.wait(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # the launcher's processes too
        pytest.fail(f"{num_processes} processes hang: {log.read_text()[-4000:]}")
    assert code == 0, log.read_text()[-4000:]
    found = torch.load(path, weights_only=True)
    assert all(result["world_size"] == num_processes for result in found.values())
    return found


def assert_same_change(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for part in expected:
        assert expected[part].dtype == torch.float64
        assert expected[part].norm() > 1e-3
        assert (actual[part] - expected[part]).norm() < 1e-9 * expected[part].norm(), part


def assert_same_logs(actual: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in TERMS + ["loss_soft_labels"] * ("loss_soft_labels" in theirs):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-7), name


@several
@pytest.mark.parametrize("kind", ["step", "mixed, several captions", "text bank", "learned temperature"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_step_does_not_depend_on_the_number_of_processes(results, objective, kind, num_processes):
    whole, shared = (results[processes][f"{kind} {objective}"] for processes in (1, num_processes))
    assert_same_change(shared["change"], whole["change"])
    assert_same_logs(shared["logs"], whole["logs"])


@several
@pytest.mark.parametrize("scenario", ["bce, class weights", "centred", "soft labels", "soft labels, mixed"])
def test_step_with_other_options_does_not_depend_on_the_number_of_processes(results, scenario, num_processes):
    whole, shared = (results[processes][scenario] for processes in (1, num_processes))
    assert_same_change(shared["change"], whole["change"])
    assert_same_logs(shared["logs"], whole["logs"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_options_of_the_objective_are_at_work(results, objective):
    """Each of these scenarios is another than the plain step; only `cosine` knows no negatives and no temperature."""
    found = {
        name: results[1][f"{name} {objective}"]["change"] for name in ("step", "text bank", "learned temperature")
    }
    for name in ("text bank", "learned temperature"):
        same = torch.equal(found[name]["student"], found["step"]["student"])
        assert same == (objective == "cosine"), name
    learned = {"siglip": 2, "cosine": 0}.get(objective, 1)
    assert len(found["learned temperature"].get("logits", ())) == learned
    for other, plain in (("centred", "step clip"), ("soft labels", "step clip")):
        assert not torch.equal(results[1][other]["change"]["student"], results[1][plain]["change"]["student"])


@several
def test_soft_labels_without_alignment_do_not_depend_on_the_number_of_processes(results, num_processes):
    whole, shared = (results[processes]["soft labels alone"] for processes in (1, num_processes))
    for part in ("student", "projector"):
        apart = (shared["change"][part] - whole["change"][part]).norm()
        assert apart <= 1e-9 * whole["change"][part].norm(), part
    assert_same_logs(shared["logs"], whole["logs"])
    (log,) = whole["logs"]
    assert log["loss"] == pytest.approx(log["loss_ce"] + 0.5 * log["loss_soft_labels"], rel=1e-6)


@several
@pytest.mark.parametrize("rows, global_batch", EPOCHS)
def test_epoch_with_soft_labels_does_not_depend_on_the_number_of_processes(results, rows, global_batch, num_processes):
    """Processes may have no row, or none with soft labels."""
    name = f"epoch of {rows} by {global_batch} soft labels"
    whole, shared = (results[processes][name] for processes in (1, num_processes))
    assert_same_change(shared["change"], whole["change"])
    assert_same_logs(shared["logs"], whole["logs"])


@several
def test_baseline_does_not_depend_on_the_number_of_processes(results, num_processes):
    whole, shared = (results[processes]["baseline"] for processes in (1, num_processes))
    student, projector = shared["change"]["student"], shared["change"]["projector"]
    assert (student - whole["change"]["student"]).norm() < 1e-9 * whole["change"]["student"].norm()
    assert torch.equal(projector, torch.zeros_like(projector))
    assert_same_logs(shared["logs"], whole["logs"])


EPOCHS_OF = [(rows, size, name) for rows, size in EPOCHS for name in (OBJECTIVES if size > rows else ["clip"])]


@several
@pytest.mark.parametrize("rows, global_batch, objective", EPOCHS_OF)
def test_epoch_does_not_depend_on_the_number_of_processes(results, objective, rows, global_batch, num_processes):
    """The last global batch is dealt out unevenly, and may leave processes without a row."""
    name = f"epoch of {rows} by {global_batch} {objective}"
    whole, shared = (results[processes][name] for processes in (1, num_processes))
    assert_same_change(shared["change"], whole["change"])
    assert_same_logs(shared["logs"], whole["logs"])


TEXT_TEACHER = ["TextTeacher clip", "TextTeacher cosine", "TextTeacher, mixed"]
TEXT_TEACHER += [f"TextTeacher, epochs of {rows} by {global_batch}" for rows, global_batch in EPOCHS]


@several
@pytest.mark.parametrize("scenario", TEXT_TEACHER)
def test_gradients_are_balanced_over_the_global_batch(results, scenario, num_processes):
    """Also where the weight falls to zero, and where a process has no row of the last batch."""
    whole, shared = (results[processes][scenario] for processes in (1, num_processes))
    assert_same_change(shared["change"], whole["change"])
    assert_same_logs(shared["logs"], whole["logs"])
    for ours, theirs in zip(shared["logs"], whole["logs"], strict=True):
        assert ours.get("align_balance", 0) == pytest.approx(theirs.get("align_balance", 0), rel=1e-6)
        assert ("align_balance" in theirs) == (theirs["align_weight"] > 0)


@several
@pytest.mark.parametrize("rows, global_batch", EPOCHS)
def test_repeated_epochs_with_a_course_of_the_weight_and_a_bank(results, rows, global_batch, num_processes):
    """Repeats, the drawn texts of the bank and the weight of each step are the same however many share it."""
    name = f"repeated epoch of {rows} by {global_batch}"
    whole, shared = (results[processes][name] for processes in (1, num_processes))
    assert_same_change(shared["change"], whole["change"])
    assert_same_logs(shared["logs"], whole["logs"])
    assert len({log["align_weight"] for log in whole["logs"]}) == len(whole["logs"]) > 1
    drawn = [row for row, _ in whole["drawn"][0]]
    assert len(drawn) == 2 * rows
    assert all(len(set(epoch)) == -(-rows // 3) for epoch in (drawn[:rows], drawn[rows:]))


@pytest.mark.parametrize("num_processes", PROCESSES)
@pytest.mark.parametrize("rows, global_batch", EPOCHS)
@pytest.mark.parametrize("kind", ["clip", "mixup"])
def test_epoch_uses_every_row_once(results, kind, rows, global_batch, num_processes):
    drawn = results[num_processes][f"epoch of {rows} by {global_batch} {kind}"]["drawn"]
    assert sorted(row for rank in drawn for row, padding in rank if not padding) == list(range(rows))
    padding_rows = sum(padding for rank in drawn for _, padding in rank)
    assert padding_rows == max(0, num_processes - rows % global_batch)


@several
@pytest.mark.parametrize("objective, divided", [("clip", True), ("cosine", False)])
def test_official_gradient_divides_the_alignment_of_clip_alone(results, objective, divided, num_processes):
    """The official code gathers without gradient for its CLIP loss; DDP then averages what should be added up."""
    found = results[num_processes]
    factor = num_processes if divided else 1
    for part in ("student", "projector"):
        baseline = found["baseline"]["change"][part]
        official = found[f"official {objective}"]["change"][part] - baseline
        invariant = found[f"step {objective}"]["change"][part] - baseline
        assert (official * factor - invariant).norm() < 1e-9 * invariant.norm()


@pytest.mark.parametrize("num_processes", PROCESSES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_logged_loss_is_the_weighted_sum_of_the_logged_terms(results, objective, num_processes):
    for log in results[num_processes][f"epoch of 10 by 16 {objective}"]["logs"]:
        assert log["loss"] == pytest.approx(log["loss_ce"] + log["align_weight"] * log["loss_align"], rel=1e-6)
