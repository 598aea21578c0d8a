"""Names of files and classes and captions, which others wrote: what of them reaches a terminal or a spreadsheet."""

import csv
import json
import logging
import re
from pathlib import Path

import caption_doors
import make
import pytest
from students import aligned_model

from g4i_hf.captioning.cleaning import clean
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.running import main

serve = caption_doors.serve
HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b2J\u202e b\nPWN"
CONTROLS = re.compile(
    "[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]"
)  # but for the `\r` of progress bars


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Images of two classes with captions, of hostile names; one is no image, one caption contradicts its label."""
    for split, count in (("train", 12), ("validation", 4)):
        files = [f"{split}/{n % 2} {HOSTILE}/{n} {HOSTILE}.png" for n in range(count)]
        captions = [f"{('a red car', 'a blue owl')[(n % 2) ^ (n == 2)]} {HOSTILE}" for n in range(count)]
        make.folder(tmp_path / "data", files, split, captions)
    (tmp_path / "data" / files[-1]).write_bytes(b"no image")
    return tmp_path / "data"


def printed(words: list[object], capfd) -> str:
    """What a command prints, of which no character moves the cursor or hides something, and no line is another's."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        assert end.code in (0, 1, 2)
    said = "".join(capfd.readouterr())
    assert "PWN" in said, "the names are shown"
    assert not CONTROLS.findall(said) and not re.search("^ *PWN", said, re.MULTILINE)
    return said


def test_hostile_names_are_escaped_on_the_terminal(hostile, static_folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest, which a command would use
    encoder = ["--text_encoder", static_folder]
    said = printed(["check", hostile, "--check_dir", tmp_path / "check", *encoder], capfd)
    assert r"\x1b]0;title\x07" in said
    printed(["fit", hostile, "--output_dir", tmp_path / "run", "--dry_run", *encoder], capfd)
    run = tmp_path / "model"
    aligned_model("timm-resnet", 5).save_pretrained(run)
    generic_processor(ImageSettings(48)).save_pretrained(run)
    printed(["search", run, "a red car", "--images", hostile / "train", *encoder], capfd)


def test_messages_of_a_server_are_escaped_on_the_terminal(serve, tmp_path, capfd, monkeypatch):
    """In a warning, and in the error that ends the command."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("g4i_hf.captioning.servers.GIVE_UP_SECONDS", 1.0)
    monkeypatch.setattr("g4i_hf.captioning.endpoint.WARN_SECONDS", 0)
    caption_doors.draw_numbers(tmp_path / "pictures", 9)
    server = serve("--always", 502, "--say", json.dumps(HOSTILE)[1:-1])
    options = ["--captions_dir", tmp_path / "captions", "--captioner_model", "m", "--base_url", server.url]
    said = printed(["caption", tmp_path / "pictures", *options], capfd)
    assert said.count(r"502: a\x1b]0;title\x07") == 2


FORMULAS = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1"]


def test_a_table_of_labels_holds_no_formula(static_folder, tmp_path):
    """In captions, names of classes and ids, which are the files' names."""
    files = [f"train/={n % 2}/{FORMULAS[n % 5]}{n}.png" for n in range(60)]
    captions = [f"{FORMULAS[n % 5]} {('a red car', 'a blue owl')[(n % 2) ^ (n < 5)]}" for n in range(60)]
    data, place = make.folder(tmp_path / "data", files, "train", captions), tmp_path / "check"
    main(["check", str(data), "--check_dir", str(place), "--text_encoder", str(static_folder)])
    with (place / "suspicious_labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 6, "five labels are suspicious"
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    assert {f"'{formula} a blue owl" for formula in FORMULAS[::2]} <= set(cells), "but for that they are as they were"


def test_captions_lose_what_a_terminal_obeys_and_what_hides_text():
    answer = "A cat\x1b[31m \x9b2J\u202eno\u202c on\u2066 a\U000e0041 m\u200fat, نمی\u200cدانم, 👩\u200d🔬.\x85Done."
    assert clean(answer, "stop").caption == "A cat[31m 2Jno on a mat, نمی\u200cدانم, 👩\u200d🔬. Done."
    assert clean(answer, "stop", enabled=False).caption == clean(answer, "stop").caption
