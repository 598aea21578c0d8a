"""How right two classifiers are, and which is better; and the last layers on frozen features that are judged."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from doors import TWO_PROCESSES, succeed
from drawings import STUDENT, draw_folder
from sklearn.linear_model import LogisticRegression

from g4i_hf import AlignedImageClassification, LabelModel, View
from g4i_hf.evaluation.estimate import HeldOut, judged_by_labels, judged_by_probabilities, judged_in_turn
from g4i_hf.fitting.decide import Choice, decide
from g4i_hf.fitting.evidence import Evidence, rows_to_hold_out
from g4i_hf.fitting.heads import fit_head, last_layers
from g4i_hf.fitting.judge import Gold, Judge, Validation, judge_in_training, judged_heads
from g4i_hf.fitting.targets import Targets
from g4i_hf.linear import Scale

pytestmark = pytest.mark.usefixtures("few_draws")

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
    rows, classes = probabilities.shape  # a wrong label is any class, also the right one
    noise, if_noisy = np.full((1, rows), wrong * classes / (classes - 1)), np.full((rows, classes), 1 / classes)
    return HeldOut(probabilities, labels, noise, if_noisy, np.full(rows, 1 / rows), single, unknown)


def both(truth: np.ndarray, seed: int, labels_only: float = 0.6, with_views: float = 0.8) -> dict[str, np.ndarray]:
    return {"labels_only": told(truth, labels_only, 2 * seed), "with_views": told(truth, with_views, 2 * seed + 1)}


@pytest.mark.parametrize(
    ("verdict", "asked", "released", "why"),
    [
        ("helped", "auto", "with_views", "expected"),
        ("cannot tell", "auto", "with_views", "not clearly worse"),
        ("hurt", "auto", "labels_only", "views hurt"),
        (None, "auto", "with_views", "expected"),
        ("helped", "labels_only", "labels_only", "asked"),
        ("helped", "with_views", "with_views", "expected"),
        ("hurt", "with_views", "with_views", "asked"),
        ("hurt", "labels_only", "labels_only", "views hurt"),
        (None, "labels_only", "labels_only", "asked"),
    ],
)
def test_what_is_released_and_why(verdict, asked, released, why):
    assert decide(verdict, asked) == Choice(released, why)


@pytest.mark.parametrize(("lost", "released"), [(-2, "with_views"), (1, "with_views"), (20, "labels_only")])
def test_views_ship_unless_labels_show_that_they_hurt(lost, released):
    """50 reviewed images, of which views lose so many: one of them decides nothing."""
    labels, right = np.zeros(50, dtype=int), np.arange(50) < 45
    predicted = {"labels_only": np.where(right, 0, 1), "with_views": np.where(np.arange(50) < 45 - lost, 0, 1)}
    assert decide(judged_by_labels(predicted, labels).verdict).released == released


@pytest.mark.parametrize(
    ("images", "groups", "verdict"), [(29, 29, "cannot tell"), (30, 30, "helped"), (60, 20, "cannot tell")]
)
def test_fewer_than_30_images_or_groups_give_no_verdict(images, groups, verdict):
    labels, of_rows = np.zeros(images, dtype=int), np.arange(images) % groups
    predicted = {"labels_only": np.where(of_rows < groups // 3, 0, 1), "with_views": labels}
    found = judged_by_labels(predicted, labels, groups=of_rows)
    assert (found.verdict, found.judges) == (verdict, groups) and found.difference.interval[0] > 0


@pytest.mark.parametrize(
    ("labels_only", "with_views", "verdict"), [(0.6, 0.8, "helped"), (0.8, 0.6, "hurt"), (0.7, 0.7, "cannot tell")]
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
        name: judge_in_training(Targets(Evidence(labels, views, model, order, reviews=each)), features).rows
        for name, each in {"all": None, "picked": reviews}.items()
    }
    assert set(rows["all"]) - set(rows["picked"]) == set(np.flatnonzero(reviews)) and len(rows["picked"]) == 15


# --- A frozen backbone: its features are computed once, and its last layer is fitted on them -------------------------

FROZEN = {"freeze_backbone": "true", "train_crop": "none", "image_size": 32, "use_cpu": "true", "max_steps": 4}
FROZEN |= {"per_device_train_batch_size": 6, "disable_tqdm": "true", "supervision": "auto"}


@pytest.fixture(scope="module")
def blobs():
    """300 rows of 6 features in 3 classes, and their labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    centres = generator.normal(0, 1.5, (3, 6))
    scale, shift = generator.uniform(0.1, 30, 6), generator.normal(0, 50, 6)
    return ((centres[labels] + generator.normal(0, 1, (300, 6))) * scale + shift).astype(np.float32), labels


