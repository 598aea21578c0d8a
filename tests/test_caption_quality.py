"""Captions that fit get full weight, doubtful ones less."""

import json
import tracemalloc

import numpy as np
import pytest

from g4i_hf.captioning.label_names import names_label, read_synonyms, terms_of
from g4i_hf.captioning.quality import (
    CUT_OFF,
    LOOPED,
    NAMED_AT_LEAST,
    class_margins,
    doubt_factor,
    duplicate_shares,
    histogram,
    judge,
    label_factor,
    weights_of_rows,
)

# --- Labels in the text ---------------------------------------------------------------------------------------------

NAMED = [
    ("golden_retriever", "Two Golden Retrievers on grass."),
    ("golden retriever", "a golden-retriever"),
    ("tench, Tinca tinca", "A man holds a tench."),
    ("tench, Tinca tinca", "This fish is Tinca  tinca"),
    ("cats", "A cat on a sofa"),
    ("fox", "three foxes"),
    ("strawberry", "A bowl of strawberries."),
    ("leaf", "Leaves on the ground"),
    ("fireman", "Two firemen"),
    ("dog", "The dog's tail"),
    ("crane (bird)", "A crane stands in water"),
    ("005.Crested_Auklet", "a crested auklet"),
    ("n02085620-Chihuahua", "A chihuahua."),
    ("GoldenRetriever", "a golden retriever"),
    ("7", "The digit 7 in white"),
    ("Straße", "EINE STRASSE"),
    ("猫", "一只猫在睡觉"),
    ("C++", "A book about C++."),
    ("bus", "buses and a car"),
]
NOT_NAMED = [
    ("cat", "A catalogue and a bobcat"),
    ("golden_retriever", "A golden dog, a retriever of balls"),
    ("ass", "a glass of grass"),
    ("bus", "A busy street"),
    ("7", "17 sheep and 7th heaven"),
    ("猫", "一只狗"),
]


@pytest.mark.parametrize("name, caption, named", [(*pair, 1) for pair in NAMED] + [(*pair, 0) for pair in NOT_NAMED])
def test_labels_are_found_as_whole_words(name, caption, named):
    assert names_label([caption], np.array([0]), [name]).tolist() == [named]


def test_what_cannot_be_said_is_not_said():
    names = ["LABEL_3", "n01440764", "dog", "0123"]
    captions, labels = ["label 3", "n01440764", None, "dog", "0123"], np.array([0, 1, 2, -1, 3])
    assert names_label(captions, labels, names).tolist() == [-1] * 5
    assert terms_of("drake, LABEL_3") == ["drake"]


