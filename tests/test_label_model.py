"""The label model: what it predicts, what it must not have seen, and how calibrated it is."""

from dataclasses import dataclass

import numpy as np
import pytest

from g4i_hf import LabelModel, View
from g4i_hf.label_model.calibration import Calibration
from g4i_hf.label_model.regression import ABSENT

CLASSES, DIM = 5, 16


def slowly(*values):
    """A case that `make test` leaves to the slow suite: fits of thousands of rows take seconds."""
    return pytest.param(*values, marks=pytest.mark.slow)


@dataclass
class Clusters:
    """
    A normal distribution a class, on the unit sphere.

    Attributes:
        x: (N, DIM) embeddings.
        truth: (N,) classes.
        y: (N,) labels, a share of which is wrong.
    """

    x: np.ndarray
    truth: np.ndarray
    y: np.ndarray


def clusters(
    number: int, spread: float = 2.0, wrong: float = 0.0, seed: int = 0, view: int = 0, shares=None
) -> Clusters:
    """
    `spread`: 1 is easy (19 of 20 can be told), 2 medium (7 of 10). Views of one seed are of the same rows. `shares` of
    the classes; equal ones by default.
    """
    rng = np.random.default_rng(seed)
    truth = rng.choice(CLASSES, size=number, p=shares)
    flipped = rng.permutation(number)[: round(wrong * number)]
    labels = truth.copy()
    labels[flipped] = (truth[flipped] + rng.integers(1, CLASSES, len(flipped))) % CLASSES
    rng = np.random.default_rng([seed, view])
    centres = rng.normal(size=(CLASSES, DIM))
    x = centres[truth] + spread * rng.normal(size=(number, DIM))
    return Clusters(x / np.linalg.norm(x, axis=1, keepdims=True), truth, labels)


def some_labels(truth: np.ndarray, *each: int) -> np.ndarray:
    """Labels of the first so many rows of each class; the others have none."""
    labels = np.full(len(truth), -100)
    for label, number in enumerate(each * CLASSES if len(each) == 1 else each):
        labels[np.flatnonzero(truth == label)[:number]] = label
    return labels


def views_of(captions: np.ndarray, images: np.ndarray | None = None, names: np.ndarray | None = None) -> dict:
    views = {"caption": View(captions, names, learns=False)}
    return views if images is None else views | {"image": View(images)}


def fitted(data: Clusters, labels=None, images=None, names=None, classes: int = CLASSES, **more) -> LabelModel:
    labels = data.y if labels is None else labels
    return LabelModel(classes).fit(views_of(data.x, images, names), labels, **more)


def means_of(data: Clusters) -> np.ndarray:
    """Near the centre of each class, as its name should be."""
    return np.stack([data.x[data.truth == label].mean(0) for label in range(CLASSES)])


def alone(model: LabelModel) -> list[float | None]:
    """Accuracy of each view."""
    return [line["accuracy"] for line in model.report_.values()]


def accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(1) == truth).mean())


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the predicted class."""
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    of = np.minimum((confidence * bins).astype(int), bins - 1)
    return sum(abs(confidence[of == b].mean() - right[of == b].mean()) * (of == b).mean() for b in np.unique(of))


# --- What it predicts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def medium() -> tuple[Clusters, Clusters, LabelModel]:
    """600 rows fitted on, of which every third has no label; 2,400 others; and the model."""
    data = clusters(3000)
    labels = data.y.copy()
    labels[:600:3] = -100
    learned, held_out = (
        Clusters(data.x[part], data.truth[part], labels[part]) for part in np.split(range(3000), [600])
    )
    return learned, held_out, fitted(learned, ids=range(600))


def test_it_predicts_other_rows_as_well_as_it_says_and_is_calibrated(medium):
    learned, held_out, model = medium
    found = model.predict(views_of(held_out.x))
    assert found.shape == (2400, CLASSES) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert accuracy(found, held_out.truth) > 0.68  # chance is 0.2; with known centres it is 0.76
    assert model.accuracy_.share == pytest.approx(accuracy(found, held_out.truth), abs=0.06)
    assert alone(model) == [pytest.approx(model.accuracy_.share)]
    assert calibration_error(found, held_out.truth) < 0.035
    assert calibration_error(model.probabilities_, learned.truth) < 0.05  # of 600 rows
    # Float16 is enough, and the seed decides
    half = LabelModel(CLASSES).fit(views_of(learned.x.astype(np.float16)), learned.y, ids=range(600))
    np.testing.assert_allclose(half.predict(views_of(held_out.x.astype(np.float16))), found, atol=0.02)
    other = LabelModel(CLASSES, seed=1).fit(views_of(learned.x), learned.y, ids=range(600))
    assert (fitted(learned, ids=range(600)).probabilities_ == model.probabilities_).all()
    assert (other.probabilities_ != model.probabilities_).any()


def test_rows_without_a_label_have_the_plain_probabilities(medium):
    learned, _, model = medium
    assert model.probabilities_.shape == (600, CLASSES) and model.probabilities_.dtype == np.float16
    plain = model.predict(views_of(learned.x))
    np.testing.assert_allclose(model.probabilities_[::3], plain[::3], atol=1e-3)
    assert np.abs(model.probabilities_ - plain)[learned.y >= 0].max() > 0.02


@pytest.mark.slow
def test_with_few_labels_it_is_no_surer_than_it_may_be():
    """Of all labels it learns to be surer than the models are that the temperature is fitted to: here by 3 points."""
    excess = []
    for seed in range(24):
        data = clusters(3000, seed=seed)
        labels = some_labels(data.truth, 8)
        found = fitted(data, labels).predict(views_of(data.x[labels < 0]))
        excess.append(found.max(1).mean() - accuracy(found, data.truth[labels < 0]))
    assert abs(np.mean(excess)) < 0.02, excess


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
    assert np.abs(out_of_fold).max() < 0.05 and min(in_fold) > 0.2, (out_of_fold, in_fold)


@pytest.mark.slow
def test_captions_that_name_the_class_and_captions_that_do_not_are_both_calibrated():
    """Where logits tell more the further the largest stands above the others, one temperature is off by 6 points."""
    classes, weight = 20, np.random.default_rng(9).normal(size=(DIM, 20))

    def drawn(number: int, seed: int) -> Clusters:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(number, DIM))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        margin = (x @ weight).max(1) - (x @ weight).mean(1)
        logits = 1.5 * ((margin / margin.mean()) ** 3)[:, None] * (x @ weight)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        truth = (shares.cumsum(1) > rng.random((number, 1)) * shares.sum(1, keepdims=True)).argmax(1)
        return Clusters(x, truth, truth)

    learned, held_out = drawn(1500, seed=0), drawn(5000, seed=1)
    found = LabelModel(classes).fit(views_of(learned.x), learned.y).predict(views_of(held_out.x))
    assert calibration_error(found, held_out.truth) < 0.035


# --- Wrong labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "number", "width"), [slowly(0.0, 400, 0.02), (0.2, 400, 0.15), slowly(0.5, 1000, 0.2)]
)
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


@pytest.mark.slow
def test_wrong_labels_do_not_make_it_less_sure_of_the_true_ones():
    data = clusters(2600, wrong=0.2)
    learned = Clusters(data.x[:600], data.truth[:600], data.y[:600])
    assert calibration_error(fitted(learned).predict(views_of(data.x[600:])), data.truth[600:]) < 0.04


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
def test_labels_that_are_always_wrong_in_the_same_way_are_found():
    data, share = clusters(2000, spread=1.0), 0.2
    wrong = np.random.default_rng(1).random(len(data.y)) < share
    labels = np.where(wrong, (data.truth + 1) % CLASSES, data.truth)
    model = fitted(data, labels)
    assert 0.6 * share < model.label_noise_ < 1.1 * share
    suspicious = model.posterior_.argmax(1) != labels
    assert wrong[suspicious].mean() > 0.9 and suspicious[wrong].mean() > 0.65
    assert model.accuracy_.share == pytest.approx(accuracy(model.probabilities_, data.truth), abs=0.05)


def seen_twice(number: int, *, shared: float, own: float) -> tuple[Clusters, np.ndarray]:
    """
    Captions and image features of the same rows, with noise of their own and noise that both share, as where a thing
    looks like one of another class.
    """
    data, rng = clusters(number, 0.0), np.random.default_rng(1)
    seen = data.x * 4 + shared * rng.normal(size=data.x.shape)
    captions, images = ((seen + own * rng.normal(size=seen.shape)) @ rng.normal(size=(DIM, DIM)) for _ in range(2))
    return Clusters(captions, data.truth, data.y), images


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


# --- Few labels ------------------------------------------------------------------------------------------------------


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
    names = means_of(data)
    named = fitted(data, labels, names=names).probabilities_
    assert accuracy(named[~rest], data.truth[~rest]) > 0.5


def test_the_only_label_of_a_class_beside_others_with_many_is_left_as_it_is():
    data = clusters(300, spread=1.0)
    labels = data.y.copy()
    only, *others = np.flatnonzero(data.truth == 2)
    labels[others] = -100
    found = fitted(data, labels)
    assert (found.probabilities_[only] == np.eye(CLASSES)[2]).all() and found.label_noise_interval_[0] < 0.05
    assert accuracy(found.probabilities_[data.truth != 2], data.truth[data.truth != 2]) > 0.85


SIX = [0, 1, 2, 0, 1, 2]
# Views and labels, or arguments beside them -> what is said
CANNOT = [
    ({"caption": View(np.eye(6))}, [-100] * 6, {}, "labels or names of at least two classes"),
    ({"caption": View(np.eye(6))}, [1, 1, 1, -1, -1, 1], {}, "labels or names of at least two classes"),
    ({"caption": View(np.eye(6))}, [0, 1, 2, 3, 0, 1], {}, "label 3 is not below the number of classes, 3"),
    ({"caption": View(np.eye(5))}, SIX, {}, r"'caption' has values of shape \(5, 5\), but there are 6 labels"),
    ({"caption": View(np.diag([1, 1, np.inf, 1, 1, 1]))}, SIX, {}, "'caption' has values that are NaN or infinite"),
    ({"caption": View(np.where(np.eye(6) > 0, np.nan, 1))}, SIX, {}, "'caption' has values that are NaN or infinite"),
    ({"caption": View(np.ones((6, 4)))}, SIX, {}, "'caption' has the same values in all rows"),
    ({"caption": View(np.full((6, 4), np.nan))}, SIX, {}, "'caption' has no value in any row"),
    ({"caption": View(np.eye(6), np.eye(2, 6))}, SIX, {}, r"class_values of shape \(2, 6\), not \(3, 6\)"),
    ({}, [0, 1, 2], {}, "or another view, and labels or names"),
    *(
        ({"caption": View(np.eye(6))}, SIX, {name: np.zeros(5, dtype=int)}, f"{name} has 5 entries, but there are 6")
        for name in ("ids", "groups", "reviewed", "kept")
    ),
]


@pytest.mark.parametrize(("views", "labels", "more", "message"), CANNOT, ids=[str(row) for row in range(len(CANNOT))])
def test_what_cannot_be_fitted_is_an_error(views, labels, more, message):
    with pytest.raises(ValueError, match=message):
        LabelModel(3).fit(views, labels, **more)


def test_what_cannot_be_predicted_is_an_error():
    data = clusters(100)
    model = fitted(data)
    with pytest.raises(ValueError, match=r"fitted with the views \['caption'\], not with \['image'\]"):
        model.predict(views_of(data.x, data.x))
    with pytest.raises(ValueError, match="fold 7"):
        model.predict(views_of(data.x), fold=7)
    with pytest.raises(ValueError, match="at least two classes, not 1"):
        fitted(data, classes=1)


# --- Names of the classes --------------------------------------------------------------------------------------------


def with_names(number: int = 1500) -> tuple[Clusters, np.ndarray, np.ndarray]:
    """Rows, labels of one row a class, and an embedding near the centre of each class."""
    data = clusters(number, spread=1.6)
    centres = means_of(data)
    return data, some_labels(data.truth, 1), centres / np.linalg.norm(centres, axis=1, keepdims=True)


def test_names_of_classes_are_examples_of_them():
    data, labels, names = with_names()
    unnamed, named = fitted(data, labels), fitted(data, labels, names=names)
    unlabelled = labels < 0
    right = [accuracy(found.probabilities_[unlabelled], data.truth[unlabelled]) for found in (unnamed, named)]
    assert right[1] > right[0] + 0.1
    # A name is left where the only label is held out
    assert unnamed.accuracy_ is None and named.accuracy_ is not None
    some = names.copy()
    some[1:] = 0  # names that say nothing
    assert accuracy(fitted(data, labels, names=some).probabilities_, data.truth) < right[1]
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


# --- A second view ---------------------------------------------------------------------------------------------------


def two_views(captions: Clusters, images: Clusters, number: int = 500) -> tuple[list[float], np.ndarray]:
    """Accuracies on held-out rows of captions, images and both, and the probabilities of both."""
    learned, rest = slice(number), slice(number, None)
    found = []
    for view in (captions, images):
        of_view = LabelModel(CLASSES).fit(views_of(view.x[learned]), view.y[learned])
        found.append(accuracy(of_view.predict(views_of(view.x[rest])), view.truth[rest]))
    both = LabelModel(CLASSES).fit(views_of(captions.x[learned], images.x[learned]), captions.y[learned])
    np.testing.assert_allclose(alone(both), found, atol=0.1)
    probabilities = both.predict(views_of(captions.x[rest], images.x[rest]))
    assert both.accuracy_.share == pytest.approx(accuracy(probabilities, captions.truth[rest]), abs=0.07)
    assert calibration_error(probabilities, captions.truth[rest]) < 0.05
    return [*found, accuracy(probabilities, captions.truth[rest])], probabilities


@pytest.mark.slow
def test_two_views_tell_more_than_either_and_one_of_noise_does_little_harm():
    captions, images = (clusters(2000, view=view) for view in range(2))
    (of_captions, of_images, both), _ = two_views(captions, images)
    assert both > max(of_captions, of_images) + 0.05
    images.x = np.random.default_rng(0).permutation(images.x)
    (of_captions, of_images, both), _ = two_views(captions, images)
    assert of_images < 0.3 and both > of_captions - 0.02


@pytest.mark.slow
def test_rare_classes_are_as_probable_as_they_are_with_two_views():
    """The mean probability of each class is its share: the prior counts once, however many views there are."""
    shares = [0.7, 0.2, 0.06, 0.02, 0.02]
    captions, images = (clusters(3000, spread=4.0, view=view, shares=shares) for view in range(2))
    _, probabilities = two_views(captions, images, number=1000)
    np.testing.assert_allclose(probabilities.mean(0), shares, atol=0.03)


@pytest.mark.parametrize("better", [0, slowly(1)])
def test_with_one_label_a_class_two_views_judge_each_other(better):
    """The better view counts more, and nothing is promised that does not hold."""
    good, poor = clusters(2000, spread=1.0, view=0), clusters(2000, spread=4.0, view=1)
    views = [good, poor] if better == 0 else [poor, good]
    labels = some_labels(good.truth, 1)
    found = LabelModel(CLASSES).fit(views_of(views[0].x, views[1].x), labels)
    each = [accuracy(fitted(view, labels).predict(views_of(view.x)), view.truth) for view in views]
    both = found.predict(views_of(views[0].x, views[1].x))
    assert each[better] > each[1 - better] + 0.2
    assert accuracy(both, good.truth) > each[better] - 0.02
    assert alone(found)[better] > alone(found)[1 - better] + 0.2
    assert 0.4 < found.accuracy_.share < accuracy(both, good.truth) + 0.1


def encoders_and_captions(number: int = 600) -> tuple[dict[str, View], Clusters]:
    """Captions, and three encoders of the same images, which are alike in more than their class."""
    captions, images = clusters(number, spread=1.0), clusters(number, spread=1.5, view=1)
    rng = np.random.default_rng(7)
    scenes = rng.normal(size=(20, DIM))[rng.integers(20, size=number)]
    views = {"caption": View(captions.x, learns=False)}
    for encoder in range(3):
        rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        features = (images.x + scenes / 2) @ rotation + 0.1 * rng.normal(size=(number, DIM))
        views[f"encoder {encoder}"] = View(features, source=f"encoder {encoder}")
    return views, captions


def test_image_encoders_that_err_alike_do_not_outvote_captions_where_views_judge_each_other():
    views, data = encoders_and_captions()
    labels = some_labels(data.truth, 1)
    rows = labels < 0
    right = [
        accuracy(LabelModel(CLASSES).fit(given, labels).probabilities_[rows], data.truth[rows])
        for given in ({"caption": views["caption"]}, views)
    ]
    assert right[1] > right[0] - 0.02, right


def test_a_view_of_noise_costs_nothing_where_views_judge_each_other():
    data, images = clusters(600, spread=1.0), clusters(600, spread=1.3, view=1)
    views, labels = views_of(data.x, images.x), some_labels(data.truth, 1)
    noise = View(np.random.default_rng(7).normal(size=(600, DIM)))
    rows = labels < 0
    right = [
        accuracy(LabelModel(CLASSES).fit(given, labels).probabilities_[rows], data.truth[rows])
        for given in (views, views | {"noise": noise})
    ]
    assert right[1] > right[0] - 0.003, right


def test_an_image_encoder_with_class_names_teaches_one_without():
    """As CLIP and the student do, where no image has a label."""
    clip, student = clusters(1500, spread=2.0), clusters(1500, spread=1.0, view=1)
    names = np.stack([clip.x[clip.truth == label].mean(0) for label in range(CLASSES)])
    views = {"clip": View(clip.x, names, learns=True), "student": View(student.x)}
    right = [
        accuracy(LabelModel(CLASSES).fit(given, np.full(1500, -1)).probabilities_, clip.truth)
        for given in ({"clip": views["clip"]}, views)
    ]
    assert right[1] > right[0] + 0.05, right


def few_labels(each: int, number: int = 2000) -> tuple[Clusters, Clusters, np.ndarray]:
    """Captions that tell most classes, image features of which most say nothing, and `each` labels of a class."""
    captions, images = clusters(number, spread=1.0), clusters(number, spread=1.0, view=1)
    images.x = np.hstack([images.x, 0.25 * np.random.default_rng(5).normal(size=(number, 64))])
    return captions, images, some_labels(captions.truth, each)


@pytest.mark.slow
def test_image_features_learn_what_captions_tell_of_unlabelled_rows():
    """So both together tell more of them than where labels alone have taught them."""
    captions, images, labels = few_labels(1)
    known, unlabelled = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    truth = captions.truth[unlabelled]
    of_labels = LabelModel(CLASSES).fit(views_of(captions.x[known], images.x[known]), labels[known])
    by_labels = accuracy(of_labels.predict(views_of(captions.x[unlabelled], images.x[unlabelled])), truth)
    found = fitted(captions, labels, images.x).probabilities_[unlabelled]
    assert accuracy(found, truth) > by_labels + 0.04 and calibration_error(found, truth) < 0.05


def uneven(rare: int, spread: float, of_images: float, seed: int = 0) -> tuple[Clusters, Clusters, dict]:
    """Captions, images, labels and names. Of class 3, with a 25th of the rows, `rare` labels, of the others 8 each."""
    shares = [0.24, 0.24, 0.24, 0.04, 0.24]
    captions, images = (
        clusters(1000, each, seed=seed, view=view, shares=shares) for view, each in enumerate((spread, of_images))
    )
    labels = some_labels(captions.truth, 8, 8, 8, rare, 8)
    names = means_of(captions)
    return captions, images, {"labels": labels, "names": names}


@pytest.mark.parametrize(("rare", "of_images", "gain"), [(0, 1.5, 0.1), slowly(1, 3.0, -0.02)])
def test_image_features_do_not_rule_out_a_class_that_has_a_name_and_no_label_or_one(rare, of_images, gain):
    """They learn it from captions, as far as these tell it; poor image features leave it to them."""
    gained = []
    for seed in range(2):
        captions, images, given = uneven(rare, 1.4, of_images, seed)
        rows = (given["labels"] < 0) & (captions.truth == 3)
        alone, both = (fitted(captions, images=of, **given).probabilities_[rows] for of in (None, images.x))
        gained.append(accuracy(both, captions.truth[rows]) - accuracy(alone, captions.truth[rows]))
    assert np.mean(gained) >= gain, gained


def test_of_a_class_that_a_view_has_not_seen_it_says_nothing():
    """The class keeps the probability that the first view gives it; among the others the second view decides."""
    logits = np.random.default_rng(0).normal(size=(2, 50, CLASSES))
    logits[1] = 3 * logits[0]  # no row is unlike the classes that the first view thinks of
    logits[1, :, 3] = ABSENT
    one, fixed = np.ones(2), (np.full(CLASSES, -np.log(CLASSES)), 0.0, (0.0, 0.0), 0.0, 0.0, 0.0)
    told = [Calibration(one, 0 * one, one, *fixed).probabilities(list(logits[:views])) for views in (1, 2)]
    np.testing.assert_allclose(told[1][:, 3], told[0][:, 3])
    rest = np.arange(CLASSES) != 3
    ratio = np.log(told[1] / told[0])[:, rest] - logits[1][:, rest]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape))


def test_a_single_example_takes_half_the_odds_of_a_class_at_most():
    """Where a view doubts that it stands for the class; it may still speak for it."""
    one, fixed = np.ones(2), (np.full(CLASSES, -np.log(CLASSES)), 0.0, (0.0, 0.0), 0.0, 0.0, 0.0)
    trusts = np.where(np.arange(2 * CLASSES).reshape(2, CLASSES) == CLASSES + 3, 0.5, 1.0)
    odds = []
    for logit in (ABSENT, -14.0, 14.0):
        logits = np.random.default_rng(0).normal(size=(2, 50, CLASSES))
        logits[1, :, 3] = logit
        found = Calibration(one, 0 * one, one, *fixed, trusts=trusts).probabilities(list(logits))[:, 3]
        odds.append(found / (1 - found))
    np.testing.assert_allclose(odds[1], odds[0] / 2, rtol=1e-3)
    assert (odds[2] > 100).all()


def test_a_label_is_not_in_its_probabilities_by_way_of_unlabelled_rows():
    """
    30 unlabelled rows have the word of one labelled row: with a wrong label they are taken for its class, and image
    features learn that of them. Its own probabilities must not.
    """
    captions, images, labels = few_labels(8, 600)
    row = int(np.flatnonzero(labels >= 0)[0])
    alike = [row, *np.flatnonzero((labels < 0) & (captions.truth == labels[row]))[:30]]
    word = np.zeros((600, 1))
    word[alike] = 3
    captions.x, images.x = (np.hstack([view.x, word]) for view in (captions, images))
    other, found = (labels[row] + 1) % CLASSES, []
    for label in (labels[row], other):
        given = np.where(np.arange(600) == row, label, labels)
        found.append(
            LabelModel(CLASSES).fit(views_of(captions.x, images.x), given).probabilities_[:, other].astype(float)
        )
    change = found[1] - found[0]
    assert change[alike[1:]].mean() > 0.2 and abs(change[row]) < 0.05, (change[alike[1:]].mean(), change[row])


# --- Any number of views ---------------------------------------------------------------------------------------------


def three_views(number: int = 1500, spread: float = 2.5) -> list[Clusters]:
    return [clusters(number, spread=spread, view=view) for view in range(3)]


@pytest.mark.parametrize("labelled", [1, slowly(None)])
def test_a_third_view_tells_more_than_two(labelled):
    views = three_views()
    labels = views[0].y if labelled is None else some_labels(views[0].truth, labelled)
    rows = labels < 0 if labelled else labels >= 0
    right = []
    for number in (2, 3):
        given = {f"view {place}": View(view.x, source=str(place)) for place, view in enumerate(views[:number])}
        found = LabelModel(CLASSES).fit(given, labels)
        right.append(accuracy(found.probabilities_[rows], views[0].truth[rows]))
    assert right[1] > right[0] + 0.03
    assert sum(line["weight"] for line in found.report_.values()) == pytest.approx(1)


@pytest.mark.parametrize("labelled", [0, slowly(4), slowly(None)])
def test_a_view_that_is_given_twice_counts_once(labelled):
    """Accuracy and calibration stay where they are: two copies must not prove each other."""
    captions, images = clusters(1500), clusters(1500, view=1)
    names = means_of(captions)
    labels = captions.y if labelled is None else some_labels(captions.truth, labelled)
    rows, found = labels < 0 if labelled is not None else labels >= 0, []
    for copies in (1, 2):
        views = {f"caption {number}": View(captions.x, names) for number in range(copies)} | {"image": View(images.x)}
        told = LabelModel(CLASSES).fit(views, labels).probabilities_[rows]
        found.append((accuracy(told, captions.truth[rows]), calibration_error(told, captions.truth[rows])))
    assert np.abs(np.subtract(*found)).max() < 1e-6, found


def test_the_order_of_rows_and_of_classes_changes_nothing():
    captions, images, labels = few_labels(4, 600)
    order = np.random.default_rng(0).permutation(600)
    turned = np.array([3, 0, 4, 1, 2])  # new number of each class
    first = fitted(captions, labels, images.x)
    other_labels = np.where(labels >= 0, turned[np.maximum(labels, 0)], labels)[order]
    second = LabelModel(CLASSES).fit(views_of(captions.x[order], images.x[order]), other_labels)
    found = np.empty_like(first.probabilities_)
    found[order] = second.probabilities_[:, turned]
    np.testing.assert_allclose(found.astype(float), first.probabilities_.astype(float), atol=5e-3)
    assert first.label_noise_interval_ == pytest.approx(second.label_noise_interval_, abs=2e-3)


def test_a_row_may_lack_a_view():
    """Captions of half of the rows: these gain by them, and the others keep what images tell."""
    captions, images = clusters(1200, spread=1.5), clusters(1200, spread=2.5, view=1)
    half = np.arange(1200) % 2 == 0
    captions.x = np.where(half[:, None], captions.x, np.nan)
    labels = some_labels(captions.truth, 20)
    found = fitted(captions, labels, images.x)
    of_images = fitted(images, labels)
    right = [
        [accuracy(model.probabilities_[rows], captions.truth[rows]) for rows in (half, ~half)]
        for model in (found, of_images)
    ]
    assert right[0][0] > right[1][0] + 0.1 and right[0][1] > right[1][1] - 0.02, right
    assert [line["rows"] for line in found.report_.values()] == [600, 1200]
    told = found.predict({"image": images.x})
    np.testing.assert_allclose(found.predict(views_of(np.full_like(captions.x, np.nan), images.x)), told, atol=1e-5)


@pytest.mark.parametrize("each", [8, 1])
def test_a_view_of_unlabelled_rows_alone_is_one(each):
    """Captions of unlabelled images with class names, as where labelled ones have none."""
    captions, images = clusters(600, spread=1.0), clusters(600, spread=2.5, view=1)
    labels = some_labels(captions.truth, each)
    names = means_of(captions)
    captions.x = np.where((labels < 0)[:, None], captions.x, np.nan)
    found = fitted(captions, labels, images.x, names)
    assert np.isfinite(found.posterior_).all() and np.isfinite(found.accuracy_.share)
    rows = labels < 0
    of_images = accuracy(fitted(images, labels).probabilities_[rows], captions.truth[rows])
    assert accuracy(found.probabilities_[rows], captions.truth[rows]) > of_images + 0.1


def test_probabilities_do_not_depend_on_the_rows_beside():
    """One view knows classes 0 to 3, the other all but 3; most rows beside have no value of the second."""
    captions, images, labels = few_labels(10, 600)
    captions.x = np.where(((labels == 4) | (captions.truth == 4))[:, None], np.nan, captions.x)
    images.x = np.where((labels == 3)[:, None], np.nan, images.x)
    found = fitted(captions, labels, images.x)
    some = found.predict(views_of(captions.x[:20], images.x[:20]))
    lacking = np.full_like(images.x, np.nan)
    beside = views_of(np.vstack([captions.x[:20], captions.x]), np.vstack([images.x[:20], lacking]))
    np.testing.assert_allclose(found.predict(beside)[:20], some, atol=1e-5)


def test_answers_are_a_view():
    """A model that is asked for the class confuses two of them, always in the same way: labels teach that."""
    data = clusters(1500, spread=1.5)
    answers = np.where(data.truth == 3, 4, data.truth)
    answers[::3] = -100  # not asked
    none = some_labels(data.truth, 0)
    view = View.answers(answers, CLASSES)
    asked = answers >= 0
    found = LabelModel(CLASSES).fit({"answer": view}, none)
    assert (found.probabilities_.argmax(1) == answers)[asked].all()
    taught = LabelModel(CLASSES).fit({"answer": view, "image": View(data.x)}, some_labels(data.truth, 30))
    of_images = fitted(data, some_labels(data.truth, 30))
    right = [accuracy(model.probabilities_[asked], data.truth[asked]) for model in (of_images, taught)]
    assert right[1] > max(right[0] + 0.03, 0.85), right


# --- Labels that people give -----------------------------------------------------------------------------------------


def people_err(certainty: float = 0.8, number: int = 3000) -> tuple[Clusters, np.ndarray, np.ndarray]:
    """Captions, images and labels: people see what is likely, with less certainty than there is."""
    data, images = seen_twice(number, shared=0.0, own=1.0)
    rng = np.random.default_rng(3)
    centres = np.stack([images[data.truth == label].mean(0) for label in range(CLASSES)])
    distances = ((images[:, None] - centres) ** 2).sum(2)
    logits = -4 * certainty * distances / distances.min(1).mean()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return data, images, (p.cumsum(1) > rng.random((number, 1))).argmax(1)


def test_labels_that_people_get_wrong_are_found():
    """They err where it is hard, to the next likeliest class: a flatter prediction would explain that as well."""
    data, images, labels = people_err()
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


def test_reviewed_labels_are_right():
    """Also where captions contradict them, and they do not count as wrong labels."""
    data = clusters(800, spread=1.0, wrong=0.2)
    reviewed = np.isin(np.arange(800), np.flatnonzero(data.y != data.truth)[:10])
    model = LabelModel(CLASSES).fit(views_of(data.x), data.y, reviewed=reviewed)
    assert (model.posterior_.argmax(1) == data.y)[reviewed].all()
    doubted = model.posterior_.argmax(1) != data.y
    assert doubted[~reviewed & (data.y != data.truth)].mean() > 0.6


def test_equal_images_are_held_out_together():
    data = clusters(300)
    groups = np.repeat(np.arange(100), 3)
    labels = np.where(np.arange(300) % 3 == 0, -100, data.y)  # of each group one row has no label
    folds = LabelModel(CLASSES).fit(views_of(data.x), labels, groups=groups).folds_
    assert (folds[1::3] == folds[2::3]).all() and set(folds[1::3]) == set(range(5))


def test_a_class_whose_labels_are_all_of_equal_images_is_not_held_out():
    """Nothing else would know it, and its labels would look wrong."""
    data = clusters(300, spread=1.0, wrong=0.1)
    rows = np.flatnonzero(data.y == 2)
    labels = np.where(data.y == 2, -100, data.y)
    labels[rows[:2]] = 2
    groups = np.arange(300)
    groups[rows[1]] = rows[0]
    found = LabelModel(CLASSES).fit(views_of(data.x), labels, groups=groups)
    assert (found.folds_[rows[:2]] == -2).all() and (found.posterior_[rows[:2]].argmax(1) == 2).all()


def test_a_copy_of_a_view_is_named_and_predicts_alone():
    data = clusters(60)
    model = LabelModel(CLASSES).fit({"first": View(data.x), "again": View(data.x)}, data.y)
    assert model.report_["again"]["copy_of"] == "first" and model.report_["again"]["weight"] == 0
    np.testing.assert_array_equal(model.predict({"again": data.x}), model.predict({"first": data.x}))


def test_models_of_a_fold_predict_other_rows_without_its_labels():
    data = clusters(600, spread=2.5)
    model = fitted(data)
    for fold in range(5):
        rows = model.folds_ == fold
        told = model.predict(views_of(data.x[rows]), fold=fold)
        # Its temperatures know none of these labels either, those of probabilities_ do
        np.testing.assert_allclose(told, model.probabilities_[rows].astype(float), atol=0.06)


def test_kept_rows_teach_nothing_and_are_predicted():
    """What their captions say changes what is said of them, and of no other row."""
    data = clusters(400, spread=2.0)
    labels = np.where(np.arange(400) < 60, data.y, -1)
    kept = np.arange(400) >= 300
    told = np.random.default_rng(1).normal(np.eye(CLASSES)[data.y], 0.3).astype(np.float32)
    others = told.copy()
    others[kept] = others[kept][::-1]
    one, other = (
        LabelModel(CLASSES).fit({"caption": View(said), "image": View(data.x)}, labels, ids=np.arange(400), kept=kept)
        for said in (told, others)
    )
    np.testing.assert_allclose(*(each.posterior_[~kept].astype(float) for each in (one, other)), atol=0.01)
    assert np.abs(one.probabilities_[kept] - other.probabilities_[kept]).max() > 0.3
    assert (one.probabilities_[kept].argmax(1) == data.y[kept]).mean() > 0.8


def test_a_saved_model_is_the_same_and_holds_no_pickle(tmp_path):
    data, images = clusters(500, spread=2.0), clusters(500, spread=2.0, view=1).x
    labels = np.where(np.arange(500) % 3 == 0, -1, data.y)
    model = fitted(data, labels, images, names=np.eye(CLASSES, DIM))
    model.save(tmp_path / "model")
    again, views = LabelModel.load(tmp_path / "model"), views_of(data.x, images)
    for fold in (-1, 0, 4):
        np.testing.assert_array_equal(again.predict(views, fold), model.predict(views, fold))
    for name in ("probabilities_", "posterior_", "folds_"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    assert again.accuracy_.share == model.accuracy_.share and again.label_noise_ == model.label_noise_
    assert again.report_["caption"]["weight"] == model.report_["caption"]["weight"]
    np.load(tmp_path / "model" / "label_model.npz", allow_pickle=False).close()
