"""Captions that fit get full weight, doubtful ones half of it."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from g4i_hf.captioning.label_names import names_label, read_synonyms, terms_of
from g4i_hf.captioning.quality import class_margins, judge, judge_captions
from g4i_hf.captioning.stage import Captioned, given_columns
from g4i_hf.options import QualityArguments

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
        self.rng = rng

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.embeds[[int(text.split()[1]) for text in texts]]


def test_margins_against_loops(monkeypatch):
    toy = Toy(classes=4, each=7)
    toy.captions[9], toy.embeds[9] = toy.captions[8], toy.embeds[8]  # one is said twice
    expected, nearest = np.empty(28), np.empty(28)
    for row in range(28):
        near = {}
        for label in range(4):
            others = [other for other in range(28) if toy.labels[other] == label and other != row]
            near[label] = toy.embeds[row] @ unit(toy.embeds[others].sum(0))
        own = near.pop(toy.labels[row])
        nearest[row] = max(near, key=near.get)
        expected[row] = own - near[nearest[row]]
    for at_once in (3, 1000):
        monkeypatch.setattr("g4i_hf.captioning.quality.ENCODED", at_once)
        monkeypatch.setattr("g4i_hf.captioning.quality.COMPARED", at_once)
        margins, found = class_margins(toy.captions, toy.labels, toy.encode)
        np.testing.assert_allclose(margins, expected, atol=1e-5)
        assert found.tolist() == nearest.tolist()


def test_a_caption_alone_in_its_class_has_no_margin():
    toy = Toy(classes=3, each=4)
    toy.labels[0] = 5
    margins, _ = class_margins(toy.captions, toy.labels, toy.encode)
    assert np.isnan(margins[0]) and np.isfinite(margins[1:]).all()


def test_an_encoder_that_fails_is_named():
    with pytest.raises(ValueError, match="quality_encoder gives embeddings that are not finite"):
        class_margins(["a", "b"], np.array([0, 1]), lambda texts: np.array([[1.0], [np.nan]]))


# --- Weights --------------------------------------------------------------------------------------------------------


def judged(captions, labels, names=None, cleaned="", **options) -> pd.DataFrame:
    table = pd.DataFrame({"caption": captions, "label": labels, "caption_cleaned": cleaned}, dtype=object)
    table["caption"] = table["caption"].astype(object).where(table["caption"].notna(), None)
    return judge(table.assign(label=np.asarray(labels), row=range(len(table))), names, **options)


def test_shuffled_captions_are_doubted_and_right_ones_are_not():
    toy = Toy()
    wrong = toy.rng.permutation(len(toy.captions))[:60]
    captions = np.array(toy.captions, dtype=object)
    captions[wrong] = captions[np.roll(wrong, 1)]
    moved = wrong[toy.labels[wrong] != toy.labels[np.roll(wrong, 1)]]
    weights = judged(captions, toy.labels, encode=toy.encode)["weight"].to_numpy()
    assert weights[moved].mean() < 0.55 and np.delete(weights, moved).mean() > 0.97


def test_misfits_by_image_text_score_are_doubted():
    rng = np.random.default_rng(0)
    scores = np.where(np.arange(500) % 10 == 0, 0.1, 0.3) + rng.normal(0, 0.03, 500)
    scores[3] = np.nan
    found = judged([f"caption {row}" for row in range(500)], np.full(500, -1), scores=scores)
    assert (found["weight"][::10] == 0.5).mean() > 0.95 and found["weight"][3] == 1
    assert (found["weight"][np.arange(500) % 10 > 0] == 1).mean() > 0.97
    assert found["doubts"][0] == "fits its image badly"


def test_each_doubt_is_named_and_several_weigh_no_less_than_one():
    cleaned = ["", "unfinished", "openings,repetitions,unfinished", "openings"]
    found = judged(list("abcd"), np.full(4, -1), cleaned=cleaned)
    assert found["weight"].tolist() == [1, 0.5, 0.5, 1]
    assert found["doubts"].tolist() == ["", "cut off", "cut off, in a loop", ""]


def test_a_caption_nearer_to_another_class_is_doubted():
    toy = Toy()
    captions = [toy.captions[-1] + " zero", *toy.captions[1:]]
    found = judged(captions, toy.labels, [*"abcdefghij"], encode=toy.encode).iloc[0]
    assert (found["doubts"], found["nearest"], found["weight"]) == ("nearer to another class", "j", 0.5)


def test_a_caption_given_to_other_classes_is_doubted():
    captions = ["A dog.", "a dog", "A dog", "A dog", "A cat.", "A cat.", None, "A dog"]
    found = judged(captions, [0, 0, 0, 1, 2, 2, 2, -1])
    assert found["copies"].tolist() == [5, 5, 5, 5, 2, 2, 0, 5]
    assert found["weight"].tolist() == [0.5, 0.5, 0.5, 0.5, 1, 1, 0, 1]


def test_rows_without_label_or_caption_skip_what_needs_them():
    toy = Toy()
    toy.labels[:2] = -1
    found = judged(toy.captions, toy.labels, [*"abcdefghij"], encode=toy.encode)
    assert found["weight"][:2].tolist() == [1, 1] and found["margin"][:2].isna().all()
    assert found["named"][:2].tolist() == [-1, -1]
    assert judged(["a dog", None], [-1, -1], encode=lambda texts: 1 / 0)["weight"].tolist() == [1, 0]
    assert judged([None], [0], ["a"], encode=toy.encode)["weight"].tolist() == [0]


def stage_of(captions: list, several: bool = False, labels: list | None = None) -> tuple[Captioned, dict]:
    features = Features({"image_id": Value("string"), "label": ClassLabel(names=["dog", "cat"])})
    rows = {"image_id": [str(row) for row in range(len(captions))], "label": labels or [0, 1] * (len(captions) // 2)}
    images = Dataset.from_dict(rows, features=features)
    return Captioned({"train": given_columns(images, captions, several, True)}, {}), {"train": images}


def test_a_row_with_several_captions_has_their_mean_weight():
    several = [["A dog.", "Something"], [], ["I'm sorry.", "A hound."], ["Something"]]
    captioned, splits = stage_of(several, several=True)
    table = judge_captions(captioned, splits, QualityArguments())["train"]
    assert captioned.weights["train"].dtype == np.float32
    assert captioned.weights["train"].tolist() == [0.75, 0, 1, 0.5]
    assert table["row"].tolist() == [0, 0, 2, 2, 3] and table["class"].tolist() == ["dog"] * 4 + ["cat"]


def test_figures_of_the_stage_against_values_counted_by_hand(tmp_path):
    (tmp_path / "synonyms.yaml").write_text("dog: hound")
    captioned, splits = stage_of(["A dog.", "A cat.", "A hound.", "Something", "Something", None])
    arguments = QualityArguments(synonyms_file=str(tmp_path / "synonyms.yaml"))
    judge_captions(captioned, splits, arguments, scorer=lambda images, texts: 1 / 0)
    assert json.loads(json.dumps(captioned.quality["train"], allow_nan=False)) == {
        "captions": 5,
        "without_caption": 1,
        "doubtful": 2,
        "names_label": 0.6,
        "mean_weight": 0.8,
        "share_of_duplicates": 0.4,
    }
    assert captioned.judged_by == {"synonyms": True}
