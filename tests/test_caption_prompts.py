"""Prompts: what is filled in, what is refused, and that evaluation splits are not told their classes."""

import json
import re
from contextlib import chdir, nullcontext
from pathlib import Path

import pytest
import tiny_captioners
from caption_doors import asking, caption, rows_of
from caption_server import picture_of
from datasets import ClassLabel, Dataset, Features, List, Value

from g4i_hf.captioning.questions import CLASS, PLAIN, Prompts, check_leak
from g4i_hf.data.classes import NO_CLASS, NONE, matched_answers
from g4i_hf.running import main

COLUMNS = {"image_id": Value("string"), "label": ClassLabel(names=["tench", "great_white_shark"])}
FEATURES = Features(COLUMNS | {"artist": Value("string"), "year": Value("int32"), "tags": List(Value("string"))})
ROW = {"image_id": "a/1.jpg", "label": 1, "artist": "Ann", "year": 1901, "tags": ["sea"]}
NAMED = CLASS.replace("{label}", "great white shark")


def prompts(*templates: str) -> Prompts:
    return Prompts(templates, FEATURES, "train")


def test_columns_are_filled_in():
    filled = prompts("{artist}?", "plain", "class", "A {label}, {year}, {{json}}")
    assert filled.prompts_of(ROW) == ["Ann?", PLAIN, NAMED, "A great white shark, 1901, {json}"]
    assert filled.columns == ("artist", "label", "year") and prompts("plain").columns == ()
    row = ROW | {"artist": "{label} {0.__class__}"}
    assert prompts("By {artist}.").prompts_of(row) == ["By {label} {0.__class__}."]


@pytest.mark.parametrize(
    "templates, message",
    [
        (["{labell}"], r"split 'train' has no column 'labell'. Did you mean .label.\? Its columns: image_id, label"),
        (["{label.__init__.__globals__}"], "no column 'label.__init__.__globals__'"),
        (["{tags}"], "column 'tags' of split 'train' holds"),
        (["{label!r}"], "only the name of a column may stand in braces"),
        (["{label"], "Write {column} for a column"),
        (["  "], "give a text"),
        (["clas"], "Did you mean .class."),
    ],
)
def test_anything_but_a_name_of_a_column_is_refused(templates, message):
    with pytest.raises(ValueError, match=message):
        prompts(*templates)


def test_empty_values_are_found_before_anything_is_asked():
    rows = [ROW, ROW | {"artist": None}, ROW | {"label": None}, ROW | {"artist": "  "}, ROW | {"label": -1}]
    data = Dataset.from_list(rows, features=FEATURES)
    for template, column, first in (("class", "label", 2), ("{artist}", "artist", 1)):
        with pytest.raises(ValueError, match=f"column '{column}': 2 of 5 rows are empty, the first is row {first}"):
            prompts(template).check(data)
    prompts("plain").check(data)


@pytest.mark.parametrize(
    "column, values, leaks",
    [
        ("image_id", [f"c{i}/{i}.jpg" for i in range(6)], True),  # holds the class folder
        ("kind", ["fish", "fish", "bird", "fish", "fish", "bird"], True),  # a coarser class
        ("breed", ["a", "b", "c", "d", "b", "c"], True),  # a finer one
        ("artist", ["x", "x", "y", "y", "x", "y"], False),
        ("source", ["web"] * 6, False),
        ("url", list("abcdef"), False),  # of every row its own: tells nothing
        ("coarse", [0, 0, 1, 0, 1, 1], True),  # any ClassLabel
        ("label", [0, 1, 2, 0, 1, 2], True),
    ],
)
def test_columns_that_go_along_with_the_label_tell_the_class_too(column, values, leaks):
    features = {"label": ClassLabel(names=["a", "b", "c"])}
    features[column] = features["label"] if column in ("label", "coarse") else Value("string")
    data = Dataset.from_dict({"label": [0, 1, 2, 0, 1, 2], column: values}, features=Features(features))
    check_leak([f"See {{{column}}}."], {"train": data, "training": data})
    for split in ("validation", "train_extra"):
        refused = pytest.raises(ValueError, match=f"'{column}', which tells the class, and split '{split}' is for")
        with refused if leaks else nullcontext():
            check_leak(["plain", f"See {{{column}}}."], {"train": data, split: data})
        check_leak([f"See {{{column}}}."], {split: data}, train_splits=[split])


# --- Asking for the class: `--prompt choose`, and how answers are matched with the names of the classes --------------

NAMES = ["red_rose", "rose", "tulip"]
CHOSEN = [*NAMES, None]  # what the server says of pictures 0, 1, 2 and 3, and so on


def draw(folder: Path, name: str, number: int) -> None:
    place = folder / "pictures" / "train" / name
    place.mkdir(parents=True, exist_ok=True)
    picture_of(number).save(place / f"{number}.png")


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(9):
        draw(tmp_path, NAMES[number % 3], number)
    return tmp_path


