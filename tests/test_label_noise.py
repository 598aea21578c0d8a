"""Wrong labels: what a label model finds of them, and what it must not take for one."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import softmax
from test_label_model import CLASSES, DIM, Clusters, accuracy, alone, clusters, fitted, slowly, views_of

from g4i_hf import LabelModel, View
from g4i_hf.label_model.calibration import Calibration
from g4i_hf.label_model.likelihood import PriorOfTemperatures, _HeldOutLikelihood, _NoiseModel
from g4i_hf.label_model.picks import suspicious_rows
from g4i_hf.training.supervision import estimates_of, plan_for
from g4i_hf.words import estimates_in_words

pytestmark = pytest.mark.usefixtures("few_draws")


def seen_twice(number: int, *, shared: float, own: float, seed: int = 0) -> tuple[Clusters, np.ndarray]:
    """
    Captions and image features of the same rows, with noise of their own and noise that both share, as where a thing
    looks like one of another class.
    """
    data, rng = clusters(number, 0.0, seed=seed), np.random.default_rng(seed + 1)
    seen = data.x * 4 + shared * rng.normal(size=data.x.shape)
    captions, images = ((seen + own * rng.normal(size=seen.shape)) @ rng.normal(size=(DIM, DIM)) for _ in range(2))
    return Clusters(captions, data.truth, data.y), images


@pytest.mark.parametrize(
    ("shared", "own", "seed"),
    [
        (2.0, 1.0, 1),
        *(slowly(*case) for case in ((1.5, 0.5, 0), (1.0, 1.0, 0), (1.5, 0.5, 1), (2.0, 1.0, 0), (3.0, 0.5, 1))),
    ],
)
def test_views_that_err_together_do_not_accuse_right_labels(shared, own, seed):
    """Both contradict a right label where a thing looks like one of another class."""
    data, images = seen_twice(1500, shared=shared, own=own, seed=seed)
    for views in (views_of(data.x, images), {"image": View(images), "caption": View(data.x, self_trains=False)}):
        model = LabelModel(CLASSES).fit(views, data.y)
        assert model.label_noise_interval_[0] == 0
        assert (model.posterior_.argmax(1) == data.y).mean() > 0.995
        low, high = model.accuracy_.interval
        assert low <= accuracy(model.probabilities_, data.truth) <= high


@pytest.mark.parametrize("seed", [3, slowly(1), slowly(2)])
def test_the_order_of_views_changes_nothing(seed):
    """Where 40% of the labels change places, and two views are compared where both are sure."""
    data, images = seen_twice(800, shared=0.5, own=1.0)
    swaps = (data.truth < 4) & (np.random.default_rng(seed).random(800) < 0.4)
    labels, views = np.where(swaps, data.truth ^ 1, data.truth), views_of(data.x, images)
    found = [LabelModel(CLASSES).fit(dict(each), labels) for each in (views.items(), reversed(views.items()))]
    assert found[0].label_noise_ == pytest.approx(found[1].label_noise_, abs=1e-3)
    np.testing.assert_allclose(*(each.posterior_.astype(float) for each in found), atol=0.01)
    assert found[0].label_noise_interval_[0] < swaps.mean() < found[0].label_noise_interval_[1]


@pytest.mark.parametrize("wrong", [0.0, 0.03, 0.2])
def test_labels_are_changed_where_the_plan_says_so_and_nowhere_else(wrong):
    data = clusters(600, spread=1.6, wrong=wrong, seed=2)
    model = fitted(data, images=clusters(600, spread=1.6, seed=2, view=1).x)
    given = model.posterior_[np.arange(600), data.y]
    assert plan_for(model, data.y).relabels == bool((given < 0.99).any()) == (wrong > 0)


def test_labels_that_change_places_are_found_before_errors_count_as_those_of_views():
    data, images = seen_twice(800, shared=0.5, own=0.7)
    swaps = (data.truth < 4) & (np.random.default_rng(1).random(800) < 0.3)
    model = fitted(data, np.where(swaps, data.truth ^ 1, data.truth), images)
    assert accuracy(model.posterior_, data.truth) > 1 - swaps.mean() + 0.05


def test_labels_that_change_places_are_found_beside_a_few_that_are_wrong_at_random():
    """These alone are seen at first, as few wrong labels, whose share is surely not zero."""
    (data, images), rng = seen_twice(800, shared=0.5, own=1.0), np.random.default_rng(1)
    swaps, flips = (data.truth < 2) & (rng.random(800) < 0.4), rng.random(800) < 0.04
    labels = np.where(flips, rng.integers(CLASSES, size=800), np.where(swaps, data.truth ^ 1, data.truth))
    low, high = fitted(data, labels, images).label_noise_interval_
    assert low < (labels != data.truth).mean() < high and low > 0.08


def test_the_interval_of_wrong_labels_holds_that_of_two_of_its_views():
    """Which show the wrong ones where both are sure; captions tell another share."""
    data, images = seen_twice(600, shared=0.5, own=1.0)
    answers = clusters(600, spread=1.2, view=2).x
    swaps = (data.truth < 4) & (np.random.default_rng(2).random(600) < 0.4)
    labels, found = np.where(swaps, data.truth ^ 1, data.truth), []
    views = {"answer": View(answers, self_trains=False), "image": View(images)}
    for more in ({}, {"caption": View(data.x, self_trains=False)}):
        model = LabelModel(CLASSES).fit(views | more, labels, ids=range(600))
        found.append(model.label_noise_interval_)
    (low, high), (lowest, highest) = found
    assert 0 < lowest <= low < swaps.mean() < high <= highest


@pytest.mark.parametrize(("to_the_next", "is_pattern"), [(0.1, False), (0.5, True)])
def test_of_many_labels_a_slight_pattern_counts_as_errors_at_random(to_the_next, is_pattern):
    """A fifth of 4,000 are wrong, of which so many are of the next class; it must gain more than with few labels."""
    data, rng = clusters(4000, spread=1.0), np.random.default_rng(1)
    is_wrong, is_next = rng.random(4000) < 0.2, rng.random(4000) < to_the_next
    further = np.where(is_next, 1, rng.integers(1, CLASSES, 4000))
    model = fitted(data, np.where(is_wrong, (data.truth + further) % CLASSES, data.truth))
    assert (model.calibration_.confusions is not None) == is_pattern


def test_a_few_wrong_labels_of_many_are_suspicious():
    data = clusters(4000, spread=0.5, wrong=0.004)
    model = fitted(data)
    suspicious = suspicious_rows(data.y, model.posterior_)
    assert len(suspicious) >= 14 and (data.y != data.truth)[suspicious].mean() > 0.9
    low, high = model.label_noise_interval_
    assert 0 < low <= model.label_noise_ <= high
    assert plan_for(model, data.y).relabels


@pytest.mark.parametrize("share", [0.2, 0.9])  # more than can be, as some noisy labels are right by chance
@pytest.mark.parametrize("kind", ["at random", "towards likely classes", "in a pattern"])
def test_the_gradient_of_the_likelihood_is_that_of_finite_differences(kind, share):
    """In double precision: two views, of which one lacks some rows, and labels of which some are reviewed."""
    rng = np.random.default_rng(0)
    views = [2 * rng.normal(size=(40, CLASSES)).astype(np.float32) for _ in range(2)]
    views[1][:5] = 0
    labels, log_prior = rng.integers(CLASSES, size=40), np.log(rng.dirichlet(np.ones(CLASSES)))
    expected = PriorOfTemperatures.of(np.array([1.0, 2.0]))
    task = _HeldOutLikelihood.of(views, labels, log_prior, expected, rng.random(40) < 0.2, None)
    task = replace(task, logits=task.logits.astype(float), prior_logits=task.prior_logits.astype(float))
    pattern = rng.dirichlet(np.ones(CLASSES), size=40) if kind == "in a pattern" else None
    noise = _NoiseModel(1 / CLASSES, pattern, kind == "towards likely classes")
    at = np.array([0.3, -0.2, 0.4, -0.3, share, 0.25])
    by_differences = approx_fprime(at, lambda values: task._loss(values, noise, 1.0)[0], 1e-7)
    np.testing.assert_allclose(task._loss(at, noise, 1.0)[1], by_differences, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("wrong", "number", "width"), [(0.2, 400, 0.16), slowly(0.5, 1000, 0.2)])
def test_the_share_of_wrong_labels_is_within_its_interval(wrong, number, width):
    covered, widths = 0, []
    for seed in range(3):
        found = fitted(clusters(number, spread=1.0, wrong=wrong, seed=seed))
        low, high = found.label_noise_interval_
        assert 0 <= low <= found.label_noise_ <= high <= 1
        covered += low <= wrong <= high
        widths.append(high - low)
        assert found.label_noise_ == pytest.approx(wrong, abs=0.05)
    assert covered >= 2 and max(widths) < width


def test_the_posterior_is_bayes_rule():
    data = clusters(400, spread=1.0, wrong=0.3)
    model = fitted(data)
    share, prior = model.calibration_.noise, model.probabilities_.astype(np.float64)
    likelihood = np.where(np.arange(CLASSES) == data.y[:, None], 1 - share + share / CLASSES, share / CLASSES)
    expected = (prior + 1e-7) * likelihood
    np.testing.assert_allclose(model.posterior_, expected / expected.sum(1, keepdims=True), atol=1e-3)
    some = fitted(data, np.where(np.arange(400) < 200, data.y, -100))
    np.testing.assert_array_equal(some.posterior_[200:], some.probabilities_[200:])


def test_labels_that_often_change_places_show_where_caption_and_image_are_sure():
    """Labels and captions alone look the same where captions confuse the two classes."""
    data, images = seen_twice(800, shared=0.5, own=1.0)
    swaps = (data.truth < 4) & (np.random.default_rng(1).random(800) < 0.4)
    labels = np.where(swaps, data.truth ^ 1, data.truth)
    assert fitted(data, labels).label_noise_ < 0.02
    model = fitted(data, labels, images=images)
    low, high = model.label_noise_interval_
    assert low < swaps.mean() < high and high - low < 0.2
    assert min(alone(model)) > 1.1 * (1 - swaps.mean())
    assert accuracy(model.posterior_, data.truth) > 1.1 * (1 - swaps.mean())


@pytest.mark.slow
def test_a_rows_own_label_does_not_decide_where_sure_rows_show_the_wrong_ones():
    """As above, with a word in caption and image that no other row has."""
    data, images = seen_twice(800, shared=0.5, own=1.0)
    swaps = (data.truth < 4) & (np.random.default_rng(1).random(800) < 0.4)
    data.x, images = (np.hstack([view, 40 * np.abs(view).mean() * np.eye(800, 1)]) for view in (data.x, images))
    other, out_of_fold, in_fold = (data.truth[0] + 1) % CLASSES, [], []
    for label in (data.truth[0], other):
        labels = np.where(swaps, data.truth ^ 1, data.truth)
        labels[0] = label
        found = fitted(data, labels, images=images)
        assert found.label_noise_ > 0.2
        out_of_fold.append(found.probabilities_[0, other].astype(float))
        in_fold.append(found.predict(views_of(data.x[:1], images[:1]))[0, other])
    assert abs(out_of_fold[1] - out_of_fold[0]) < 0.03 and in_fold[1] - in_fold[0] > 0.2, (out_of_fold, in_fold)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_classes_that_captions_confuse_do_not_accuse_right_labels(shared):
    """Nor those that captions and images confuse, in the same way."""
    data, images = seen_twice(3000, shared=shared, own=1.0)
    confused = np.random.default_rng(0).random(3000) < 0.4
    data.x[confused] = np.random.default_rng(2).permutation(data.x[confused])
    model = fitted(data, images=images)
    assert model.label_noise_ < 0.02
    assert accuracy(model.posterior_, data.truth) > 0.97


def test_one_view_alone_does_not_take_images_of_a_new_kind_for_wrong_labels():
    """Three kinds in each class and three labels a class, all right: many rows are unlike the rest of their class."""
    rng, truth = np.random.default_rng(0), np.repeat(np.arange(30), 20)
    kind, kinds = rng.integers(3, size=len(truth)), rng.normal(size=(30, 3, 16))
    values = kinds[truth, kind] + 0.3 * rng.normal(size=(len(truth), 16))
    view = View(values.astype(np.float32), kinds[:, 0].astype(np.float32), self_trains=False)
    model = LabelModel(30).fit({"caption": view}, np.where(np.arange(len(truth)) % 20 < 3, truth, -1))
    assert model.label_noise_interval_[0] == 0 and model.label_noise_interval_[1] > 0.1


@pytest.mark.parametrize("number", [1200, slowly(3000)])
def test_labels_that_people_get_wrong_are_found(number):
    """
    They see what is likely, with less certainty than there is, and err where it is hard, to the next likeliest class:
    a flatter prediction would explain that as well.
    """
    data, images = seen_twice(number, shared=0.0, own=1.0)
    centres = np.stack([images[data.truth == label].mean(0) for label in range(CLASSES)])
    distances = ((images[:, None] - centres) ** 2).sum(2)
    p = softmax(-3.2 * distances / distances.min(1).mean(), axis=1)
    labels = (p.cumsum(1) > np.random.default_rng(3).random((number, 1))).argmax(1)
    wrong = labels != data.truth
    assert 0.03 < wrong.mean() < 0.2
    model = fitted(data, labels, images)
    suspicious = model.posterior_.argmax(1) != labels
    assert model.label_noise_ == pytest.approx(wrong.mean(), rel=0.35)
    assert wrong[suspicious].mean() > 0.7 and suspicious[wrong].mean() > 0.6


@pytest.mark.slow
def test_image_features_that_err_together_do_not_accuse_right_labels():
    """Two encoders take the same images for others, and captions do not."""
    data, images = seen_twice(3000, shared=0.5, own=1.0)
    rng = np.random.default_rng(4)
    images = images + 1.5 * images.std() * rng.normal(size=images.shape)
    other = images + 0.3 * images.std() * rng.normal(size=images.shape)
    views = views_of(data.x, images) | {"image 2": View(other)}
    model = LabelModel(CLASSES).fit(views, data.y)
    assert model.label_noise_ < 0.01
    assert (model.posterior_.argmax(1) != data.y).mean() < 0.005


def test_captions_of_other_images_accuse_right_labels_only_where_they_are_the_only_view():
    """They look like wrong labels, and the lines say so; image features tell which of both is wrong."""
    data, images = clusters(900, spread=0.5), clusters(900, spread=1.0, view=1)
    moved = data.x.copy()
    moved[:400] = np.roll(data.x[:400], 1, axis=0)
    of_others = Clusters(moved, data.truth, data.truth)
    alone, both = fitted(of_others), fitted(of_others, images=images.x)
    assert any("if the captions belong" in line for line in estimates_in_words(estimates_of(alone), data.truth))
    assert both.label_noise_interval_[0] == 0 and both.label_noise_ < 0.02
    assert not any("if the captions" in line for line in estimates_in_words(estimates_of(both), data.truth))


def test_reviewed_labels_are_right():
    """Also where captions contradict them, and they do not count as wrong labels."""
    data = clusters(800, spread=1.0, wrong=0.2)
    reviewed = np.isin(np.arange(800), np.flatnonzero(data.y != data.truth)[:10])
    model = LabelModel(CLASSES).fit(views_of(data.x), data.y, reviewed=reviewed)
    assert (model.posterior_.argmax(1) == data.y)[reviewed].all()
    doubted = model.posterior_.argmax(1) != data.y
    assert doubted[~reviewed & (data.y != data.truth)].mean() > 0.6


def test_wrong_labels_of_one_scene_count_once():
    """Four frames a scene: the interval is twice as wide, and not below zero."""
    one = np.ones(1)
    calibration = Calibration(one, 0 * one, one, np.zeros(2), 0.2, (0.15, 0.3), 0.2, 0.3, 1.0, np.ones((1, 2)))
    assert calibration.interval_by(np.arange(40)) == (0.15, 0.3)
    assert calibration.interval_by(np.repeat(np.arange(10), 4)) == pytest.approx((0.1, 0.4))
    assert calibration.interval_by(np.zeros(40)) == (0.0, pytest.approx(0.2 + 0.1 * np.sqrt(40)))
