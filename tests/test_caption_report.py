"""Pages that people look at, before they pay and after: what they say, and that nothing written by others runs."""

import html
import io
import json
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as PILImage

from g4i_hf.captioning.quality import judge
from g4i_hf.captioning.report import HTML, JSON, SIDE, Shown, thumbnail, write_page, write_report

EVIL = "<script>alert('caption')</script>"
NAMES = ["<b>dog</b>", "cat"]
ROWS = 60


class Images(list):
    """Rows of images, each of its own colour; row 7 cannot be read."""

    def __init__(self, rows: int = ROWS):
        self.asked: list[int] = []
        super().__init__(range(rows))

    def __getitem__(self, row: int) -> dict:
        self.asked.append(row)
        if row == 7:
            raise OSError("cannot identify image file")
        return {"image": PILImage.new("RGB", (64, 40), (4 * (row % 60), 255 - 4 * (row % 60), 128))}


def split() -> pd.DataFrame:
    """Row 0 was refused, row 1 timed out, row 2 holds a script, rows 3 and 4 say the same, row 5 is cut off."""
    captions: list = [f"A {'dog' if row % 2 == 0 else 'cat'} number {row} sits." for row in range(ROWS)]
    captions[:6] = [None, None, EVIL, "An animal.", "An animal.", "A cat."]
    columns = {
        "row": range(ROWS),
        "image_id": [f"{EVIL}/{row}.png" if row == 2 else f"folder/{row}.png" for row in range(ROWS)],
        "caption": pd.Series(captions, dtype=object),
        "caption_raw": [
            f"I'm sorry, but I can't help. {EVIL}",
            None,
            *[f"The image shows: {c}" for c in captions[2:]],
        ],
        "caption_status": ["refused", "timeout"] + ["ok"] * (ROWS - 2),
        "caption_reason": ["the model declined", f"no answer {EVIL}"] + [None] * (ROWS - 2),
        "caption_cleaned": ["refusals", "", "openings", "", "", "openings,unfinished"] + ["openings"] * (ROWS - 6),
        "label": np.arange(ROWS) % 2,
    }

    def encode(texts: list[str]) -> np.ndarray:
        found = np.array([[1.0 * ("dog" in text), 1.0 * ("cat" in text), 0.5] for text in texts])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return judge(pd.DataFrame(columns), NAMES, encode=encode, scores=np.linspace(0.2, 0.4, ROWS))


def unlabelled() -> pd.DataFrame:
    columns = ["row", "image_id", "caption", "caption_raw", "caption_status", "caption_reason", "caption_cleaned"]
    return judge(split()[columns].assign(label=-1))