def by_number(stage: Path) -> dict[int, dict]:
    rows = {int(Path(row["image_id"]).stem): row for row in rows_of(stage)}
    return dict(sorted(rows.items()))


@pytest.mark.parametrize("options", [(), ("--no_schemas",)], ids=["by a schema", "in words"])
def test_a_server_is_asked_for_the_class(folder, serve, options):
    """The server checks that the list is first, and that the schema has its names; without schemas it returns 400."""
    server, choose = serve(*options), ("--max_concurrency", 1, "--prompt", "choose")
    assert "Answers of train: 7 named, 2 none" in caption(folder, *asking(server, *choose))
    asked, rows = server.stats()["requests"], by_number(folder / "captions")
    assert asked == (10 if options else 9), "a server without schemas is asked in words from then on"
    assert [row["answer"] for row in rows.values()] == [CHOSEN[number % 4] for number in rows]
    assert [number for number, row in rows.items() if row["answer_is_none"]] == [3, 7]
    assert rows[0]["answer_text"] == ("It shows red rose." if options else json.dumps({"answer": "red rose"}))
    caption(folder, *asking(server, "--prompt", "plain", "choose", "--overwrite"))
    assert server.stats()["requests"] == asked + 9, "the answers are there already"
    both = by_number(folder / "captions")[2]
    assert (both["caption"], both["answer"]) == (["number 2"], "tulip")


def test_another_description_is_asked_again_and_a_synonym_is_not(folder, serve, static_folder, capsys):
    """`g4i fit` leaves out what was answered to earlier descriptions."""
    server = serve()
    ask = *asking(server, "--prompt", "choose"), "--captions_dir", "out/answers"
    words = ["fit", "pictures", "-o", "out", "--dry_run", "--text_encoder", str(static_folder), "--group_by", "none"]
    words += ["--student", "resnet18", "--pretrained", "false"]

    def fit() -> str:
        with chdir(folder):
            main(words)
        return capsys.readouterr().out

    def requests(text: str) -> int:
        (folder / "pictures" / "classes.yaml").write_text(text)
        caption(folder, *ask, "--overwrite")
        return server.stats()["requests"]

    assert requests("tulip: {synonyms: [lily]}\n") == requests("tulip: {synonyms: [lily, tulipa]}\n") == 9
    said = fit()
    assert "those of out/answers." in said and "Answers: 7 of 9 training images" in said
    (folder / "pictures" / "classes.yaml").write_text("tulip: {description: A cup.}\n")
    assert "The answers in out/answers are not used: the classes had other names" in fit()
    assert requests("tulip: {description: A cup.}\n") == 18 and "those of out/answers." in fit()


@pytest.mark.slow
def test_a_dry_run_says_which_question_pays_and_its_answers_are_kept(tmp_path, serve, static_folder):
    """The server names the right class of all pictures but each fourth, of which it says that none fits."""
    for number in range(40):
        draw(tmp_path, NAMES[number % 4 % 3] if number < 27 else "unlabelled", number)
    server = serve()
    own = "Which of these does the image show? {class_names}. Answer in words."
    prices = ("--price_input", 10, "--price_output", 100, "--text_encoder", static_folder)
    said = caption(tmp_path, *asking(server, "--dry_run", 20, *prices, "--prompt", "plain", "choose", own))
    assert server.stats()["requests"] == 60 and "By 20 labelled images" in said
    projected = ("Requests: 60", "Tokens read: 420", "Tokens written: 180", "Cost: 0.0222")
    assert [line for line in projected if f"{line}\n" not in said] == []
    share, low, high = map(int, re.search(r"^choose: (\d+)% right \((\d+)% to (\d+)%\)", said, re.M).groups())
    assert low < share <= high and share > 80  # the fourth pictures are of the most frequent class
    assert re.search(r"^The best two together: choose and '.*', \d+% right", said, re.M)
    assert said.count("7 tokens read and 3 written an image, 0.01 for 40 images") == 3 and "plain: accuracy" in said
    assert "tulip" in (tmp_path / "captions.dry_run" / "index.html").read_text()
    caption(tmp_path, *asking(server, "--prompt", "choose"))
    assert server.stats()["requests"] == 80 and "caption" not in by_number(tmp_path / "captions")[0]


