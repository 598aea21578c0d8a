"""The page of `g4i predict`: uncertain images first, corrected by a click into lines that the other commands read."""

import json
import re

import make
import pytest
from browser import browser_page
from drawings import draw_folder

from g4i_hf import load_images
from g4i_hf.data.labels import read_answers
from g4i_hf.inference import page as of_page
from g4i_hf.running import main

NAME = '<img src=x onerror="alert(1)">.png'


def page_of(student: str, images, folder, *words: str) -> str:
    main(["predict", student, str(images), "-o", str(folder / "p.csv"), "--page", str(folder / "p.html"), *words])
    return (folder / "p.html").read_text()


def test_the_page_needs_nothing_else_and_shows_the_least_certain_first(student, tmp_path, monkeypatch, capsys):
    images = make.folder(tmp_path / "new", ["a/1.png", "b/2.png", "3.png", NAME])
    page = page_of(student, images, tmp_path)
    assert not re.search(r"https?://", page) and "<img src=x" not in page and "All 4 images" in page
    shares = [int(share) for share in re.findall(r'<span class="soft">(\d+)', page)]
    assert shares == sorted(shares) and len(shares) == 4
    monkeypatch.setattr(of_page, "SHOWN", 3)
    assert "The least certain 3 of 4 images" in page_of(student, images, tmp_path, "--overwrite")
    assert page.count("<figure") == 4


@pytest.mark.slow
def test_a_click_corrects_into_lines_that_fit_reads(student, tmp_path):
    """A class by its button, another one by its name, none, a new class, and an undone click."""
    pictures = draw_folder(tmp_path / "pictures", captions=False, labels_a_class=1, train=15)
    (pictures / "train" / "circle").rename(pictures / "train" / "ant")
    (pictures / "train" / "cross").rename(pictures / "train" / "bee")
    html = page_of(student, pictures, tmp_path, "--split", "train", "--top", "2")
    with browser_page(viewport={"width": 380, "height": 800}, color_scheme="dark") as (page, outside):
        page.set_content(html)
        cards = page.locator("figure")
        assert cards.count() == 15 and page.locator("#download").is_disabled()
        names = [cards.nth(row).locator(".soft[dir]").inner_text() for row in range(15)]
        cards.nth(0).get_by_role("button", name="bee").click()
        cards.nth(1).get_by_role("button", name="none of these").click()
        for row, label in ((2, "ant"), (3, 'elk <b>"')):
            cards.nth(row).locator("input").fill(label)
            cards.nth(row).locator("input").press("Enter")
        for _ in range(2):
            cards.nth(4).get_by_role("button", name="bee").click()
        assert page.locator("#count").inner_text() == "4 answered"
        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(pictures / "labels.jsonl")
        page.select_option("#decision", "answer")
        assert page.locator("figure:visible").count() == 15 and not outside
        page.select_option("#class", page.locator("#class option").nth(1).inner_text())
        assert 0 < page.locator("figure:visible").count() <= 15
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
    answers = read_answers(pictures / "labels.jsonl")
    assert {name: line["label"] for name, line in answers.items()} == dict(
        zip(names, ["bee", None, "ant", 'elk <b>"'], strict=False)
    )
    assert all(line["pick"] == "next" and line["digest"] for line in answers.values())
    lines = [json.loads(line) for line in (pictures / "labels.jsonl").read_text().splitlines()]
    assert [line.get("new_class", False) for line in lines] == [False, False, False, True] and lines[1]["none"]
    training = load_images(pictures)["train"]
    assert len(training) == 14 and sum(review == "next" for review in training["review"]) == 3
    assert 'elk <b>"' in training.features["label"].names
