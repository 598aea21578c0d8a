"""The label model: what it predicts, what it must not have seen, and how calibrated it is."""

import make
import numpy as np
import pytest
from clusters import (
    CLASSES,
    DIM,
    Clusters,
    accuracy,
    alone,
    calibration_error,
    clusters,
    fitted,
    means_of,
    seen_twice,
    slowly,
    some_labels,
    views_of,
)

from g4i_hf import LabelModel, View


def test_it_predicts_other_rows_as_well_as_it_says_and_is_calibrated():
    """Fitted on 600 rows, of which every third has no label."""
    data = clusters(3000)
    labels = data.y.copy()
    labels[:600:3] = -100
    learned, held_out = (
        Clusters(data.x[part], data.truth[part], labels[part]) for part in np.split(range(3000), [600])
    )
    model = fitted(learned, ids=range(600))
    found = model.predict(views_of(held_out.x))
    assert found.shape == (2400, CLASSES) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert accuracy(found, held_out.truth) > 0.68  # chance is 0.2; with known centres it is 0.76
    assert model.accuracy_.share == pytest.approx(accuracy(found, held_out.truth), abs=0.06)
    assert calibration_error(found, held_out.truth) < 0.035
    assert calibration_error(model.probabilities_, learned.truth) < 0.05  # of 600 rows
    # Float16 is enough, and the seed decides
    half = LabelModel(CLASSES).fit(views_of(learned.x.astype(np.float16)), learned.y, ids=range(600))
    np.testing.assert_allclose(half.predict(views_of(held_out.x.astype(np.float16))), found, atol=0.02)
    assert (fitted(learned, ids=range(600)).probabilities_ == model.probabilities_).all()


def test_a_rows_own_label_is_not_in_its_probabilities():
    """
    A model that has seen a label is drawn to it, wrong as it is: here by a word that no other caption has. Only the
    temperature and the prior know of all labels.
    """
    data, rows = clusters(300, spread=2.5), np.arange(3)
    data.x = np.hstack([data.x, 2 * np.eye(300, 3)])
    true_ones = fitted(data)
    out_of_fold, in_fold = [], []
    for row in rows:
        labels = data.y.copy()
        labels[row] = other = (labels[row] + 1) % CLASSES
        flipped = fitted(data, labels)
        out_of_fold.append(flipped.probabilities_[row, other].astype(float) - true_ones.probabilities_[row, other])
        change = flipped.predict(views_of(data.x[[row]])) - true_ones.predict(views_of(data.x[[row]]))
        in_fold.append(change[0, other])
    assert np.abs(out_of_fold).max() < 0.05 and np.mean(in_fold) > 0.2, (out_of_fold, in_fold)


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


def test_captions_that_say_nothing_do_not_accuse_the_labels():
    data = clusters(300)
    data.x = np.random.default_rng(0).permutation(data.x)
    found = fitted(data)
    assert found.accuracy_.share < 0.35 and found.label_noise_interval_[0] < 0.05
    assert found.probabilities_.max(1).astype(float).mean() < 0.5


def test_the_posterior_is_bayes_rule():
    data = clusters(400, spread=1.0, wrong=0.3)
    model = fitted(data)
    share, prior = model.calibration_.noise, model.probabilities_.astype(np.float64)
    likelihood = np.where(np.arange(CLASSES) == data.y[:, None], 1 - share + share / CLASSES, share / CLASSES)
    expected = (prior + 1e-7) * likelihood
    found = model.posterior_
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-3)
    some = fitted(data, np.where(np.arange(400) < 200, data.y, -100))
    np.testing.assert_array_equal(some.posterior_[200:], some.probabilities_[200:])


@pytest.mark.slow
def test_labels_that_often_change_places_show_where_caption_and_image_are_sure():
    """Labels and captions alone look the same where captions confuse the two classes."""
    data, images = seen_twice(3000, shared=0.5, own=1.0)
    swaps = (data.truth < 4) & (np.random.default_rng(1).random(3000) < 0.4)
    labels = np.where(swaps, data.truth ^ 1, data.truth)
    assert fitted(data, labels).label_noise_ < 0.02
    model = fitted(data, labels, images=images)
    low, high = model.label_noise_interval_
    assert low < swaps.mean() < high and high - low < 0.15
    assert min(alone(model)) > 1.1 * (1 - swaps.mean())
    assert accuracy(model.posterior_, data.truth) > 1.1 * (1 - swaps.mean())


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


@pytest.mark.slow
def test_images_that_say_nothing_do_not_confirm_captions():
    """Captions of which 40% are of the next class, with right labels."""
    data, _ = seen_twice(4000, shared=0.5, own=1.0)
    told = np.where(np.random.default_rng(1).random(4000) < 0.4, (data.truth + 1) % CLASSES, data.truth)
    of_class = [np.flatnonzero(data.truth == label) for label in range(CLASSES)]
    rows = [of_class[label][row % len(of_class[label])] for row, label in enumerate(told)]
    data.x = data.x[rows]
    images = np.random.default_rng(3).normal(size=(4000, DIM))
    assert fitted(data, images=images).label_noise_ < 0.02


def test_one_label_a_class_is_learned_from_but_not_judged():
    data = clusters(400, spread=0.7)
    labels = some_labels(data.truth, 1)
    first = np.flatnonzero(labels >= 0)
    found = fitted(data, labels)
    assert found.label_noise_ is None and found.label_noise_interval_ is None and found.accuracy_ is None
    assert alone(found) == [None] and accuracy(found.probabilities_, data.truth) > 0.75
    assert (found.probabilities_[first] == np.eye(CLASSES)[data.truth[first]]).all()  # they are left as they are
    assert np.isfinite(found.predict(views_of(data.x))).all()


