"""Accuracy by prediction-powered inference: the formula of its authors, and intervals that hold in simulations."""

from dataclasses import replace

import numpy as np
import pytest
from reference import ppi_mean
from scipy.stats import t as student_t

from g4i_hf import priors
from g4i_hf.evaluation.estimate import (
    Expected,
    HeldOut,
    accuracy_of,
    difference_interval,
    judged_by_labels,
    judged_by_probabilities,
    judged_in_turn,
)

CLASSES = 4
Rows = tuple[np.ndarray, np.ndarray]  # (n, C) probabilities by a model, and (n,) the true classes


def rows_of(number: int, generator: np.random.Generator, frequency: np.ndarray | float = 1.0) -> Rows:
    """The model claims more than it knows, so that it is less often right than its probabilities say."""
    known = generator.dirichlet(np.full(CLASSES, 0.5), number) * frequency
    known /= known.sum(1, keepdims=True)
    truth = (known.cumsum(1) < generator.random((number, 1))).sum(1).clip(max=CLASSES - 1)
    return known**1.5 / (known**1.5).sum(1, keepdims=True), truth


def held_out(rows: Rows, noise: float = 0.0) -> HeldOut:
    """With this share of labels drawn at random."""
    probabilities, labels = rows
    at_random = np.full(probabilities.shape, 1 / CLASSES)
    return HeldOut(
        probabilities, labels, np.full((1, len(labels)), noise), at_random, np.full(len(labels), 1 / len(labels))
    )


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_the_variance_by_the_probabilities_is_that_of_residuals(noise):
    """Of labels that are drawn as the model says, of which some are noisy."""
    generator, number = np.random.default_rng(0), 20_000
    probabilities = np.tile([0.7, 0.1, 0.1, 0.1], (number, 1))
    noisy = generator.random(number) < noise
    labels = np.where(noisy, generator.integers(0, CLASSES, number), np.minimum(generator.random(number) // 0.7, 1))
    rows = held_out((probabilities, labels.astype(int)), noise)
    ((residuals,), (variances,)) = rows.residuals(np.zeros(number, dtype=int))
    assert abs(residuals.mean()) < 0.02 and residuals.var() == pytest.approx(variances.mean(), rel=0.03)


def test_without_wrong_labels_and_priors_it_is_ppi(monkeypatch):
    """Of an accuracy and of a difference, by a model that names a class: the same mean, and Student's quantile."""
    generator, names = np.random.default_rng(0), ("labels_only", "with_views")
    (images, _), (labelled, labels) = rows_of(5000, generator), rows_of(2000, generator)
    ranked, ranked_images = labelled.argsort(1).T, images.argsort(1).T
    sure, sure_of_images = np.eye(CLASSES)[ranked[-1]], np.eye(CLASSES)[ranked_images[-1]]
    told = {  # the second class wherever the first is unlikely, and the first one
        names[0]: np.where(labelled.max(1) < 0.6, ranked[-2], ranked[-1]),
        names[1]: ranked[-1],
    }
    of_images = {
        names[0]: np.where(images.max(1) < 0.6, ranked_images[-2], ranked_images[-1]),
        names[1]: ranked_images[-1],
    }
    monkeypatch.setattr(priors, "PRIOR_STD_BIAS", 1e6)
    monkeypatch.setattr(priors, "PRIOR_STD_BIAS_OF_DIFFERENCE", 1e6)
    judgement = judged_by_probabilities(of_images, sure_of_images, held_out((sure, labels)), told)
    right = {name: (each == labels).astype(float) for name, each in told.items()}
    imputed = {name: (each == ranked[-1]).astype(float) for name, each in told.items()}
    imputed_images = {name: (each == ranked_images[-1]).astype(float) for name, each in of_images.items()}
    kinds = right, imputed, imputed_images
    of_views = [each[names[1]] for each in kinds]
    difference = [each[names[1]] - each[names[0]] for each in kinds]
    together = accuracy_of(sure_of_images, held_out((sure, labels)))
    for found, expected in ((together, of_views), (judgement.difference, difference)):
        (mean, error), (low, high) = ppi_mean(*expected), found.interval
        assert found.share == pytest.approx(mean) and (low + high) / 2 == pytest.approx(mean)
        assert (high - low) / 2 == pytest.approx(student_t.ppf(0.975, 20) * error, rel=2e-3)


def sampled(number: int, others: int, generator: np.random.Generator, share: float = 0.7) -> tuple:
    """Of a random sample: which answers are right, of two classifiers, and how likely that is there and elsewhere."""
    right, told = {}, {}
    for name, more in (("labels_only", -0.1), ("with_views", 0.0)):
        true = generator.random(number + others) < share + more
        said = np.clip(0.5 + 0.3 * true + 0.3 * generator.normal(size=number + others), 0, 1)
        right[name], told[name] = true[:number].astype(int), Expected(said[:number], said[number:])
    return right, told


def test_a_random_sample_and_the_other_images_are_ppi_plus_plus():
    """The same mean, and the same error, by which the sample counts as a larger one."""
    number = 400
    right, told = sampled(number, 3000, np.random.default_rng(0))
    found = judged_by_labels(right, np.ones(number, dtype=int), told)
    alone = judged_by_labels(right, np.ones(number, dtype=int))
    first, second = (right[name] for name in right)
    both = told["with_views"] - told["labels_only"]
    mean, error = ppi_mean(second - first, both.of_sample, both.of_others, tuned=True)
    low, high = found.difference.interval
    assert found.difference.share == pytest.approx(mean) and (low + high) / 2 == pytest.approx(mean)
    assert (high - low) / 2 == pytest.approx(student_t.ppf(0.975, number - 1) * error, rel=5e-3)
    assert found.difference.share == pytest.approx(
        np.subtract(*[found.accuracies[n].share for n in list(right)[::-1]])
    )
    for name, each in right.items():
        judged = judged_by_labels({name: each}, np.ones(number, dtype=int), told).accuracies[name]
        mean, error = ppi_mean(each, told[name].of_sample, told[name].of_others, tuned=True)
        assert judged.share == pytest.approx(mean)
        assert np.diff(judged.interval) / 2 == pytest.approx(1.96 * error, rel=2e-2)
        assert np.diff(judged.interval) < 0.95 * np.diff(alone.accuracies[name].interval)


@pytest.mark.parametrize("case", ["fewer than 50", "nothing is told", "all are right"])
def test_the_sample_alone_counts_where_others_tell_nothing(case):
    generator = np.random.default_rng(0)
    number = 49 if case == "fewer than 50" else 100
    right, told = sampled(number, 1000, generator, 1.1 if case == "all are right" else 0.7)
    if case == "nothing is told":
        told = {name: Expected(np.full(number, 0.3), np.full(1000, 0.3)) for name in told}
    labels = np.ones(number, dtype=int)
    assert judged_by_labels(right, labels, told) == judged_by_labels(right, labels)


@pytest.mark.parametrize(("number", "share"), [(50, 0.9), (50, 0.7), (200, 0.95)])
def test_intervals_of_a_random_sample_hold_in_simulations(number, share):
    generator, holds = np.random.default_rng(0), []
    for _ in range(500):
        right, told = sampled(number, 1000, generator, share)
        low, high = judged_by_labels(right, np.ones(number, dtype=int), told).accuracies["with_views"].interval
        holds.append(low <= share <= high)
    assert 0.93 < np.mean(holds) < 0.985, np.mean(holds)


@pytest.mark.parametrize("case", ["few labels", "many labels", "30% at random", "as many of each class"])
def test_intervals_hold_in_simulations(case):
    generator = np.random.default_rng(0)
    each_class, number = case == "as many of each class", 25 if case == "few labels" else 200
    everyone, truth = rows_of(50_000, generator, np.array([8.0, 4, 2, 1]) if each_class else 1.0)
    accuracy, images = (everyone.argmax(1) == truth).mean(), everyone[:10_000]
    of_class = [np.flatnonzero(truth == label) for label in range(CLASSES)]
    holds = []
    for _ in range(400):
        drawn = generator.integers(len(truth), size=number)
        if each_class:
            drawn = np.concatenate([generator.choice(rows, number // CLASSES) for rows in of_class])
        labels = given = truth[drawn]
        if case == "30% at random":
            given = np.where(generator.random(number) < 0.3, generator.integers(CLASSES, size=number), labels)
        seen = held_out((everyone[drawn], given), 0.3 if case == "30% at random" else 0.0)
        if each_class:
            counts, posterior = np.bincount(labels, minlength=CLASSES), np.eye(CLASSES)[labels]
            seen = HeldOut.of(seen.probabilities, labels, seen.noise, seen.if_noisy, posterior, counts, images)
        low, high = accuracy_of(images, seen).interval
        holds.append(low <= accuracy <= high)
    assert 0.93 < np.mean(holds) < 0.98, np.mean(holds)


def test_few_rows_that_all_agree_may_do_so_by_chance():
    sure = np.eye(CLASSES)[np.zeros(5, dtype=int)]
    low, high = accuracy_of(sure, held_out((sure, np.zeros(5, dtype=int)))).interval
    assert low < 0.7 and high == 1


def test_classes_without_rows_widen_the_interval_by_their_share():
    """Nothing shows how often they are right. Their share is at least that by the labels, two more for each class."""
    generator = np.random.default_rng(3)
    (images, _), (labelled, labels) = rows_of(2000, generator), rows_of(400, generator)
    noise, uniform = np.zeros((1, len(labels))), np.full(labelled.shape, 1 / CLASSES)
    seen = np.pad(labelled, ((0, 0), (0, 1))), labels, noise, np.pad(uniform, ((0, 0), (0, 1)))
    posterior = np.eye(CLASSES + 1)[labels]
    everywhere = np.pad(images, ((0, 0), (0, 1)))
    kinds = {}
    for count in (0, 1):
        counts = np.append(np.full(CLASSES, 4), count)
        kinds[count] = HeldOut.of(*seen[:4], posterior, counts, everywhere)
    assert kinds[0].unknown == pytest.approx(2 / 26) and kinds[0].single == 0
    assert kinds[1].single == pytest.approx(3 / 27) and kinds[1].unknown == 0
    for each, spread in ((kinds[0], priors.STD_WITHOUT_LABEL), (kinds[1], priors.STD_OF_ONE_LABEL)):
        low, high = accuracy_of(everywhere, each).interval
        quantile = student_t.ppf(priors.LEVEL, priors.DEGREES_OF_FREEDOM)
        shares = accuracy_of(everywhere, replace(each, single=0, unknown=0)).interval
        of_class = quantile * spread * max(each.single, each.unknown)
        seen_alone = (shares[1] - shares[0]) / 2 * (1 - max(each.single, each.unknown))
        assert np.hypot(of_class, 0.9 * seen_alone) < (high - low) / 2 < of_class + 1.2 * seen_alone


def test_the_prior_of_the_bias_narrows_the_interval_of_few_rows():
    """Three rows alone tell nothing. Probabilities that are rarely wrong tell more, up to a limit."""
    generator, name = np.random.default_rng(5), "with_views"
    images, few = rows_of(2000, generator)[0], held_out(rows_of(3, generator))
    widths = []
    for confident in (1, 40):
        known = images**confident / (images**confident).sum(1, keepdims=True)
        args = {name: known.argmax(1)}, known, few, {name: few.labels}
        low, high = judged_by_probabilities(*args).accuracies[name].interval
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0] < 0.45
    assert widths[1] > 2 * priors.PRIOR_STD_BIAS * priors.MIN_EXPECTED_ERROR
    told = {"labels_only": images.argsort(1)[:, -2], name: images.argmax(1)}
    seen = {"labels_only": few.probabilities.argsort(1)[:, -2], name: few.probabilities.argmax(1)}
    low, high = judged_by_probabilities(told, images, few, seen).difference.interval
    assert (high - low) / 2 > 1.5 * priors.PRIOR_STD_BIAS_OF_DIFFERENCE  # nearly all predictions differ


def test_an_interval_of_three_differences_is_students():
    differences = np.array([0.0, 1.0, 1.0])
    low, high = difference_interval(differences)
    half = student_t.ppf(0.975, 2) * np.sqrt((2 / 9 + priors.EXTRA_ROWS / 3) / 2)
    assert (low, high) == pytest.approx((max(2 / 3 - half, -1), 1))
    low, high = difference_interval(np.tile(differences, 30))
    assert (high - low) / 2 == pytest.approx(student_t.ppf(0.975, 89) * np.sqrt((2 / 9 + priors.EXTRA_ROWS / 90) / 89))


# --- Groups ----------------------------------------------------------------------------------------------------------


def five_times(rows: HeldOut) -> HeldOut:
    """Each row as five frames of one scene."""
    each = (rows.probabilities, rows.labels, rows.noise.T, rows.if_noisy, rows.weights / 5)
    probabilities, labels, noise, if_noisy, weights = (np.repeat(values, 5, axis=0) for values in each)
    groups = np.repeat(np.arange(len(rows.labels)), 5)
    return HeldOut(probabilities, labels, noise.T, if_noisy, weights, groups=groups)


def test_frames_of_a_scene_count_once():
    """The intervals are those of one frame a scene, whichever images judge."""
    generator, names = np.random.default_rng(0), ("labels_only", "with_views")
    images, (labelled, labels) = rows_of(300, generator)[0], rows_of(60, generator)
    told = {name: labelled.argsort(1)[:, -1 - place] for place, name in enumerate(names)}
    of_images = {name: images.argsort(1)[:, -1 - place] for place, name in enumerate(names)}
    once = held_out((labelled, labels))
    scenes = np.repeat(np.arange(300), 5)
    five = {name: np.repeat(each, 5) for name, each in told.items()}
    five_of_images = {name: np.repeat(each, 5) for name, each in of_images.items()}
    pairs = [
        (
            judged_by_probabilities(of_images, images, once, told),
            judged_by_probabilities(five_of_images, np.repeat(images, 5, axis=0), five_times(once), five, scenes),
        ),
        (judged_in_turn(told, once), judged_in_turn(five, five_times(once))),
        (
            judged_by_labels(told, labels),
            judged_by_labels(five, np.repeat(labels, 5), groups=np.repeat(np.arange(60), 5)),
        ),
    ]
    for expected, found in pairs:
        for name in names:
            assert found.accuracies[name].share == pytest.approx(expected.accuracies[name].share, abs=1e-6)
            assert found.accuracies[name].interval == pytest.approx(expected.accuracies[name].interval, abs=5e-3)
        assert found.difference.interval == pytest.approx(expected.difference.interval, abs=5e-3)


def test_intervals_of_grouped_images_hold_in_simulations():
    """Images of a scene are right together in half of the cases; without groups too many intervals miss."""
    generator, misses = np.random.default_rng(0), {"grouped": 0, "single": 0}
    groups = np.repeat(np.arange(30), 8)
    for _ in range(400):
        of_scene = np.repeat(generator.random(30), 8)
        own = generator.random(240)
        right = (np.where(generator.random(240) < 0.7, of_scene, own) < 0.8).astype(int)
        for name, given in (("grouped", groups), ("single", None)):
            low, high = (
                judged_by_labels({"with_views": right}, np.ones(240), groups=given).accuracies["with_views"].interval
            )
            misses[name] += not low <= 0.8 <= high
    assert misses["grouped"] <= 32 and misses["single"] >= 60
