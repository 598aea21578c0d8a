"""A frozen backbone: its features are computed once, and its last layer is fitted on them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from doors import TWO_PROCESSES, succeed
from drawings import STUDENT, draw_folder
from sklearn.linear_model import LogisticRegression

from g4i_hf import AlignedImageClassification, LabelModel, View
from g4i_hf.training.head import fit_head
from g4i_hf.training.judged_heads import Judge, Known, judge_in_training, judged_heads, rows_to_keep

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


def test_it_is_the_logistic_regression_of_scikit_learn_on_standardised_features(blobs):
    features, labels = blobs
    found = fit_head(features, np.eye(3)[labels], strength=1e-2)
    mean, deviation = features.mean(0), features.std(0)
    rival = LogisticRegression(C=1 / (2 * 1e-2 * len(labels)), tol=1e-8, max_iter=1000)
    rival.fit((features - mean) / deviation, labels)
    expected = rival.decision_function((features - mean) / deviation)
    logits = found.logits(features)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), expected, atol=5e-3)


def known_of(features: np.ndarray, labels: np.ndarray, captions: np.ndarray, order: np.ndarray) -> tuple[Known, Judge]:
    """What a label model says of captions and image features, and what judges."""
    views = {"caption": View(captions, learns=False), "image": View(features)}
    kept = rows_to_keep(labels, order)
    is_kept = np.isin(np.arange(len(labels)), kept)
    model = LabelModel(int(labels.max()) + 1).fit(views, labels, ids=order, groups=order, kept=is_kept)
    known = Known(labels, views, model, order)
    return known, judge_in_training(known, features, kept)


def test_images_that_judge_have_no_part_in_what_they_judge(blobs):
    """Whatever their captions say, the classifiers that they judge are the same; the last one takes them."""
    features, labels = blobs
    given = np.where(np.arange(300) < 12, labels, -1)
    order = np.random.default_rng(2).permutation(300)
    captions = np.random.default_rng(3).normal(np.eye(3)[labels], 0.3).astype(np.float32)

    def judged(change: bool):
        said = captions.copy()
        if change:
            kept = rows_to_keep(given, order)
            said[kept] = said[kept[::-1]]
        known, judge = known_of(features, given, said, order)
        return judge, judged_heads(known, features, judge)

    (one, heads), (other, others) = judged(False), judged(True)
    assert len(one.kept) == 100 and not set(one.kept) & set(np.flatnonzero(given >= 0))
    for name in ("labels_only", "with_views"):  # they only say how sure it shall be
        logits = [each.logits[name] / np.abs(each.logits[name]).max() for each in (one, other)]
        np.testing.assert_allclose(*logits, atol=0.01)
    assert np.abs(one.probabilities - other.probabilities).max() > 0.5
    assert np.abs(heads["with_views"].weight - others["with_views"].weight).max() > 0


def test_labels_that_correct_an_estimate_have_no_part_in_it(blobs):
    """Of noise nobody can predict a label but who has learned it; where features tell, fewer labels tell them too."""
    features, labels = blobs
    noise = np.random.default_rng(4).normal(0, 1, (300, 40)).astype(np.float32)
    given = np.where(np.arange(300) < 150, labels, -1)
    for values, least, most in ((noise, 0.2, 0.5), (features, 0.7, 1.01)):
        known, judge = known_of(values, given, values, np.arange(300))
        judged_heads(known, values, judge)
        told = judge.of_held_out
        agree = {name: (each == judge.held_out.labels).mean() for name, each in told.items()}
        assert len(judge.held_out.labels) == 150 and all(least < share < most for share in agree.values()), agree


def test_captions_that_are_often_wrong_do_not_flatten_the_last_layer():
    """Labels choose its regularisation; to such captions a layer that says hardly anything looks best."""
    generator, number, classes = np.random.default_rng(0), 800, 20
    truth = generator.integers(classes, size=2 * number)
    features = generator.normal(size=(classes, 96))[truth] + 2.2 * generator.normal(size=(2 * number, 96))
    features, order = features.astype(np.float32), np.arange(number)
    captions = generator.normal(size=(classes, 24))[truth[:number]] + 4 * generator.normal(size=(number, 24))
    views = {"caption": View(captions.astype(np.float32), learns=False)}
    model = LabelModel(classes).fit(views, truth[:number], ids=order)
    known = Known(truth[:number], views, model, order)
    heads = judged_heads(known, features[:number], judge_in_training(known, features[:number], order[:0]))
    right = {name: (head.logits(features[number:]).argmax(1) == truth[number:]).mean() for name, head in heads.items()}
    assert right["with_views"] > right["labels_only"] - 0.02, right


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_classifiers_are_as_sure_as_they_are_right(share):
    """Even of wrong labels, from which one that learns them alone would have learned to be hardly sure of anything."""
    generator, number = np.random.default_rng(0), 400
    truth = generator.integers(10, size=5 * number)
    features = generator.normal(size=(10, 60))[truth] + 4 * generator.normal(size=(5 * number, 60))
    captions = (generator.normal(size=(10, 24))[truth[:number]] + generator.normal(size=(number, 24))).astype("f4")
    given, order = features[:number].astype(np.float32), np.arange(number)
    labels = np.where(generator.random(number) < share, generator.integers(10, size=number), truth[:number])
    known, judge = known_of(given, labels, captions, order)
    for name, head in judged_heads(known, given, judge).items():
        probabilities = torch.from_numpy(head.logits(features[number:])).softmax(1).numpy()
        right = (probabilities.argmax(1) == truth[number:]).mean()
        assert 0.25 < right < 0.8 and abs(probabilities.max(1).mean() - right) < 0.08, name


def test_equal_images_judge_together_and_never_beside_their_twins(blobs):
    features, labels = blobs
    order = np.arange(300) // 3 * 1000  # three of each image
    for given in (np.where(np.arange(300) < 12, labels, -1), labels):
        _, judge = known_of(features, given, features, order)
        apart = np.setdiff1d(np.arange(300), judge.kept)
        assert not set(order[judge.kept]) & set(order[apart])
    assert judge.name == "folds" and len(judge.rows) == 300


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("frozen") / "pictures", train=18, validation=6)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return AlignedImageClassification.from_pretrained(run).state_dict()


@pytest.fixture(scope="module")
def trained(pictures, static_folder):
    """Trains into a folder: what the command says."""

    def training(out: Path, launcher: tuple | None = None, **options) -> str:
        given = {"dataset_name": pictures, "output_dir": out, "text_encoder": static_folder}
        return succeed("train", given, STUDENT, FROZEN, options, launcher=launcher).said

    return training


@pytest.fixture(scope="module")
def cached(trained, tmp_path_factory) -> tuple[Path, str]:
    """A run on cached features, and what it said."""
    run = tmp_path_factory.mktemp("cached") / "run"
    return run, trained(run)


def test_training_says_whether_it_reads_cached_features_and_repeats_its_weights(trained, cached, tmp_path):
    run, said = cached
    assert "reads cached features" in said and list((run / "features").glob("*/*.parquet"))
    trained(tmp_path / "again")
    check_same(run, tmp_path / "again")
    said = trained(tmp_path / "augmented", train_crop="pad")
    assert "runs in every step, as images are augmented (--train_crop none" in said


def check_same(run: Path, other: Path, **tolerances: float) -> None:
    expected = weights_of(other)
    for name, tensor in weights_of(run).items():
        torch.testing.assert_close(tensor, expected[name], **{"rtol": 0, "atol": 0} | tolerances, msg=name)


def test_cached_features_teach_what_the_backbone_would(trained, cached, tmp_path):
    code = "from g4i_hf import AlignmentTrainer\nAlignmentTrainer._cache_features = lambda self: None\n"
    (tmp_path / "uncached.py").write_text(code)
    trained(tmp_path / "images", module=tmp_path / "uncached.py")
    check_same(cached[0], tmp_path / "images", atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_share_the_features_and_train_as_one(trained, tmp_path):
    trained(tmp_path / "one", optim="sgd")
    trained(tmp_path / "two", launcher=TWO_PROCESSES, per_device_train_batch_size=3, optim="sgd")
    check_same(tmp_path / "two", tmp_path / "one", atol=1e-5, rtol=1e-4)
    assert list((tmp_path / "two" / "features").glob("*/*.parquet"))
