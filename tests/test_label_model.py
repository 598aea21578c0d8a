"""The label model: what it predicts of one or several views, what it must not have seen, and how calibrated it is."""

from dataclasses import dataclass

import make
import numpy as np
import pytest

from g4i_hf import LabelModel, View
from g4i_hf.label_model import fit_view
from g4i_hf.label_model.calibration import Calibration
from g4i_hf.linear import ABSENT
from g4i_hf.training.supervision import estimates_of
from g4i_hf.views.kinds import taught_by
from g4i_hf.words import estimates_in_words

pytestmark = pytest.mark.usefixtures("few_draws")

CLASSES, DIM = 5, 16


def slowly(*values):
    """A case that `make test` leaves to the slow suite: fits of thousands of rows take seconds."""
    return pytest.param(*values, marks=pytest.mark.slow)


@dataclass
class Clusters:
    """(N, DIM) on the unit sphere, of a normal distribution a class; the classes, and labels that may be wrong."""

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
    views = {"caption": View(captions, names, self_trains=False)}
    return views if images is None else views | {"image": View(images)}


def fitted(data: Clusters, labels=None, images=None, names=None, **more) -> LabelModel:
    labels = data.y if labels is None else labels
    return LabelModel(CLASSES).fit(views_of(data.x, images, names), labels, **more)


def means_of(data: Clusters) -> np.ndarray:
    """Near the centre of each class, as its name should be."""
    return np.stack([data.x[data.truth == label].mean(0) for label in range(CLASSES)])


def alone(model: LabelModel) -> list[float | None]:
    """Accuracy of each view."""
    return [line["accuracy"] for line in model.report_.values()]


def accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(1) == truth).mean())


def calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error of the predicted class."""
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    of = np.minimum((confidence * 10).astype(int), 9)
    return sum(abs(confidence[of == b].mean() - right[of == b].mean()) * (of == b).mean() for b in np.unique(of))


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


@pytest.mark.parametrize("enough", [fit_view.MOST_FITTED, 100], ids=["a model a fold", "two models of many rows"])
def test_a_rows_own_label_is_not_in_its_probabilities(enough, monkeypatch):
    """
    A model that has seen a label is drawn to it, wrong as it is: here by a word that no other caption has. Only the
    temperature and the prior know of all labels.
    """
    monkeypatch.setattr(fit_view, "MOST_FITTED", enough)
    data, rows = clusters(300, spread=2.5), np.arange(3)
    data.x = np.hstack([data.x, 2 * np.eye(300, 3)])
    true_ones = fitted(data)
    out_of_fold, in_fold = [], []
    for row in rows:
        labels = data.y.copy()
        labels[row] = other = (labels[row] + 1) % CLASSES
        flipped = fitted(data, labels)
        out_of_fold.append(flipped.probabilities_[row, other].astype(float) - true_ones.probabilities_[row, other])
        of_models = [
            [model.predict(views_of(data.x[[row]]), fold)[0, other] for fold in range(5)]
            for model in (flipped, true_ones)
        ]
        in_fold.append(np.max(np.subtract(*of_models)))
    assert np.abs(out_of_fold).max() < 0.05 and np.mean(in_fold) > 0.2, (out_of_fold, in_fold)
    weights = [weight for weight, _ in true_ones.models_[0].models.values()]
    assert len({weight.tobytes() for weight in weights}) == (6 if enough > len(data.y) else 2)


def test_many_rows_of_two_sites_are_learned(monkeypatch):
    """With this seed both sites are in folds that share a model."""
    monkeypatch.setattr(fit_view, "MOST_FITTED", 100)
    data, sites = clusters(900, spread=1.0, seed=5), np.arange(900) % 2
    labels = np.where(np.arange(900) < 600, data.y, -1)
    model = LabelModel(CLASSES, 5).fit({"image": View(data.x)}, labels, ids=range(900), groups=sites)
    assert set(model.folds_[:600]) < set(fit_view.PARTS[1])
    assert accuracy(model.probabilities_[600:], data.truth[600:]) > 0.8


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


@pytest.mark.parametrize("seed", [0, 3])
def test_few_labels_with_some_wrong_ones_teach_no_less_than_names_alone(seed):
    data = clusters(800, spread=2.0, seed=seed)
    labels, names = some_labels(data.truth, 4), means_of(data)
    wrong = np.flatnonzero(labels >= 0)[::4]
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    found, by_names = (fitted(data, given, names=names).probabilities_ for given in (labels, np.full(800, -1)))
    assert accuracy(by_names, data.truth) > 0.75 and accuracy(found, data.truth) > accuracy(by_names, data.truth) - 0.1


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
    assert 0.4 < alone(both)[0] < right and alone(both)[1] is None
    # As sure as captions alone are, as image features may repeat their errors
    assert -0.15 < both.accuracy_.share - accuracy(both.probabilities_, data.truth) < 0.05
    with pytest.raises(ValueError, match="or names of at least two classes"):
        fitted(data, none, names=np.where(np.arange(CLASSES)[:, None] == 2, names, 0))


# --- Several views: which counts how much, what they teach each other, and rows that lack one ----------------------


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


def test_image_encoders_that_err_alike_do_not_outvote_captions_where_views_judge_each_other():
    """Three encoders of the same images, which are alike in more than their class."""
    captions, images, rng = clusters(600, spread=1.0), clusters(600, spread=1.5, view=1), np.random.default_rng(7)
    scenes = rng.normal(size=(20, DIM))[rng.integers(20, size=600)]
    views = {"caption": View(captions.x, self_trains=False)}
    for encoder in range(3):
        rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        features = (images.x + scenes / 2) @ rotation + 0.1 * rng.normal(size=(600, DIM))
        views[f"encoder {encoder}"] = View(features)
    one = some_labels(captions.truth, 1)
    right = right_of(captions.truth, one, {"caption": views["caption"]}, views)
    assert right[1] > right[0] - 0.02, right


@pytest.mark.parametrize(("source", "judges"), [("gps", True), (None, False), ("image features", False)])
def test_a_view_has_the_source_that_it_names(source, judges):
    """Encoders of images share one vote, and say so or name none; coordinates of a camera confirm them."""
    data, places = clusters(300, spread=1.0), clusters(300, spread=1.0, view=1)
    views = {"image": View(data.x), "place": View(places.x, source=source)}
    report = LabelModel(CLASSES).fit(views, some_labels(data.truth, 1)).report_
    assert [line["accuracy"] is not None for line in report.values()] == [judges, judges]


def test_a_view_of_noise_costs_nothing_where_views_judge_each_other():
    data, images = clusters(600, spread=1.0), clusters(600, spread=1.3, view=1)
    views, noise = views_of(data.x, images.x), View(np.random.default_rng(7).normal(size=(600, DIM)))
    right = right_of(data.truth, some_labels(data.truth, 1), views, views | {"noise": noise})
    assert right[1] > right[0] - 0.003, right


@pytest.mark.parametrize("seed", [0, slowly(1), slowly(2)])
def test_one_label_a_class_tells_whom_to_believe_where_views_have_nothing_in_common(tmp_path, seed):
    """Captions of other images are left out, and so are image features of noise; and answers beside them are not."""
    data, images = (clusters(800, spread=spread, seed=seed, view=view) for spread, view in ((1.0, 0), (1.3, 1)))
    one, names, noise = some_labels(data.truth, 1), means_of(data), np.random.default_rng(seed).normal(size=(800, DIM))
    features = {"image": View(images.x)}
    of_others = views_of(np.roll(data.x, 1, axis=0), images.x, names)
    right = right_of(data.truth, one, features, of_others)
    assert right[1] > right[0] - 0.003, right
    model = LabelModel(CLASSES).fit(of_others, one)
    assert model.report_["caption"]["left_out"] and taught_by(model.report_) == []
    assert (
        "The view caption tells nothing about the classes: left out"
        in estimates_in_words(estimates_of(model), one)[-1]
    )
    model.save(tmp_path)
    assert np.array_equal(LabelModel.load(tmp_path).predict(of_others), model.predict(features))
    answers = {"answer": View.answers(np.where(np.arange(800) % 4, data.truth, 0), CLASSES)}
    report = LabelModel(CLASSES).fit(of_others | answers, one).report_
    assert [name for name, line in report.items() if line.get("left_out")] == ["caption"]
    captions = {"caption": View(data.x, names, self_trains=False)}
    of_noise = captions | {"image": View(noise)}
    right = right_of(data.truth, one, captions, of_noise)
    assert right[1] > right[0] - 0.02, right
    three = some_labels(data.truth, 1, 1, 1, 0, 0)  # too few to tell
    assert not any("left_out" in line for line in LabelModel(CLASSES).fit(of_noise, three).report_.values())


@pytest.mark.parametrize(("source", "is_unclear"), [("one model", False), ("another", True)])
def test_views_that_contradict_each_other_are_unclear_and_those_of_one_source_do_not_judge(source, is_unclear):
    data, other = clusters(400, spread=0.5), clusters(400, spread=0.5, seed=5)
    names = means_of(data), means_of(other)
    views = {"caption": View(data.x, names[0], source="one model"), "answer": View(other.x, names[1], source=source)}
    labels = some_labels(data.truth, 0)
    lines = estimates_in_words(estimates_of(LabelModel(CLASSES).fit(views, labels)), labels)
    assert any("agree too rarely" in line for line in lines) == is_unclear, lines


@pytest.mark.parametrize("sites", [1, 2, 5])
def test_sites_that_hold_all_classes_are_whole_folds(sites):
    """Each fold leaves labels of each class to learn from; a single site has none to hold out."""
    data, site = clusters(100), np.arange(100) % sites
    labels = np.where(np.arange(100) < 60, data.truth, -1)
    for seed in range(8):
        model = LabelModel(CLASSES, seed).fit({"image": View(data.x)}, labels, groups=site)
        folds = [
            np.unique(model.folds_[(site == number) & known])
            for known in (labels >= 0, labels < 0)
            for number in range(sites)
        ]
        assert all(len(fold) == 1 for fold in folds) and len(np.unique(folds[:sites])) == sites
        assert (model.accuracy_ is None) == (sites == 1)


def test_with_few_labels_views_that_agree_outweigh_one_that_they_contradict():
    """Ten labels alone leave 88% right."""
    first, second, wrong = clusters(900, spread=1.2), clusters(900, view=1), clusters(900, 1.0, seed=50, view=3)
    views = {
        source: View(each.x, means_of(each), source=source, self_trains=False)
        for source, each in (("captions", first), ("scores", second), ("another field", wrong))
    }
    model = LabelModel(CLASSES).fit(views, some_labels(first.truth, 2))
    assert accuracy(model.probabilities_, first.truth) > 0.91
    assert model.report_["another field"]["weight"] < 0.03


@pytest.mark.parametrize("each", [0, 1])
def test_a_view_that_errs_by_a_rule_costs_little(each):
    """A model of another field: image features can learn its errors, which had made it look right."""
    good, images, rng = clusters(900, spread=1.4), clusters(900, spread=1.8, view=1), np.random.default_rng(3)
    seen = clusters(900, spread=1.2, view=2)  # what that model sees, of which it names the next class
    wrong = ((seen.x @ means_of(seen).T).argmax(1) + 1) % CLASSES
    wrong = np.where(rng.random(900) < 0.3, rng.integers(CLASSES, size=900), wrong)
    views = {"caption": View(good.x, means_of(good), self_trains=False)}
    # Some of what it sees is in the features
    views |= {"image": View(np.concatenate([images.x, seen.x / 2], axis=1))}
    with_wrong_one = views | {"answer": View.answers(wrong, CLASSES, source="another")}
    labels = some_labels(good.truth, each)
    right = right_of(good.truth, labels, {"caption": views["caption"]}, views, with_wrong_one)
    assert right[1] > right[0] - 0.01 and right[2] > right[1] - 0.03, right
    if not each:
        model = LabelModel(CLASSES).fit(with_wrong_one, labels)
        assert model.report_["answer"]["accuracy"] is None or model.report_["answer"]["accuracy"] < 0.3
        assert model.report_["answer"]["weight"] == 0  # right for less than a third of the best


def test_image_features_that_tell_the_frequent_class_alone_teach_nothing():
    """Of six in ten images: what counts is the mean over the classes."""
    captions, images = (clusters(900, 0.7 + 0.8 * view, view=view, shares=[0.6, *[0.1] * 4]) for view in range(2))
    poor = np.random.default_rng(5).normal(size=(900, DIM))
    poor[:, :4] += np.where(captions.truth == 0, 2, -2)[:, None]
    views = views_of(captions.x, images.x, means_of(captions)) | {"poor": View(poor)}
    report = LabelModel(CLASSES).fit(views, np.full(900, -1)).report_
    assert report["image"]["weight"] > 0.3 and report["poor"]["weight"] == 0


@pytest.mark.slow
def test_image_features_that_tell_little_do_not_outvote_answers():
    """They learn what answers tell of unlabelled rows, and are no surer than they repeat it."""
    images, rng = clusters(2000, spread=4.0, view=2), np.random.default_rng(52)
    replies = np.where(rng.random(2000) < 0.95, images.truth, rng.integers(CLASSES, size=2000))
    answers = {"answer": View.answers(replies, CLASSES)}
    right = right_of(images.truth, some_labels(images.truth, 4), answers, answers | {"image": View(images.x)})
    assert right[1] > right[0] - 0.05, right


def test_answers_for_a_fifth_of_the_images_teach_the_others():
    """Image features learn them, are as sure elsewhere as they repeat them, and do not learn their own errors."""
    images, rng = clusters(1500, spread=1.7, view=2), np.random.default_rng(52)
    replies = np.where(rng.random(1500) < 0.95, images.truth, rng.integers(CLASSES, size=1500))
    replies[300:] = -1
    views = {"answer": View.answers(replies, CLASSES), "image": View(images.x)}
    model = LabelModel(CLASSES).fit(views, np.full(1500, -1))
    told, right = model.probabilities_[300:], accuracy(model.probabilities_[300:], images.truth[300:])
    assert right > 0.7 and abs(told.max(1).mean() - right) < 0.12, (right, told.max(1).mean())
    assert model.accuracy_.share == pytest.approx(accuracy(model.probabilities_, images.truth), abs=0.12)


def test_an_image_encoder_with_class_names_teaches_one_without():
    """As CLIP and the student do, where no image has a label."""
    clip, student = clusters(1500, spread=2.0), clusters(1500, spread=1.0, view=1)
    views = {"clip": View(clip.x, means_of(clip), self_trains=True), "student": View(student.x)}
    right = right_of(clip.truth, np.full(1500, -1), {"clip": views["clip"]}, views)
    assert right[1] > right[0] + 0.05, right


def few_labels(each: int) -> tuple[Clusters, Clusters, np.ndarray]:
    """Captions that tell most classes, image features of which most say nothing, and `each` labels of a class."""
    captions, images = clusters(600, spread=1.0), clusters(600, spread=1.0, view=1)
    images.x = np.hstack([images.x, 0.25 * np.random.default_rng(5).normal(size=(600, 64))])
    return captions, images, some_labels(captions.truth, each)


@pytest.mark.slow
@pytest.mark.parametrize(("rare", "of_images", "gain"), [(0, 1.5, 0.1), (1, 3.0, -0.02)])
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


def test_a_single_example_takes_half_the_odds_of_a_class_at_most():
    """Where a view doubts that it stands for the class; it may still speak for it."""
    one, fixed = np.ones(2), (np.full(CLASSES, -np.log(CLASSES)), 0.0, (0.0, 0.0), 0.0, 0.0, 0.0)
    trusts = np.where(np.arange(2 * CLASSES).reshape(2, CLASSES) == CLASSES + 3, 0.5, 1.0)
    calibration, odds = Calibration(one, 0 * one, one, *fixed, trusts=trusts), []
    for logit in (ABSENT, -14.0, 14.0):
        logits = np.random.default_rng(0).normal(size=(2, 50, CLASSES))
        logits[1, :, 3] = logit
        found = calibration.probabilities(list(logits))[:, 3]
        odds.append(found / (1 - found))
    np.testing.assert_allclose(odds[1], odds[0] / 2, rtol=1e-3)
    assert (odds[2] > 100).all()


def test_the_only_caption_of_a_class_may_be_that_of_another():
    """Images tell the class. One caption of a labelled image, which is wrong, had left 9% of it in place of 80."""
    captions, images = clusters(600, spread=1.0), clusters(600, spread=1.5, view=1)
    labels = some_labels(captions.truth, 8)
    first, *others = np.flatnonzero(labels == 3)
    captions.x[first], captions.x[others] = captions.x[captions.truth == 0][-1], np.nan
    rows = (labels < 0) & (captions.truth == 3)
    assert accuracy(fitted(captions, labels, images.x).probabilities_[rows], captions.truth[rows]) > 0.6


def test_a_class_without_a_label_or_a_name_has_probability_0_where_some_rows_lack_a_view():
    captions, answers = clusters(600, spread=1.0), clusters(600, spread=1.0, view=1)
    names = [np.where(np.arange(CLASSES)[:, None] == 4, 0, means_of(each)) for each in (captions, answers)]
    captions.x[::2] = np.nan
    views = {"caption": View(captions.x, names[0]), "answer": View(answers.x, names[1])}
    model = LabelModel(CLASSES).fit(views, np.full(600, -1))
    assert not model.probabilities_[:, 4].any() and not model.predict({"answer": answers.x})[:, 4].any()


def test_all_of_few_held_out_rows_select_the_strength_of_a_view(monkeypatch):
    """Also where most of them are of one site, which is a fold."""
    data, sites = clusters(580, spread=1.0, seed=3), np.repeat(range(5), [20, 20, 20, 20, 500])
    found = []
    for enough in (fit_view.ENOUGH_COMPARED, 10**9):
        monkeypatch.setattr(fit_view, "ENOUGH_COMPARED", enough)
        found.append(fitted(data, groups=sites).probabilities_)
    np.testing.assert_array_equal(*found)


def test_a_label_is_not_in_its_probabilities_by_way_of_unlabelled_rows():
    """
    30 unlabelled rows have the word of one labelled row: with a wrong label they are taken for its class, and image
    features learn that of them. Its own probabilities must not.
    """
    captions, images, labels = few_labels(8)
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
    captions, images, labels = few_labels(4)
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


@pytest.mark.parametrize("each", [slowly(8), 1])
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
    captions, images, labels = few_labels(10)
    captions.x = np.where(((labels == 4) | (captions.truth == 4))[:, None], np.nan, captions.x)
    images.x = np.where((labels == 3)[:, None], np.nan, images.x)
    found = fitted(captions, labels, images.x)
    some = found.predict(views_of(captions.x[:20], images.x[:20]))
    lacking = np.full_like(images.x, np.nan)
    beside = views_of(np.vstack([captions.x[:20], captions.x]), np.vstack([images.x[:20], lacking]))
    np.testing.assert_allclose(found.predict(beside)[:20], some, atol=1e-5)


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
    views = views_of(told, data.x)
    whole = LabelModel(CLASSES).fit(views, labels, ids=np.arange(400))
    again = whole.without(views, kept)
    for name in ("posterior_", "probabilities_"):  # as if fitted so, while the model itself has learned of all rows
        np.testing.assert_allclose(getattr(again, name), getattr(one, name).astype(float), atol=0.02)
        assert np.abs(getattr(whole, name) - getattr(one, name)).max() > 0.05
    np.testing.assert_allclose(*(each.posterior_[~kept].astype(float) for each in (one, other)), atol=0.02)
    assert np.abs(one.probabilities_[kept] - other.probabilities_[kept]).max() > 0.3
    assert (one.probabilities_[kept].argmax(1) == data.y[kept]).mean() > 0.8


@pytest.mark.slow
def test_a_view_keeps_as_many_directions_as_there_are_classes():
    """To tell 1,000 classes by 256 directions cost 20 points of accuracy."""
    generator, labels = np.random.default_rng(0), np.repeat([0, 1, -1], 20)
    values = generator.normal(0, 1, (60, 320)).astype(np.float32) + 3 * (labels[:, None] == 1)
    model = LabelModel(300).fit({"caption": View(values)}, labels)
    assert model.spaces_["caption"].rotation.shape == (320, 300)
    assert model.probabilities_[:, 2:].max() < 0.01, "a class without a label is never predicted"


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_image_features_that_tell_nearly_all_leave_no_class_without_a_row():
    """Logits of a discriminant are far apart there, and a very low one would mean that its class has no row."""
    generator, truth = np.random.default_rng(0), np.arange(400) % 10
    features = generator.normal(0, 1, (10, 200))[truth] + generator.normal(0, 0.02, (400, 200))
    captions = View(np.eye(10)[truth] + generator.normal(0, 0.3, (400, 10)), np.eye(10))
    labels = np.where(np.arange(400) < 30, truth, -1)
    model = LabelModel(10).fit({"caption": captions, "image": View(features)}, labels)
    assert np.isfinite(model.posterior_).all() and (model.posterior_.argmax(1) == truth).mean() > 0.99


@pytest.mark.parametrize("alone", [False, True])
def test_view_that_has_learned_the_labels_does_not_judge(alone):
    generator = np.random.default_rng(0)
    truth = np.arange(600) % 4
    labels = np.where(np.arange(600) < 40, truth, -1)
    features = 1.2 * np.eye(8)[truth] + generator.normal(size=(600, 8))
    scores = np.where(labels[:, None] >= 0, 9 * np.eye(4)[truth], generator.normal(size=(600, 4)))
    views = {"scores": View(scores.astype(np.float32), self_trains=False)}
    views |= {} if alone else {"image": View(features.astype(np.float32))}
    model = LabelModel(4).fit(views, labels)
    assert model.report_["scores"]["knows_labels"]
    assert (model.accuracy_ is None) == alone
    assert model.class_shares_ is None or not alone
    assert "image" in model.report_ or alone
    assert not model.report_.get("image", {}).get("knows_labels")


def test_a_view_that_has_learned_the_labels_of_the_frequent_class_is_found():
    """Half of the rows have labels, of seven classes three each, which tell little."""
    generator, numbers = np.random.default_rng(0), [60, *[3] * 7, 60, *[3] * 7]
    truth, labels = (np.repeat([*range(8), *rest], numbers) for rest in (range(8), [-1] * 8))
    scores = 4 * np.eye(8)[truth] + generator.normal(size=(len(truth), 8))
    scores[labels == 0, 0] += 6
    model = LabelModel(8).fit({"scores": View(scores, self_trains=False)}, labels)
    assert model.report_["scores"].get("knows_labels")


@pytest.mark.parametrize("kind", ["file names", "weak"])
def test_texts_that_tell_no_class_are_left_out_where_labels_can_be_held_out(kind):
    """Also with names of classes; texts that tell little are not: image features confirm them."""
    data = clusters(800, spread=1.0, seed=3)
    texts = np.random.default_rng(4).normal(size=data.x.shape).astype(np.float32)
    texts += 0.6 * data.x * (kind == "weak")
    views = views_of(texts, data.x, means_of(data))
    report = LabelModel(CLASSES).fit(views, some_labels(data.truth, 8)).report_
    assert report["caption"].get("left_out", False) == (kind == "file names") and report["image"]["weight"] > 0.5
    alone = LabelModel(CLASSES).fit({"caption": views["caption"]}, some_labels(data.truth, 8))
    assert not alone.report_["caption"].get("left_out")
