"""The page on which people look at captions that are missing or were cleaned."""

import html
import re

import make
from datasets import Dataset

from g4i_hf.captioning.stage import EXAMPLES, HTML, OF_CAPTION, Caption, Captioned, write_report

EVIL = "<script>alert('caption')</script>"
CAPTIONS = [
    [Caption(None, f"I'm sorry, but I can't help. {EVIL}", "refused", "the model declined", "refusals")],
    [Caption(None, None, "timeout", f"no answer {EVIL}"), Caption(EVIL, f"It shows: {EVIL}", "ok", None, "openings")],
    [Caption("A cat.", "The image shows: A cat. A", "ok", None, "openings,unfinished")],
    [Caption("A dog.", "A dog. A dog. A dog.", "ok", None, "repetitions")],
    *([Caption(f"Dog {row}.", f"Sure! Dog {row}.", "ok", None, "openings")] for row in range(30)),
    [Caption("Unchanged.", "Unchanged.", "ok", None, "")],
]
IMAGES = [{"image": make.stored(make.noise(row))} for row in range(len(CAPTIONS))]
IMAGES[3] = {"image": {"bytes": b"no image", "path": None}}


def test_the_page_tells_what_was_dropped_and_why_and_nothing_in_it_runs(tmp_path):
    lists = [{name: [getattr(one, name) for one in row] for name in OF_CAPTION} for row in CAPTIONS]
    table = Dataset.from_list([{"image_id": f"{EVIL}/{row}.png"} | cells for row, cells in enumerate(lists)])
    page = write_report(tmp_path, Captioned({"train": table}, {}), {"train": IMAGES}, [f"model: {EVIL}"])
    assert page == tmp_path / HTML
    source = page.read_text(encoding="utf-8")
    without_styles = re.sub(r"<style>.*?</style>", " ", source, flags=re.S)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without_styles)).split())
    said = ["34 ok", "1 refused", "1 timeout", f"model: {EVIL}", "the model declined", f"timeout no answer {EVIL}"]
    said += ["I'm sorry, but I can't help.", "cleaned: openings, unfinished cut off", "cleaned: repetitions in a loop"]
    assert [each for each in said if each not in text] == []
    assert "<script" not in source and text.count(EVIL) >= 5, "there to be read"
    assert "http://" not in source and "https://" not in source, "nothing is fetched when it is opened"
    assert "Unchanged" not in text and len(re.findall(r"cleaned: openings (?!,)", text)) == EXAMPLES
    assert source.count("data:image/jpeg;base64,") == 2 + 1 + EXAMPLES, "one cannot be read"