@pytest.mark.parametrize(("rows", "strength"), [(300, 1e-2), (9, 2e-4)])
def test_it_is_the_logistic_regression_of_scikit_learn_on_features_of_one_scale(blobs, rows, strength):
    """
    Also of labels that a layer separates: the minimum is reached, so that rounding of features moves nothing. What
    varies little counts little, as features are not standardised one by one.
    """
    features, labels = blobs
    features = features * np.linspace(0.1, 2, features.shape[1], dtype=np.float32)
    found = fit_head(features[:rows], np.eye(3)[labels[:rows]], strength, Scale.of(features))
    scaled = (features - features.mean(0)) / (features - features.mean(0)).std()
    with_a_constant = np.pad(scaled.astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
    rival = LogisticRegression(C=1 / (2 * strength * rows), tol=1e-10, max_iter=10_000, fit_intercept=False)
    expected = rival.fit(with_a_constant[:rows], labels[:rows]).decision_function(with_a_constant)
    np.testing.assert_allclose(found.logits(features), expected, atol=2e-3 * np.abs(expected).max())


def targets_of(
    features: np.ndarray, labels: np.ndarray, captions: np.ndarray, order: np.ndarray, in_turn: bool = False
) -> tuple[Targets, Judge]:
    """What a label model says of captions and image features, and what judges; `in_turn`: no image does that alone."""
    views = {"caption": View(captions, self_trains=False), "image": View(features)}
    holdout = rows_to_hold_out(labels, order)[: 0 if in_turn else None]
    is_holdout = np.isin(np.arange(len(labels)), holdout)
    model = LabelModel(int(labels.max()) + 1).fit(views, labels, ids=order, groups=order, kept=is_holdout)
    targets = Targets(Evidence(labels, views, model, order, holdout=holdout))
    return targets, judge_in_training(targets, features)


@pytest.mark.parametrize("in_turn", [False, True])
def test_images_that_judge_have_no_part_in_what_they_judge(blobs, in_turn):
    """Whatever their captions say, the classifiers that they judge are the same; the last one takes them."""
    features, labels = blobs
    given = np.where(np.arange(300) < 30, labels, -1)
    order = np.random.default_rng(2).permutation(300)
    captions = np.random.default_rng(3).normal(np.eye(3)[labels], 0.3).astype(np.float32)

    def judged(change: bool):
        said = captions.copy()
        if change:
            said[rows] = said[rows[::-1]]
        targets, judge = targets_of(features, given, said, order, in_turn)
        return judge, judged_heads(targets, features, judge)

    rows, unlabelled = rows_to_hold_out(given, order), np.flatnonzero(given < 0)
    if in_turn:
        rows = unlabelled[np.argsort(np.argsort(order[unlabelled])) % 5 == 0]
    (one, heads), (other, others) = judged(False), judged(True)
    assert (one.name, set(one.rows)) == (("cross_fitting", {*unlabelled}) if in_turn else ("holdout", {*rows}))
    changed = np.isin(one.rows, rows)
    for name in ("labels_only", "with_views"):  # they only change the confidence
        logits = [each.logits[name][changed] / np.abs(each.logits[name][changed]).max() for each in (one, other)]
        np.testing.assert_allclose(*logits, atol=0.01)
    assert np.abs(one.probabilities - other.probabilities)[changed].max() > 0.5
    assert np.abs(heads["with_views"].weight - others["with_views"].weight).max() > 0
    # Other processes get the rows, not what is known of their classes
    sent = pickle.loads(pickle.dumps(one))
    assert (sent.rows == one.rows).all() and sent.heads.keys() == heads.keys()
    assert sent.split == "train" and not hasattr(sent, "targets")


def test_images_that_judge_in_turn_are_judged_by_layers_that_have_not_learned_them(blobs):
    """Features of noise repeat only captions that a layer has learned; all images train those that ship."""
    _, labels = blobs
    given, generator = np.where(np.arange(300) < 12, labels, -1), np.random.default_rng(4)
    noise = generator.normal(0, 1, (300, 200)).astype(np.float32)
    captions = generator.normal(np.eye(3)[labels], 0.3).astype(np.float32)
    targets, judge = targets_of(noise, given, captions, np.arange(300), in_turn=True)
    heads = judged_heads(targets, noise, judge)
    told, of_rows = judge.probabilities.argmax(1), noise[judge.rows]
    assert (told == labels[judge.rows]).mean() > 0.9
    assert (judge.predicted["with_views"] == told).mean() < 0.5
    assert (heads["with_views"].logits(of_rows).argmax(1) == told).mean() > 0.7
    assert judge.judgement().accuracies["with_views"].share < 0.5


def test_folds_learn_labels_that_count_as_right_as_all_rows_do(blobs):
    """Probabilities by features alone suit the weakest regularisation, whatever suits what is learned in the end."""
    features, labels = blobs
    targets, _ = targets_of(features, np.where(np.arange(300) < 75, labels, -1), features, np.arange(300))
    assert targets.evidence.model.label_noise_ == 0
    others = np.flatnonzero((np.arange(300) < 75) & (targets.evidence.model.folds_ != 0))
    assert (targets.learned("with_views", others, 0)[1][np.arange(len(others)), labels[others]] == 1).all()


def test_wrong_labels_choose_a_regularisation_for_targets_no_smoother_than_what_is_learned():
    """Where features are the only view, predictions of its own labels are smooth; captions name classes without."""
    generator, number = np.random.default_rng(0), 600
    truth, rows = generator.integers(5, size=number), np.arange(number)
    features = generator.normal(size=(5, 80))[truth] + 5 * generator.normal(size=(number, 80))
    labels = np.where(rows % 5 < 2, (truth + 1 + rows % 4) % 5, truth)  # 40% are wrong

    def on_wrong_labels(views: dict[str, View]) -> tuple[float, ...]:
        """How much wrong labels have of what is learned: by the fold's models, to choose a strength, in the end."""
        model = LabelModel(5).fit(views, labels, ids=rows)
        targets = Targets(Evidence(labels, views, model, rows))
        wrong = np.flatnonzero((labels != truth) & (model.folds_ != 0))
        learned = targets.learned("with_views", wrong, 0)[1]
        each = learned, targets.to_choose_strength(wrong, learned), model.posterior_[wrong]
        return tuple(float(one[np.arange(len(wrong)), labels[wrong]].mean()) for one in each)

    image = View(features.astype(np.float32))
    smooth, chosen, learned = on_wrong_labels({"image": image})
    assert smooth < learned - 0.03 and learned < chosen, (smooth, chosen, learned)
    names = generator.normal(size=(5, 24))
    captions = View((names[truth] + generator.normal(size=(number, 24))).astype(np.float32), names.astype(np.float32))
    smooth, chosen, _ = on_wrong_labels({"image": image, "caption": captions})
    assert smooth == chosen


def test_labels_that_correct_an_estimate_have_no_part_in_it(blobs):
    """Of noise nobody can predict a label but who has learned it; where features tell, fewer labels tell them too."""
    features, labels = blobs
    noise = np.random.default_rng(4).normal(0, 1, (300, 40)).astype(np.float32)
    given = np.where(np.arange(300) < 75, labels, -1)
    for values, least, most in ((noise, 0.2, 0.5), (features, 0.7, 1.01)):
        targets, judge = targets_of(values, given, values, np.arange(300))
        judged_heads(targets, values, judge)
        logits = judge.logits_of_held_out
        agree = {name: (each.argmax(1) == judge.held_out.labels).mean() for name, each in logits.items()}
        assert len(judge.held_out.labels) == 75 and all(least < share < most for share in agree.values()), agree


@pytest.mark.parametrize("labelled", [12, 300])
def test_the_other_images_narrow_the_interval_of_a_random_sample(blobs, labelled):
    """
    What views say of the answers is the same there: no layer has learned what judges it. Of features of noise, one
    that has learned the captions would repeat them.
    """
    features, labels = blobs
    generator = np.random.default_rng(5)
    truth = np.concatenate([labels, generator.integers(0, 3, 400)])
    noise = generator.normal(0, 1, (700, 200)).astype(np.float32)
    centres = np.stack([features[labels == label].mean(0) for label in range(3)])
    near = (centres[truth] + 0.7 * features.std(0) * generator.normal(size=(700, 6))).astype(np.float32)
    captions = generator.normal(np.eye(3)[truth], 0.5).astype(np.float32)
    given, order, one_hot = np.where(np.arange(300) < labelled, labels, -1), np.arange(300), np.eye(3)[truth[300:]]
    for values in (noise, near):
        views = {"caption": View(captions[:300], self_trains=False), "image": View(values[:300])}
        targets = Targets(Evidence(given, views, LabelModel(3).fit(views, given, ids=order), order))
        judge = Gold(np.arange(400), values[300:], one_hot)
        judge.compare_with(targets, values[:300], {"caption": captions[300:], "image": values[300:]})
        judged_heads(targets, values[:300], judge)
        told = judge.expected["with_views"]
        assert abs(told.of_others.mean() - told.of_sample.mean()) < 0.1
    by_sample = judged_by_labels(judge.predicted, truth[300:])
    for name, found in judge.estimate().accuracies.items():
        assert np.diff(found.interval) < 0.97 * np.diff(by_sample.accuracies[name].interval)


def test_labels_with_captions_do_not_stand_for_images_without(blobs):
    """The captions of labelled images name their class, and no other image has one."""
    features, labels = blobs
    features = features / features.std(0) + np.random.default_rng(8).normal(0, 1.5, features.shape)
    given = np.where(np.arange(300) < 90, labels, -1)
    captions = np.where(given[:, None] >= 0, np.eye(3)[labels], np.nan)
    captions[:90] += np.random.default_rng(7).normal(0, 0.1, (90, 3))
    targets, judge = targets_of(features.astype(np.float32), given, captions.astype(np.float32), np.arange(300))
    judged_heads(targets, features.astype(np.float32), judge)
    right = {name: (each == labels[judge.rows]).mean() for name, each in judge.predicted.items()}
    for name, estimate in judge.judgement().accuracies.items():
        assert right[name] < 0.8 and estimate.interval[0] <= right[name] <= estimate.interval[1], (name, estimate)


@pytest.mark.parametrize("alone", [False, True])
def test_a_student_that_has_learned_the_labels_is_not_judged_by_them(blobs, alone):
    """Nor are images without a label taken for images of no class, as it is less sure of them."""
    features, labels = blobs
    given = np.where(np.arange(300) < 60, labels, -1)
    generator = np.random.default_rng(5)
    learned = np.where(given[:, None] >= 0, 9 * np.eye(3)[labels], generator.normal(size=(300, 3)))
    captions = (np.eye(3)[labels] + generator.normal(0, 0.5, (300, 3))).astype(np.float32)
    learned = learned.astype(np.float32)
    targets, judge = targets_of(learned, given, learned if alone else captions, np.arange(300))
    judged_heads(targets, learned, judge)
    assert not judge.judgement().accuracies and targets.evidence.student_has_learned
    assert len(judge.rows) >= 100


def test_an_interval_holds_the_accuracy_of_even_classes_where_no_view_names_any():
    """
    One class has 20 times the labels of the others, and as many images as each without a label: labels of that mix do
    not tell that. Names of classes do, and the interval is narrower.
    """
    generator, each = np.random.default_rng(0), [100, 5, 5, 5]
    labels = np.concatenate([np.repeat(range(4), each), np.repeat(range(4), 80)])
    given = np.where(np.arange(len(labels)) < 115, labels, -1)
    order = generator.permutation(len(labels))
    features = (1.2 * np.eye(4)[labels] + generator.normal(0, 1, (len(labels), 4))).astype(np.float32)
    views, widths = {"image": View(features)}, {}
    for name, texts in {"without": None, "with": np.eye(4)}.items():
        if texts is not None:
            views["caption"] = View(np.eye(4)[labels] + generator.normal(0, 0.5, (len(labels), 4)), texts)
        holdout = rows_to_hold_out(given, order)
        model = LabelModel(4).fit(views, given, ids=order, groups=order, kept=np.isin(np.arange(len(labels)), holdout))
        targets = Targets.of(Evidence(given, views, model, order, holdout=holdout))
        judge = judge_in_training(targets, features)
        judged_heads(targets, features, judge)
        estimate = judge.judgement().accuracies["with_views"]
        low, high = estimate.interval
        right = (judge.predicted["with_views"] == labels[judge.rows]).mean()
        assert low <= right <= high
        assert (judge.held_out.of_classes is None) == (name == "with")
        widths[name] = high - low
    assert widths["with"] < 0.4 < widths["without"]


def test_labels_of_almost_the_same_images_tell_nothing_of_others():
    """Frames of three clips of a class have labels, and others show other scenes: none of them is of no class."""
    generator, scenes = np.random.default_rng(0), np.repeat(np.arange(60), 6)
    truth, kinds = scenes % 3, generator.normal(size=(3, 24))
    centres = kinds[np.arange(60) % 3] + 1.2 * generator.normal(size=(60, 24))
    features = (centres[scenes] + 0.1 * generator.normal(size=(360, 24))).astype(np.float32)
    labels = np.where(scenes < 9, truth, -1)
    targets, judge = targets_of(features, labels, features, np.arange(360))
    assert not targets.evidence.model.none_.any() and targets.evidence.model.none_share_ is None
    judged_heads(targets, features, judge)
    assert len(judge.rows) > 50 and not judge.judgement().accuracies
    at_random = np.where(generator.random(360) < 0.2, truth, -1)  # other frames of the same scenes have none
    targets, judge = targets_of(features, at_random, features, np.arange(360))
    judged_heads(targets, features, judge)
    low, high = judge.judgement().accuracies["with_views"].interval
    assert low <= (judge.predicted["with_views"] == truth[judge.rows]).mean() <= high


def test_images_of_no_class_do_not_leave_the_judge_without_their_scene(blobs):
    features, labels = blobs
    given, groups = np.where(np.arange(300) < 12, labels, -1), np.arange(300) // 4
    model = LabelModel(3).fit({"image": View(features)}, given, ids=np.arange(300), groups=groups)
    model.none_ = np.where((np.arange(300) % 4 == 0) | (groups == 74), 1.0, 0.0)
    evidence = Evidence(given, {"image": View(features)}, model, groups, holdout=np.arange(12, 300))
    assert evidence.holdout.tolist() == list(range(12, 296))


def test_captions_that_are_often_wrong_do_not_flatten_the_last_layer():
    """Labels choose its regularisation; to such captions a layer that says hardly anything looks best."""
    generator, number, classes = np.random.default_rng(0), 800, 20
    truth = generator.integers(classes, size=2 * number)
    features = generator.normal(size=(classes, 96))[truth] + 2.2 * generator.normal(size=(2 * number, 96))
    features, order = features.astype(np.float32), np.arange(number)
    captions = generator.normal(size=(classes, 24))[truth[:number]] + 4 * generator.normal(size=(number, 24))
    views = {"caption": View(captions.astype(np.float32), self_trains=False)}
    model = LabelModel(classes).fit(views, truth[:number], ids=order)
    targets = Targets(Evidence(truth[:number], views, model, order))
    heads = judged_heads(targets, features[:number], judge_in_training(targets, features[:number]))
    right = {name: (head.logits(features[number:]).argmax(1) == truth[number:]).mean() for name, head in heads.items()}
    assert right["with_views"] > right["labels_only"] - 0.02, right


def test_where_nothing_is_known_but_labels_both_classifiers_are_the_same():
    """Image features, and labels that look right: nothing softens them."""
    generator, number = np.random.default_rng(0), 800
    labels, order = generator.integers(10, size=number), np.arange(number)
    features = generator.normal(size=(10, 96))[labels] + 3.5 * generator.normal(size=(number, 96))
    features, views = features.astype(np.float32), {"image": View(features.astype(np.float32))}
    model = LabelModel(10).fit(views, labels, ids=order)
    one, other = last_layers(Targets.of(Evidence(labels, views, model, order)), features).values()
    assert one.strength == other.strength
    np.testing.assert_allclose(one.logits(features), other.logits(features), atol=0.2)


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.4])
def test_classifiers_are_as_sure_as_they_are_right(share):
    """Even of wrong labels, from which one that learns them alone would have learned to be hardly sure of anything."""
    generator, number = np.random.default_rng(0), 800
    truth = generator.integers(10, size=5 * number)
    features = generator.normal(size=(10, 60))[truth] + 4 * generator.normal(size=(5 * number, 60))
    captions = (generator.normal(size=(10, 24))[truth[:number]] + generator.normal(size=(number, 24))).astype("f4")
    given, order = features[:number].astype(np.float32), np.arange(number)
    labels = np.where(generator.random(number) < share, generator.integers(10, size=number), truth[:number])
    targets, judge = targets_of(given, labels, captions, order)
    for name, head in judged_heads(targets, given, judge).items():
        probabilities = torch.from_numpy(head.logits(features[number:])).softmax(1).numpy()
        right = (probabilities.argmax(1) == truth[number:]).mean()
        assert 0.25 < right < 0.8 and abs(probabilities.max(1).mean() - right) < 0.1, name


