"""The captions that are nearest to images."""

import numpy as np
import pytest
from datasets import Dataset

from g4i_hf.evaluation import nearest
from g4i_hf.evaluation.nearest import nearest_captions
from g4i_hf.evaluation.predict import Predictions

AXES = np.eye(4, dtype=np.float32)


def predictions(embeds: np.ndarray) -> Predictions:
    n = len(embeds)
    return Predictions([str(i) for i in range(n)], np.zeros(n, int), np.zeros((n, 2), np.float32), embeds)


def split(captions: list, embeds: list) -> Dataset:
    return Dataset.from_dict({"caption": captions, "text_embeds": embeds})


@pytest.mark.parametrize("block", [1024, 2, 1])
def test_each_image_has_the_caption_that_is_nearest(monkeypatch, block):
    monkeypatch.setattr(nearest, "BLOCK", block)
    data = split(["a", "b", "c: d"], list(AXES[:3]))
    images = predictions(AXES[[2, 0, 1]] + 0.1)
    assert nearest_captions(data, images) == ["c: d", "a", "b"]
    assert nearest_captions(data, images, [2, 0]) == ["b", "c: d"]
    assert nearest_captions(data, images, []) == []


def test_rows_without_caption_are_no_answer():
    data = split(["a", None, "", "b"], [AXES[0], None, AXES[3], AXES[1]])
    assert nearest_captions(data, predictions(AXES[[1, 0, 3, 0]])) == ["b", "a", "a", "a"]


def test_of_several_captions_each_can_be_the_nearest():
    data = split([["a", "b"], [], ["c"]], [list(AXES[:2]), [], [AXES[2]]])
    assert nearest_captions(data, predictions(AXES[[1, 2, 0]])) == ["b", "c", "a"]


def test_without_captions_or_with_vectors_of_another_size_there_is_none():
    images = predictions(AXES)
    assert nearest_captions(Dataset.from_dict({"image_id": list("abcd")}), images) is None
    assert nearest_captions(Dataset.from_dict({"text_embeds": list(AXES)}), images) is None
    assert nearest_captions(split(list("abcd"), list(AXES[:, :3])), images) is None
