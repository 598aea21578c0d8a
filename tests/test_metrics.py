"""Figures of a split."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from g4i_hf.evaluation.evaluate import split_metrics
from g4i_hf.evaluation.metrics import accuracy_of_logits, retrieval_recall
from g4i_hf.evaluation.predict import Predictions, texts_of
from g4i_hf.evaluation.statistics import paired_summary

EYE = np.eye(4, dtype=np.float32)


def test_accuracy_leaves_unlabelled_rows_out():
    prediction = SimpleNamespace(predictions=EYE[:3], label_ids=np.array([0, 2, -100]))
    assert accuracy_of_logits(prediction) == {"accuracy": 0.5}


def test_a_tie_in_retrieval_is_a_miss_and_equal_captions_are_one_entry():
    images = np.stack([EYE[0], (EYE[0] + EYE[1]) / np.sqrt(2), EYE[2]])
    found = retrieval_recall(images, EYE[[0, 1, 0]], ks=(1,))
    assert found == {"recall_at_1": pytest.approx(1 / 3), "chance_at_1": 0.5, "gallery_size": 2}


@pytest.mark.parametrize("dim, measured", [(4, True), (3, False)])
def test_retrieval_is_left_out_where_the_projector_has_another_size(dim, measured):
    split = Dataset.from_dict({"image_id": ["a", "b"], "text_embeds": EYE[:2, :4].tolist()})
    predictions = Predictions(["a", "b"], np.array([0, 1]), EYE[:2], EYE[:2, :dim])
    metrics = split_metrics(predictions, split, "test")
    assert metrics["test_accuracy"] == 1.0 and ("test_recall_at_1" in metrics) == measured


def test_paired_summary_against_values_worked_out_by_hand():
    summary = paired_summary([0.50, 0.52, 0.51], [0.53, 0.54, 0.55])  # differences 3, 2, 4 points, sd 1
    assert summary.difference == pytest.approx(0.03) and summary.improved == 3
    assert summary.high - summary.difference == pytest.approx(4.3027 * 0.01 / np.sqrt(3), rel=1e-4)


def test_of_several_captions_the_nearest_counts():
    """Image 0 has captions 0 and 1, image 1 has caption 2; image 0 is nearest to its second caption."""
    images = np.stack([EYE[1], EYE[3]])
    found = retrieval_recall(images, EYE[:3], ks=(1, 2), owners=np.array([0, 0, 1]))
    assert found["recall_at_1"] == 0.5 and found["gallery_size"] == 3
    assert found["chance_at_1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["chance_at_2"] == pytest.approx((1 + 2 / 3) / 2)


def test_texts_are_centred_where_the_model_centres_them():
    """Both captions have much in common; without it they are at right angles."""
    split = Dataset.from_dict({"image_id": ["a", "b"], "text_embeds": [[0.8, 0.6, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]})
    mean = np.float32([0.8, 0, 0, 0])
    centred = Predictions(["a", "b"], np.array([0, 1]), EYE[:2], EYE[[1, 0]], mean)
    np.testing.assert_allclose(texts_of(split, centred).embeds, EYE[[1, 0]], atol=1e-3)
    assert split_metrics(centred, split, "test")["test_recall_at_1"] == 1.0
