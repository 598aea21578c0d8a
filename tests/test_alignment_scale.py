"""The alignment loss at the size of ImageNet: what a process computes, and what crosses processes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from g4i_hf.data.texts import Texts
from g4i_hf.losses.objectives import OBJECTIVES
from g4i_hf.training import AlignmentArguments, alignment_term
from g4i_hf.training.alignment_term import AlignmentTerm

WORKER = Path(__file__).parent / "workers" / "alignment_cost.py"
WORLD, ROWS, DIM = 4, 8, 64  # as there
N = WORLD * ROWS
read = pytest.mark.parametrize("read", [False, True], ids=["gathered", "read"])
objectives = pytest.mark.parametrize("objective", OBJECTIVES)


@pytest.fixture(scope="module")
def cost(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "found.pt"
    done = subprocess.run([sys.executable, WORKER, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path)


@read
@objectives
def test_gradient_is_that_of_the_whole_batch(cost, objective, read):
    grad = torch.cat([found[objective, read]["grad"] for found in cost["ranks"]])
    assert cost["whole"][objective].norm() > 0.01
    torch.testing.assert_close(grad, cost["whole"][objective], rtol=1e-4, atol=1e-7)


@read
@pytest.mark.parametrize("objective", ["clip", "infonce", "siglip"])
def test_a_process_computes_its_rows_of_the_logits_once(cost, objective, read):
    """n x N products of D, and as many for the gradient of the images; both directions of `clip` share them."""
    for found in cost["ranks"]:
        assert found[objective, read]["logits"] == [ROWS, N]
        assert found[objective, read]["flops"] == 2 * (2 * ROWS * N * DIM)


@objectives
def test_no_image_and_texts_in_half_precision_or_none_cross_processes(cost, objective):
    """Of real numbers only the sums of the softmax over images: three numbers a text, where that is needed."""
    others = (WORLD - 1) * ROWS
    exchanges = {"clip": 3, "soft_clip": 6}.get(objective, 0)  # of soft_clip, targets and weights as well
    for found in cost["ranks"]:
        gathered, read = (found[objective, way]["bytes"] for way in (False, True))
        for received in (gathered, read):
            assert received.get("torch.float32", 0) == exchanges * 2 * (WORLD - 1) * N * 4 // WORLD
        assert gathered["torch.float16"] == others * DIM * 2 and "torch.float16" not in read
        assert read["torch.int64"] - gathered["torch.int64"] == others * 8  # the number of each text


@pytest.mark.parametrize("option, device, reads", [(None, "cpu", True), (None, "meta", False), (True, "cpu", False)])
def test_texts_are_read_where_that_is_cheaper_or_asked_for(tmp_path, monkeypatch, option, device, reads):
    """Not on one process, which has nothing to exchange."""
    vectors = np.eye(4, dtype=np.float16)
    texts = Texts(vectors, np.arange(5), np.arange(4), np.arange(4)[:, None])
    args = AlignmentArguments(str(tmp_path), align_gather_texts=option)
    term = AlignmentTerm(args, SimpleNamespace(projector=SimpleNamespace()), SimpleNamespace(texts=texts))
    inputs = {"text_embeds": torch.zeros(2, 1, 4, device=device), "text_rows": torch.tensor([[2], [-1]])}
    assert term._stored_texts(inputs) is None
    monkeypatch.setattr(alignment_term, "world_size", lambda: 2)
    found = term._stored_texts(inputs)
    assert (found is not None) == reads
    if reads:
        assert found.read(found.rows).tolist() == [[vectors[2].tolist()], [[0, 0, 0, 0]]]
