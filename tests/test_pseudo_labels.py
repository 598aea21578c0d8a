"""Pseudo-labels from captions: what gets one, what stays without, and that the recipe and the card say so."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from students import aligned_model
from test_label_fraction import TO_TENSOR, data, loaded, made_up  # noqa: F401  (data is a fixture)

from g4i_hf.data import CaptionedImages
from g4i_hf.data.labels import keep_label_fraction, labels_of
from g4i_hf.training import AlignmentArguments, pseudo_labels
from g4i_hf.training.pseudo_labels import expected_right, with_pseudo_labels
from g4i_hf.training.run_folder import learned_from_captions
from g4i_hf.training.summary import describe_training


def rows(labels: list, vectors: list, **more) -> Dataset:
    """Vectors in the plane, by their angles in degrees; None for a row without a caption, a list for several."""
    several = any(isinstance(angle, list) for angle in vectors)

    def vector(angle):
        return None if angle is None else [np.cos(np.radians(angle)), np.sin(np.radians(angle))]

    kind = List(Value("float16"), length=2)
    embeds = [[vector(one) for one in angle] if isinstance(angle, list) else vector(angle) for angle in vectors]
    if several:
        kind, embeds = (
            List(kind),
            [one if isinstance(v, list) else [one] for one, v in zip(embeds, vectors, strict=True)],
        )
    features = {"label": ClassLabel(names=["right", "up", "left"]), "text_embeds": kind}
    features |= {name: Value("float32") for name in more}
    return Dataset.from_dict({"label": labels, "text_embeds": embeds, **more}, features=Features(features))


def test_rows_take_the_class_of_captions_like_theirs():
    split = rows([0, 0, 1, 1, None, None, None], [0, 10, 90, 80, 20, 70, None])
    found = with_pseudo_labels(split, seed=0)
    assert found["label"][:] == [0, 0, 1, 1, 0, 1, None]  # without a caption there is nothing to go by
    assert found.features["label"] == split.features["label"]
    assert with_pseudo_labels(split.select([0, 2]), seed=0)["label"][:] == [0, 1]


def test_captions_without_a_weight_neither_teach_nor_tell():
    split = rows([0, 1, 1, None, None], [0, 90, 5, 5, 85], caption_weight=[1, None, 0, 0.2, 0])
    assert with_pseudo_labels(split, seed=0)["label"][:] == [0, 1, 1, 0, None]


@pytest.mark.parametrize("block", [2, 8192])
def test_below_the_threshold_a_row_stays_unlabelled(block, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(pseudo_labels, "BLOCK", block)
    split = rows([0, 0, 1, 1, None, None, None], [0, 10, 90, 80, 5, 45, 85])
    assert with_pseudo_labels(split, seed=0, threshold=0.9)["label"][4:] == [0, None, 1]
    assert "2 rows take the class" in caplog.text and "1 rows stay without" in caplog.text
    assert None not in with_pseudo_labels(split, seed=0, threshold=0.5)["label"][:]  # of two classes one has a half


def test_with_a_threshold_it_says_what_those_above_it_will_be(caplog):
    """Captions half-way between two classes are told wrongly, and not at all when it must be sure."""
    labels, vectors = [0] * 6 + [1] * 6 + [0, 1] * 3, around(0, 6) + around(1, 6) + [44.9, 45.1] * 3
    labels[-6:] = [1, 0] * 3
    split = rows([*labels, None, None], [*vectors, 0, 45])
    for threshold, share, told in ((0.0, 67, 2), (0.9, 100, 1)):
        caplog.clear()
        with caplog.at_level("INFO"):
            with_pseudo_labels(split, seed=0, threshold=threshold)
        assert f"{told} rows take the class" in caplog.text and f"about {share}% of them" in caplog.text


def test_several_captions_count_by_their_mean():
    split = rows([0, 1, 2, None], [[0, 0], [90], [180, 180], [120, 200]])
    assert with_pseudo_labels(split, seed=0)["label"][:] == [0, 1, 2, 2]


def test_of_very_many_labelled_rows_a_sample_is_learned_from(monkeypatch, caplog):
    monkeypatch.setattr("g4i_hf.training.pseudo_labels.MOST", 10)
    split = rows([0, 1] * 20 + [None] * 3, [0, 90] * 20 + [10, 80, 20])
    with caplog.at_level("INFO"):
        assert with_pseudo_labels(split, seed=0)["label"][-3:] == [0, 1, 0]
    assert "3 rows take the class that a logistic regression on 10 labelled captions gives theirs" in caplog.text


def around(label: int, count: int) -> list[float]:
    """Angles near that of a class."""
    return [90 * label + angle for angle in np.linspace(-20, 20, count)]


def test_it_says_how_many_labels_will_be_right(caplog):
    """Of twelve captions two are of the other class than all those near them, and no others are mistaken for it."""
    labels, vectors = [0] * 5 + [1] + [1] * 5 + [0], around(0, 6) + around(1, 6)
    split = rows([*labels, None, None], [*vectors, 0, 90])
    with caplog.at_level("INFO"):
        with_pseudo_labels(split, seed=0)
    assert "2 rows take the class" in caplog.text and "about 83% of them will be right" in caplog.text
    assert "little of the classes" not in caplog.text


@pytest.mark.parametrize("share", [0.33, 0.5, 0.9])
def test_it_warns_of_captions_that_do_not_tell_the_class(share, caplog):
    """Also where one class is so frequent that a guess is mostly right."""
    random = np.random.default_rng(0)
    labels = np.where(random.random(60) < share, 0, random.integers(1, 3, size=60)).tolist()
    split = rows([*labels, None], [*around(0, 60), 0])
    with caplog.at_level("WARNING"):
        with_pseudo_labels(split, seed=0)
    assert "Captions say little of the classes" in caplog.text and "--unlabelled drop" in caplog.text


def test_it_does_not_warn_of_captions_that_tell_half_of_what_could_be_told(caplog):
    labels = [0] * 20 + [1] * 20  # of the captions of each class a quarter is of the other
    vectors = around(0, 15) + around(1, 5) + around(1, 15) + around(0, 5)
    with caplog.at_level("WARNING"):
        with_pseudo_labels(rows([*labels, None], [*vectors, 0]), seed=0)
    assert not caplog.records


def test_where_nothing_is_sure_enough_it_says_so(caplog):
    split = rows([0] * 6 + [1] * 6 + [None], [*around(0, 6), *around(1, 6), 45])
    with caplog.at_level("WARNING"):
        assert with_pseudo_labels(split, seed=0, threshold=0.9)["label"][-1] is None
    assert "No caption tells a class with a probability of 0.9" in caplog.text


def test_one_process_of_several_says_it(monkeypatch, caplog):
    """The others are told to be quiet, and need not do the work."""
    monkeypatch.setattr(pseudo_labels, "expected_right", lambda *_: pytest.fail("was asked for"))
    caplog.set_level("ERROR", logger=pseudo_labels.logger.name)
    assert with_pseudo_labels(rows([0, 1] * 6 + [None], [0, 90] * 6 + [10]), seed=0)["label"][-1] == 0


def test_of_few_captions_it_says_that_it_does_not_know(caplog):
    with caplog.at_level("INFO"):
        with_pseudo_labels(rows([0, 1] * 4 + [0, None], [0, 90] * 4 + [0, 10]), seed=0)
    assert "how many are right is not known" in caplog.text


def test_the_only_caption_of_a_class_counts_neither_as_right_nor_as_wrong():
    """Nothing else could tell its class."""
    vectors = np.eye(2)[[0] * 10 + [1]]
    assert expected_right(vectors, np.asarray([0] * 10 + [1]), seed=0) == 1
    assert expected_right(np.eye(20), np.arange(20), seed=0) is None
    assert expected_right(np.eye(20), np.arange(20) // 2, seed=0, threshold=0.99) is None  # nothing is told


def test_a_threshold_raises_the_estimate_unless_captions_are_of_other_images():
    """Pairs of equal captions among captions that tell nothing, and pairs whose labels have been shuffled."""
    random = np.random.default_rng(0)
    pairs, alone = np.repeat(np.arange(20), 2), np.arange(20, 60)
    labels = np.concatenate([pairs % 4, random.integers(4, size=40)])
    vectors = np.eye(60)[np.concatenate([pairs, alone])]
    assert expected_right(vectors, labels, seed=0) < 0.75
    assert expected_right(vectors, labels, seed=0, threshold=0.6) > 0.95
    labels, vectors = random.permutation(pairs % 4), np.eye(20)[pairs]
    assert expected_right(vectors, labels, seed=0) < 0.4
    assert expected_right(vectors, labels, seed=0, threshold=0.6) < 0.4


def test_an_estimate_wants_ten_captions_above_the_threshold():
    vectors, labels = np.eye(6)[[0] * 8 + [1, 2, 3, 4]], np.asarray([0] * 8 + [0, 1, 0, 1])
    assert expected_right(vectors, labels, seed=0) is not None
    assert expected_right(vectors, labels, seed=0, threshold=0.99) is None


def test_of_many_captions_a_tenth_is_left_out_once(monkeypatch):
    monkeypatch.setattr("g4i_hf.training.pseudo_labels.ONCE", 20)
    fitted = []
    real = pseudo_labels._fitted
    monkeypatch.setattr(pseudo_labels, "_fitted", lambda X, y: fitted.append(len(y)) or real(X, y))
    for count, sizes in ((20, [18] * 10), (21, [18])):
        fitted.clear()
        expected_right(np.eye(2)[np.arange(count) % 2], np.arange(count) % 2, seed=0)
        assert fitted == sizes


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (rows([0, 0, None], [0, 10, 20]), "fewer than two classes"),
        (rows([0, 1, None], [None, 90, 20]), "fewer than two classes"),
        (rows([0, 1, None], [0, 90, 20]).remove_columns("text_embeds"), "no text_embeds"),
    ],
)
def test_without_anything_to_learn_from_it_is_an_error(split, message):
    with pytest.raises(ValueError, match=f"unlabelled is 'pseudo_label', but .*{message}"):
        with_pseudo_labels(split, seed=0)


def test_the_recipe_labels_by_the_labels_that_are_kept(data):  # noqa: F811
    """Equal captions are of one class in the made-up data, so that a labelled one tells it for certain."""
    split = made_up()
    truth, captions = labels_of(split), np.asarray(split["caption"][:])
    kept = labels_of(keep_label_fraction(split, 0.5, seed=42)) >= 0
    told = np.isin(captions, captions[kept])
    assert 0 < kept.sum() < told.sum() < len(split)
    few = ("--label_fraction", "0.5", "--unlabelled", "pseudo_label", "--align_weight", "0")
    options, splits = loaded(data, *few)
    assert (labels_of(splits["train"])[told] == truth[told]).all() and (labels_of(splits["train"]) >= 0).all()
    _, shuffled = loaded(data, *few, "--caption_control", "shuffle")  # it goes by what stands in place of captions
    assert (labels_of(shuffled["train"]) >= 0).all() and (labels_of(shuffled["train"])[told] != truth[told]).any()


def test_the_recipe_leaves_captions_below_the_threshold_without_label(data):  # noqa: F811
    few = ("--label_fraction", "0.5", "--unlabelled", "pseudo_label", "--align_weight", "0")
    _, every = loaded(data, *few)
    _, sure = loaded(data, *few, "--pseudo_label_threshold", "0.99")
    all_labels, sure_labels = labels_of(every["train"]), labels_of(sure["train"])
    assert 0 < (sure_labels < 0).sum() < len(sure_labels) and (all_labels >= 0).all()
    assert (sure_labels == all_labels)[sure_labels >= 0].all()


def test_a_threshold_is_a_probability(data):  # noqa: F811
    with pytest.raises(ValueError, match="pseudo_label_threshold is 1.5; it must be at least 0 and below 1"):
        loaded(data, "--pseudo_label_threshold", "1.5")


def test_a_run_with_pseudo_labels_is_no_baseline(tmp_path):
    assert learned_from_captions({"align_weight": 0.0, "unlabelled": "pseudo_label"}) == "unlabelled pseudo_label"
    assert learned_from_captions({"align_weight": 0.0, "unlabelled": "drop"}) is None
    images = CaptionedImages(keep_label_fraction(made_up(), 0.5, seed=0), TO_TENSOR)
    for weight, shown in ((0.0, "alignment: none; pseudo-labels"), (1.0, "parameters; pseudo-labels from captions")):
        args = AlignmentArguments(str(tmp_path), report_to=[], align_weight=weight)
        assert shown in "\n".join(describe_training("tiny", aligned_model("vit"), images, args, "pseudo_label"))
