"""The page of an evaluation: one file, escaped, with pictures; what is missing is left out."""

import re
from html.parser import HTMLParser

import make
import numpy as np
import pytest
from datasets import DatasetDict
from released_runs import OPTIONS, a_run

from g4i_hf.evaluation.comparison import ALL_MEASURES, ComparisonRow, Measure
from g4i_hf.evaluation.predict import Predictions
from g4i_hf.evaluation.report import write_report

NAMES = {0: "<script>alert(1)</script>", 1: '" onerror="alert(2)', 2: "cat & dog", 3: "$x^", 4: "elk"}
HEADINGS = ["Precision and recall", "Confusion matrix", "Images on which the two differ", "Worst mistakes"]
HEADINGS += ["Figures", "Nearest captions", "The runs"]
ROWS = [
    ComparisonRow("validation", "accuracy", aligned=0.5, baseline=0.4),
    ComparisonRow("validation", "wobble", aligned=0.1, baseline=0.3, chance=0.2),
]
RESULTS = {"aligned": {"validation_accuracy_interval": [0.24, 0.76]}}
RESULTS["baseline"] = {"validation_accuracy_interval": [0.17, 0.69]}
LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
BASELINE = np.array([1, 1, 1, 2, 2, 0, 3, 3, 4, 4])
ALIGNED = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 2])


class Page(HTMLParser):
    """Tags, attributes, those of images, headings and text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.images, self.headings, self.text = set(), set(), [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.images += [dict(attrs)] if tag in ("img", "source") else []

    def handle_data(self, data):
        if self.lasttag != "style":
            self.text += f"{data} "
            self.headings += [data] if self.lasttag == "h2" and data.strip() else []


SPLITS = DatasetDict(
    validation=make.rows(
        10,
        draw=lambda row: make.noise(row, 48),
        label=None,
        image_id=[str(row) for row in range(10)],
        caption=[f"<b>caption</b> {row}" for row in range(10)],
        text_embeds=np.eye(10, 384),
    )
)


def a_prediction(predicted: np.ndarray) -> Predictions:
    logits = np.eye(5, dtype=np.float32)[predicted] * np.arange(1, 11, dtype=np.float32)[:, None]
    return Predictions([str(i) for i in range(10)], LABELS, logits, np.eye(10, 384, dtype=np.float32)[::-1])


@pytest.fixture(autouse=True, scope="module")
def invented():
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ALL_MEASURES, "wobble", Measure("wobble", group="<Steadiness>"))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {"aligned": a_run(folder / "aligned"), "baseline": a_run(folder / "baseline", "vit", align_weight=0)}


def write(folder, runs, options=OPTIONS, splits=SPLITS) -> str:
    """The page of a folder in which it is the only file."""
    predictions = {run: {"validation": a_prediction({"aligned": ALIGNED, "baseline": BASELINE}[run])} for run in runs}
    write_report(folder / "report.html", ROWS, runs, options, splits, predictions, NAMES, RESULTS)
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return write(tmp_path_factory.mktemp("page"), runs)


def test_the_page_is_one_file_that_needs_no_other(page):
    parsed = Page(page)
    assert parsed.headings == HEADINGS
    assert len(parsed.images) > 10
    for image in parsed.images:
        assert re.match(r"data:image/(png|jpeg);base64,", image.get("src") or image["srcset"])
    assert not {"script", "link", "iframe", "object"} & parsed.tags
    assert not re.search(r"url\(|@import|https?://", page)
    assert all(image.get("alt") for image in parsed.images if "src" in image)


def test_names_and_captions_are_text_whatever_they_hold(page):
    parsed = Page(page)
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "code", "div", "span", "b"}
    allowed |= {"figure", "figcaption", "img", "picture", "source", "ol", "li", "table", "tr", "th", "td"}
    allowed |= {"thead", "tbody", "details", "summary"}
    assert parsed.tags <= allowed
    assert not {name for name in parsed.attributes if name.startswith("on")}
    assert set(NAMES.values()) <= {name for name in NAMES.values() if name in parsed.text}
    assert "<b>caption</b> 3" in parsed.text and "<Steadiness>" in parsed.text
    assert any(NAMES[1] in image["alt"] for image in parsed.images if "alt" in image)


def test_it_opens_with_the_classes_and_folds_what_captions_tell(page):
    text = re.sub(r"\s+", " ", Page(page).text)
    assert "images predicted elk 0.0 % 2 0 cat & dog 66.7 % 100.0 % 2 3 $x^ 66.7 %" in text
    matrix = page.split('<table class="confusion">')[1].split("</table>")[0]
    assert re.findall(r"(\d*)</td>", matrix) == [
        "2",
        *[""] * 5,
        "2",
        *[""] * 5,
        "2",
        *[""] * 5,
        "2",
        *[""] * 3,
        "1",
        "1",
        "",
    ]
    fold = page.split("<details>")[1].split("</details>")[0]
    assert "Nearest captions" in fold and "Nearest captions" not in page.split("<details>")[0]


def test_an_accuracy_has_its_images_and_interval(runs, tmp_path):
    page = write(tmp_path, runs)
    text = re.sub(r"[^\S\xa0]+", " ", Page(page).text)
    figures = "labels only 40.0\xa0% 17 to 69 with captions 50.0\xa0% 24 to 76 In grey"
    assert f"Accuracy, validation, 10 images {figures}" in text


def test_the_sections_say_what_the_runs_predict(page):
    text = re.sub(r"\s+", " ", Page(page).text)
    assert "right and the other wrong on 4 images, the reverse on 2" in text
    worst = text.split("Worst mistakes")[1].split("Figures")[0]
    before, after = worst.split(" With captions ")
    # The higher the row, the surer; rows 5, 3, 1 and 0 of the baseline, 9 and 8 of the aligned run
    assert re.findall(r"labels only: (\S.*?) ✗", before) == [NAMES[0], NAMES[2], NAMES[1], NAMES[1]]
    assert re.findall(r"with captions: (\S.*?) ✗", after) == [NAMES[2], NAMES[3]]
    nearest = text.split("Nearest captions")[1]
    assert "1.00 <b>caption</b> 7 0.00 <b>caption</b> 0 0.00 <b>caption</b> 1 " in nearest


def test_a_single_run_has_a_page_without_what_takes_two(runs, tmp_path):
    page = write(tmp_path, {"aligned": runs["aligned"]})
    parsed = Page(page)
    assert parsed.headings == [*HEADINGS[:2], *HEADINGS[3:-1], "The run"]
    assert "difference</th>" not in page and "--baseline" in parsed.text
    page = write(tmp_path, {"aligned": runs["baseline"]}, options=OPTIONS | {"align_weight": 0})
    assert "Nearest captions" not in Page(page).headings and "No alignment." in page
    bare = DatasetDict(validation=SPLITS["validation"].remove_columns(["caption", "text_embeds"]))
    assert "The split validation has no captions with embeddings." in write(tmp_path, runs, splits=bare)
