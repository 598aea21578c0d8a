"""Pages that people look at, before they pay and after: what they say, and that nothing written by others runs."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from g4i_hf.captioning.quality import CaptionedSplit, judge
from g4i_hf.captioning.report import HTML, JSON, SIDE, Shown, draw_grid, opened, wrapped, write_page, write_report

EVIL = "<script>alert('caption')</script>"
NAMES = ["<b>dog</b>", "cat"]
ROWS = 60


def picture(position: int) -> PILImage.Image:
    """Each of its own colour, so that a swapped one is seen."""
    if position == 7:
        raise OSError("cannot identify image file")
    return PILImage.new("RGB", (64 + position, 40), (4 * position, 255 - 4 * position, 128))


def split(judged: bool = True, **changed) -> CaptionedSplit:
    """Row 0 was refused, row 1 timed out, row 2 holds a script, rows 3 and 4 say the same, row 5 is cut off."""
    labels = np.arange(ROWS) % 2
    captions: list = [f"A {'dog' if row % 2 == 0 else 'cat'} number {row} sits." for row in range(ROWS)]
    captions[:6] = [None, None, EVIL, "An animal.", "An animal.", "A cat."]
    raw = [f"The image shows a pet. {caption}" for caption in captions]
    raw[0], raw[1] = f"I'm sorry, but I can't help. {EVIL}", None
    statuses = ["refused", "timeout"] + ["ok"] * (ROWS - 2)
    reasons = ["the model declined", f"no answer {EVIL}"] + [None] * (ROWS - 2)
    applied: list = [("openings",)] * ROWS
    applied[:6] = [("refusals",), (), ("openings",), (), (), ("openings", "unfinished")]
    rng = np.random.default_rng(0)

    def encode(texts: list[str]) -> np.ndarray:
        found = np.array([[1.0 * ("dog" in text), 1.0 * ("cat" in text), 0.5] for text in texts])
        found += 0.1 * rng.normal(size=found.shape)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    quality = None
    if judged:
        scores = np.linspace(0.2, 0.4, ROWS)
        quality = judge(captions, labels, NAMES, applied=applied, encode=encode, scores=scores)
    columns = {
        "image_ids": [f"{EVIL}/{row}.png" if row == 2 else f"folder/{row}.png" for row in range(ROWS)],
        "image_of": picture,
        "captions": captions,
        "raw": raw,
        "statuses": statuses,
        "reasons": reasons,
        "applied": applied,
        "labels": labels,
        "label_names": NAMES,
        "quality": quality,
    }
    return CaptionedSplit(**columns | changed)


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
    assert write_report(folder, {"train": split(), "test": split(judged=False)}, about) == folder / HTML
    return folder


def test_nothing_that_others_wrote_runs(report):
    source = (report / HTML).read_text(encoding="utf-8")
    assert "<script" not in source and "<b>dog" not in source
    assert html.escape(EVIL).replace("&#x27;", "&#39;") in source
    assert text_of(source).count(EVIL) >= 5  # caption, answers, reason, id and model are there to be read


def test_the_page_tells_what_was_dropped_and_why(report):
    text = text_of(report / HTML)
    for said in (
        "60 asked for",
        "58 captions",
        "2 without a caption",
        "refused 1 the model declined to describe the image",
        "timeout 1 no answer in time, after all attempts",
        "openings 56",
        "I'm sorry, but I can't help.",
        "captioner model",
        "prompt one; two",
        "Most doubtful captions",
        "nearer to",
        "Some captions",  # of the split that was not judged
        "An animal. 2 2",  # the caption, its rows, its classes
    ):
        assert said in text, said
    assert "nested" not in text and "nothing" not in text


def test_pictures_and_distributions_are_in_the_page(report):
    source = (report / HTML).read_text(encoding="utf-8")
    assert source.count("<svg") == 5  # words, weight, margin, score; words of the other split
    assert source.count("data:image/jpeg;base64,") > 20
    assert "http://" not in source and "https://" not in source  # nothing is fetched when it is opened
    words = json.loads((report / JSON).read_text())["splits"]["test"]["words"]
    heights = [float(height) for height in re.findall(r'<rect [^>]* height="([^"]+)"', source)][
        -len(words["counts"]) :
    ]
    assert heights == pytest.approx([100 * count / max(words["counts"]) for count in words["counts"]])


def test_the_json_file_holds_all_numbers(report):
    told = json.loads((report / JSON).read_text(encoding="utf-8"))
    train = told["splits"]["train"]
    assert train["captions"] == 60 and train["status"] == {"ok": 58, "refused": 1, "timeout": 1}
    assert list(train["status"])[0] == "ok"
    assert train["cleaning"]["openings"] == 56 and train["cleaning"]["unfinished"] == 1
    assert train["words"]["count"] == 58 and train["quality"]["captions"] == 58
    assert [one["image_id"] for one in train["dropped"]] == ["folder/0.png", "folder/1.png"]
    assert train["dropped"][0]["raw"].startswith("I'm sorry")
    assert told["splits"]["test"]["quality"] is None and told["about"]["nested"] == {"a": 1}


def classes_of(captioned: CaptionedSplit, folder: Path) -> list[dict]:
    write_report(folder, {"train": captioned})
    return json.loads((folder / JSON).read_text(encoding="utf-8"))["splits"]["train"]["classes"]


def test_lines_of_classes_against_values_counted_by_hand(tmp_path):
    found = {line["class"]: line for line in classes_of(split(), tmp_path)}
    dog, cat = found["<b>dog</b>"], found["cat"]
    assert (dog["captions"], dog["failures"], cat["captions"], cat["failures"]) == (29, 1, 29, 1)
    assert cat["names_label"] == pytest.approx(28 / 29)  # all but `An animal.`
    assert cat["mean_words"] == pytest.approx((27 * 5 + 2 + 2) / 29)
    quality = split().quality
    assert cat["mean_weight"] == pytest.approx(quality.weights[3::2].mean())


def test_rows_without_labels_have_no_classes(tmp_path):
    labels = np.array([-1, -1] + [1] * 58)
    assert classes_of(split(labels=labels), tmp_path)[0]["captions"] == 58
    plain = split(judged=False, labels=np.full(ROWS, -1), label_names=None)
    assert classes_of(plain, tmp_path) == []
    assert "Classes" not in text_of(tmp_path / HTML)


def test_only_images_that_are_shown_are_opened(tmp_path):
    asked = []

    def image_of(position: int) -> PILImage.Image:
        asked.append(position)
        return picture(position)

    captions = [f"A dog, {row}." if row % 2 else None for row in range(1000)]
    statuses = ["ok" if caption else "failed" for caption in captions]
    applied, labels = [("openings",)] * 1000, np.full(1000, -1)
    ids, nothing = [str(row) for row in range(1000)], [None] * 1000
    quality = judge(captions, np.arange(1000) % 10, scores=np.linspace(0, 1, 1000) ** 4)
    for judged in (None, quality):
        asked.clear()
        columns = (ids, image_of, captions, captions, statuses, nothing, applied, labels)
        write_report(tmp_path, {"train": CaptionedSplit(*columns, quality=judged)})
        assert 3 * 12 <= len(asked) <= 4 * 12


def test_nothing_at_all_can_be_reported(tmp_path):
    none, one = np.zeros(0, int), np.zeros(1, int)
    empty = CaptionedSplit([], picture, [], [], [], [], [], none, quality=judge([], none))
    failed = CaptionedSplit(
        ["a"], picture, [None], [None], ["failed"], ["broken"], [()], one, ["x"], judge([None], one, ["x"])
    )
    write_report(tmp_path, {"empty": empty, "failed": failed})
    assert "Split empty" in text_of(tmp_path / HTML) and "an error at every attempt" in text_of(tmp_path / HTML)


# --- Gallery --------------------------------------------------------------------------------------------------------


def shown(count: int) -> list[Shown]:
    return [Shown(opened(picture, row), f"caption {row}", f"id {row}") for row in range(count)]


def test_a_page_has_each_caption_beside_its_image(tmp_path):
    several = [*shown(3), Shown(None, None, "broken", doubts=["undecodable"]), Shown(None, EVIL, raw=f"Sure! {EVIL}")]
    write_page(tmp_path / "new" / "page.html", several, f"Dry run {EVIL}", [f"Images go to {EVIL}\nand\nback."])
    source = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "<script" not in source and "Images go to &lt;script&gt;" in source
    assert re.sub(r"\s+", " ", text_of(source)).find("id 0 caption 0") < text_of(source).find("id 1 caption 1")
    for row in range(3):
        uri = several[row].uri
        place = source.index(uri)
        assert f"caption {row}" in source[place : place + len(uri) + 200]
    assert "no caption undecodable" in text_of(source) and "cannot be shown" in source


def test_a_grid_shows_each_image_in_its_place_and_grows_with_the_text(tmp_path):
    draw_grid(tmp_path / "grid.png", shown(6), across=4)
    with PILImage.open(tmp_path / "grid.png") as image:
        assert image.width == 4 * (SIDE + 16) + 16
        for row in range(4):
            middle = image.getpixel((16 + row * (SIDE + 16) + SIDE // 2, 16 + 90))
            np.testing.assert_allclose(middle, (4 * row, 255 - 4 * row, 128), atol=3)
        low = image.height
        below = np.asarray(image)[16 + 180 : 16 + 240]
        assert (below < 128).any()  # text
    long = [
        Shown(opened(picture, 0), "many words " * 30),
        Shown(None, None, doubts=["refused"]),
        Shown(None, "一只狗" * 90),
    ]
    draw_grid(tmp_path / "long.png", long)
    draw_grid(tmp_path / "none.png", [])
    with PILImage.open(tmp_path / "long.png") as image:
        assert image.width == 3 * (SIDE + 16) + 16 and 300 < image.height < low


def test_text_is_wrapped_to_its_width():
    lines = wrapped("a short text that goes over some lines, with averyverylongwordwithoutanyspace" * 2, 20)
    assert len(lines) > 3 and "".join("".join(lines).split()).count("averyverylongwordwithoutanyspace") == 2
    cut = wrapped("words " * 100, 2)
    assert len(cut) == 2 and cut[1].endswith("…") and wrapped("", 3) == []


def test_images_that_cannot_be_read_and_unusual_ones_do_no_harm():
    assert opened(picture, 7) is None
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16", "1"):
        image = opened(lambda position, mode=mode: PILImage.new(mode, (3000, 5)), 0)
        assert image.mode == "RGB" and image.size == (SIDE, 1)
    assert opened(lambda position: PILImage.new("RGB", (8, 8)), 0).size == (SIDE, SIDE)