def test_a_local_model_answers_in_few_tokens_and_reads_no_list_beyond_its_context(folder, tmp_path_factory):
    model = tiny_captioners.save("qwen2_5_vl", tmp_path_factory.mktemp("model") / "my-qwen")
    words = ("--dataset_name", "pictures", "--captions_dir", "captions", "--captioner_model", model)
    words = (*words, "--prompt", "{class_names}. What is it?", "--max_new_tokens", 8)
    (folder / "pictures" / "train" / "rose" / "1.png").write_bytes(b"no image")
    caption(folder, *words)
    rows = by_number(folder / "captions")
    assert (rows[1]["answer"], rows.pop(1)["answer_status"]) == (None, "undecodable")
    assert {len(row["answer_text"].split()) for row in rows.values()} <= {1, 2}
    (folder / "names.txt").write_text("\n".join([*NAMES, *(f"a flower of kind {number}" for number in range(1000))]))
    said = caption(folder, *words, "--class_names_file", "names.txt", "--overwrite", fails=True)
    assert "names of 1,003 classes" in said and "longer context" in said


ANSWERS = {
    "rose": "rose",
    "a rose window": "rose window",
    "It is an electric guitar!": "electric_guitar",
    "chihuahua": "n02085620-Chihuahua",
    "Tinca tinca": "tench, Tinca tinca",
    "STRASSE": "Straße",
    "a rose or a tench": NO_CLASS,
    "Roses": "rose",
    "two tenches, a fish": "tench, Tinca tinca",
    "a berry": "berries",
    "I see a lens.": "lens",
    "It is not a rose": NO_CLASS,
    "It isn't really a rose. It is a tench, without roses": "tench, Tinca tinca",
    "not a rose but a tench": "tench, Tinca tinca",
    "No, it is a St. Bernard (not a tench)": "St. Bernard",
    "It shows a not hotdog": "not_hotdog",
    "None of these fits: it may be a rose": NONE,
    '{"answer": "none of these"}': NONE,
    '{"answer": "rose win': NO_CLASS,
    None: NO_CLASS,
}


def test_an_answer_names_one_class_or_none():
    names = ["rose", "rose window", "n02085620-Chihuahua", "electric_guitar", "tench, Tinca tinca", "Straße"]
    names += ["berries", "lens", "St. Bernard", "hotdog", "not_hotdog"]
    found = matched_answers([*ANSWERS], names).tolist()
    assert {answer: names[row] if row >= 0 else row for answer, row in zip(ANSWERS, found, strict=True)} == ANSWERS


OF_CLASSES = {  # by names of classes, answers and what they name
    "news, advertisement": {"A new building": None, "a new": "news", "Two advertisements": "advertisement"},
    "dress, shorts, t-shirt": {"A person with short hair": None, "A short dress.": "dress", "two t-shirts": "t-shirt"},
    "glasses, cup": {"A glass of water": None, "A pair of glasses": "glasses", "The glass": "glasses"},
    "fly, bird": {"A bird flies over a field": "bird", "Several flies": "fly", "flies and birds": None},
    "goods, people": {"People in good light": "people", "a good": "goods"},
    "rose, rose window": {"two rose windows": "rose window"},
    "no_entry, yield sign": {
        "It is not a no entry sign": None,
        "not a no-entry sign but a yield sign": "yield sign",
        "No entry!": "no_entry",
        "A no entry sign, not a yield sign": "no_entry",
    },
    "forget-me-not, daisy": {
        "not a forget-me-not. It is a daisy.": "daisy",
        "A forget-me-not next to a daisy": None,
        "several forget-me-nots": "forget-me-not",
    },
    "don't walk, walk": {"The sign says don’t walk.": "don't walk", "dont walk": "don't walk", "You can walk": "walk"},
    "bed and breakfast, breakfast": {"It is not a bed and breakfast": None, "no bed and a breakfast": "breakfast"},
    "cat, dog": {
        "There is no doubt that this is a cat.": "cat",
        "This is without doubt a cat": "cat",
        "without a doubt a cat": "cat",
        "It's not a dog it's a cat": "cat",
        "not a dog it is a cat": "cat",
        "The image shows no people and a cat": "cat",
        "It is not only a cat but also a dog": None,
        "It isnt a cat": None,
        "It isn't a cat": None,
        "neither a cat nor a dog": None,
        "I don't think it is a cat": None,
        "I am not sure whether it's a cat": None,
    },
}


@pytest.mark.parametrize("classes", OF_CLASSES)
def test_what_only_looks_like_a_class_or_a_denial_is_none(classes):
    """Exact names come before plurals; only a whole answer may be the singular of a name."""
    names, answers = classes.split(", "), OF_CLASSES[classes]
    found = matched_answers([*answers], names).tolist()
    told = {answer: names[row] if row >= 0 else None for answer, row in zip(answers, found, strict=True)}
    assert told == answers


def test_two_classes_of_one_name_are_not_told_apart():
    assert matched_answers(["crane", "cranes", "heron"], ["crane", "Crane", "heron"]).tolist() == [-1, -1, 2]
    assert matched_answers(["glasses", "glass", "GLASS"], ["glass", "glasses"]).tolist() == [1, 0, 0]