def text_of(page: Path | str) -> str:
    """What a reader sees, without markup."""
    source = page.read_text(encoding="utf-8") if isinstance(page, Path) else page
    source = re.sub(r"<style>.*?</style>", " ", source, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


# --- Report ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    about = {"captioner": f"model {EVIL}", "prompt": ["one", "two"], "nothing": None, "nested": {"a": 1}}
    judged, images = {"train": split(), "test": unlabelled()}, {"train": Images(), "test": Images()}
    assert write_report(folder, judged, images, about) == folder / HTML
    return folder


def test_nothing_that_others_wrote_runs(report):
    source = (report / HTML).read_text(encoding="utf-8")
    assert "<script" not in source and "<b>dog" not in source
    assert text_of(source).count(EVIL) >= 5  # caption, answers, reason, id and model are there to be read


def test_the_page_tells_what_was_dropped_and_why(report):
    text = text_of(report / HTML)
    for said in (
        "58 captions",
        "2 without caption",
        "refused the model declined 1",
        f"timeout no answer {EVIL} 1",
        "openings 56",
        "I'm sorry, but I can't help.",
        "captioner model",
        "prompt one; two",
        "Most doubtful captions",
        "given to other classes too",
        "cannot be shown",
        "An animal. 2 2",  # the caption, its rows, its classes
    ):
        assert said in text, said
    assert "nested" not in text and "nothing" not in text


def test_pictures_and_distributions_are_in_the_page(report):
    source = (report / HTML).read_text(encoding="utf-8")
    assert source.count("<svg") == 4  # words, margin, score; words of the other split
    assert source.count("data:image/jpeg;base64,") > 20
    assert "http://" not in source and "https://" not in source  # nothing is fetched when it is opened
    words = json.loads((report / JSON).read_text())["splits"]["test"]["words"]
    heights = [float(height) for height in re.findall(r'<rect [^>]* height="([^"]+)"', source)]
    expected = [100 * count / max(words["counts"]) for count in words["counts"]]
    assert heights[-len(expected) :] == pytest.approx(expected)


def test_the_most_doubtful_captions_come_first(tmp_path):
    doubted = split().assign(doubts=["cut off"] * (ROWS - 1) + ["cut off, in a loop"], weight=0.5)
    write_report(tmp_path, {"train": doubted[2:]}, {"train": Images()})
    text = text_of(tmp_path / HTML)
    assert text.index("Most doubtful captions") < text.index("folder/59.png") < text.index("folder/3.png")
    assert "Least doubtful captions" not in text


def test_the_json_file_holds_all_numbers(report):
    told = json.loads((report / JSON).read_text(encoding="utf-8"))
    train = told["splits"]["train"]
    assert train["captions"] == 58 and [line["captions"] for line in train["status"]] == [58, 1, 1]
    assert {line["step"]: line["captions"] for line in train["cleaning"]} == {
        "openings": 56,
        "unfinished": 1,
        "refusals": 1,
    }
    assert [one["image_id"] for one in train["dropped"]] == ["folder/0.png", "folder/1.png"]
    assert train["dropped"][0]["caption_raw"].startswith("I'm sorry")
    assert told["splits"]["test"]["mean_margin"] is None and told["about"]["nested"] == {"a": 1}


def test_lines_of_classes_against_values_counted_by_hand(report):
    found = json.loads((report / JSON).read_text(encoding="utf-8"))["splits"]
    dog, cat = sorted(found["train"]["classes"], key=lambda line: line["class"])
    assert (dog["captions"], dog["failures"], cat["captions"], cat["failures"]) == (29, 1, 29, 1)
    assert cat["names_label"] == pytest.approx(28 / 29)  # all but `An animal.`
    assert cat["mean_words"] == pytest.approx((27 * 5 + 2 + 2) / 29)
    assert cat["mean_weight"] == pytest.approx(split()["weight"][3::2].mean())
    assert found["test"]["classes"] == []


def test_words_are_counted_in_scripts_without_spaces_too(tmp_path):
    write_report(tmp_path, {"train": split().assign(caption="一只狗 runs fast")}, {"train": Images()})
    assert json.loads((tmp_path / JSON).read_text())["splits"]["train"]["words"]["mean"] == 5


def test_only_images_that_are_shown_are_opened(tmp_path):
    many = pd.concat([split()] * 20, ignore_index=True).assign(row=range(20 * ROWS))
    images = Images(len(many))
    write_report(tmp_path, {"train": many}, {"train": images})
    assert 3 * 12 <= len(images.asked) <= 4 * 12


def test_nothing_at_all_and_a_stream_can_be_reported(tmp_path):
    failed = split()[:1]
    write_report(tmp_path, {"empty": split()[:0], "failed": failed}, {"empty": Images(0), "failed": iter(())})
    assert "Split empty" in text_of(tmp_path / HTML) and "the model declined" in text_of(tmp_path / HTML)


# --- Dry run --------------------------------------------------------------------------------------------------------


def test_a_page_has_each_caption_beside_its_image(tmp_path):
    several = [Shown(thumbnail(Images(), row), f"caption {row}", f"id {row}") for row in range(3)]
    several += [Shown(None, None, "broken", doubts=["undecodable"]), Shown(None, EVIL, raw=f"Sure! {EVIL}")]
    page = tmp_path / "new" / "page.html"
    write_page(page, f"Dry run {EVIL}", shown=several, paragraphs=[f"Images go to {EVIL}\nand\nback."])
    source = page.read_text(encoding="utf-8")
    assert "<script" not in source and "Images go to &lt;script&gt;" in source
    for row in range(3):
        place = source.index(several[row].picture) + len(several[row].picture)
        assert f"caption {row}" in source[place : place + 200]
    assert "no caption undecodable" in text_of(source) and "cannot be shown" in source


def test_images_that_cannot_be_read_and_unusual_ones_do_no_harm():
    assert thumbnail(Images(), 7) is None
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16", "1"):
        picture = thumbnail([{"image": PILImage.new(mode, (3000, 5))}], 0).partition(",")[2]
        image = PILImage.open(io.BytesIO(b64decode(picture)))
        assert image.mode == "RGB" and image.size == (SIDE, 1)
