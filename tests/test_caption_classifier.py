"""A classifier of captions: what it predicts, what it must not have seen, and how calibrated it is."""

from dataclasses import dataclass

import numpy as np
import pytest

from g4i_hf import CaptionClassifier
from g4i_hf.supervision.calibration import ABSENT, Calibration

CLASSES, DIM = 5, 16


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


def fitted(data: Clusters, labels=None, **more) -> CaptionClassifier:
    return CaptionClassifier(CLASSES).fit(data.x, data.y if labels is None else labels, **more)


def accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(1) == truth).mean())


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the predicted class."""
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    of = np.minimum((confidence * bins).astype(int), bins - 1)
    return sum(abs(confidence[of == b].mean() - right[of == b].mean()) * (of == b).mean() for b in np.unique(of))


# --- What it predicts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def medium() -> tuple[Clusters, Clusters, CaptionClassifier]:
    """600 rows fitted on, of which every third has no label; 2,400 others; and the classifier."""
    data = clusters(3000)
    labels = data.y.copy()
    labels[:600:3] = -100
    learned, held_out = (
        Clusters(data.x[part], data.truth[part], labels[part]) for part in np.split(range(3000), [600])
    )
    return learned, held_out, fitted(learned)


def test_it_predicts_other_rows_as_well_as_it_says_and_is_calibrated(medium):
    learned, held_out, classifier = medium
    found = classifier.predict_proba(held_out.x)
    assert found.shape == (2400, CLASSES) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert accuracy(found, held_out.truth) > 0.68  # chance is 0.2; with known centres it is 0.76
    assert classifier.accuracy_ == pytest.approx(accuracy(found, held_out.truth), abs=0.06)
    assert classifier.view_accuracies_ == [pytest.approx(classifier.accuracy_)]
    assert calibration_error(found, held_out.truth) < 0.035
    assert calibration_error(classifier.out_of_fold_, learned.truth) < 0.05  # of 600 rows
    # Float16 is enough, and the seed decides
    half = CaptionClassifier(CLASSES).fit(learned.x.astype(np.float16), learned.y)
    np.testing.assert_allclose(half.predict_proba(held_out.x.astype(np.float16)), found, atol=0.02)
    other = CaptionClassifier(CLASSES, seed=1).fit(learned.x, learned.y)
    assert (fitted(learned).out_of_fold_ == classifier.out_of_fold_).all()
    assert (other.out_of_fold_ != classifier.out_of_fold_).any()


def test_rows_without_a_label_have_the_plain_probabilities(medium):
    learned, _, classifier = medium
    assert classifier.out_of_fold_.shape == (600, CLASSES) and classifier.out_of_fold_.dtype == np.float16
    plain = classifier.predict_proba(learned.x)
    np.testing.assert_allclose(classifier.out_of_fold_[::3], plain[::3], atol=1e-3)
    assert np.abs(classifier.out_of_fold_ - plain)[learned.y >= 0].max() > 0.02


def test_with_few_labels_it_is_no_surer_than_it_may_be():
    """Of all labels it learns to be surer than the models are that the temperature is fitted to: here by 3 points."""
    excess = []
    for seed in range(6):
        data = clusters(3000, seed=seed)
        labels = some_labels(data.truth, 8)
        found = fitted(data, labels).predict_proba(data.x[labels < 0])
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
        out_of_fold.append(flipped.out_of_fold_[row, other].astype(float) - true_ones.out_of_fold_[row, other])
        change = flipped.predict_proba(data.x[[row]]) - true_ones.predict_proba(data.x[[row]])
        in_fold.append(change[0, other])
    assert np.abs(out_of_fold).max() < 0.03 and min(in_fold) > 0.2, (out_of_fold, in_fold)


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
    found = CaptionClassifier(classes).fit(learned.x, learned.y).predict_proba(held_out.x)
    assert calibration_error(found, held_out.truth) < 0.035


# --- Wrong labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "number", "width"), [(0.0, 400, 0.02), (0.2, 400, 0.15), (0.5, 1000, 0.2)])
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


def test_wrong_labels_do_not_make_it_less_sure_of_the_true_ones():
    data = clusters(2600, wrong=0.2)
    learned = Clusters(data.x[:600], data.truth[:600], data.y[:600])
    assert calibration_error(fitted(learned).predict_proba(data.x[600:]), data.truth[600:]) < 0.04


def test_captions_that_say_nothing_do_not_accuse_the_labels():
    data = clusters(300)
    data.x = np.random.default_rng(0).permutation(data.x)
    found = fitted(data)
    assert found.accuracy_ < 0.35 and found.label_noise_interval_[0] < 0.05
    assert found.out_of_fold_.max(1).astype(float).mean() < 0.5


def test_the_posterior_is_bayes_rule():
    data = clusters(400, spread=1.0, wrong=0.3)
    classifier = fitted(data)
    share, prior = classifier.calibration_.noise, classifier.out_of_fold_.astype(np.float64)
    likelihood = np.where(np.arange(CLASSES) == data.y[:, None], 1 - share + share / CLASSES, share / CLASSES)
    expected = (prior + 1e-7) * likelihood
    found = classifier.posterior(classifier.out_of_fold_, data.y)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-4)
    unlabelled = classifier.posterior(classifier.out_of_fold_, np.full(len(data.y), -100))
    np.testing.assert_allclose(unlabelled, prior, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_labels_that_are_always_wrong_in_the_same_way_are_found(share):
    data = clusters(2000, spread=1.0)
    wrong = np.random.default_rng(1).random(len(data.y)) < share
    labels = np.where(wrong, (data.truth + 1) % CLASSES, data.truth)
    classifier = fitted(data, labels)
    assert 0.6 * share < classifier.label_noise_ < 1.1 * share
    suspicious = classifier.posterior(classifier.out_of_fold_, labels).argmax(1) != labels
    assert wrong[suspicious].mean() > 0.9 and suspicious[wrong].mean() > 0.65
    assert classifier.accuracy_ == pytest.approx(accuracy(classifier.out_of_fold_, data.truth), abs=0.05)


def seen_twice(number: int, *, shared: float, own: float) -> tuple[Clusters, np.ndarray]:
    """
    Captions and image features of the same rows, with noise of their own and noise that both share, as where a thing
    looks like one of another class.
    """
    data, rng = clusters(number, 0.0), np.random.default_rng(1)
    seen = data.x * 4 + shared * rng.normal(size=data.x.shape)
    captions, images = ((seen + own * rng.normal(size=seen.shape)) @ rng.normal(size=(DIM, DIM)) for _ in range(2))
    return Clusters(captions, data.truth, data.y), images


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_labels_that_often_change_places_show_where_caption_and_image_are_sure(share):
    """Labels and captions alone look the same where captions confuse the two classes."""
    data, images = seen_twice(3000, shared=0.5, own=1.0)
    swaps = (data.truth < 4) & (np.random.default_rng(1).random(3000) < share)
    labels = np.where(swaps, data.truth ^ 1, data.truth)
    assert share < 0.4 or fitted(data, labels).label_noise_ < 0.02
    classifier = fitted(data, labels, image_features=images)
    low, high = classifier.label_noise_interval_
    assert low < swaps.mean() < high and high - low < 0.15
    assert min(classifier.view_accuracies_) > 1.1 * (1 - swaps.mean())
    assert accuracy(classifier.posterior(classifier.out_of_fold_, labels), data.truth) > 1.1 * (1 - swaps.mean())


def test_a_rows_own_label_does_not_decide_where_sure_rows_show_the_wrong_ones():
    """As above, with a word in caption and image that no other row has."""
    data, images = seen_twice(800, shared=0.5, own=1.0)
    swaps = (data.truth < 4) & (np.random.default_rng(1).random(800) < 0.4)
    data.x, images = (np.hstack([view, 40 * np.abs(view).mean() * np.eye(800, 1)]) for view in (data.x, images))
    other, out_of_fold, in_fold = (data.truth[0] + 1) % CLASSES, [], []
    for label in (data.truth[0], other):
        labels = np.where(swaps, data.truth ^ 1, data.truth)
        labels[0] = label
        found = fitted(data, labels, image_features=images)
        assert found.label_noise_ > 0.2
        out_of_fold.append(found.out_of_fold_[0, other].astype(float))
        in_fold.append(found.predict_proba(data.x[:1], images[:1])[0, other])
    assert abs(out_of_fold[1] - out_of_fold[0]) < 0.03 and in_fold[1] - in_fold[0] > 0.2, (out_of_fold, in_fold)


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_classes_that_captions_confuse_do_not_accuse_right_labels(shared):
    """Nor those that captions and images confuse, in the same way."""
    data, images = seen_twice(3000, shared=shared, own=1.0)
    confused = np.random.default_rng(0).random(3000) < 0.4
    data.x[confused] = np.random.default_rng(2).permutation(data.x[confused])
    classifier = fitted(data, image_features=images)
    assert classifier.label_noise_ < 0.02
    assert accuracy(classifier.posterior(classifier.out_of_fold_, data.y), data.truth) > 0.97


def test_images_that_say_nothing_do_not_confirm_captions():
    """Captions of which 40% are of the next class, with right labels."""
    data, _ = seen_twice(4000, shared=0.5, own=1.0)
    told = np.where(np.random.default_rng(1).random(4000) < 0.4, (data.truth + 1) % CLASSES, data.truth)
    of_class = [np.flatnonzero(data.truth == label) for label in range(CLASSES)]
    rows = [of_class[label][row % len(of_class[label])] for row, label in enumerate(told)]
    data.x = data.x[rows]
    images = np.random.default_rng(3).normal(size=(4000, DIM))
    assert fitted(data, image_features=images).label_noise_ < 0.02


# --- Few labels ------------------------------------------------------------------------------------------------------


def test_one_label_a_class_is_learned_from_but_not_judged():
    data = clusters(400, spread=0.7)
    labels = some_labels(data.truth, 1)
    first = np.flatnonzero(labels >= 0)
    found = fitted(data, labels)
    assert found.label_noise_ is None and found.label_noise_interval_ is None and found.accuracy_ is None
    assert found.view_accuracies_ == [None] and accuracy(found.out_of_fold_, data.truth) > 0.75
    assert (found.out_of_fold_[first] == np.eye(CLASSES)[data.truth[first]]).all()  # they are left as they are
    assert np.isfinite(found.predict_proba(data.x)).all()


def test_a_class_without_a_label_is_never_predicted_unless_it_has_a_name():
    data = clusters(300, spread=1.0)
    labels = np.where(data.truth == 3, -100, data.y)
    found = CaptionClassifier(CLASSES + 2).fit(data.x, labels)
    predicted = found.predict_proba(data.x)
    assert predicted.shape == (300, CLASSES + 2) and predicted[:, [3, 5, 6]].max() < 0.01
    rest = data.truth != 3
    assert accuracy(found.out_of_fold_[rest], data.truth[rest]) > 0.9
    names = np.stack([data.x[data.truth == label].mean(0) for label in range(CLASSES)])
    named = fitted(data, labels, class_embeds=names).out_of_fold_
    assert accuracy(named[~rest], data.truth[~rest]) > 0.5


def test_the_only_label_of_a_class_beside_others_with_many_is_left_as_it_is():
    data = clusters(300, spread=1.0)
    labels = data.y.copy()
    only, *others = np.flatnonzero(data.truth == 2)
    labels[others] = -100
    found = fitted(data, labels)
    assert (found.out_of_fold_[only] == np.eye(CLASSES)[2]).all() and found.label_noise_interval_[0] < 0.05
    assert accuracy(found.out_of_fold_[data.truth != 2], data.truth[data.truth != 2]) > 0.85


def test_what_cannot_be_fitted_is_an_error():
    for labels in ([-100] * 6, [1, 1, 1, -1, -1, 1]):
        with pytest.raises(ValueError, match="at least two classes"):
            CaptionClassifier(3).fit(np.eye(6), labels)
    data = clusters(100)
    broken = np.where(np.arange(100)[:, None] == 3, np.nan, data.x)
    with pytest.raises(ValueError, match="NaN or infinite"):
        CaptionClassifier(CLASSES).fit(broken, data.y)


# --- Names of the classes --------------------------------------------------------------------------------------------


def with_names(number: int = 1500) -> tuple[Clusters, np.ndarray, np.ndarray]:
    """Rows, labels of one row a class, and an embedding near the centre of each class."""
    data = clusters(number, spread=1.6)
    centres = np.stack([data.x[data.truth == label].mean(0) for label in range(CLASSES)])
    return data, some_labels(data.truth, 1), centres / np.linalg.norm(centres, axis=1, keepdims=True)


def test_names_of_classes_are_examples_of_them():
    data, labels, names = with_names()
    alone, named = fitted(data, labels), fitted(data, labels, class_embeds=names)
    unlabelled = labels < 0
    right = [accuracy(found.out_of_fold_[unlabelled], data.truth[unlabelled]) for found in (alone, named)]
    assert right[1] > right[0] + 0.1
    assert alone.accuracy_ is None and named.accuracy_ is not None  # a name is left where the only label is held out
    some = names.copy()
    some[1:] = 0  # names that say nothing
    assert accuracy(fitted(data, labels, class_embeds=some).out_of_fold_, data.truth) < right[1]
    nothing = fitted(data, labels, class_embeds=np.zeros_like(names))
    np.testing.assert_array_equal(nothing.out_of_fold_, alone.out_of_fold_)


def test_without_any_label_captions_are_compared_with_names():
    data, labels, names = with_names()
    none, images = np.full(len(labels), -100), clusters(len(labels), spread=1.6, view=1)
    captions = fitted(data, none, class_embeds=names)
    assert captions.accuracy_ is None and captions.label_noise_ is None
    right = accuracy(captions.out_of_fold_, data.truth)
    assert right > 0.7
    # Image features learn what captions tell, and then tell more than they
    both = fitted(data, none, class_embeds=names, image_features=images.x)
    assert accuracy(both.out_of_fold_, data.truth) > right + 0.05
    assert accuracy(both.predict_proba(data.x, images.x), data.truth) > right + 0.05
    assert both.view_accuracies_ == [both.accuracy_] and 0.4 < both.accuracy_ < right
    with pytest.raises(ValueError, match="or names of at least two classes"):
        fitted(data, none, class_embeds=np.where(np.arange(CLASSES)[:, None] == 2, names, 0))


# --- A second view ---------------------------------------------------------------------------------------------------


def two_views(captions: Clusters, images: Clusters, number: int = 500) -> tuple[list[float], np.ndarray]:
    """Accuracies on held-out rows of captions, images and both, and the probabilities of both."""
    learned, rest = slice(number), slice(number, None)
    found = []
    for view in (captions, images):
        alone = CaptionClassifier(CLASSES).fit(view.x[learned], view.y[learned])
        found.append(accuracy(alone.predict_proba(view.x[rest]), view.truth[rest]))
    both = CaptionClassifier(CLASSES).fit(captions.x[learned], captions.y[learned], images.x[learned])
    np.testing.assert_allclose(both.view_accuracies_, found, atol=0.1)
    probabilities = both.predict_proba(captions.x[rest], images.x[rest])
    assert both.accuracy_ == pytest.approx(accuracy(probabilities, captions.truth[rest]), abs=0.07)
    assert calibration_error(probabilities, captions.truth[rest]) < 0.05
    return [*found, accuracy(probabilities, captions.truth[rest])], probabilities


def test_two_views_tell_more_than_either_and_one_of_noise_does_little_harm():
    captions, images = (clusters(2000, view=view) for view in range(2))
    (of_captions, of_images, both), _ = two_views(captions, images)
    assert both > max(of_captions, of_images) + 0.05
    images.x = np.random.default_rng(0).permutation(images.x)
    (of_captions, of_images, both), _ = two_views(captions, images)
    assert of_images < 0.3 and both > of_captions - 0.02


def test_rare_classes_are_as_probable_as_they_are_with_two_views():
    """The mean probability of each class is its share: the prior counts once, however many views there are."""
    shares = [0.7, 0.2, 0.06, 0.02, 0.02]
    captions, images = (clusters(3000, spread=4.0, view=view, shares=shares) for view in range(2))
    _, probabilities = two_views(captions, images, number=1000)
    np.testing.assert_allclose(probabilities.mean(0), shares, atol=0.03)


@pytest.mark.parametrize("better", [0, 1])
def test_with_one_label_a_class_two_views_judge_each_other(better):
    """The better view counts more, and nothing is promised that does not hold."""
    good, poor = clusters(2000, spread=1.0, view=0), clusters(2000, spread=4.0, view=1)
    views = [good, poor] if better == 0 else [poor, good]
    labels = some_labels(good.truth, 1)
    found = CaptionClassifier(CLASSES).fit(views[0].x, labels, views[1].x)
    alone = [accuracy(fitted(view, labels).predict_proba(view.x), view.truth) for view in views]
    both = found.predict_proba(views[0].x, views[1].x)
    assert alone[better] > alone[1 - better] + 0.2
    assert accuracy(both, good.truth) > alone[better] - 0.02
    assert found.view_accuracies_[better] > found.view_accuracies_[1 - better] + 0.2
    assert 0.4 < found.accuracy_ < accuracy(both, good.truth) + 0.1


def few_labels(each: int, number: int = 2000) -> tuple[Clusters, Clusters, np.ndarray]:
    """Captions that tell most classes, image features of which most say nothing, and `each` labels of a class."""
    captions, images = clusters(number, spread=1.0), clusters(number, spread=1.0, view=1)
    images.x = np.hstack([images.x, 0.25 * np.random.default_rng(5).normal(size=(number, 64))])
    return captions, images, some_labels(captions.truth, each)


@pytest.mark.parametrize("each", [1, 2])
def test_image_features_learn_what_captions_tell_of_unlabelled_rows(each):
    """So both together tell more of them than where labels alone have taught them."""
    captions, images, labels = few_labels(each)
    known, unlabelled = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    truth = captions.truth[unlabelled]
    of_labels = CaptionClassifier(CLASSES).fit(captions.x[known], labels[known], images.x[known])
    by_labels = accuracy(of_labels.predict_proba(captions.x[unlabelled], images.x[unlabelled]), truth)
    found = CaptionClassifier(CLASSES).fit(captions.x, labels, images.x).out_of_fold_[unlabelled]
    assert accuracy(found, truth) > by_labels + 0.04 and calibration_error(found, truth) < 0.05


def uneven(rare: int, spread: float, of_images: float, seed: int = 0) -> tuple[Clusters, Clusters, dict]:
    """Captions, images, labels and names. Of class 3, with a 25th of the rows, `rare` labels, of the others 8 each."""
    shares = [0.24, 0.24, 0.24, 0.04, 0.24]
    captions, images = (
        clusters(1000, each, seed=seed, view=view, shares=shares) for view, each in enumerate((spread, of_images))
    )
    labels = some_labels(captions.truth, 8, 8, 8, rare, 8)
    names = np.stack([captions.x[captions.truth == label].mean(0) for label in range(CLASSES)])
    return captions, images, {"labels": labels, "class_embeds": names}


@pytest.mark.parametrize(("rare", "of_images", "gain"), [(0, 1.5, 0.1), (1, 3.0, 0.0)])
def test_image_features_do_not_rule_out_a_class_that_has_a_name_and_no_label_or_one(rare, of_images, gain):
    """They learn it from captions, as far as these tell it; poor image features leave it to them."""
    gained = []
    for seed in range(2):
        captions, images, given = uneven(rare, 1.4, of_images, seed)
        rows = (given["labels"] < 0) & (captions.truth == 3)
        alone, both = (fitted(captions, image_features=of, **given).out_of_fold_[rows] for of in (None, images.x))
        gained.append(accuracy(both, captions.truth[rows]) - accuracy(alone, captions.truth[rows]))
    assert np.mean(gained) >= gain, gained


def test_of_a_class_that_a_view_has_not_seen_it_says_nothing():
    """The class keeps the probability that the first view gives it; among the others the second view decides."""
    logits = np.random.default_rng(0).normal(size=(2, 50, CLASSES))
    logits[1] = 3 * logits[0]  # no row is unlike the classes that the first view thinks of
    logits[1, :, 3] = ABSENT
    one, fixed = np.ones(2), (np.full(CLASSES, -np.log(CLASSES)), 0.0, (0.0, 0.0), 0.0)
    told = [Calibration(one, 0 * one, one, *fixed).probabilities(list(logits[:views])) for views in (1, 2)]
    np.testing.assert_allclose(told[1][:, 3], told[0][:, 3])
    rest = np.arange(CLASSES) != 3
    ratio = np.log(told[1] / told[0])[:, rest] - logits[1][:, rest]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape))


def test_a_single_example_takes_half_the_odds_of_a_class_at_most():
    """Where a view doubts that it stands for the class; it may still speak for it."""
    one, fixed = np.ones(2), (np.full(CLASSES, -np.log(CLASSES)), 0.0, (0.0, 0.0), 0.0)
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
        found.append(CaptionClassifier(CLASSES).fit(captions.x, given, images.x).out_of_fold_[:, other].astype(float))
    change = found[1] - found[0]
    assert change[alike[1:]].mean() > 0.2 and abs(change[row]) < 0.05, (change[alike[1:]].mean(), change[row])


def test_views_must_be_those_fitted_on():
    data = clusters(100)
    with pytest.raises(ValueError, match="fitted with other views"):
        fitted(data).predict_proba(data.x, data.x)
