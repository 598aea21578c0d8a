"""Text of others that tries to be something else: in captions, cards, terminals and spreadsheets it stays text."""

import ast
import csv
import json
import logging
import re

import caption_doors
import make
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from students import aligned_model

from g4i_hf.captioning.answers import FAILURES, OK
from g4i_hf.captioning.cleaning import Cleaned, clean
from g4i_hf.hub.card import Student, captions_card, student_card
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.names import is_path
from g4i_hf.running import main

INJECTIONS = [
    "<script>alert(1)</script>",
    "</div></td></table><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% for x in y %}{# #}{{ self.__init__.__globals__ }}",
    "![x](https://example.org/pixel.png) [x](javascript:alert(1)) <https://example.org>",
    "| a | b |\n|---|---|\n| c | d |",
    "a \\| b `c | d` ``e` \\",
    "---\nlicense: mit\n---\n# Title\n- item\n\n    code",
    "```python\nimport os\n```",
    'x"); import os; os.system("true") #',
    "\x00\x07\x1b[31m\x7f\x85\u2028\u2029",
    "\u202egnp.exe\u202c \u2067\u05e9\u05dc\u05d5\u05dd\u2069 \u0645\u0631\u062d\u0628\u0627",
    "&lt;b&gt; &amp; &#60;script&#62;",
]
readable = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
hostile = st.sampled_from(INJECTIONS) | st.builds("{}{}{}".format, readable, st.sampled_from(INJECTIONS), readable)
EVERY = " ".join(INJECTIONS)
HARMLESS = "harmless"


@given(st.text(st.characters(), max_size=80) | hostile, st.sampled_from([None, "stop", "length"]))
@example("half \ud83d of a character.", None)
def test_any_answer_is_a_caption_or_none(text, finish_reason):
    cleaned = clean(text, finish_reason)
    assert cleaned.status == OK or cleaned.status in FAILURES
    assert (cleaned.caption is None) == (cleaned.status != OK)
    if cleaned.caption is not None:
        assert cleaned.caption == " ".join(cleaned.caption.split()) != ""
        assert not re.search("[\0-\x1f\x7f\ud800-\udfff]", cleaned.caption)
        assert clean(cleaned.caption, finish_reason) == Cleaned(cleaned.caption, OK), "it stays as it is"


def stage_of(text: str) -> dict:
    captioner = {"captioner": "local", "model": f"org/{text}", "revision": text, "seed": text}
    captions = {"captioner": captioner, "prompts": [text, text], "status": {"train": {"ok": 2, text: 1}}}
    stage = {"stage": "embedding", "source": None, "source_name": text, "num_rows": {"train": 2, "test": 1}}
    stage |= {"source_columns": {"image": text, "image_id": text}, "columns": ["image_id", "caption", "text_embeds"]}
    stage |= {"with_images": False, "text_encoder": text, "text_encoder_revision": text, "text_encoder_prompt": text}
    return stage | {"captions_stage": captions}


def student_of(text: str) -> Student:
    options = {"align_weight": 1, "student": text, "optim_args": text, "seed": text, "ema_decay": f"0.9{text}"}
    options |= {"text_encoder": text, "load_best_model_at_end": True, "metric_for_best_model": text}
    captions = {"captioner": "local", "model": text, "revision": text, "prompts": [text, text], "seed": text}
    lineage = {"sources": [{"name": text, "stage": "captioning", "images": True}], "rows": {text: 3}}
    lineage |= {"captions": captions, "student": {"name": text, "pretrained": True, "revision": text}}
    lineage |= {"text_encoder": {"text_encoder": text, "text_encoder_prompt": text, "text_encoder_digest": "x"}}
    about = {"options": options | {"student_args": {text: text}}, "lineage": lineage | {"versions": {"torch": text}}}
    return Student(architecture=text, num_labels=2, num_parameters=10, classes=[f"{text}a", f"{text}b"], **about)


def outline(card: str) -> list:
    """Blocks, cells, links, pictures, tags and code of the text below the metadata; emphasis is no harm."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1])
    inner = [child for token in tokens for child in (token.children or [])]
    harmless = ("text", "softbreak", "text_special", "em_open", "em_close", "strong_open", "strong_close")
    kept = [child for child in inner if child.type not in harmless]
    return [token.type for token in tokens] + [(child.type, child.attrs.get("href")) for child in kept]


def check_card(card: str, harmless: str) -> None:
    """
    Blocks and tables are those of a harmless one, the metadata are YAML of the same fields, and the snippets parse to
    the same statements.
    """
    metadata, expected = (yaml.safe_load(each.split("---\n")[1]) for each in (card, harmless))
    assert list(metadata) == list(expected)
    assert outline(card) == outline(harmless)
    snippets, others = (re.findall(r"^```python\n(.*?)^```", each, re.M | re.S) for each in (card, harmless))
    for pair in zip(snippets, others, strict=True):
        nodes, expected = ([type(node) for node in ast.walk(ast.parse(snippet))] for snippet in pair)
        assert nodes == expected
    assert not re.search("[\0-\x08\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]", card)


@given(hostile)
@example(EVERY)
def test_a_card_has_the_blocks_that_it_has_of_any(text):
    check_card(*(str(captions_card(stage_of(each), date="2026-01-01")) for each in (text, HARMLESS)))
    assume(not is_path(text))  # which is left out
    check_card(*(str(student_card(student_of(each))) for each in (text, HARMLESS)))


def test_a_source_that_is_no_id_of_the_hub_is_not_named():
    for source in ('me/x"); import os; os.system("true', "me/<b>", "me/a b", "x/y/z", "--help"):
        assert source not in str(captions_card(stage_of(HARMLESS) | {"source": source}, date="2026-01-01"))


# --- What reaches a terminal or a spreadsheet ------------------------------------------------------------------------

HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b2J\u202e b\nPWN"
# But for the `\r` of progress bars
CONTROLS = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]")


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


def test_hostile_names_are_escaped_on_the_terminal(static_folder, tmp_path, capfd, monkeypatch):
    """Of classes, images and captions, of which one is of the other class; and of a file that is no image."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest, which a command would use
    for split, count in (("train", 12), ("validation", 4)):
        files = [f"{split}/{n % 2} {HOSTILE}/{n} {HOSTILE}.png" for n in range(count)]
        captions = [f"{('a red car', 'a blue owl')[(n % 2) ^ (n == 2)]} {HOSTILE}" for n in range(count)]
        data = make.folder(tmp_path / "data", files, split, captions)
    (data / files[-1]).write_bytes(b"no image")
    encoder = ["--text_encoder", static_folder]
    said = printed(["check", data, "--check_dir", tmp_path / "check", *encoder], capfd)
    assert r"\x1b]0;title\x07" in said
    printed(["fit", data, "--output_dir", tmp_path / "run", "--dry_run", *encoder], capfd)
    run = tmp_path / "model"
    aligned_model("timm-resnet", 5).save_pretrained(run)
    generic_processor(ImageSettings(48)).save_pretrained(run)
    printed(["search", run, "a red car", "--images", data / "train", *encoder], capfd)


def test_messages_of_a_server_are_escaped_on_the_terminal(serve, tmp_path, capfd, monkeypatch):
    """In a warning, and in the error that ends the command."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("g4i_hf.captioning.servers.GIVE_UP_SECONDS", 1.0)
    monkeypatch.setattr("g4i_hf.captioning.endpoint.WARN_SECONDS", 0)
    caption_doors.draw_numbers(tmp_path / "pictures", 9)
    server = serve("--always", 502, "--say", json.dumps(HOSTILE))
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
