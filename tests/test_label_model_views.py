"""The label model with several views: which counts how much, what they teach each other, and rows that lack one."""

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
from scipy.special import softmax

from g4i_hf import LabelModel, View
from g4i_hf.label_model.calibration import Calibration
from g4i_hf.label_model.plan import estimates_in_words
from g4i_hf.label_model.view_model import ABSENT


def right_of(truth: np.ndarray, labels: np.ndarray, *choices: dict[str, View]) -> list[float]:
    """Accuracy on the unlabelled rows by each choice of views."""
    rows = labels < 0
    return [accuracy(LabelModel(CLASSES).fit(views, labels).probabilities_[rows], truth[rows]) for views in choices]


@pytest.mark.slow
def test_rare_classes_are_as_probable_as_they_are_with_two_views():
    """The mean probability of each class is its share: the prior counts once, however many views there are."""
    shares, rest = [0.7, 0.2, 0.06, 0.02, 0.02], slice(1000, None)
    captions, images = (clusters(3000, spread=4.0, view=view, shares=shares) for view in range(2))
    both = LabelModel(CLASSES).fit(views_of(captions.x[:1000], images.x[:1000]), captions.y[:1000])
    probabilities = both.predict(views_of(captions.x[rest], images.x[rest]))
    np.testing.assert_allclose(probabilities.mean(0), shares, atol=0.03)
    assert both.accuracy_.share == pytest.approx(accuracy(probabilities, captions.truth[rest]), abs=0.07)
    assert calibration_error(probabilities, captions.truth[rest]) < 0.05


def test_with_one_label_a_class_two_views_judge_each_other():
    """The better view counts more, and nothing is promised that does not hold."""
    good, poor = clusters(2000, spread=1.0, view=0), clusters(2000, spread=4.0, view=1)
    labels = some_labels(good.truth, 1)
    found = LabelModel(CLASSES).fit(views_of(good.x, poor.x), labels)
    right, wrong = (accuracy(fitted(view, labels).predict(views_of(view.x)), view.truth) for view in (good, poor))
    both = accuracy(found.predict(views_of(good.x, poor.x)), good.truth)
    assert right > wrong + 0.2 and both > right - 0.02
    assert alone(found)[0] > alone(found)[1] + 0.2 and 0.4 < found.accuracy_.share < both + 0.1


def test_image_encoders_that_err_alike_do_not_outvote_captions_where_views_judge_each_other():
    """Three encoders of the same images, which are alike in more than their class."""
    captions, images, rng = clusters(600, spread=1.0), clusters(600, spread=1.5, view=1), np.random.default_rng(7)
    scenes = rng.normal(size=(20, DIM))[rng.integers(20, size=600)]
    views = {"caption": View(captions.x, learns=False)}
    for encoder in range(3):
        rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        features = (images.x + scenes / 2) @ rotation + 0.1 * rng.normal(size=(600, DIM))
        views[f"encoder {encoder}"] = View(features, source=f"encoder {encoder}")
    one = some_labels(captions.truth, 1)
    right = right_of(captions.truth, one, {"caption": views["caption"]}, views)
    assert right[1] > right[0] - 0.02, right


def test_a_view_of_noise_costs_nothing_where_views_judge_each_other():
    data, images = clusters(600, spread=1.0), clusters(600, spread=1.3, view=1)
    views, noise = views_of(data.x, images.x), View(np.random.default_rng(7).normal(size=(600, DIM)))
    right = right_of(data.truth, some_labels(data.truth, 1), views, views | {"noise": noise})
    assert right[1] > right[0] - 0.003, right


def test_image_features_that_tell_little_do_not_outvote_answers():
    """They learn what answers tell of unlabelled rows, and are no surer than they repeat it."""
    images, rng = clusters(2000, spread=4.0, view=2), np.random.default_rng(52)
    replies = np.where(rng.random(2000) < 0.95, images.truth, rng.integers(CLASSES, size=2000))
    answers = {"answer": View.answers(replies, CLASSES)}
    right = right_of(images.truth, some_labels(images.truth, 4), answers, answers | {"image": View(images.x)})
    assert right[1] > right[0] - 0.05, right


