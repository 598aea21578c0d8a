"""The alignment loss at the size of ImageNet: what a process computes, and what crosses processes."""

import subprocess
from pathlib import Path

import pytest
import torch
from loaded import PYTHON

from g4i_hf.losses.objectives import OBJECTIVES

WORKER = Path(__file__).parent / "workers" / "alignment_cost.py"
WORLD, ROWS, DIM = 4, 8, 64  # as there
N = WORLD * ROWS
objectives = pytest.mark.parametrize("objective", OBJECTIVES)


@pytest.fixture(scope="module")
def cost(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "found.pt"
    done = subprocess.run([PYTHON, WORKER, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path)


@objectives
def test_gradient_is_that_of_the_whole_batch(cost, objective):
    grad = torch.cat([found[objective]["grad"] for found in cost["ranks"]])
    assert cost["whole"][objective].norm() > 0.01
    torch.testing.assert_close(grad, cost["whole"][objective], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", ["clip", "infonce", "siglip"])
def test_a_process_computes_its_rows_of_the_logits_once(cost, objective):
    """n x N products of D, and as many for the gradient of the images; both directions of `clip` share them."""
    for found in cost["ranks"]:
        assert found[objective]["logits"] == [ROWS, N]
        assert found[objective]["flops"] == 2 * (2 * ROWS * N * DIM)


@objectives
def test_no_image_and_texts_in_half_precision_cross_processes(cost, objective):
    """Of real numbers only the sums of the softmax over images: three numbers a text, where that is needed."""
    others = (WORLD - 1) * ROWS
    exchanges = 3 if objective == "clip" else 0
    for found in cost["ranks"]:
        received = found[objective]["bytes"]
        assert received.get("torch.float32", 0) == exchanges * 2 * (WORLD - 1) * N * 4 // WORLD
        assert received["torch.float16"] == others * DIM * 2
        # Of a row a key and whether it has a text, of a process two counts
        assert received["torch.int64"] == 2 * 8 * (others + WORLD - 1)
