"""The mix of classes among images without a label, where the labels are of another mix."""

import dataclasses

import numpy as np
import pytest
from scipy.special import softmax
from test_fit_result import RESULT

from g4i_hf import LabelModel, View
from g4i_hf.evaluation.class_shares import class_shares, share_intervals

CLASSES = 6
UNEVEN, EVEN = np.geomspace(20, 1, CLASSES) / np.geomspace(20, 1, CLASSES).sum(), np.full(CLASSES, 1 / CLASSES)


def predicted(truth: np.ndarray, sharpness: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(n, C) by a model that recognises a class the better, the sharper it is."""
    logits = 1.5 * generator.standard_normal((len(truth), CLASSES))
    logits[np.arange(len(truth)), truth] += sharpness[truth]
    return softmax(logits, axis=1)


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        pytest.param(np.full(CLASSES, 12), UNEVEN, id="even labels"),
        pytest.param((120 * UNEVEN).astype(int) + 2, EVEN, id="uneven labels"),
        pytest.param((120 * UNEVEN).astype(int) + 2, UNEVEN, id="labels at random"),
    ],
)
def test_the_mix_of_classes_is_within_its_intervals(counts, shares):
    sharpness, held, nearer = 1.2 + np.log(counts), [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        labels = np.repeat(np.arange(CLASSES), counts)
        truth = generator.choice(CLASSES, 600, p=shares)
        pool, rows = (predicted(of_rows, sharpness, generator) for of_rows in (truth, labels))
        found, intervals = share_intervals(pool, rows, np.eye(CLASSES)[labels], counts, seed)
        true = np.bincount(truth, minlength=CLASSES) / len(truth)
        held += [*((intervals[:, 0] <= true) & (true <= intervals[:, 1]))]
        nearer.append(abs(pool.mean(0) - true).sum() - abs(found - true).sum())
    assert np.mean(held) >= 0.93
    assert np.mean(nearer) > (0.03 if shares is EVEN else -0.02)


def test_where_images_differ_intervals_hold_classes_that_are_recognised_less_often():
    """Half of the classes, of other images than those with labels."""
    counts, held = np.full(CLASSES, 20), {False: [], True: []}
    labels, before = np.repeat(np.arange(CLASSES), counts), np.full(CLASSES, 4.0)
    after = np.where(np.arange(CLASSES) % 2, 1.0, 4.0)
    for seed in range(8):
        generator = np.random.default_rng(seed)
        truth = generator.choice(CLASSES, 600, p=UNEVEN)
        pool, rows = predicted(truth, after, generator), predicted(labels, before, generator)
        true = np.bincount(truth, minlength=CLASSES) / len(truth)
        for differ, found in held.items():
            _, intervals = share_intervals(pool, rows, np.eye(CLASSES)[labels], counts, seed, differ=differ)
            found += [*((intervals[:, 0] <= true) & (true <= intervals[:, 1]))]
    assert np.mean(held[True]) >= 0.93 > 0.8 > np.mean(held[False]), {each: np.mean(of) for each, of in held.items()}


def test_a_class_without_a_held_out_row_and_weights_of_rows():
    generator, labels = np.random.default_rng(0), np.repeat(np.arange(CLASSES - 1), 8)
    counts, pool = np.array([8] * 5 + [1]), predicted(np.arange(600) % CLASSES, np.full(CLASSES, 3.0), generator)
    rows, truth = predicted(labels, np.full(CLASSES, 3.0), generator), np.eye(CLASSES)[labels]
    shares = class_shares(pool.mean(0), rows, truth, counts)
    assert shares.sum() == pytest.approx(1) and abs(shares - 1 / CLASSES).max() < 0.06
    twice = np.concatenate([rows, rows]), np.concatenate([truth, truth])
    same = class_shares(pool.mean(0), *twice, counts, np.full(80, 0.5))
    assert np.allclose(same, shares)


def test_the_label_model_tells_the_mix_of_unlabelled_rows():
    generator = np.random.default_rng(3)
    truth = np.concatenate([np.repeat(np.arange(3), 15), np.repeat(np.arange(3), [300, 60, 30])])
    x = 1.6 * np.eye(3, 8)[truth] + generator.standard_normal((len(truth), 8)) * 0.6
    labels = np.where(np.arange(len(truth)) < 45, truth, -1)
    shares, intervals = LabelModel(3).fit({"image": View(x.astype(np.float32))}, labels).class_shares_
    true = np.array([300, 60, 30]) / 390
    assert abs(shares - true).max() < 0.06
    assert ((intervals[:, 0] <= true) & (true <= intervals[:, 1])).all()
    all_labelled = LabelModel(3).fit({"image": View(x[:45].astype(np.float32))}, truth[:45])
    assert all_labelled.class_shares_ is None


def line(share: float, low: float, high: float, of_labels: float) -> dict:
    return {"share": share, "interval": [low, high], "of_labels": of_labels}


def test_a_result_says_another_mix_and_what_uneven_labels_hide():
    result = dataclasses.replace(RESULT, pool_shares={"cat": line(0.5, 0.4, 0.6, 0.1), "dog": line(0.1, 0, 0.2, 0.1)})
    (said,) = [each for each in result.lines() if "another mix" in each]
    assert said.endswith("than the labels: 'cat' 50% (40 to 60), 10% of the labels.")
    shares = {"cat": line(0.9, 0.8, 1, 0.95), "dog": line(0.1, 0, 0.2, 0.05)}
    views = {"image": {"interval": None, "class_names": False}}
    uneven = dataclasses.replace(RESULT, pool_shares=shares, views=views, judged_on="cross_fitting")
    assert "1 classes" not in " ".join(uneven.lines())
    (said,) = [each for each in uneven.lines() if "such as 'dog', and others up to 57" in each]
    assert "too high; its interval holds that of even classes. To know" in said
    in_turn = dataclasses.replace(uneven, judged_on="cross_validation")
    assert any("the accuracy is too high. To know" in each for each in in_turn.lines())
    others = {"views": {"caption": {"interval": None, "class_names": True}}}, {"judged_on": "gold"}
    for other in (*others, {"judged_on": "validation"}, {"with_views_accuracy": None, "labels_only_accuracy": None}):
        assert not any("others up to" in each for each in dataclasses.replace(uneven, **other).lines())
