"""`classes.yaml`: renamed, merged and dropped classes keep their labels, and texts have what it says of them."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from browser import browser_page
from datasets import ClassLabel, Dataset, Features, Image, Value
from drawings import CLASSES, draw_folder
from fitting import few_labels
from tiny_encoders import save_static_encoder

from g4i_hf import embed_view, load_images
from g4i_hf.captioning.questions import Prompts
from g4i_hf.cli import build_options
from g4i_hf.data.classes import ClassNames, ClassWords, matched_answers
from g4i_hf.data.labels import OF_NO_CLASS, answers_to, read_answers
from g4i_hf.data.loading import class_words, load_data, load_reviewed
from g4i_hf.options import OPTIONS_OF, DataArguments
from g4i_hf.running import main
from g4i_hf.views.stages import read_view
from g4i_hf.workflows.label import Labelling
from g4i_hf.workflows.label_server import LabelServer


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Circles are 0, 3, 6, 9, crosses 1, 4, 7, 10, squares the others."""
    return draw_folder(tmp_path / "pictures", captions=False, train=12)


def say(folder: Path, number: int, label: str | None, pick: str = "manual", **more) -> None:
    name = f"train/{CLASSES[number % 3]}/{number}.png"
    with open(folder / "labels.jsonl", "a") as file:
        file.write(json.dumps({"file_name": name, "label": label, "pick": pick} | more) + "\n")


def classes_of(folder: Path, text: str) -> dict[str, set[int]]:
    """The numbers of the drawings of each class, of all splits, with this file."""
    (folder / "classes.yaml").write_text(text, encoding="utf-8")
    found: dict[str, set[int]] = {}
    for name, split in load_images(folder).items():
        for image_id, label in zip(split["image_id"], split["label"], strict=True):
            names = split.features["label"].names
            found.setdefault(name if name != "train" else names[label], set()).add(int(Path(image_id).stem))
    return found


