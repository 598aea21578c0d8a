"""The texts of a dataset: one or several an image, read as float16 where they lie, in a bank each once."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, List, Value
from test_dataset import rows_with

from g4i_hf.data.dataset import CaptionedImages, Draw
from g4i_hf.data.texts import Embeddings, keys_of, numbered


def mapped(tmp_path, vectors: list, kind: str = "float16", captions: list | None = None) -> Dataset:
    """A dataset that is mapped from a file, of three parts."""
    feature = List(Value(kind), length=3)
    several = any(vector and isinstance(vector[0], list) for vector in vectors)
    features, columns = {"text_embeds": List(feature) if several else feature}, {"text_embeds": vectors}
    if captions is not None:
        features["caption"], columns["caption"] = Value("string"), captions
    schema = Features(features).arrow_schema
    path = tmp_path / "data.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for part in np.array_split(np.arange(len(vectors)), 3):
            chosen = {name: [values[row] for row in part] for name, values in columns.items()}
            writer.write_table(pa.table(chosen, schema=schema))
    return Dataset.from_file(str(path))


ONE = [[1, 0, 0], None, [0, 1, 0], [0, 0, 1], None, [0.5, 0.5, 0], [0, 0, 0.25]]
SEVERAL = [[[1, 0, 0], [2, 0, 0]], None, [], [[3, 0, 0]], [[4, 0, 0], [5, 0, 0], [6, 0, 0]], None, [[7, 0, 0]]]


@pytest.mark.parametrize("kind", ["float16", "float32"])
@pytest.mark.parametrize("rows", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("chosen", [None, [6, 0, 3, 1], range(2, 6)], ids=["all", "some", "range"])
def test_embeddings_are_those_of_the_rows(tmp_path, rows, chosen, kind):
    split = mapped(tmp_path, rows, kind)
    if chosen is not None:
        split, rows = split.select(chosen), [rows[row] for row in chosen]
    lists = [row if not row or isinstance(row[0], list) else [row] for row in (row or [] for row in rows)]
    expected = np.asarray([vector for row in lists for vector in row], dtype=np.float16).reshape(-1, 3)
    embeds = Embeddings(split)
    assert embeds.counts.tolist() == [len(row) for row in lists] and embeds.shape == expected.shape
    order = np.random.default_rng(0).permutation(len(expected))
    for found, what in ((embeds, slice(None)), (pickle.loads(pickle.dumps(embeds)), order), (embeds, order % 2 == 0)):
        np.testing.assert_array_equal(found[what], expected[what])
        assert found[what].dtype == np.float16
    np.testing.assert_array_equal(embeds.select(order)[1:3], expected[order][1:3])


def test_equal_values_have_equal_numbers_in_the_order_of_their_first():
    keys = keys_of(["b", None, "a", "b", "", "c", None, ""])
    assert numbered(keys).tolist() == [0, -1, 1, 0, 2, 3, -1, 2]
    assert numbered(keys.reshape(2, 4)).tolist() == [[0, -1, 1, 0], [2, 3, -1, 2]]


@pytest.fixture(scope="module")
def split() -> Dataset:
    """Rows with three, one, no and one captions; a caption of row 0 is that of row 1."""
    vectors = np.eye(4, dtype=np.float16)
    captions = [["one", "two", "", "three"], ["two"], None, ["four", None]]
    embeds = [vectors[:3].tolist(), vectors[1:2].tolist(), None, vectors[3:].tolist()]
    return rows_with(captions, embeds)


def captioned(split, captions: str) -> CaptionedImages:
    return CaptionedImages(split, lambda image: torch.rand(3, 8, 8), captions=captions)


def test_all_captions_of_an_image_weigh_as_much_as_one(split):
    items = [captioned(split, "all")[row] for row in range(4)]
    weights = [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose([item["caption_weight"] for item in items], weights, rtol=1e-6)
    np.testing.assert_array_equal(items[0]["text_embeds"], np.eye(4)[:3])
    np.testing.assert_array_equal(items[3]["text_embeds"], [np.eye(4)[3], np.zeros(4), np.zeros(4)])
    keys = numbered(np.stack([item["caption_keys"] for item in items]))
    assert keys.tolist() == [[0, 1, 2], [1, -1, -1], [-1] * 3, [3, -1, -1]]


def test_mean_of_the_captions_is_one_text(split):
    items = [captioned(split, "mean")[row] for row in range(4)]
    np.testing.assert_allclose(items[0]["text_embeds"], [np.array([1, 1, 1, 0]) / np.sqrt(3)], atol=1e-3)
    assert [item["caption_weight"].tolist() for item in items] == [[1], [1], [0], [1]]
    assert numbered(items[0]["caption_keys"]).tolist() == [0, 1, 2]  # still no negative of row 1


def test_a_caption_is_drawn_each_time_an_image_is(split):
    images = captioned(split, "sample")
    drawn = [images.get_draws([Draw(0, epoch, repeat=repeat)])[0] for epoch in range(20) for repeat in range(3)]
    keys = drawn[0]["caption_keys"].tolist()
    texts = [item["text_embeds"].tolist() for item in drawn]
    assert len(set(keys)) == 3 and {tuple(*text) for text in texts} == set(map(tuple, np.eye(4)[:3].tolist()))
    assert all(item["caption_weight"].tolist() == [1] and item["caption_keys"].tolist() == keys for item in drawn)
    again = images.get_draws([Draw(0, 7, repeat=1)])[0]
    assert again["text_embeds"].tolist() == texts[7 * 3 + 1]
    assert torch.equal(again["pixel_values"], drawn[7 * 3 + 1]["pixel_values"])
    assert not torch.equal(again["pixel_values"], drawn[7 * 3]["pixel_values"]), "each repeat is augmented anew"


def test_mean_text_is_the_mean_over_rows(split):
    mean = captioned(split, "all").texts.mean()
    np.testing.assert_allclose(mean, (np.array([1, 1, 1, 0]) / 3 + np.eye(4)[1] + np.eye(4)[3]) / 3, atol=1e-3)
