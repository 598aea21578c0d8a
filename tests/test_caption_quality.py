"""What speaks against captions, how many name their class, and the pages on which people look at them."""

import html
import json
import re
from pathlib import Path

import make
import numpy as np
import pandas as pd
import pytest

from g4i_hf.captioning.report import HTML, judge, judge_captions, names_class, write_report
from g4i_hf.captioning.stage import Captioned, given_columns

NAMED = [
    ("fox", "three foxes"),
    ("dog", "The dog's tail"),
    ("crane (bird)", "A crane stands in water"),
    ("GoldenRetriever", "a golden retriever"),
    ("7", "The digit 7 in white"),
    ("猫", "一只猫在睡觉"),
]
NOT_NAMED = [("cat", "A catalogue and a bobcat"), ("golden_retriever", "A golden dog, a retriever of balls")]
UNKNOWN = [("LABEL_3", "label 3"), ("n01440764", "n01440764"), ("dog", None)]


@pytest.mark.parametrize("pairs, named", [(NAMED, 1), (NOT_NAMED, 0), (UNKNOWN, np.nan)])
def test_class_names_are_found_as_whole_words_where_they_mean_anything(pairs, named):
    for name, caption in pairs:
        np.testing.assert_equal(names_class([caption], [0], [name]), [named], err_msg=f"{name}: {caption}")
    assert np.isnan(names_class(["dog"], [-1], ["dog"]))


def judged(captions, labels, names=None, cleaned="") -> pd.DataFrame:
    captions = pd.Series(list(captions), dtype=object)
    table = pd.DataFrame({"caption": captions.where(captions.notna(), None), "caption_cleaned": cleaned}, dtype=object)
    return judge(table.assign(label=np.asarray(labels), row=range(len(table))), names)


def test_each_doubt_is_named():
    cleaned = ["", "unfinished", "openings,repetitions,unfinished", "openings", "unfinished", ""]
    found = judged(["a", "b", "c", "d", None, "e"], np.full(6, -1), cleaned=cleaned)
    assert found["doubts"].tolist() == ["", "cut off", "cut off, in a loop", "", "", ""]


def stage_of(captions: list) -> tuple[Captioned, dict]:
    images = make.rows(len(captions), ("dog", "cat"), image=None)
    texts = [[caption] if isinstance(caption, str) else caption or [] for caption in captions]
    return Captioned({"train": given_columns(images, texts)}, {}), {"train": images}


def test_each_of_several_captions_is_judged():
    captioned, splits = stage_of([["A dog.", "Something"], [], ["I'm sorry.", "A hound."], ["Something"]])
    table = judge_captions(captioned, splits)["train"]
    assert (table["doubts"] != "").tolist() == [False, True, False, False, False, True]
    assert table["row"].tolist() == [0, 0, 1, 2, 2, 3] and table["class"].tolist() == ["dog", "dog", "cat"] * 2


def test_figures_of_the_stage_against_values_counted_by_hand():
    captioned, splits = stage_of(["A dog.", "A cat.", "A hound.", "Something", "Something", None])
    judge_captions(captioned, splits)
    figures = {"captions": 5, "without_caption": 1, "doubtful": 2, "names_label": 0.4}
    assert json.loads(json.dumps(captioned.quality["train"], allow_nan=False)) == figures


EVIL = "<script>alert('caption')</script>"
ROWS = 60
IMAGES = [{"image": make.stored(make.noise(row))} for row in range(ROWS)]
IMAGES[7] = {"image": {"bytes": b"no image", "path": None}}


def split(labels: bool = True) -> pd.DataFrame:
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
    return judge(table, ["<b>dog</b>", "cat"] if labels else None)


def text_of(page: Path) -> str:
    """What a reader sees, without markup."""
    source = re.sub(r"<style>.*?</style>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


def test_the_page_tells_what_was_dropped_and_why_and_nothing_in_it_runs(tmp_path):
    about = {"captioner": f"model {EVIL}", "prompt": ["one", "two"], "nothing": None, "nested": {"a": 1}}
    judged = {"train": split(), "test": split(labels=False)}
    page = write_report(tmp_path, judged, dict.fromkeys(judged, IMAGES), about)
    assert page == tmp_path / HTML
    text, source = text_of(page), page.read_text(encoding="utf-8")
    said = ["ok 58", "refused the model declined 1", f"timeout no answer {EVIL} 1", "model", "prompt one; two"]
    said += ["Doubtful captions", "given to other classes too", "cut off", "Without a caption", "Changed by cleaning"]
    said += ["I'm sorry, but I can't help.", "cleaned: openings, unfinished", "cannot be shown"]
    assert [each for each in said if each not in text] == []
    assert "<script" not in source and "<b>dog" not in source and text.count(EVIL) >= 5, "there to be read"
    assert "http://" not in source and "https://" not in source, "nothing is fetched when it is opened"
    assert source.count("data:image/jpeg;base64,") > 20
    assert "given to other classes" not in text.split("Split test ")[1], "its images have no labels"
