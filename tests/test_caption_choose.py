"""Asking for the class: `--prompt choose`."""

import json
import re
from pathlib import Path

import caption_doors
import pytest
import tiny_captioners
from caption_doors import caption, rows_of
from caption_server import picture_of

serve = caption_doors.serve
DATA = ("--dataset_name", "pictures", "--captions_dir", "answers", "--report", "false")
NAMES = ["red_rose", "rose", "tulip"]
CHOSEN = [*NAMES, None]  # what the server says of pictures 0, 1, 2 and 3, and so on


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(9):
        place = tmp_path / "pictures" / "train" / NAMES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        picture_of(number).save(place / f"{number}.png")
    return tmp_path


def asking(server, *more: object) -> tuple[object, ...]:
    return (*DATA, "--base_url", f"{server.url}/v1", "--captioner_model", "tiny", "--prompt", *more)


def by_number(stage: Path) -> dict[int, dict]:
    rows = {int(Path(row["image_id"]).stem): row for row in rows_of(stage)}
    return dict(sorted(rows.items()))


@pytest.mark.parametrize("options", [(), ("--no_schemas",)], ids=["by a schema", "in words"])
def test_a_server_is_asked_for_the_class(folder, serve, options):
    """The server checks that the list is first, and that the schema has its names; without schemas it returns 400."""
    server = serve(*options)
    assert "Answers of train: 7 named, 2 none" in caption(folder, *asking(server, "choose", "--max_concurrency", 1))
    asked, rows = server.stats()["requests"], by_number(folder / "answers")
    assert asked == (10 if options else 9), "a server without schemas is asked in words from then on"
    assert [row["answer"] for row in rows.values()] == [CHOSEN[number % 4] for number in rows]
    assert [number for number, row in rows.items() if row["answer_is_none"]] == [3, 7]
    assert rows[0]["answer_text"] == ("It shows red rose." if options else json.dumps({"answer": "red rose"}))
    caption(folder, *asking(server, "plain", "choose"), "--overwrite")
    assert server.stats()["requests"] == asked + 9, "the answers are there already"
    both = by_number(folder / "answers")[2]
    assert (both["caption"], both["answer"]) == (["number 2"], "tulip")


def test_a_dry_run_says_which_question_pays_and_its_answers_are_kept(tmp_path, serve, static_folder):
    """The server names the right class of all pictures but each fourth, of which it says that none fits."""
    for number in range(60):
        place = tmp_path / "pictures" / "train" / (NAMES[number % 4 % 3] if number < 40 else "unlabelled")
        place.mkdir(parents=True, exist_ok=True)
        picture_of(number).save(place / f"{number}.png")
    server = serve()
    own = "Which of these does the image show? {class_names}. Answer in words."
    prices = ("--price_input", 10, "--price_output", 100)
    words = ("plain", "choose", own, "--dry_run", 30, "--text_encoder", static_folder, *prices)
    said = caption(tmp_path, *asking(server, *words))
    assert server.stats()["requests"] == 90 and "By 30 labelled images" in said
    share, low, high = map(int, re.search(r"^choose: (\d+)% right \((\d+)% to (\d+)%\)", said, re.M).groups())
    assert low < share <= high and share > 80  # the fourth pictures are of the most frequent class
    assert re.search(r"^The best two together: choose and '.*', \d+% right", said, re.M)
    assert said.count("7 tokens read and 3 written an image, 0.02 for 60 images") == 3 and "plain: accuracy" in said
    assert "tulip" in (tmp_path / "answers.dry_run" / "index.html").read_text()
    caption(tmp_path, *asking(server, "choose"))
    assert server.stats()["requests"] == 120 and "caption" not in by_number(tmp_path / "answers")[0]


@pytest.mark.parametrize(
    ("pictures", "words", "said"),
    [
        ("plain", ("choose",), "no names of classes"),
        ("pictures", ("{class_names}?", "choose"), "asks for the class twice"),
        ("pictures", ("choose", "--captioner", "column"), "prompt asks a model, but these captions exist"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_asked(folder, pictures, words, said):
    (folder / "plain").mkdir()
    picture_of(1).save(folder / "plain" / "1.png")
    server = ("--base_url", "http://127.0.0.1:9/v1", "--captioner_model", "tiny")
    assert said in caption(folder, *DATA, "--dataset_name", pictures, *server, "--prompt", *words, fails=True)


def test_a_local_model_answers_in_few_tokens_and_reads_no_list_beyond_its_context(folder, tmp_path_factory):
    model = tiny_captioners.save("llava", tmp_path_factory.mktemp("model") / "my-llava")
    words = (*DATA, "--captioner_model", model, "--prompt", "{class_names}. What is it?", "--max_new_tokens", 8)
    caption(folder, *words)
    assert {len(row["answer_text"].split()) for row in rows_of(folder / "answers")} <= {1, 2}
    (folder / "names.txt").write_text("\n".join([*NAMES, *(f"a flower of kind {number}" for number in range(1000))]))
    said = caption(folder, *words, "--class_names_file", "names.txt", "--overwrite", fails=True)
    assert "names of 1,003 classes" in said and "longer context" in said
