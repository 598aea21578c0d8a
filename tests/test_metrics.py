"""Metrics of evaluation: arrays in, numbers out, against references and answers worked out by hand."""

import tracemalloc
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import log_loss
from statsmodels.stats.proportion import proportion_confint
from transformers import EvalPrediction

from g4i_hf.evaluation.comparison import ALL_MEASURES, METRICS_OF_A_SPLIT, SHOWN, as_markdown, as_text, compare
from g4i_hf.evaluation.estimate import accuracy_interval
from g4i_hf.evaluation.metrics import Accuracy, calibration_metrics, retrieval_recall, split_metrics, update_results
from g4i_hf.evaluation.predict import Predictions
from g4i_hf.training.prepare import accuracy_of_logits

EYE = np.eye(4, dtype=np.float32)


def predictions(embeds, labels=None, **more) -> Predictions:
    n = len(embeds)
    labels = np.zeros(n, dtype=np.int64) if labels is None else np.asarray(labels)
    defaults = {"logits": np.zeros((n, 4), dtype=np.float32), "image_embeds": np.asarray(embeds, dtype=np.float32)}
    return Predictions([str(row) for row in range(n)], labels, **defaults | more)


def test_accuracy_in_training_is_of_labelled_rows():
    logits, labels = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), np.array([1, 1, -100])
    assert accuracy_of_logits(EvalPrediction(logits, labels)) == {"accuracy": 0.5}
    assert accuracy_of_logits(SimpleNamespace(predictions=logits, label_ids=np.full(3, -100))) == {}
    metric = evaluate.combine([Accuracy()])
    metric.add_batch(predictions=[0, 1, 2, 2], references=[0] * 4)
    assert metric.compute() == {"accuracy": 0.25}


def in_bins(confidence, is_right, edges) -> float:
    """Expected calibration error by a loop over bins (lower, upper]."""
    error = 0.0
    for lower, upper in zip(edges[:-1], edges[1:], strict=True):
        rows = (confidence > lower) & (confidence <= upper)
        if rows.any():
            error += rows.mean() * abs(is_right[rows].mean() - confidence[rows].mean())
    return error