def test_synonyms_of_the_user_count(tmp_path):
    path = tmp_path / "synonyms.yaml"
    path.write_text("dog: [hound, puppy]\ncat: kitten\n")
    synonyms = read_synonyms(path, ["dog", "cat"])
    captions = ["A puppy", "A kitten", "two hounds"]
    assert names_label(captions, np.array([0, 1, 0]), ["dog", "cat"], synonyms).tolist() == [1, 1, 1]
    assert names_label(captions, np.array([0, 1, 0]), ["dog", "cat"]).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "content, message",
    [
        ("dgo: [hound]", r"class 'dgo': there is no such class\. Did you mean 'dog'\?"),
        ("dog: {a: b}", r"class 'dog': give a list of words"),
        ("- dog", r"it must hold `class name: \[word, other word\]` lines"),
        ("dog: [", "cannot be read"),
    ],
)
def test_wrong_synonyms_are_refused(tmp_path, content, message):
    (tmp_path / "s.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_synonyms(tmp_path / "s.yaml", ["dog", "cat"])
    with pytest.raises(ValueError, match="cannot be read"):
        read_synonyms(tmp_path / "none.yaml", ["dog"])


# --- Margins --------------------------------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Toy:
    """Captions `i` of class c whose embeddings lie around a direction of the class."""

    def __init__(self, classes: int = 10, each: int = 60, dim: int = 32, noise: float = 0.8, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.labels = np.repeat(np.arange(classes), each)
        centres = unit(rng.normal(size=(classes, dim)))
        self.embeds = unit(centres[self.labels] + noise * unit(rng.normal(size=(len(self.labels), dim))))
        self.captions = [f"caption {row}" for row in range(len(self.labels))]
        self.sizes: list[int] = []
        self.rng = rng

    def encode(self, texts: list[str]) -> np.ndarray:
        self.sizes.append(len(texts))
        return self.embeds[[int(text.split()[1]) for text in texts]]


def test_margins_against_loops_and_in_any_blocks():
    toy = Toy(classes=4, each=7)
    labels = toy.labels.copy()
    labels[3] = -1
    captions: list[str | None] = list(toy.captions)
    captions[5], captions[9] = None, captions[8]  # one is missing, one is said twice
    embeds = np.float16(toy.embeds).astype(np.float64)
    embeds[9] = embeds[8]
    used = [row for row in range(28) if row not in (3, 5)]
    expected, nearest = np.full(28, np.nan), np.full(28, -1)
    for row in used:
        near = {}
        for label in range(4):
            others = [other for other in used if labels[other] == label and other != row]
            near[label] = embeds[row] @ unit(embeds[others].sum(0))
        own = near.pop(labels[row])
        nearest[row] = max(near, key=near.get)
        expected[row] = own - near[nearest[row]]
    for block in (3, 1000):
        toy.sizes.clear()
        margins, found = class_margins(captions, labels, toy.encode, block=block)
        np.testing.assert_allclose(margins, expected, atol=1e-4)
        assert found.tolist() == nearest.tolist()
        assert max(toy.sizes) <= block and sum(toy.sizes) == 25  # each distinct one once


def test_a_caption_alone_in_its_class_has_no_margin():
    toy = Toy(classes=3, each=4)
    labels = toy.labels.copy()
    labels[0] = 5
    margins, nearest = class_margins(toy.captions, labels, toy.encode)
    assert np.isnan(margins[0]) and nearest[0] == -1 and np.isfinite(margins[1:]).all()
    assert np.isnan(class_margins(toy.captions, np.full(12, -1), toy.encode)[0]).all()
    assert np.isnan(class_margins(toy.captions, np.zeros(12, dtype=int), toy.encode)[0]).all()


def test_an_encoder_that_fails_is_named():
    with pytest.raises(ValueError, match="embedding of the caption 'b' is not finite"):
        class_margins(["a", "b"], np.array([0, 1]), lambda texts: np.array([[1.0], [np.nan]]))


def test_memory_does_not_hold_all_embeddings():
    """40,000 x 512 would be 160 MB in float64, 41 MB in float16; a block of 1,000 is 4 MB."""
    captions, labels = [f"c {row}" for row in range(40_000)], np.arange(40_000) % 7
    rng = np.random.default_rng(0)
    tracemalloc.start()
    class_margins(captions, labels, lambda texts: rng.random((len(texts), 512), dtype=np.float32), block=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 35e6


# --- Weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.5, 0.8, 1.2])
def test_shuffled_captions_get_less_and_right_ones_stay_near_one(noise):
    toy = Toy(noise=noise)
    wrong = toy.rng.permutation(len(toy.captions))[: len(toy.captions) // 10]
    captions = list(toy.captions)
    for row, other in zip(wrong, np.roll(wrong, 1), strict=True):
        captions[row] = toy.captions[other]
    wrong = [row for row, other in zip(wrong, np.roll(wrong, 1), strict=True) if toy.labels[row] != toy.labels[other]]
    weights = judge(captions, toy.labels, encode=toy.encode).weights
    right = np.setdiff1d(np.arange(len(captions)), wrong)
    assert weights[wrong].mean() < 0.2
    assert weights[right].mean() > 0.97 and np.median(weights[right]) > 0.99
    assert (weights[right] > 0.8).mean() > 0.97


def test_classes_that_are_hard_to_tell_apart_are_no_reason_for_doubt():
    """Margins around 0: a third is negative, as is usual in this data."""
    weights = judge(Toy(noise=8).captions, Toy().labels, encode=Toy(noise=8).encode)
    assert (weights.margins < 0).mean() > 0.2 and weights.weights.mean() > 0.9


def test_misfits_by_image_text_score_get_less():
    rng = np.random.default_rng(0)
    scores = np.where(np.arange(500) % 10 == 0, 0.15, 0.3) + rng.normal(0, 0.03, 500)
    captions, labels = [f"caption {row}" for row in range(500)], np.full(500, -1)
    weights = judge(captions, labels, scores=scores).weights
    assert weights[::10].mean() < 0.15 and weights[np.arange(500) % 10 > 0].mean() > 0.95
    scores[3] = np.nan
    assert judge(captions, labels, scores=scores).weights[3] == 1


def test_factors_against_values_worked_out_by_hand():
    steps = [(), ("unfinished",), ("unfinished", "repetitions"), ("openings",)]
    weights = judge(list("abcd"), np.full(4, -1), applied=steps).weights
    assert weights.tolist() == pytest.approx([1, CUT_OFF, CUT_OFF * LOOPED, 1])
    named, labels = np.array([1, 1, 0, 0, -1]), np.array([0, 0, 0, 1, 1])
    assert label_factor(named, labels).tolist() == [1, 1, pytest.approx(1 - 0.2 * 2 / 3), 1, 1]
    values = np.linspace(-1, 3, 101)  # median 1, quartiles 0 and 2: spread 2 / 1.349, t = 1 - 2 spread = -1.965
    factor = doubt_factor(values, highest=0.0)
    spread = 2 / 1.349
    np.testing.assert_allclose(factor, 1 / (1 + np.exp(-(values - (1 - 2 * spread)) / (spread / 3))))
    assert doubt_factor(values + 10, highest=0.0)[0] > 0.999
    assert doubt_factor(np.full(50, -1.0)).tolist() == [1.0] * 50  # no spread, no doubt
    assert doubt_factor(np.array([-5.0, 1, 1, 2])).tolist() == [1.0] * 4  # too few


def test_a_caption_that_names_its_class_keeps_half():
    toy = Toy()
    captions = list(toy.captions)
    captions[0], captions[1] = captions[-1] + " zero", captions[-1] + " nothing"
    judged = judge(captions, toy.labels, ["zero", *"bcdefghij"], encode=toy.encode)
    assert judged.named[0] == 1 and judged.weights[0] == pytest.approx(NAMED_AT_LEAST, abs=0.01)
    assert judged.weights[1] < 0.1
    assert judged.doubts(1)[0] == "nearer to another class than to its own" and judged.nearest[1] == 9
    assert judged.doubts(70) == []


def test_not_naming_the_class_alone_costs_little():
    names = ["dog", "cat"]
    plain = judge(["an animal on grass"] * 20 + ["an animal inside"] * 20, np.repeat([0, 1], 20), names)
    assert plain.weights.min() == 1.0
    one = judge([f"a dog, {row}" for row in range(19)] + ["an animal on grass"], np.zeros(20, dtype=int), names)
    assert one.weights[-1] == pytest.approx(1 - 0.2 * 0.95) and one.weights[:-1].min() == 1.0


def test_a_caption_given_to_other_classes_teaches_less():
    captions = ["A dog.", "a dog", "A dog", "A dog", "A cat.", "A cat.", None, "A dog"]
    labels = np.array([0, 0, 0, 1, 2, 2, 2, -1])
    copies, share = duplicate_shares(captions, labels)
    assert copies.tolist() == [5, 5, 5, 5, 2, 2, 0, 5]
    assert share.tolist() == [0.75, 0.75, 0.75, 0.25, 1, 1, 1, 1]
    judged = judge(captions, labels)
    assert judged.weights.tolist() == [0.75, 0.75, 0.75, 0.25, 1, 1, 0, 1]
    assert judged.figures["duplicates"] == {
        "captions": 2,
        "rows": 7,
        "share": 1.0,
        "rows_across_classes": 4,
        "most_common": [
            {"caption": "A dog.", "rows": 5, "classes": 2},
            {"caption": "A cat.", "rows": 2, "classes": 1},
        ],
    }


def test_unlabelled_rows_skip_what_needs_a_label():
    toy = Toy()
    labels = toy.labels.copy()
    labels[:2] = -1
    judged = judge(toy.captions, labels, list("abcdefghij"), encode=toy.encode)
    assert judged.weights[:2].tolist() == [1, 1] and np.isnan(judged.margins[:2]).all()
    assert judged.named[:2].tolist() == [-1, -1]
    without = judge(["a dog", None, None], np.full(3, -1), encode=lambda texts: 1 / 0)
    assert without.weights.tolist() == [1, 0, 0] and without.margins is None
    assert without.figures["captions"] == 1 and without.figures["unlabelled"] == 3


def test_weights_are_what_the_column_wants_and_figures_are_json():
    toy = Toy()
    captions: list = list(toy.captions)
    captions[5] = None
    judged = judge(
        captions, toy.labels, list("abcdefghij"), encode=toy.encode, scores=np.random.default_rng(0).random(600)
    )
    assert judged.weights.dtype == np.float32 and judged.weights[5] == 0
    assert (judged.weights >= 0).all() and (judged.weights <= 1).all() and np.isfinite(judged.weights).all()
    figures = json.loads(json.dumps(judged.figures, allow_nan=False))
    assert figures["captions"] == 599 and figures["without_caption"] == 1
    assert sum(figures["weight"]["counts"]) == sum(figures["margin"]["counts"]) == 599
    json.dumps(judge([], np.zeros(0, int)).figures, allow_nan=False)
    json.dumps(judge([None], np.zeros(1, int), ["a"]).figures, allow_nan=False)


def test_a_row_has_the_mean_of_its_captions():
    weights, owners = np.float32([1.0, 0.5, 0.0, 0.4, 0.0]), np.array([0, 0, 1, 1, 2])
    assert weights_of_rows(weights, owners, 4).tolist() == [0.75, pytest.approx(0.4), 0, 0]


def test_a_histogram_counts_what_is_finite():
    found = histogram(np.array([0.0, 0.5, 1.0, np.nan, np.inf]), 0, 1)
    assert found["count"] == sum(found["counts"]) == 3 and found["mean"] == 0.5 and found["quantiles"]["50"] == 0.5
    assert histogram(np.array([np.nan])) is None
