"""Alignment at the size of ImageNet: what a process computes, what crosses processes, what stays on the disk."""

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, List, Value

from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.texts import Embeddings, Texts, keys_of, numbered
from g4i_hf.losses import OBJECTIVES
from g4i_hf.training import AlignmentArguments, alignment_term
from g4i_hf.training.alignment_term import AlignmentTerm, TextBank

WORKER = Path(__file__).parent / "workers" / "alignment_cost.py"
WORLD, ROWS, DIM = 4, 8, 64  # as there
N = WORLD * ROWS


# --- The loss --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cost(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "found.pt"
    done = subprocess.run([sys.executable, WORKER, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path)


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_is_that_of_the_whole_batch(cost, objective, read):
    grad = torch.cat([found[objective, read]["grad"] for found in cost["ranks"]])
    assert cost["whole"][objective].norm() > 0.01
    torch.testing.assert_close(grad, cost["whole"][objective], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("objective", ["clip", "infonce", "siglip"])
def test_a_process_computes_its_rows_of_the_logits_once(cost, objective, read):
    """n x N products of D, and as many for the gradient of the images; both directions of `clip` share them."""
    for found in cost["ranks"]:
        assert found[objective, read]["logits"] == [ROWS, N]
        assert found[objective, read]["flops"] == 2 * (2 * ROWS * N * DIM)
        assert found["official"]["logits"] == [N, N]
        assert found["official"]["flops"] >= WORLD * found[objective, read]["flops"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_image_crosses_processes(cost, objective):
    """Of real numbers only the sums of the softmax over images: three numbers a text, where that is needed."""
    exchanges = {"clip": 3, "soft_clip": 6}.get(objective, 0)  # of soft_clip, targets and weights as well
    for found in cost["ranks"]:
        for read in (False, True):
            received = found[objective, read]["bytes"].get("torch.float32", 0)
            assert received == exchanges * 2 * (WORLD - 1) * N * 4 // WORLD
            assert received < found["official"]["bytes"]["torch.float32"] / 4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_texts_cross_processes_in_half_precision_or_not_at_all(cost, objective):
    others = (WORLD - 1) * ROWS
    for found in cost["ranks"]:
        gathered, read = (found[objective, way]["bytes"] for way in (False, True))
        assert gathered["torch.float16"] == others * DIM * 2
        assert "torch.float16" not in read
        assert read["torch.int64"] - gathered["torch.int64"] == others * 8  # the number of each text
        assert found["official"]["bytes"] == {"torch.float32": 2 * others * DIM * 4}


@pytest.mark.parametrize("option, device, reads", [(None, "cpu", True), (None, "meta", False), (True, "cpu", False)])
def test_texts_are_read_where_that_is_cheaper_or_asked_for(tmp_path, monkeypatch, option, device, reads):
    vectors = np.eye(4, dtype=np.float16)
    texts = Texts(vectors, np.arange(5), np.arange(4), np.arange(4)[:, None])
    args = AlignmentArguments(str(tmp_path), align_gather_texts=option)
    term = AlignmentTerm(args, SimpleNamespace(projector=SimpleNamespace()), SimpleNamespace(texts=texts))
    inputs = {"text_embeds": torch.zeros(2, 1, 4, device=device), "text_rows": torch.tensor([[2], [-1]])}
    assert term._stored_texts(inputs) is None  # of one process there is nothing to exchange
    monkeypatch.setattr(alignment_term, "world_size", lambda: 2)
    found = term._stored_texts(inputs)
    assert (found is not None) == reads
    assert term._stored_texts({"text_embeds": inputs["text_embeds"]}) is None  # rows of another data set
    if reads:
        assert found.read(found.rows).tolist() == [[vectors[2].tolist()], [[0, 0, 0, 0]]]


# --- Embeddings on the disk ------------------------------------------------------------------------------------------


def stored(
    tmp_path, vectors: list, kind: str = "float16", captions: list | None = None, name: str = "data"
) -> Dataset:
    """A data set that is mapped from a file, of three parts."""
    several = any(vector and isinstance(vector[0], list) for vector in vectors)
    feature = List(Value(kind), length=3)
    features = {"image_id": Value("string"), "text_embeds": List(feature) if several else feature}
    rows = {"image_id": [str(i) for i in range(len(vectors))], "text_embeds": vectors}
    if captions is not None:
        features["caption"], rows["caption"] = Value("string"), captions
    schema = Features(features).arrow_schema
    path = tmp_path / f"{name}.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for part in np.array_split(np.arange(len(vectors)), 3):
            columns = {key: [values[row] for row in part] for key, values in rows.items()}
            writer.write_table(pa.table(columns, schema=schema))
    return Dataset.from_file(str(path))


ONE = [[1, 0, 0], None, [0, 1, 0], [0, 0, 1], None, [0.5, 0.5, 0], [0, 0, 0.25]]
SEVERAL = [[[1, 0, 0], [2, 0, 0]], None, [], [[3, 0, 0]], [[4, 0, 0], [5, 0, 0], [6, 0, 0]], None, [[7, 0, 0]]]


@pytest.mark.parametrize("kind", ["float16", "float32"])
@pytest.mark.parametrize("rows", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("chosen", [None, [6, 0, 3, 1], range(2, 6)], ids=["all", "some", "range"])
def test_embeddings_are_those_of_the_rows(tmp_path, rows, chosen, kind):
    split = stored(tmp_path, rows, kind)
    if chosen is not None:
        split, rows = split.select(chosen), [rows[row] for row in chosen]
    lists = [row if not row or isinstance(row[0], list) else [row] for row in (row or [] for row in rows)]
    expected = np.asarray([vector for row in lists for vector in row], dtype=np.float16).reshape(-1, 3)
    embeds = Embeddings(split)
    assert embeds.counts.tolist() == [len(row) for row in lists] and embeds.shape == expected.shape
    order = np.random.default_rng(0).permutation(len(expected))
    mask = order % 2 == 0
    for found, what in ((embeds, slice(None)), (pickle.loads(pickle.dumps(embeds)), order), (embeds, mask)):
        np.testing.assert_array_equal(found[what], expected[what])
        assert found[what].dtype == np.float16
    np.testing.assert_array_equal(embeds[1], expected[1])
    np.testing.assert_array_equal(embeds.select(order)[1:3], expected[order][1:3])


def test_opening_and_sending_embeddings_copies_none(tmp_path):
    split = stored(tmp_path, np.ones((4000, 3)).tolist(), captions=[f"caption {row % 9}" for row in range(4000)])
    before = pa.total_allocated_bytes()
    texts = Texts.of(split)
    assert pa.total_allocated_bytes() == before
    assert all(not part.flags.owndata and not part.flags.writeable for part in texts.embeds._parts)
    assert sum(map(len, texts.embeds._parts)) == 4000
    sent = pickle.dumps(Embeddings(split))
    assert sum(part.nbytes for part in texts.embeds._parts) == 24000
    assert sent.count(np.ones(3, np.float16).tobytes()) == 0


def test_a_bank_reads_what_it_draws_and_a_batch_its_own_rows(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float16)
    split = stored(tmp_path, vectors.tolist(), captions=[f"caption {row}" for row in range(50)])
    split = split.add_column("image", [{"bytes": None, "path": "x"}] * 50)
    images = CaptionedImages(split, lambda image: torch.zeros(3, 2, 2))
    images._image = lambda row, stored: None
    read, look_up = [], Embeddings.__getitem__

    def counted(embeds, rows):
        read.append(np.atleast_1d(np.arange(50)[rows]).tolist())
        return look_up(embeds, rows)

    monkeypatch.setattr(Embeddings, "__getitem__", counted)
    bank = TextBank(images.text_bank(), 7, seed=0)
    assert read == []
    drawn = bank.draw(3, 0, False, torch.device("cpu"))
    assert len(read) == 1 and len(set(read[0])) == 7
    np.testing.assert_array_equal(drawn.embeds.numpy(), vectors[read[0]].astype(np.float32))
    items = images.__getitems__([4, 40, 7])
    assert read[1:] == [[4, 40, 7]]
    np.testing.assert_array_equal(np.stack([item["text_embeds"][0] for item in items]), vectors[[4, 40, 7]])
    assert [item["text_rows"].tolist() for item in items] == [[4], [40], [7]]


def test_equal_values_have_equal_keys_and_numbers_in_the_order_of_their_first():
    keys = keys_of(["b", None, "a", "b", "", "c", None, ""])
    assert numbered(keys).tolist() == [0, -1, 1, 0, 2, 3, -1, 2]
    assert numbered(keys.reshape(2, 4)).tolist() == [[0, -1, 1, 0], [2, 3, -1, 2]]
    assert keys_of(iter([])).tolist() == []