@pytest.mark.parametrize("images", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 5))])
def test_few_images_change_the_confidence_little(blobs, images):
    features, labels = blobs
    targets, _ = targets_of(features, labels, features, np.arange(300))
    wrong = np.eye(3, dtype=np.float32)[(labels[:images] + 1) % 3]  # as if every prediction were wrong
    judge = Validation(np.arange(images), features[:images], wrong)
    sure = torch.from_numpy(judged_heads(targets, features, judge)["with_views"].logits(features)).softmax(1).max(1)
    assert sure.values.mean() > 0.5


def test_equal_images_judge_together_and_never_beside_their_twins(blobs):
    features, labels = blobs
    order = np.arange(300) // 2 * 1000  # two of each image
    few = np.where(np.arange(300) < 12, labels, -1)
    for given, in_turn in ((few, False), (few, True), (labels, False)):
        targets, judge = targets_of(features, given, features, order, in_turn)
        turns = [each.holdout for each in targets.evidence.turns()] if in_turn else [judge.rows]
        assert set(np.concatenate(turns)) == set(judge.rows)
        for rows in turns:
            assert not set(order[rows]) & set(np.delete(order, rows))
    assert judge.name == "cross_validation" and len(judge.rows) == 300


@pytest.fixture(scope="module")
def trained(static_folder, tmp_path_factory):
    """Trains into a folder: what the command says."""
    pictures = draw_folder(tmp_path_factory.mktemp("frozen") / "pictures", train=18, validation=6)

    def training(out: Path, launcher: tuple | None = None, **options) -> str:
        given = {"dataset_name": pictures, "output_dir": out, "text_encoder": static_folder}
        return succeed("train", given, STUDENT, FROZEN, options, launcher=launcher).said

    return training


