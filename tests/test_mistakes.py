"""Which images runs get wrong, and which classes they take for which: by hand."""

import numpy as np
import pytest
from datasets import Dataset

from g4i_hf.evaluation.mistakes import ClassTexts, changed_confusions, class_gains, worst_mistakes
from g4i_hf.evaluation.predict import Predictions

AXES = np.eye(4, dtype=np.float32)


def predictions(labels: list[int], predicted: list[int], sure: list[float] | None = None) -> Predictions:
    """Of four classes; `sure` is the logit of the predicted class, where the others have 0."""
    logits = AXES[predicted] * np.asarray(sure or [1.0] * len(labels), dtype=np.float32)[:, None]
    return Predictions([str(i) for i in range(len(labels))], np.asarray(labels), logits, AXES[[0] * len(labels)])


def test_the_worst_mistakes_are_the_surest_ones_and_nothing_else():
    run = predictions([0, 0, 1, -100, 2, 3], [1, 0, 2, 3, 1, 3], sure=[2, 9, 5, 9, 3, 9])
    assert worst_mistakes(run, 5).tolist() == [2, 4, 0]
    assert worst_mistakes(run, 2).tolist() == [2, 4]
    assert worst_mistakes(predictions([1, 2], [1, 2]), 3).tolist() == []


def test_confusions_that_fell_and_rose():
    labels = [0, 0, 0, 1, 1, 2, -100, 3]
    baseline = predictions(labels, [1, 1, 1, 1, 0, 2, 0, 2])
    aligned = predictions(labels, [1, 0, 2, 0, 0, 3, 1, 2])
    fallen, risen = changed_confusions(baseline, aligned)
    assert [(one.label, one.predicted, one.baseline, one.aligned, one.change) for one in fallen] == [(0, 1, 3, 1, -2)]
    assert fallen[0].rows.tolist() == [1, 2]  # row 0 is taken for that class by both
    assert [(one.label, one.predicted, one.baseline, one.aligned) for one in risen] == [
        (1, 0, 1, 2),  # as large a change as the others, but the more frequent pair
        (0, 2, 0, 1),
        (2, 3, 0, 1),
    ]
    assert risen[0].rows.tolist() == [3]


def test_classes_that_gained_and_lost():
    labels = [0, 0, 1, 1, 2, -100]
    gains = class_gains(predictions(labels, [0, 1, 1, 1, 0, 3]), predictions(labels, [0, 0, 0, 0, 2, 2]))
    assert gains == [(0, 2, 1), (2, 1, 1), (1, 2, -2)]


def test_cosines_of_the_captions_of_two_classes_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(7, 4))
    texts = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float16)
    of_rows = [[texts[0], texts[1]], [texts[2]], [texts[3]], [], [texts[4]], [texts[5], texts[6]]]
    labels = [0, 0, 1, 2, -100, 3]
    captions = [[f"{row} {k}" for k in range(len(vectors))] for row, vectors in enumerate(of_rows)]
    split = Dataset.from_dict({"caption": captions, "text_embeds": of_rows})
    found = ClassTexts.of(split, predictions(labels, [0] * 6))
    classes = {0: texts[:3], 1: texts[3:4], 3: texts[5:7]}  # an unlabelled row belongs to none, class 2 has no caption
    pairs = {(a, b): float(np.mean(classes[a].astype(float) @ classes[b].T)) for a in classes for b in classes}
    for (a, b), expected in pairs.items():
        assert found.cosine(a, b) == pytest.approx(expected, abs=1e-6)
    assert found.cosine(0, 2) is None
    assert found.mean_cosine() == pytest.approx(np.mean([pairs[0, 1], pairs[0, 3], pairs[1, 3]]), abs=1e-6)
    assert ClassTexts.of(split.remove_columns("text_embeds"), predictions(labels, [0] * 6)).mean_cosine() is None
