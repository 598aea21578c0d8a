"""Wrong labels: what a label model finds of them, and what it must not take for one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from test_label_model import CLASSES, accuracy, clusters, fitted, seen_twice, slowly, views_of

from g4i_hf import LabelModel, View
from g4i_hf.label_model.likelihood import _HeldOutLikelihood, _NoiseModel
from g4i_hf.label_model.picks import suspicious_rows
from g4i_hf.training.supervision import plan_for


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


def test_a_few_wrong_labels_of_many_are_suspicious():
    data = clusters(4000, spread=0.5, wrong=0.004)
    model = fitted(data)
    suspicious = suspicious_rows(data.y, model.posterior_)
    assert len(suspicious) >= 14 and (data.y != data.truth)[suspicious].mean() > 0.9
    low, high = model.label_noise_interval_
    assert 0 < low <= model.label_noise_ <= high
    assert plan_for(model, data.y).relabels


@pytest.mark.parametrize(
    "share", [0.2, 0.9]
)  # more than can be, as some noisy labels are right by chance
@pytest.mark.parametrize("kind", ["at random", "towards likely classes", "in a pattern"])
def test_the_gradient_of_the_likelihood_is_that_of_finite_differences(kind, share):
    """In double precision: two views, of which one lacks some rows, and labels of which some are reviewed."""
    rng = np.random.default_rng(0)
    views = [2 * rng.normal(size=(40, CLASSES)).astype(np.float32) for _ in range(2)]
    views[1][:5] = 0
    labels, log_prior = rng.integers(CLASSES, size=40), np.log(rng.dirichlet(np.ones(CLASSES)))
    task = _HeldOutLikelihood.of(views, labels, log_prior, np.array([1.0, 2.0]), rng.random(40) < 0.2, None)
    task = replace(task, logits=task.logits.double(), prior_logits=task.prior_logits.double())
    pattern = torch.from_numpy(rng.dirichlet(np.ones(CLASSES), size=40)) if kind == "in a pattern" else None
    noise = _NoiseModel(1 / CLASSES, pattern, kind == "towards likely classes")
    at = np.array([0.3, -0.2, 0.4, -0.3, share, 0.25])
    expected = approx_fprime(at, lambda values: task._loss(values, noise, 1.0)[0], 1e-7)
    np.testing.assert_allclose(task._loss(at, noise, 1.0)[1], expected, rtol=1e-4, atol=1e-4)