def check_same(run: Path, other: Path, **tolerances: float) -> None:
    found, expected = (AlignedImageClassification.from_pretrained(each).state_dict() for each in (run, other))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], **{"rtol": 0, "atol": 0} | tolerances, msg=name)


@pytest.mark.slow
def test_training_says_whether_it_reads_cached_features_and_repeats_its_weights(trained, tmp_path):
    """And the features teach what the backbone would."""
    run = tmp_path / "run"
    assert "reads cached features" in trained(run) and list((run / "features").glob("*/*.parquet"))
    trained(tmp_path / "again")
    check_same(run, tmp_path / "again")
    code = "from g4i_hf import AlignmentTrainer\nAlignmentTrainer._cache_features = lambda self: None\n"
    (tmp_path / "uncached.py").write_text(code)
    trained(tmp_path / "images", module=tmp_path / "uncached.py")
    check_same(run, tmp_path / "images", atol=1e-5, rtol=1e-4)
    said = trained(tmp_path / "augmented", train_crop="pad")
    assert "runs in every step, as images are augmented (--train_crop none" in said


@pytest.mark.slow
def test_two_processes_share_the_features_and_train_as_one(trained, tmp_path):
    trained(tmp_path / "one", optim="sgd")
    trained(tmp_path / "two", launcher=TWO_PROCESSES, per_device_train_batch_size=3, optim="sgd")
    check_same(tmp_path / "two", tmp_path / "one", atol=1e-5, rtol=1e-4)
    assert list((tmp_path / "two" / "features").glob("*/*.parquet"))