def test_a_renamed_or_merged_class_keeps_every_label_and_gold_stays_gold(pictures):
    """In folders, in metadata and in labels.jsonl, under its former name or its present one."""
    lines = [{"file_name": f"cross/{number}.png", "label": "plus"} for number in (1, 4)]
    lines.append({"file_name": "circle/6.png", "label": "circle"})
    (pictures / "train/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    say(pictures, 0, "cross", "gold")
    say(pictures, 2, "x", new_class=True)
    say(pictures, 3, "ring")
    found = classes_of(pictures, "ring: {former: [circle]}\ncross: {former: [plus]}\nx: {merge_into: cross}\n")
    assert found == {"ring": {3, 6, 9}, "cross": {1, 4, 7, 10, 2}, "square": {5, 8, 11}, "gold": {0}}
    gold = load_images(pictures)["gold"]
    assert gold.features["label"].names == ["ring", "cross", "square"] and gold["label"][:] == [1]
    assert (
        load_images(pictures, classes=str(pictures / "classes.yaml"))["train"].features
        == load_images(pictures)["train"].features
    )


def test_votes_for_merged_classes_are_votes_for_one_and_those_for_a_dropped_one_for_none(pictures):
    for by, label in (("ann", "circle"), ("bob", "square"), ("cy", "cross")):
        say(pictures, 0, label, by=by)
        say(pictures, 3, "cross", by=by)
    found = classes_of(pictures, "square: {merge_into: circle}\ncross: {drop: true}\n")
    assert found == {"circle": {0, 6, 9, 2, 5, 8, 11}}
    votes = load_images(pictures)["train"]["votes"]
    assert {tuple(json.loads(each).items()) for each in votes if each} == {(("ann", "circle"), ("bob", "circle"))}


def test_images_of_a_dropped_class_show_none_of_the_others_unless_somebody_answered(pictures):
    say(pictures, 1, "square")
    say(pictures, 5, "cross")
    assert classes_of(pictures, "cross: {drop: true}\n") == {"circle": {0, 3, 6, 9}, "square": {2, 8, 11, 1}}
    data = DataArguments(str(pictures))
    of_none = load_reviewed(data, keeps_no_class=True)[OF_NO_CLASS]
    assert {int(Path(name).stem) for name in of_none["image_id"]} == {4, 5, 7, 10}
    kept = load_data(data)["train"]
    assert len(kept) == 12 and kept["label"][:].count(None) == 4, "stages of captions keep every image"


def test_a_dropped_class_that_gold_needs_is_an_error_and_nothing_is_lost(pictures, capsys):
    say(pictures, 1, "cross", "gold")
    say(pictures, 4, "cross", "gold")
    before = (pictures / "labels.jsonl").read_text()
    (pictures / "classes.yaml").write_text("cross: {drop: true}\n")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(pictures)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "'cross' is dropped, but gold answers need it: 2, the first in line 1 of" in said
    assert "merge_into" in said and (pictures / "labels.jsonl").read_text() == before


# Printed, they would fill the memory
LISTS = "".join(
    f", &{name} [{', '.join(['*' + before] * 9)}]" for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
FAULTY = {
    "given twice": ("a: {}\na: {}\n", "line 2: 'a' is given twice, first in line 1. Keep one of them."),
    "two forms": ("é: {}\ne\u0301: {}\n", "line 2: 'é' is given twice, first in line 1. Keep one of them."),
    "a text": ("a: red\n", "line 1: 'a' has fields, not 'red'. Write {description: ...} for a text, or nothing."),
    "no field": ("a: {descripton: red}\n", "'descripton' is no field of a class. Did you mean 'description'?"),
    "no text": ("a: {description: no}\n", "description is False. Write a text, in quotes if need be."),
    "no list": ("a: {synonyms: b}\n", "synonyms is 'b'. Write a list of texts"),
    "no switch": ("a: {drop: maybe}\n", "drop is 'maybe'. Write true, or leave it out."),
    "both": ("a: {drop: true, merge_into: circle}\n", "Keep one of drop and merge_into."),
    "nowhere": ("a: {merge_into: crcle}\n", "merge_into is 'crcle', which is no class. Did you mean 'circle'? Add it"),
    "dropped": ("a: {merge_into: b}\nb: {drop: true}\n", "line 1: 'a': merge_into is 'b', which is dropped."),
    "circle": ("a: {merge_into: b}\nb: {merge_into: a}\n", "line 1: 'a': it is merged in a circle: a, b, a. Let one"),
    "former": ("a: {former: [b]}\nb: {}\n", "line 1: 'a': its former name 'b' is also a class. Take it from one"),
    "synonym": ("a: {synonyms: [k]}\nb: {synonyms: [K]}\n", "line 2: 'b': its synonym 'K' is also a synonym of 'a'."),
    "all dropped": ("circle: {drop: true}\ncross: {drop: true}\nsquare: {drop: true}\n", "every class is dropped."),
    "no mapping": ("- a\n- b\n", "holds no names of classes. Write a line for each: its name, then a colon."),
    "no YAML": ("a: [b\n", "classes.yaml is not valid YAML"),
    "code": ("a: !!python/object/apply:os.system [exit]\n", "classes.yaml is not valid YAML"),
    "endless": ("a: {name: &a [*a]}\n", "classes.yaml is not valid YAML"),
    "lists of lists": ("a: {synonyms: " + "[&a [x, x]" + LISTS + "]}\n", "synonyms is a list. Write a list of texts"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_wrong_with_the_file_is_said_with_its_line(pictures, name):
    text, expected = FAULTY[name]
    with pytest.raises(ValueError) as error:
        classes_of(pictures, text)
    assert expected in str(error.value) and f"{pictures / 'classes.yaml'}" in str(error.value)
    assert len(str(error.value).splitlines()) == (2 if name == "circle" else 1)


def test_all_that_is_wrong_is_said_at_once(pictures, capsys):
    faults = [name for name in FAULTY if name.startswith("no ") and name not in ("no mapping", "no YAML")]
    (pictures / "classes.yaml").write_text("".join(FAULTY[name][0].replace("a:", f"{name}:") for name in faults))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(pictures)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(lines) == len(faults) == 4
    assert all(
        f"line {number}: {name!r}" in line for number, (name, line) in enumerate(zip(faults, lines, strict=True), 1)
    )


def test_a_mistyped_class_is_said_and_one_without_images_is_a_class(pictures, caplog):
    assert classes_of(pictures, "crcle: {description: A ring.}\nhexagon: {}\n").keys() == {*CLASSES}
    said = "line 1: no label is 'crcle'. Did you mean 'circle'?"
    assert [said in message for message in caplog.messages if "no label is" in message] == [True]
    assert load_images(pictures)["train"].features["label"].names == [*CLASSES, "crcle", "hexagon"]


def test_numbers_are_classes_in_the_order_of_the_file_and_a_list_of_names_has_no_fields(tmp_path):
    Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 3, "label": [1, 0, 2]}).to_parquet(
        tmp_path / "data" / "train.parquet"
    )
    file = tmp_path / "data" / "classes.yaml"
    file.write_text("ant: {}\nbee: {merge_into: ant}\n'7': {}\n")
    split = load_data(DataArguments(str(file.parent)))["train"]
    assert split.features["label"].names == ["ant", "7"] and split["label"][:] == [0, 0, 1]
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    with pytest.raises(ValueError, match="classes and class_names_file are both given. Leave one out"):
        DataArguments(str(file.parent), classes=str(file), class_names_file=str(tmp_path / "names.txt"))
    named = load_data(DataArguments(str(file.parent), class_names_file=str(tmp_path / "names.txt")))["train"]
    assert named.features["label"].names == ["x", "y", "z"]


def test_check_writes_a_first_file_and_never_another_one(pictures, capsys):
    say(pictures, 0, "yes", new_class=True, description="A thing: with a colon")
    main(["check", str(pictures), "--classes"])
    file = pictures / "classes.yaml"
    assert f"{file}: 4 classes. Describe what tells" in capsys.readouterr().out
    first = file.read_text()
    assert class_words(DataArguments(str(pictures))) == {"yes": ClassWords(description="A thing: with a colon")}
    assert list(load_images(pictures)["train"].features["label"].names) == [*CLASSES, "yes"]
    file.write_text(first + "# mine\n")
    main(["check", str(pictures), "--classes"])
    assert f"{file} is there already, and was not changed." in capsys.readouterr().out
    assert file.read_text() == first + "# mine\n"
    other = pictures.parent / "other.yaml"
    main(["check", str(pictures), "--classes", str(other)])
    assert other.read_text() == first and "Not read: 0" in capsys.readouterr().out


# --- What texts say of classes ---------------------------------------------------------------------------------------

WORDS = {
    "circle": ClassWords(synonyms=("ring", "hoop"), description="Round, as a wheel is."),
    "cross": ClassWords(name="plus sign", former=("x",)),
}


def test_a_question_has_names_and_descriptions_and_answers_may_be_synonyms_and_former_names():
    features = Features({"image_id": Value("string"), "label": ClassLabel(names=[*CLASSES])})
    prompts = Prompts(["{class_names}?", "A {label}."], features, "train", WORDS)
    expected = ["circle (Round, as a wheel is); plus sign; square?", "A plus sign."]
    assert prompts.prompts_of({"image_id": "a", "label": 1}) == expected
    assert prompts.choices[0] == ("circle", "plus sign", "square", "none of these")
    answers = ["A hoop.", "plus sign", "x", "cross", "rings", "a box", "none of these"]
    assert matched_answers(answers, CLASSES, WORDS).tolist() == [0, 1, 1, 1, 0, -1, -2]
    assert list(map(prompts.matching, answers)) == [0, 1, 1, 1, 0, -1, -2]


def test_a_text_view_is_the_mean_of_a_class_and_other_words_make_it_again(tmp_path):
    encoder = str(
        save_static_encoder(tmp_path / "encoder", ["circle", "ring", "hoop", "round", "cross", "square"], 16)
    )
    images = load_images(draw_folder(tmp_path / "pictures", train=6))

    def made(words: dict) -> np.ndarray:
        folder = embed_view(images, "caption", tmp_path / "out", text_encoder=encoder, words=words)
        return read_view(folder, images["train"], ClassNames(dict(enumerate(CLASSES)), words))[1].class_values

    def of(text: str) -> np.ndarray:
        return made({"circle": ClassWords(name=text)})[0]

    both, plain = made(WORDS), made({})
    mean = (of("circle") + of("ring") + of("hoop") + of(WORDS["circle"].description)) / 4
    np.testing.assert_allclose(both[0], mean / np.linalg.norm(mean), atol=2e-3)
    np.testing.assert_array_equal(both[2], plain[2])
    assert not np.allclose(both[0], plain[0], atol=0.05)
    with pytest.raises(ValueError, match="was made with other synonyms or descriptions of the classes. Run it again"):
        embed_view(images, "caption", tmp_path / "out", text_encoder=encoder, words=WORDS)
        read_view(tmp_path / "out/views/caption", images["train"], dict(enumerate(CLASSES)))


def test_an_answer_in_words_counts_when_its_synonym_is_added_later(tmp_path):
    answers = {"answer": ["circle", None, None, "crss"], "answer_text": ["A circle.", "A hoop.", "A box.", "A crss."]}
    images = load_images(draw_folder(tmp_path / "pictures", captions=False, train=4))["train"]
    for name, values in answers.items():
        images = images.add_column(name, values)
    said = {"circle": ClassWords(synonyms=("hoop",)), "cross": ClassWords(former=("crss",))}
    for words, expected in (({}, [0]), (said, [0, 0, 1])):
        folder = embed_view(images, "answer", tmp_path / "out", words=words)
        view = read_view(folder, images, ClassNames(dict(enumerate(CLASSES)), words))[1]
        assert [int(row.argmax()) for row in view.values if np.isfinite(row).all() and row.any()] == expected


def test_labels_of_other_tools_may_have_former_names_and_synonyms(pictures, capsys):
    (pictures / "classes.yaml").write_text("circle: {synonyms: [Hoop], former: [ring]}\n")
    (pictures.parent / "more.csv").write_text("file_name,label\n1.png,ring\n2.png,hoop\n4.png,lynx\n")
    with pytest.raises(SystemExit):
        main(["label", str(pictures), "--import", str(pictures.parent / "more.csv")])
    assert "1 label is none of the 3 classes: 'lynx'" in capsys.readouterr().err
    (pictures.parent / "more.csv").write_text("file_name,label\n1.png,ring\n2.png,hoop\n")
    main(["label", str(pictures), "--import", str(pictures.parent / "more.csv")])
    assert [line["label"] for line in read_answers(pictures / "labels.jsonl").values()] == ["circle", "circle"]


@pytest.fixture(scope="module")
def small(student, words, tmp_path_factory) -> tuple[Path, dict]:
    """60 drawings, 4 a class with a label, and options of commands on them."""
    root = tmp_path_factory.mktemp("classes")
    pictures = few_labels(root, 4, train=60)
    given = {"student": student, "text_encoder": words, "output_dir": str(root / "out"), "views": ["caption"]}
    return pictures, given | {"group_by": "none"}


def labelling(small: tuple[Path, dict], **more) -> Labelling:
    pictures, given = small
    asked = Labelling(*build_options(OPTIONS_OF["label"], {"dataset_name": str(pictures)} | given | more), say=print)
    asked.compute()
    return asked


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_another_description_is_another_result_of_fit(small, fitted, capsys):
    pictures, _ = small
    out = pictures.parent / "fit"
    (pictures / "classes.yaml").unlink(missing_ok=True)
    options = {"views": ["caption"], "group_by": "none"}
    fitted(pictures, out, **options)
    for text in ("circle: {description: Round.}\n", "circle: {description: Round., synonyms: [ring]}\n"):
        (pictures / "classes.yaml").write_text(text)
        capsys.readouterr()
        fitted(pictures, out, **options)
        assert "Changed since the last run in" in (said := capsys.readouterr().out)
        assert "synonyms and descriptions of the classes" in said
    fitted(pictures, out, **options)
    assert "nothing has changed since" in capsys.readouterr().out
    (pictures / "classes.yaml").unlink()


# --- The page --------------------------------------------------------------------------------------------------------


def test_a_new_class_may_have_a_description_which_stays_when_its_image_gets_another_label(small):
    asked = labelling(small)
    row, other = (item["row"] for item in asked.items()[:2])
    with answers_to(asked.file) as append:
        server = LabelServer(asked, append)
        with server:
            reply = server.answer(row, "hexagon", description=" Six sides, and </script>. ")
            assert reply["descriptions"] == ["", "", "", "Six sides, and </script>."]
            assert server.answer(other, 3) == {"label": 3} and server.answer(row, 0) == {"label": 0}
            for wrong in ("a\nb", 3, ["a"]):
                with pytest.raises(ValueError, match="no answer"):
                    server.answer(other, "heptagon", description=wrong)
    pictures, _ = small
    words = class_words(DataArguments(str(pictures)))
    assert words == {"hexagon": ClassWords(description="Six sides, and </script>.")}
    again = labelling(small)
    assert "Six sides, and \\u003c/script\\u003e." in again.page("nonce")
    asked.file.unlink()


def test_an_undo_after_a_restart_takes_back_the_last_answer_of_that_person(small):
    """One after the other, also what an undo of the first page has brought back, and not what others answered."""
    first = labelling(small)
    rows = [item["row"] for item in first.items()[:3]]
    names = [first.names[row] for row in rows]
    with answers_to(first.file) as append:
        for row, label in zip(rows, (0, 1, 2), strict=True):
            first.answer(append, row, label)
        first.answer(append, rows[2], None, undo=True)
        first.answer(append, rows[0], 2)
    with open(first.file, "a") as file:
        file.write(json.dumps({"file_name": names[2], "label": "cross", "pick": "next", "by": "bob"}) + "\n")

    def left() -> dict[str, str]:
        answers = read_answers(first.file)
        return {name: line["label"] for name, line in answers.items()}

    again, given = labelling(small), []
    with answers_to(first.file) as append, LabelServer(again, append) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(3):
            reply = server.take_back()
            given.append((reply["name"], reply["item"]["row"], reply["item"]["label"], left().get(reply["name"])))
        with pytest.raises(Exception, match="No answer of yours is left"):
            server.take_back()
        server.shutdown()
    assert given[0] == (names[0], rows[0], 0, "circle"), "the answer before it counts again"
    assert given[1] == (names[1], rows[1], -1, None) and given[2] == (names[0], rows[0], -1, None)
    assert left() == {names[2]: "cross"}
    first.file.unlink()


@pytest.mark.parametrize("kind", ["names in a table", "a new class"])
def test_an_undo_of_any_answer_is_one_line_and_shows_its_image(small, tmp_path, kind):
    pictures, given = small
    if kind == "names in a table":
        rows = [{"image": row["image"], "caption": row["caption"]} for row in load_images(pictures)["train"]]
        labels = [CLASSES[row % 3] if row < 9 else None for row in range(len(rows))]
        table = Dataset.from_list([row | {"label": label} for row, label in zip(rows, labels, strict=True)])
        (pictures := tmp_path / "table").mkdir()
        table.cast_column("image", Image()).to_parquet(pictures / "train.parquet")
    given = given | {"output_dir": str(tmp_path / "out"), "labels_file": str(tmp_path / "labels.jsonl")}
    first = labelling((pictures, given))
    row = first.items()[0]["row"]
    with answers_to(first.file) as append:
        if kind == "a new class":
            first.answer(append, row, first.class_of("hexagon", "Six sides."))
        first.answer(append, row, 0)
    again = labelling((pictures, given))
    with answers_to(again.file) as append:
        item = again.take_back(append)["item"]
    assert item["row"] == row and len(again.file.read_text().splitlines()) == (3 if kind == "a new class" else 2)
    assert again.classes[item["label"]] == "hexagon" if kind == "a new class" else item["label"] == -1


def test_an_image_that_one_of_two_says_is_none_of_the_classes_is_a_disagreement(small):
    pictures, _ = small
    name, same = (f"train/unlabelled/{number}.png" for number in (20, 21))
    lines = [{"file_name": name, "label": "circle", "by": "ann"}, {"file_name": name, "none": True, "by": "bob"}]
    lines += [{"file_name": same, "label": "circle", "by": by} for by in ("ann", "bob")]
    (pictures / "labels.jsonl").write_text("".join(json.dumps(line | {"pick": "next"}) + "\n" for line in lines))
    assert [line.split("\t")[0] for line in labelling(small, pick="disagreements", by="cy").listed()] == [name]
    (pictures / "labels.jsonl").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_shows_descriptions_takes_one_of_a_new_class_and_undoes_what_was_before_it(small, width):
    pictures, _ = small
    (pictures / "classes.yaml").write_text("circle: {name: a <b>ring</b>, description: Round.}\n")
    asked = labelling(small)
    with answers_to(asked.file) as append:
        first = asked.items()[0]
        asked.answer(append, first["row"], 1)
        asked = labelling(small, n=5)
        with LabelServer(asked, append) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with browser_page(viewport={"width": width, "height": 800}) as (page, outside):
                page.goto(server.address)
                described = page.locator("#likely button", has_text="a <b>ring</b>")
                described.wait_for()
                assert described.get_attribute("title") == "Round."
                assert not page.locator("#described").is_visible()
                page.keyboard.press("Backspace")
                page.get_by_text(f"Undone: the answer to {first['name']}.").wait_for()
                assert page.locator("#picture").get_attribute("src") == f"image/{first['row']}"
                page.keyboard.type("hexagon")
                page.locator("#described").fill("Six sides, 1 n /")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                page.keyboard.press("Enter")
                page.get_by_text("1 answered").wait_for()
                page.keyboard.type("hexa")
                page.locator("#matches button").first.wait_for()
                assert page.locator("#matches button").first.get_attribute("title") == "Six sides, 1 n /"
                page.keyboard.press("Enter")
                page.get_by_text("2 answered").wait_for()
            server.shutdown()
    lines = [json.loads(line) for line in asked.file.read_text().splitlines()]
    assert [line["label"] for line in lines] == ["cross", None, "hexagon", "hexagon"] and not outside
    assert (lines[1]["undo"], lines[2]["description"]) == (True, "Six sides, 1 n /")
    asked.file.unlink()
    (pictures / "classes.yaml").unlink()
