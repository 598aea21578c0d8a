"""The captions that are nearest to images."""

import numpy as np
import pytest
from datasets import Dataset

from g4i_hf.evaluation import nearest
from g4i_hf.evaluation.nearest import nearest_captions, ranked_captions
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
    monkeypatch.setattr(nearest, "TEXTS", block)
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


def test_ranked_captions_are_distinct_and_mark_the_own_one():
    """Cosines of image i with text k are k / 10; "b" is the caption of two rows."""
    captions = ["a", "b", "b", "c", None, "d"]
    vectors = [k / 10 * AXES[0] if caption else None for k, caption in enumerate(captions)]
    data, images = split(captions, vectors), predictions(AXES[[0] * 6])
    first, second, last = ranked_captions(data, images, [0, 1, 4], most=2)
    assert [(one.caption, one.rank, one.is_own) for one in first] == [("d", 1, False), ("c", 2, False), ("a", 4, True)]
    assert [one.cosine for one in first] == pytest.approx([0.5, 0.3, 0.0], abs=1e-3)
    assert [(one.caption, one.rank, one.is_own) for one in second] == [
        ("d", 1, False),
        ("c", 2, False),
        ("b", 3, True),
    ]
    assert second[2].cosine == pytest.approx(0.2, abs=1e-3)  # the nearer of its two vectors
    assert [(one.caption, one.is_own) for one in last] == [("d", False), ("c", False)]  # it has no caption of its own
    (all_four,) = ranked_captions(data, images, [0], most=4)
    assert [(one.caption, one.rank) for one in all_four] == [("d", 1), ("c", 2), ("b", 3), ("a", 4)]
    assert all_four[2].cosine == pytest.approx(0.2, abs=1e-3)
    own = ranked_captions(data, images, [5], most=2)[0]
    assert [(one.caption, one.rank, one.is_own) for one in own] == [("d", 1, True), ("c", 2, False)]
    assert ranked_captions(data.remove_columns("caption"), images, [0]) is None


def test_of_several_own_captions_the_nearest_is_ranked():
    data = split([["a", "b"], ["c"], ["d"]], [[0.1 * AXES[0], 0.2 * AXES[0]], [AXES[0]], [0.5 * AXES[0]]])
    (found,) = ranked_captions(data, predictions(AXES[[0] * 3]), [0], most=1)
    assert [(one.caption, one.rank, one.is_own) for one in found] == [("c", 1, False), ("b", 3, True)]