def test_calibration_of_many_logits_is_that_of_the_literature():
    """More rows than a block has. NLL by scikit-learn, Brier by its formula, ECE and adaptive ECE by loops."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3000, 7)).astype(np.float32) * 3, rng.integers(0, 7, 3000)
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == labels
    ordered = np.sort(confidence).reshape(15, 200)
    wanted = {
        "nll": log_loss(labels, probabilities),
        "brier": np.square(probabilities - np.eye(7)[labels]).sum(1).mean(),
        "ece": in_bins(confidence, is_right, np.linspace(0, 1, 16)),
        "adaptive_ece": in_bins(confidence, is_right, [0, *ordered[:-1, -1], 1]),
    }
    assert calibration_metrics(logits, labels) == pytest.approx(wanted)


def test_edges_of_bins_equal_confidences_and_probabilities_of_zero():
    on_an_edge = np.array([[0.6, 0.4], [0.45, 0.55], [0.9, 0.1], [0.1, 0.9]])  # 0.6 belongs to the bin of 0.55
    expected = (abs(1 - 0.6 - 0.55) + abs(1 - 0.9 - 0.9)) / 4
    assert calibration_metrics(np.log(on_an_edge), np.zeros(4, dtype=int))["ece"] == pytest.approx(expected)
    for order in ([0, 0, 1, 1], [0, 1, 0, 1]):  # whatever their order, they share a bin
        assert calibration_metrics(np.zeros((4, 2)), np.asarray(order))["adaptive_ece"] == 0
    found = calibration_metrics(np.array([[1e4, -1e4], [0, 0]], dtype=np.float32), np.array([1, 0]))
    assert all(np.isfinite(value) for value in found.values()) and found["brier"] == pytest.approx((2 + 0.5) / 2)


def test_memory_does_not_grow_with_the_split(tmp_path):
    """With ten times the rows, what predictions, scores and calibration allocate grows by some numbers a row alone."""
    rng, peaks = np.random.default_rng(0), []
    for rows in (4000, 40_000):
        logits = np.memmap(tmp_path / f"{rows}", np.float32, "w+", shape=(rows, 100))
        for start in range(0, rows, 1000):
            logits[start : start + 1000] = rng.standard_normal((1000, 100))
        tracemalloc.start()
        labels = np.zeros(rows, dtype=np.int64)
        found = Predictions([], labels, logits, None)
        assert len(found.predicted) == len(found.score) == rows
        calibration_metrics(found.logits, labels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    numbers_a_row = (peaks[1] - peaks[0]) / 36_000 / 8
    assert numbers_a_row < 25  # and of its 100 logits none


def test_a_tie_is_a_miss_equal_captions_are_one_entry_and_chance_counts_right_answers():
    images = np.stack([EYE[0], (EYE[0] + EYE[1]) / np.sqrt(2), EYE[2]])
    found = retrieval_recall(images, EYE[[0, 1, 0]], ks=(1,))
    assert found == {"recall_at_1": pytest.approx(1 / 3), "chance_at_1": 0.5, "gallery_size": 2}
    # Of the captions 0 and 1 of image 0 the nearest counts; caption 2 is that of image 1
    found = retrieval_recall(EYE[[1, 3]], EYE[:3], ks=(1, 2), owners=np.array([0, 0, 1]))
    chances = {"chance_at_1": (2 / 3 + 1 / 3) / 2, "chance_at_2": (1 + 2 / 3) / 2}
    assert found == pytest.approx({"recall_at_1": 0.5, "recall_at_2": 0.5, "gallery_size": 3} | chances)
    with pytest.raises(ValueError, match="NaN or infinite: the model, or the stage"):
        retrieval_recall(np.full((2, 4), np.nan), EYE[:2])


def test_classes_by_names_are_those_that_the_split_shows():
    """Class 2, which image 1 is nearest to, is not in the split. Names of another size say nothing."""
    rows = Dataset.from_dict({"image_id": ["a", "b"]})
    found = split_metrics(predictions([EYE[0], EYE[2] + 0.1 * EYE[1]], [0, 1]), rows, "v", EYE[:3])
    assert (found["v_zero_shot_accuracy"], found["v_zero_shot_chance"]) == (1.0, 0.5)
    assert "v_zero_shot_accuracy" not in split_metrics(predictions(EYE[:2]), rows, "v", EYE[:, :3])


def test_all_figures_of_a_split_are_known_and_new_ones_replace_them(tmp_path):
    rows = Dataset.from_dict({"image_id": list("abcd"), "text_embeds": EYE.tolist()})
    labelled = predictions(EYE, [0, 1, 2, -100])
    found = split_metrics(labelled, rows, "test", EYE)
    figures = {name.removeprefix("test_") for name in found}
    assert figures <= set(METRICS_OF_A_SPLIT) and {"accuracy", "recall_at_1", "nll"} < figures
    assert found["test_ece"] == pytest.approx(1 / 3 - 1 / 4)  # unlabelled rows do not count
    update_results(tmp_path, found | {"test_novel_ece": 0.1, "train_loss": 1.0})
    kept = update_results(tmp_path, {"test_accuracy": 0.9}, splits=["test"])  # this time without captions
    assert kept == {"test_accuracy": 0.9, "test_novel_ece": 0.1, "train_loss": 1.0}
    of_other_size = split_metrics(predictions(EYE[:, :3]), rows, "test")  # as the projector of a baseline may be
    assert "test_accuracy" in of_other_size and "test_recall_at_1" not in of_other_size


def test_the_table_marks_what_should_be_low():
    rows = compare({"v_accuracy": 0.5, "v_ece": 0.1}, {"v_accuracy": 0.5, "v_ece": 0.15}, ["v"], ALL_MEASURES)
    assert [row.is_better for row in rows] == [None, True] and "less is better" not in as_text(rows[:1], SHOWN)
    assert "| ECE ↓ | v | 15.0 | 10.0 | -5.0 |" in as_markdown(rows, SHOWN) and "less is better" in as_text(
        rows, SHOWN
    )


@pytest.mark.parametrize(("right", "images"), [(0, 6), (873, 1000)])
def test_the_interval_of_an_accuracy_is_that_of_wilson(right, images):
    expected = proportion_confint(right, images, method="wilson")
    assert accuracy_interval(right / images, images) == pytest.approx(expected, abs=1e-12)