def test_an_image_encoder_with_class_names_teaches_one_without():
    """As CLIP and the student do, where no image has a label."""
    clip, student = clusters(1500, spread=2.0), clusters(1500, spread=1.0, view=1)
    views = {"clip": View(clip.x, means_of(clip), learns=True), "student": View(student.x)}
    right = right_of(clip.truth, np.full(1500, -1), {"clip": views["clip"]}, views)
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


@pytest.mark.parametrize(("rare", "of_images", "gain"), [(0, 1.5, 0.1), slowly(1, 3.0, -0.02)])
def test_image_features_do_not_rule_out_a_class_that_has_a_name_and_no_label_or_one(rare, of_images, gain):
    """
    They learn it from captions, as far as these tell it; poor image features leave it to them. Of class 3, with a
    25th of the rows, `rare` ones have a label, of the others 8 each.
    """
    gained, shares = [], [0.24, 0.24, 0.24, 0.04, 0.24]
    for seed in range(2):
        captions, images = (
            clusters(1000, spread, seed=seed, view=view, shares=shares) for view, spread in enumerate((1.4, of_images))
        )
        labels = some_labels(captions.truth, 8, 8, 8, rare, 8)
        rows, names = (labels < 0) & (captions.truth == 3), means_of(captions)
        alone, both = (fitted(captions, labels, of, names).probabilities_[rows] for of in (None, images.x))
        gained.append(accuracy(both, captions.truth[rows]) - accuracy(alone, captions.truth[rows]))
    assert np.mean(gained) >= gain, gained


def calibration(**more) -> Calibration:
    """Of two views, as sure as they say, without wrong labels."""
    one, fixed = np.ones(2), (np.full(CLASSES, -np.log(CLASSES)), 0.0, (0.0, 0.0), 0.0, 0.0, 0.0)
    return Calibration(one, 0 * one, one, *fixed, **more)


def test_of_a_class_that_a_view_has_not_seen_it_says_nothing():
    """The class keeps the probability that the first view gives it; among the others the second view decides."""
    logits = np.random.default_rng(0).normal(size=(2, 50, CLASSES))
    logits[1] = 3 * logits[0]  # no row is unlike the classes that the first view thinks of
    logits[1, :, 3] = ABSENT
    told = [calibration().probabilities(list(logits[:views])) for views in (1, 2)]
    np.testing.assert_allclose(told[1][:, 3], told[0][:, 3])
    rest = np.arange(CLASSES) != 3
    ratio = np.log(told[1] / told[0])[:, rest] - logits[1][:, rest]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape))


def test_a_single_example_takes_half_the_odds_of_a_class_at_most():
    """Where a view doubts that it stands for the class; it may still speak for it."""
    trusts = np.where(np.arange(2 * CLASSES).reshape(2, CLASSES) == CLASSES + 3, 0.5, 1.0)
    odds = []
    for logit in (ABSENT, -14.0, 14.0):
        logits = np.random.default_rng(0).normal(size=(2, 50, CLASSES))
        logits[1, :, 3] = logit
        found = calibration(trusts=trusts).probabilities(list(logits))[:, 3]
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
        found.append(fitted(captions, given, images.x).probabilities_[:, other].astype(float))
    change = found[1] - found[0]
    assert change[alike[1:]].mean() > 0.2 and abs(change[row]) < 0.05, (change[alike[1:]].mean(), change[row])


@pytest.mark.parametrize("labelled", [0, slowly(None)])
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
    for rows, gain in ((half, 0.1), (~half, -0.02)):
        right = [accuracy(model.probabilities_[rows], captions.truth[rows]) for model in (of_images, found)]
        assert right[1] > right[0] + gain, right
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


def test_labels_that_people_get_wrong_are_found():
    """
    They see what is likely, with less certainty than there is, and err where it is hard, to the next likeliest class:
    a flatter prediction would explain that as well.
    """
    data, images = seen_twice(3000, shared=0.0, own=1.0)
    centres = np.stack([images[data.truth == label].mean(0) for label in range(CLASSES)])
    distances = ((images[:, None] - centres) ** 2).sum(2)
    p = softmax(-3.2 * distances / distances.min(1).mean(), axis=1)
    labels = (p.cumsum(1) > np.random.default_rng(3).random((3000, 1))).argmax(1)
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
    assert any("if the captions belong" in line for line in estimates_in_words(alone, data.truth))
    assert both.label_noise_interval_[0] == 0 and both.label_noise_ < 0.02
    assert not any("if the captions" in line for line in estimates_in_words(both, data.truth))


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


