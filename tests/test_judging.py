"""How right two classifiers are, and which is better: intervals that hold, and verdicts that are true."""

import numpy as np
import pytest

from g4i_hf.label_model import LabelModel, View
from g4i_hf.label_model.calibration import Calibration, HeldOut
from g4i_hf.training.judged_heads import Known, judge_in_training
from g4i_hf.training.judging import judged_by_labels, judged_by_probabilities, judged_in_turn

CLASSES = 5


def told(truth: np.ndarray, share: float, seed: int, classes: int = CLASSES) -> np.ndarray:
    """(n,) classes, so many of them right, the others drawn."""
    generator = np.random.default_rng(seed)
    drawn = (truth + generator.integers(1, classes, len(truth))) % classes
    return np.where(generator.random(len(truth)) < share, truth, drawn)


def images(number: int, seed: int, sharper: float = 1.0, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """(n, C) probabilities and the true classes (n,), drawn from them; `sharper` ones claim more than they know."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.3), number)
    truth = np.array([generator.choice(classes, p=each) for each in probabilities])
    claimed = probabilities**sharper
    return (claimed / claimed.sum(1, keepdims=True)).astype(np.float32), truth


def held_out(
    probabilities: np.ndarray, labels: np.ndarray, wrong: float = 0.0, single: float = 0.0, unknown: float = 0.0
) -> HeldOut:
    one, prior = np.ones(1), np.log(np.full(probabilities.shape[1], 1 / probabilities.shape[1]))
    calibration = Calibration(one, one, one, prior, wrong, (wrong, wrong), 0.0, 0.0, 0.0)
    sure, weights = np.zeros(len(labels), dtype=bool), np.full(len(labels), 1 / len(labels))
    return HeldOut(probabilities, labels, sure, weights, single, unknown, calibration, (wrong, wrong, wrong))


def both(truth: np.ndarray, seed: int, labels_only: float = 0.6, with_views: float = 0.8) -> dict[str, np.ndarray]:
    return {"labels_only": told(truth, labels_only, 2 * seed), "with_views": told(truth, with_views, 2 * seed + 1)}


@pytest.mark.parametrize(
    ("labels_only", "with_views", "verdict"),
    [(0.6, 0.8, "helped"), (0.8, 0.6, "hurt"), (0.7, 0.7, "cannot tell")],
)
def test_labels_that_are_believed_give_a_verdict(labels_only, with_views, verdict):
    truth = np.arange(400) % CLASSES
    predicted = both(truth, 1, labels_only, with_views)
    found = judged_by_labels(predicted, truth)
    right = {name: (each == truth).mean() for name, each in predicted.items()}
    for name, estimate in found.accuracies.items():
        low, high = estimate.interval
        assert estimate.share == pytest.approx(right[name]) and high - low < 0.12
        assert 0 <= low <= right[name] <= high <= 1
    assert found.difference.share == pytest.approx(right["with_views"] - right["labels_only"])
    assert found.verdict == verdict


def test_intervals_hold_what_true_probabilities_let_expect():
    """In 60 draws; the probabilities of 300 images are right, and no label corrects them."""
    holds = []
    for seed in range(60):
        probabilities, truth = images(300, seed)
        predicted = both(probabilities.argmax(1), seed)
        found = judged_by_probabilities(predicted, probabilities)
        for name, each in predicted.items():
            low, high = found.accuracies[name].interval
            holds.append(low <= (each == truth).mean() <= high)
    assert np.mean(holds) > 0.9


def test_labels_correct_probabilities_that_claim_too_much():
    """And make the interval narrower than what other data sets tell alone."""
    errors, widths = [], []
    for seed in range(20):
        probabilities, truth = images(300, seed, sharper=2)
        of_labels, labels = images(400, 1000 + seed, sharper=2)
        predicted = {"with_views": probabilities.argmax(1)}
        alone = judged_by_probabilities(predicted, probabilities)
        seen = held_out(of_labels, labels), {"with_views": of_labels.argmax(1)}
        corrected = judged_by_probabilities(predicted, probabilities, *seen)
        right = (predicted["with_views"] == truth).mean()
        found = [each.accuracies["with_views"] for each in (alone, corrected)]
        errors.append([each.share - right for each in found])
        widths.append(np.diff([each.interval for each in found]).ravel())
    alone, corrected = np.mean(errors, axis=0)
    assert alone > 0.05 and abs(corrected) < alone / 2
    assert np.mean(widths, axis=0)[1] < np.mean(widths, axis=0)[0]


@pytest.mark.parametrize("classes", [2, 10])
def test_wrong_labels_do_not_make_a_classifier_look_worse_or_better(classes):
    """30% of them are wrong, and the probabilities claim too much: by kept images, and by these labels alone."""
    differences = []
    for seed in range(12):
        probabilities, truth = images(300, seed, 2, classes)
        of_labels, labels = images(400, 1000 + seed, 2, classes)
        given = told(labels, 0.7, seed, classes)
        predicted, of_held_out = {"with_views": probabilities.argmax(1)}, {"with_views": of_labels.argmax(1)}
        found = [
            judged_by_probabilities(predicted, probabilities, held_out(of_labels, given, wrong), of_held_out)
            for wrong in (0.0, 0.3)
        ]
        found.append(judged_in_turn(of_held_out, held_out(of_labels, given, 0.3)))
        right = (probabilities.argmax(1) == truth).mean()
        right_there = (of_labels.argmax(1) == labels).mean()
        shares = [each.accuracies["with_views"].share for each in found]
        differences.append(np.subtract(shares, (right, right, right_there)))
    believed, known, in_turn = np.mean(differences, axis=0)
    assert believed + 0.03 < known < 0.1 and abs(in_turn) < 0.03


@pytest.mark.parametrize("missing", ["single", "unknown"])
def test_classes_without_a_label_to_hold_out_make_it_less_sure(missing):
    probabilities, _ = images(300, 1)
    of_labels, labels = images(400, 2)
    predicted, of_held_out = {"with_views": probabilities.argmax(1)}, {"with_views": of_labels.argmax(1)}
    for judged in (
        lambda seen: judged_by_probabilities(predicted, probabilities, seen, of_held_out),
        lambda seen: judged_in_turn(of_held_out, seen),
    ):
        sure, unsure = (judged(held_out(of_labels, labels, **{missing: part})) for part in (0.0, 0.4))
        (low, high), (lower, higher) = (each.accuracies["with_views"].interval for each in (sure, unsure))
        assert higher - lower > 1.3 * (high - low)
        assert unsure.accuracies["with_views"].share < sure.accuracies["with_views"].share


def test_both_accuracies_differ_by_the_difference():
    probabilities, _ = images(300, 1)
    of_labels, labels = images(100, 2)
    predicted, of_held_out = both(probabilities.argmax(1), 1), both(labels, 2, 0.7, 0.75)
    found = judged_by_probabilities(predicted, probabilities, held_out(of_labels, labels), of_held_out)
    difference = found.accuracies["with_views"].share - found.accuracies["labels_only"].share
    low, high = found.difference.interval
    assert found.difference.share == pytest.approx(difference) and low < difference < high


def test_labels_that_the_label_model_picked_judge_nothing():
    """They are no random sample; gold images have a split of their own."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 8)
    features = np.eye(CLASSES)[labels] + 0.1 * generator.normal(size=(len(labels), CLASSES))
    labels[::2] = -1
    views, order = {"image": View(features)}, np.arange(len(labels))
    model = LabelModel(CLASSES).fit(views, labels)
    reviews = np.where(np.arange(len(labels)) % 8 == 1, "next", "")
    rows = {
        name: judge_in_training(Known(labels, views, model, order, reviews=each), features, order[:0]).rows
        for name, each in {"all": None, "picked": reviews}.items()
    }
    assert set(rows["all"]) - set(rows["picked"]) == set(np.flatnonzero(reviews)) and len(rows["picked"]) == 15
