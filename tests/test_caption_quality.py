"""Captions that fit get full weight, doubtful ones half of it; and the pages on which people look at them."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image as PILImage

from g4i_hf.captioning.quality import class_margins, judge, judge_captions, names_label, read_synonyms
from g4i_hf.captioning.report import HTML, Shown, thumbnail, write_page, write_report
from g4i_hf.captioning.stage import Captioned, given_columns
from g4i_hf.options import QualityArguments

# --- Labels in the text ----------------------------------------------------------------------------------------------

NAMED = [
    ("golden_retriever", "Two Golden Retrievers on grass."),
    ("tench, Tinca tinca", "This fish is Tinca  tinca"),
    ("cats", "A cat on a sofa"),
    ("fox", "three foxes"),
    ("leaf", "Leaves on the ground"),
    ("dog", "The dog's tail"),
    ("crane (bird)", "A crane stands in water"),
    ("n02085620-Chihuahua", "A chihuahua."),
    ("GoldenRetriever", "a golden retriever"),
    ("7", "The digit 7 in white"),
    ("猫", "一只猫在睡觉"),
]
NOT_NAMED = [("cat", "A catalogue and a bobcat"), ("golden_retriever", "A golden dog, a retriever of balls")]
UNKNOWN = [("LABEL_3", "label 3"), ("n01440764", "n01440764"), ("dog", None)]


@pytest.mark.parametrize("pairs, named", [(NAMED, 1), (NOT_NAMED, 0), (UNKNOWN, -1)])
def test_labels_are_found_as_whole_words_where_they_mean_anything(pairs, named):
    for name, caption in pairs:
        assert names_label([caption], np.array([0]), [name]).tolist() == [named], (name, caption)
    assert names_label(["dog"], np.array([-1]), ["dog"]).tolist() == [-1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("dgo: [hound]", r"class 'dgo': there is no such class\. Did you mean 'dog'\?"),
        ("- dog", r"it must hold `class name: \[word, other word\]` lines"),
    ],
)
def test_wrong_synonyms_are_refused(tmp_path, content, message):
    (tmp_path / "s.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_synonyms(tmp_path / "s.yaml", ["dog", "cat"])


# --- Margins ---------------------------------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Toy:
    """Captions `i` of class c whose embeddings lie around a direction of the class."""

    def __init__(self, classes: int = 10, each: int = 60):
        self.rng = np.random.default_rng(0)
        self.labels = np.repeat(np.arange(classes), each)
        centres = unit(self.rng.normal(size=(classes, 32)))
        self.embeds = unit(centres[self.labels] + 0.8 * unit(self.rng.normal(size=(len(self.labels), 32))))
        self.captions = [f"caption {row}" for row in range(len(self.labels))]

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.embeds[[int(text.split()[1]) for text in texts]]


def test_margins_against_loops(monkeypatch):
    toy = Toy(classes=4, each=7)
    toy.captions[9], toy.embeds[9] = toy.captions[8], toy.embeds[8]  # one is said twice
    toy.labels[0] = 5  # and one alone in its class
    expected, nearest = np.empty(28), np.empty(28)
    for row in range(28):
        near = {}
        for label in set(toy.labels):
            others = [other for other in range(28) if toy.labels[other] == label and other != row]
            near[label] = toy.embeds[row] @ unit(toy.embeds[others].sum(0)) if others else np.nan
        own = near.pop(toy.labels[row])
        nearest[row] = max(near, key=near.get)
        expected[row] = own - near[nearest[row]]
    for at_once in (3, 1000):
        monkeypatch.setattr("g4i_hf.captioning.quality.ENCODED", at_once)
        monkeypatch.setattr("g4i_hf.captioning.quality.COMPARED", at_once)
        margins, found = class_margins(toy.captions, toy.labels, toy.encode)
        np.testing.assert_allclose(margins, expected, atol=1e-5)
        assert found.tolist() == nearest.tolist()
    assert np.isnan(expected[0])


# --- Weights ---------------------------------------------------------------------------------------------------------


def judged(captions, labels, names=None, cleaned="", **options) -> pd.DataFrame:
    captions = pd.Series(list(captions), dtype=object)
    table = pd.DataFrame({"caption": captions.where(captions.notna(), None), "caption_cleaned": cleaned}, dtype=object)
    return judge(table.assign(label=np.asarray(labels), row=range(len(table))), names, **options)


def test_shuffled_captions_are_doubted_and_right_ones_are_not():
    toy, captions = Toy(), np.array(Toy().captions, dtype=object)
    wrong = toy.rng.permutation(len(captions))[:60]
    captions[wrong] = captions[np.roll(wrong, 1)]
    moved = wrong[toy.labels[wrong] != toy.labels[np.roll(wrong, 1)]]
    found = judged(captions, toy.labels, [*"abcdefghij"], encode=toy.encode)
    weights = found["weight"].to_numpy()
    assert weights[moved].mean() < 0.55 and np.delete(weights, moved).mean() > 0.97
    doubted = found[found["weight"] == 0.5].iloc[0]
    assert doubted["doubts"] == "nearer to another class" and doubted["nearest"] != doubted["class"]


def test_misfits_by_image_text_score_are_doubted():
    rng = np.random.default_rng(0)
    scores = np.where(np.arange(500) % 10 == 0, 0.1, 0.3) + rng.normal(0, 0.03, 500)
    scores[3] = np.nan
    found = judged([f"caption {row}" for row in range(500)], np.full(500, -1), scores=scores)
    assert (found["weight"][::10] == 0.5).mean() > 0.95 and found["weight"][3] == 1
    assert (found["weight"][np.arange(500) % 10 > 0] == 1).mean() > 0.97
    assert found["doubts"][0] == "fits its image badly"


def test_each_doubt_is_named_and_several_weigh_no_less_than_one():
    cleaned = ["", "unfinished", "openings,repetitions,unfinished", "openings", "", ""]
    found = judged(["a", "b", "c", "d", None, "e"], np.full(6, -1), cleaned=cleaned, encode=lambda texts: 1 / 0)
    assert found["weight"].tolist() == [1, 0.5, 0.5, 1, 0, 1]
    assert found["doubts"].tolist() == ["", "cut off", "cut off, in a loop", "", "", ""]


def test_a_caption_given_to_other_classes_is_doubted():
    captions = ["A dog.", "a dog", "A dog", "A dog", "A cat.", "A cat.", None, "A dog"]
    found = judged(captions, [0, 0, 0, 1, 2, 2, 2, -1])
    assert found["copies"].tolist() == [5, 5, 5, 5, 2, 2, 0, 5]
    assert found["weight"].tolist() == [0.5, 0.5, 0.5, 0.5, 1, 1, 0, 1]


def stage_of(captions: list, several: bool = False) -> tuple[Captioned, dict]:
    features = Features({"image_id": Value("string"), "label": ClassLabel(names=["dog", "cat"])})
    rows = {"image_id": [str(row) for row in range(len(captions))], "label": [0, 1] * (len(captions) // 2)}
    images = Dataset.from_dict(rows, features=features)
    return Captioned({"train": given_columns(images, captions, several, True)}, {}), {"train": images}


def test_a_row_with_several_captions_has_their_mean_weight():
    captioned, splits = stage_of([["A dog.", "Something"], [], ["I'm sorry.", "A hound."], ["Something"]], True)
    table = judge_captions(captioned, splits, QualityArguments())["train"]
    assert captioned.weights["train"].dtype == np.float32
    assert captioned.weights["train"].tolist() == [0.75, 0, 1, 0.5]
    assert table["row"].tolist() == [0, 0, 2, 2, 3] and table["class"].tolist() == ["dog"] * 4 + ["cat"]


def test_figures_of_the_stage_against_values_counted_by_hand(tmp_path):
    (tmp_path / "synonyms.yaml").write_text("dog: hound")
    captioned, splits = stage_of(["A dog.", "A cat.", "A hound.", "Something", "Something", None])
    arguments = QualityArguments(synonyms_file=str(tmp_path / "synonyms.yaml"))
    judge_captions(captioned, splits, arguments, scorer=lambda images, texts: 1 / 0)
    counts = {"captions": 5, "without_caption": 1, "doubtful": 2}
    shares = {"names_label": 0.6, "mean_weight": 0.8, "share_of_duplicates": 0.4}
    assert json.loads(json.dumps(captioned.quality["train"], allow_nan=False)) == counts | shares
    assert captioned.judged_by == {"synonyms": True}


# --- Report ----------------------------------------------------------------------------------------------------------

EVIL = "<script>alert('caption')</script>"
ROWS = 60


class Images:
    """Rows of images, each of its own colour; row 7 cannot be read."""

    def __getitem__(self, row: int) -> dict:
        if row == 7:
            raise OSError("cannot identify image file")
        return {"image": PILImage.new("RGB", (64, 40), (4 * row, 255 - 4 * row, 128))}


def split(labels=True) -> pd.DataFrame:
    """Row 0 was refused, row 1 timed out, row 2 holds a script, rows 3 and 4 say the same, row 5 is cut off."""
    captions = [f"A {'dog' if row % 2 == 0 else 'cat'} number {row} sits." for row in range(ROWS)]
    captions[:6] = [None, None, EVIL, "An animal.", "An animal.", "A cat."]
    raw = [f"I'm sorry, but I can't help. {EVIL}", None, *[f"The image shows: {text}" for text in captions[2:]]]
    table = pd.DataFrame(
        {
            "row": range(ROWS),
            "image_id": [f"{EVIL}/{row}.png" if row == 2 else f"folder/{row}.png" for row in range(ROWS)],
            "caption": pd.Series(captions, dtype=object),
            "caption_raw": raw,
            "caption_status": ["refused", "timeout"] + ["ok"] * (ROWS - 2),
            "caption_reason": ["the model declined", f"no answer {EVIL}"] + [None] * (ROWS - 2),
            "caption_cleaned": ["refusals", "", *["openings"] * 3, "openings,unfinished"] + ["openings"] * (ROWS - 6),
            "label": np.arange(ROWS) % 2 if labels else -1,
        }
    )

    def encode(texts: list[str]) -> np.ndarray:
        return unit(np.array([[1.0 * ("dog" in text), 1.0 * ("cat" in text), 0.5] for text in texts]))

    measured = {"encode": encode, "scores": np.linspace(0.2, 0.4, ROWS)} if labels else {}
    return judge(table, ["<b>dog</b>", "cat"] if labels else None, **measured)


def text_of(page: Path) -> str:
    """What a reader sees, without markup."""
    source = re.sub(r"<style>.*?</style>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    about = {"captioner": f"model {EVIL}", "prompt": ["one", "two"], "nothing": None, "nested": {"a": 1}}
    judged, images = {"train": split(), "test": split(labels=False)}, {"train": Images(), "test": Images()}
    assert write_report(folder, judged, images, about) == folder / HTML
    return folder


def test_the_page_tells_what_was_dropped_and_why_and_nothing_in_it_runs(report):
    text, source = text_of(report / HTML), (report / HTML).read_text(encoding="utf-8")
    said = ["ok 58", "refused the model declined 1", f"timeout no answer {EVIL} 1", "model", "prompt one; two"]
    said += ["Doubtful captions", "given to other classes too", "cut off", "Without a caption", "Changed by cleaning"]
    said += ["I'm sorry, but I can't help.", "cleaned: openings, unfinished", "cannot be shown"]
    assert [each for each in said if each not in text] == []
    assert "<script" not in source and "<b>dog" not in source and text.count(EVIL) >= 5, "there to be read"
    assert "http://" not in source and "https://" not in source, "nothing is fetched when it is opened"
    assert source.count("data:image/jpeg;base64,") > 20
    assert "given to other classes" not in text.split("Split test ")[1], "its images have no labels"


def test_a_page_of_a_dry_run_has_each_caption_beside_its_image(tmp_path):
    shown = [Shown(thumbnail(Images(), row), f"caption {row}", f"id {row}") for row in range(3)]
    broken = [Shown(thumbnail(Images(), 7), None, "broken", doubts=["undecodable"]), Shown(None, EVIL, raw=EVIL)]
    page = tmp_path / "new" / "page.html"
    write_page(page, f"Dry run {EVIL}", shown=shown + broken, paragraphs=[f"Images go to {EVIL}"])
    source = page.read_text(encoding="utf-8")
    assert "<script" not in source and "Images go to &lt;script&gt;" in source
    for row, one in enumerate(shown):
        place = source.index(one.picture) + len(one.picture)
        assert f"caption {row}" in source[place : place + 200]
    assert "no caption undecodable" in text_of(page) and "cannot be shown" in source