def test_a_class_without_a_label_is_never_predicted_unless_it_has_a_name():
    data = clusters(300, spread=1.0)
    labels = np.where(data.truth == 3, -100, data.y)
    found = LabelModel(CLASSES + 2).fit(views_of(data.x), labels)
    predicted = found.predict(views_of(data.x))
    assert predicted.shape == (300, CLASSES + 2) and predicted[:, [3, 5, 6]].max() < 0.01
    rest = data.truth != 3
    assert accuracy(found.probabilities_[rest], data.truth[rest]) > 0.9
    named = fitted(data, labels, names=means_of(data)).probabilities_
    assert accuracy(named[~rest], data.truth[~rest]) > 0.5


SIX = [0, 1, 2, 0, 1, 2]
# A view and labels -> what is said
CANNOT = [
    (View(np.eye(6)), [1, 1, 1, -1, -1, 1], "labels or names of at least two classes"),
    (View(np.where(np.eye(6) > 0, np.nan, 1)), SIX, "'caption' has values that are NaN or infinite"),
    (View(np.ones((6, 4))), SIX, "'caption' has the same values in all rows"),
    (View(np.full((6, 4), np.nan)), SIX, "'caption' has no value in any row"),
    (View(np.eye(6)), [0.5, *SIX[1:]], "labels of type float64 and shape .6,.: give a class index"),
    (View(np.eye(6)), [np.nan, *SIX[1:]], "labels of type float64 .* -1 where it is unknown"),
    (View(np.eye(6)), [np.inf, *SIX[1:]], "labels of type float64 .* -1 where it is unknown"),
    (View(np.eye(6)), np.eye(6), "labels .* shape .6, 6."),
    (View(np.eye(6)), [3, *SIX[1:]], "labels hold 3"),
    (View(np.eye(6).tolist()), SIX[:5], r"values of shape .6, 6. .* there are 5 labels"),
    (View([["red"]] * 6), SIX, "type <U3.* give a row for each image, of numbers"),
]


@pytest.mark.parametrize(("view", "labels", "message"), CANNOT, ids=[message for *_, message in CANNOT])
def test_what_cannot_be_fitted_is_an_error(view, labels, message):
    with pytest.raises(ValueError, match=message):
        LabelModel(3).fit({"caption": view}, labels)


def test_an_array_of_another_shape_is_not_taken_for_a_view_or_an_answer():
    model = LabelModel(3).fit({"caption": View(np.eye(6))}, SIX)
    with pytest.raises(ValueError, match=r"'caption' has values of shape .6, 1., not .rows, 6."):
        model.predict({"caption": np.eye(6)[:, :1]})
    with pytest.raises(ValueError, match="answers hold 3"):
        View.answers([0, 3], num_labels=3)
    with pytest.raises(TypeError, match="'caption' is a ndarray: give View"):
        LabelModel(3).fit({"caption": np.eye(6)}, SIX)


def with_names() -> tuple[Clusters, np.ndarray, np.ndarray]:
    """Rows, labels of one row a class, and an embedding near the centre of each class."""
    data = clusters(1500, spread=1.6)
    return data, some_labels(data.truth, 1), make.unit(means_of(data))


def test_names_of_classes_are_examples_of_them():
    data, labels, names = with_names()
    unnamed, named = fitted(data, labels), fitted(data, labels, names=names)
    unlabelled = labels < 0
    right = [accuracy(found.probabilities_[unlabelled], data.truth[unlabelled]) for found in (unnamed, named)]
    assert right[1] > right[0] + 0.1
    # A name is left where the only label is held out
    assert unnamed.accuracy_ is None and named.accuracy_ is not None
    nothing = fitted(data, labels, names=np.zeros_like(names))
    np.testing.assert_array_equal(nothing.probabilities_, unnamed.probabilities_)


def test_without_any_label_captions_are_compared_with_names():
    data, labels, names = with_names()
    none, images = np.full(len(labels), -100), clusters(len(labels), spread=1.6, view=1)
    captions = fitted(data, none, names=names)
    assert captions.accuracy_ is None and captions.label_noise_ is None
    right = accuracy(captions.probabilities_, data.truth)
    assert right > 0.7
    # Image features learn what captions tell, and then tell more than they
    both = fitted(data, none, names=names, images=images.x)
    assert accuracy(both.probabilities_, data.truth) > right + 0.05
    assert accuracy(both.predict(views_of(data.x, images.x)), data.truth) > right + 0.05
    assert 0.4 < alone(both)[0] < right and alone(both)[1] is None
    assert abs(both.accuracy_.share - accuracy(both.probabilities_, data.truth)) < 0.1
    with pytest.raises(ValueError, match="or names of at least two classes"):
        fitted(data, none, names=np.where(np.arange(CLASSES)[:, None] == 2, names, 0))


def test_one_view_alone_does_not_take_images_of_a_new_kind_for_wrong_labels():
    """Three kinds in each class and three labels a class, all right: many rows are unlike the rest of their class."""
    rng, truth = np.random.default_rng(0), np.repeat(np.arange(30), 20)
    kind, kinds = rng.integers(3, size=len(truth)), rng.normal(size=(30, 3, 16))
    values = kinds[truth, kind] + 0.3 * rng.normal(size=(len(truth), 16))
    view = View(values.astype(np.float32), kinds[:, 0].astype(np.float32), learns=False)
    model = LabelModel(30).fit({"caption": view}, np.where(np.arange(len(truth)) % 20 < 3, truth, -1))
    assert model.label_noise_interval_[0] == 0 and model.label_noise_interval_[1] > 0.1