def test_kept_rows_teach_nothing_and_are_predicted():
    """What their captions say changes what is said of them, and of no other row: most of these have no caption."""
    data = clusters(400, spread=2.0)
    labels = np.where(np.arange(400) < 60, data.y, -1)
    kept = np.arange(400) >= 300
    told = np.random.default_rng(1).normal(np.eye(CLASSES)[data.y], 0.3)
    told[100:300] = np.nan
    others = told.copy()
    others[kept] = others[kept][::-1]
    one, other = (
        LabelModel(CLASSES).fit(views_of(said, data.x), labels, ids=np.arange(400), kept=kept)
        for said in (told, others)
    )
    np.testing.assert_allclose(*(each.posterior_[~kept].astype(float) for each in (one, other)), atol=0.02)
    assert np.abs(one.probabilities_[kept] - other.probabilities_[kept]).max() > 0.3
    assert (one.probabilities_[kept].argmax(1) == data.y[kept]).mean() > 0.8


def test_a_saved_model_is_the_same_and_holds_no_pickle(tmp_path):
    data, images = clusters(500, spread=2.0), clusters(500, spread=2.0, view=1).x
    labels = np.where(np.arange(500) % 3 == 0, -1, data.y)
    model = fitted(data, labels, images, names=np.eye(CLASSES, DIM))
    model.save(tmp_path / "model")
    again, views = LabelModel.load(tmp_path / "model"), views_of(data.x, images)
    for fold in (-1, 4):
        np.testing.assert_array_equal(again.predict(views, fold), model.predict(views, fold))
    for name in ("probabilities_", "posterior_", "folds_", "label_noise_"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    assert again.accuracy_.share == model.accuracy_.share and alone(again) == alone(model)
    np.load(tmp_path / "model" / "label_model.npz", allow_pickle=False).close()


def test_a_view_keeps_as_many_directions_as_there_are_classes():
    """To tell 1,000 classes by 256 directions cost 20 points of accuracy."""
    generator, labels = np.random.default_rng(0), np.repeat([0, 1, -1], 20)
    values = generator.normal(0, 1, (60, 320)).astype(np.float32) + 3 * (labels[:, None] == 1)
    model = LabelModel(300).fit({"caption": View(values)}, labels)
    assert model.spaces_["caption"].rotation.shape == (320, 300)


def test_image_features_withstand_wrong_labels_and_wrong_captions():
    """Classes differ along directions of little variance. A logistic regression has 84 and 68% of these right."""
    generator, classes = np.random.default_rng(0), 15
    truth = generator.integers(classes, size=900)
    features = generator.normal(0, 1, (classes, 60))[truth] + generator.normal(0, np.geomspace(6, 0.6, 60), (900, 60))
    given = np.where(generator.random(900) < 0.4, (truth + generator.integers(1, classes, 900)) % classes, truth)
    alone = LabelModel(classes).fit({"image": View(features)}, given)
    assert (alone.posterior_.argmax(1) == truth).mean() > 0.9

    said = np.where(generator.random(900) < 0.5, generator.integers(classes, size=900), truth)
    captions = View(np.eye(classes)[said] + generator.normal(0, 0.1, (900, classes)), np.eye(classes))
    few = np.where(np.arange(900) < 75, truth, -1)
    both = LabelModel(classes).fit({"caption": captions, "image": View(features)}, few)
    assert (both.posterior_.argmax(1) == truth)[75:].mean() > 0.85


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_image_features_that_tell_nearly_all_leave_no_class_without_a_row():
    """Logits of a discriminant are far apart there, and a very low one would mean that its class has no row."""
    generator, truth = np.random.default_rng(0), np.arange(400) % 10
    features = generator.normal(0, 1, (10, 200))[truth] + generator.normal(0, 0.02, (400, 200))
    captions = View(np.eye(10)[truth] + generator.normal(0, 0.3, (400, 10)), np.eye(10))
    labels = np.where(np.arange(400) < 30, truth, -1)
    model = LabelModel(10).fit({"caption": captions, "image": View(features)}, labels)
    assert np.isfinite(model.posterior_).all() and (model.posterior_.argmax(1) == truth).mean() > 0.99
