"""`g4i label`: which images it asks about, and the page on which they are answered."""

import copy
import dataclasses
import json
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import browser_page
from datasets import Dataset
from drawings import CLASSES
from fitting import few_labels, lines_of, write_lines

from g4i_hf import LabelModel, View
from g4i_hf.cli import build_options
from g4i_hf.data.labels import answers_to, line_of, read_answers
from g4i_hf.data.loading import load_reviewed
from g4i_hf.label_model.picks import pick_gold, pick_next, pick_none, pick_wrong
from g4i_hf.options import OPTIONS_OF, DataArguments
from g4i_hf.running import main
from g4i_hf.workflows.label import Labelling
from g4i_hf.workflows.label_server import LabelServer

TRUTH = np.arange(40) % 4


def blobs() -> np.ndarray:
    """(40, 8) around the corners of a simplex."""
    return np.eye(8)[TRUTH] + 0.1 * np.random.default_rng(0).normal(size=(40, 8))


def told(truth: np.ndarray = TRUTH, share: float = 0.9) -> np.ndarray:
    return np.full((40, 4), (1 - share) / 3) + np.eye(4)[truth] * (share - (1 - share) / 3)


def test_wrong_labels_are_picked_by_doubt_and_equal_images_that_differ_first():
    labels, probabilities = TRUTH.copy(), told()
    labels[[3, 5]] = 0, 2  # of classes 3 and 1
    probabilities[5] = told(share=0.6)[5]
    labels[8] = -1
    assert pick_wrong(probabilities, labels).tolist() == [3, 5]
    assert pick_wrong(probabilities, labels, has_view=np.arange(40) != 3).tolist() == [5]
    contents = np.arange(40)
    contents[21] = contents[20]  # of classes 1 and 0
    assert set(pick_wrong(probabilities, labels, contents)[:2]) == {20, 21}


def test_what_to_label_next_is_uncertain_and_differs():
    labels, probabilities, points = np.full(40, -1), told(), blobs()
    labels[:3] = TRUTH[:3]  # class 3 has none
    alike, others = [4, 8, 12, 16, 20], [5, 6, 7, 9]  # of class 0, and of others
    probabilities[alike], probabilities[others] = told(share=0.35)[alike], told(share=0.4)[others]
    none = np.zeros(40), np.zeros(40, dtype=bool)
    found = pick_next(probabilities, labels, *none, [points], 5)
    assert TRUTH[found[0]] == 3 and len(set(found)) == 5 and set(found[1:]) <= {*alike, *others}
    assert set(TRUTH[found[1:]]) == {0, 1, 2, 3}, "the most uncertain alone are of one class"
    no_values = [points, np.full((40, 2), np.nan)]
    assert len(pick_next(np.full((40, 4), 0.25), labels, *none, no_values, 37)) == 37
    assert not len(pick_next(probabilities, TRUTH, *none, [points], 5))


def test_a_gold_sample_stays_and_grows_and_has_no_image_twice():
    contents = np.random.default_rng(0).permutation(200)
    first = pick_gold(contents, 20)
    more = pick_gold(np.concatenate([contents, contents[first]]), 40)
    assert more[:20].tolist() == first.tolist() and len(set(contents[more % 200])) == 40
    assert contents[first].mean() == pytest.approx(100, abs=35)


@pytest.mark.parametrize("labelled", [12, 40])
def test_images_of_no_class_are_explained_least(labelled):
    """Too few labels to estimate a share of them, or none unlabelled; one is without a caption."""
    labels, captions = np.where(np.arange(40) < labelled, TRUTH, -1), blobs()
    others = np.array([33, 37])
    captions[others] = 0.25
    images = captions.copy()
    captions[33] = np.nan
    model = LabelModel(4).fit({"caption": View(captions), "image": View(images)}, labels)
    assert not model.none_.any()
    assert set(pick_none(model.none_, model.explained_, labels)[:2]) == set(others)
    labels[33] = 0
    assert labelled == 40 or 33 not in pick_none(model.none_, model.explained_, labels)
    assert pick_none(np.eye(40)[39], model.explained_, labels)[0] == 39


@pytest.fixture(scope="module")
def looked(student, words, tmp_path_factory) -> Labelling:
    """At 60 drawings, 4 a class with a label, of which one is wrong."""
    root = tmp_path_factory.mktemp("label")
    pictures = few_labels(root, 4, train=60)
    (pictures / "train" / "circle" / "0.png").rename(pictures / "train" / "cross" / "0.png")
    lines = lines_of(pictures)
    lines[0]["file_name"] = "cross/0.png"
    write_lines(pictures, lines)
    given = {"dataset_name": str(pictures), "output_dir": str(root / "out"), "views": ["caption"]}
    given |= {"student": student, "text_encoder": words}
    found = Labelling(*build_options(OPTIONS_OF["label"], given), say=lambda text: None)
    found.compute()
    return found


@pytest.fixture
def asking(looked, tmp_path):
    """`asking(pick, n)`: the same images, whose answers go into a new file."""

    def ask(pick: str, n: int = 100) -> Labelling:
        asked = copy.copy(looked)
        asked.args, asked.file = dataclasses.replace(looked.args, pick=pick, n=n), tmp_path / "labels.jsonl"
        asked.begin()
        return asked

    return ask


def trained(asked: Labelling) -> Dataset:
    """What a training sees after these answers."""
    return load_reviewed(DataArguments(asked.data.dataset_name, labels_file=str(asked.file)))["train"]


def test_it_lists_what_to_look_at(looked, asking, student, words, capsys):
    pictures, out = looked.data.dataset_name, looked.args.output_dir
    encoders = ["--student", student, "--text_encoder", words]
    main(["label", pictures, "-o", out, *encoders, "--views", "caption", "--list", "--pick", "wrong"])
    name, suggested, probability, given = capsys.readouterr().out.splitlines()[0].split("\t")
    assert (name, given) == ("train/cross/0.png", "cross")
    assert suggested in ("circle", "square") and 0.5 < float(probability) <= 1
    for pick in ("next", "none"):
        lines = [line.split("\t") for line in asking(pick, 9).listed()]
        assert len({name for name, *_ in lines}) == 9 and all(line[3] == "" for line in lines)
        assert all("/unlabelled/" in name for name, *_ in lines)
    assert set(asking("gold").listed()) == set(looked.names), "as the page, it hides what would sway an answer"


def test_an_image_of_a_class_that_was_shown_as_one_of_none_is_no_example_of_none(asking, monkeypatch):
    asked, given = asking("none", 2), []
    of_class, of_none = (item["row"] for item in asked.items())
    asked.answer(lambda line: None, of_class, 0)
    asked.answer(lambda line: None, of_none, None, none=True)
    asked.args = dataclasses.replace(asked.args, pick="next")
    monkeypatch.setattr("g4i_hf.workflows.label.pick_next", lambda *args, **_: given.extend(args) or [])
    asked.picked(1)
    assert given[3].nonzero()[0].tolist() == [of_none]


def test_a_second_page_of_a_folder_is_refused_at_once(looked, capsys, monkeypatch):
    pictures = looked.data.dataset_name
    monkeypatch.setitem(sys.modules, "g4i_hf.workflows.label", None)  # whose imports take seconds
    with answers_to(Path(pictures) / "labels.jsonl"), pytest.raises(SystemExit):
        main(["label", pictures, "-o", looked.args.output_dir, "--no_browser"])
    assert "Another g4i label writes to" in capsys.readouterr().err


def test_names_of_classes_are_text_on_the_page(asking):
    asked, name = asking("wrong"), "</script><img src=x onerror=alert(1)>"
    asked.classes = [name] * 3
    html = asked.page("nonce")
    assert "<img src=x" not in html and html.count("</script>") == 1 and "onerror=alert(1)" in html


def test_without_any_label_or_caption_the_images_differ(student, tmp_path, capsys, monkeypatch):
    pictures = few_labels(tmp_path, 0, train=24)
    (pictures / "train" / "metadata.jsonl").unlink()
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    words = ["--class_names_file", str(tmp_path / "names.txt"), "--views", "image:student", "--n", "6", "--list"]
    command = ["label", str(pictures), "-o", str(tmp_path / "out"), "--student", student, *words]
    main(command)
    first = capsys.readouterr().out
    assert [line.split("\t")[2] for line in first.splitlines()] == ["0.3333"] * 6
    monkeypatch.delattr("PIL.ImageFile.ImageFile.load")  # another start decodes no image
    main(command)
    assert capsys.readouterr().out == first


@contextmanager
def served(asked: Labelling):
    with answers_to(asked.file) as append, LabelServer(asked, append) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@contextmanager
def opened(asked: Labelling, **options):
    """The page in a browser, its buttons of likely classes, and what it asked of other hosts."""
    with served(asked) as server, browser_page(**options) as (page, outside):
        page.goto(server.address)
        likely = page.locator("#likely button")
        likely.first.wait_for()
        yield page, likely, outside


def last_answer(asked: Labelling) -> dict:
    return json.loads(asked.file.read_text().splitlines()[-1])


@pytest.mark.slow
def test_keys_answer_and_every_answer_is_on_disk_before_the_next_image(asking):
    """Enter, a number, a name, none, skip and undo, in a dark browser of the size of a phone."""
    asked, options = asking("next"), {"viewport": {"width": 380, "height": 800}, "color_scheme": "dark"}
    with opened(asked, **options) as (page, likely, outside):

        def press(key: str, answered: int) -> dict:
            shown = page.locator("#picture").get_attribute("src")
            page.keyboard.press(key)
            page.wait_for_function("shown => !document.querySelector(`#picture[src='${shown}']`)", arg=shown)
            assert page.locator("#count").inner_text().startswith(f"{answered} answered")
            return last_answer(asked)

        suggested = likely.first.locator("span").first.inner_text()
        first = press("Enter", 1)
        assert (first["label"], first["pick"], first["by"]) == (suggested, "next", "person")
        second = likely.nth(1).locator("span").first.inner_text()
        assert press("2", 2)["label"] == second
        page.keyboard.type("SQ")
        assert page.locator("#matches button").first.inner_text().split()[-1] == "square"
        assert press("Enter", 3)["label"] == "square"
        none = press("n", 4)
        assert none["none"] is True and none["label"] is None
        assert press(" ", 4) == none
        assert press("Backspace", 4) == none  # the skip
        undone = press("Backspace", 3)
        assert (undone["file_name"], undone["label"]) == (none["file_name"], None) and "none" not in undone
        assert page.evaluate("document.documentElement.scrollWidth") <= 380 and not outside
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        page.reload()  # what was skipped is asked again
        page.get_by_text("0 answered, image 1 of").wait_for()
    assert len(read_answers(asked.file)) == 3 and sum(label is not None for label in trained(asked)["label"]) == 15


@pytest.mark.slow
def test_a_name_that_is_no_class_is_offered_as_a_new_one_and_learned_with_its_round(asking, monkeypatch):
    monkeypatch.setattr("g4i_hf.workflows.label.ROUND", 2)
    asked = asking("next", 4)
    learned, learn = [], asked.learn
    monkeypatch.setattr(asked, "learn", lambda: (learned.append(len(read_answers(asked.file))), learn()))
    with opened(asked) as (page, likely, _):
        matches = page.locator("#matches button")
        assert page.get_by_text("0 answered, image 1 of 4").count()  # of two rounds
        page.keyboard.type("Square")
        assert "New class" not in matches.all_inner_texts()[-1]
        page.keyboard.press("Escape")
        page.keyboard.type("hexagon")
        assert matches.count() == 1 and "New class hexagon" in matches.inner_text()
        page.keyboard.press("Enter")
        assert page.get_by_text("0 answered").count()  # by a slip there is none yet
        page.keyboard.press("Enter")
        page.get_by_text("1 answered").wait_for()
        assert (last_answer(asked)["label"], last_answer(asked)["new_class"]) == ("hexagon", True)
        page.keyboard.type("hexa")
        page.keyboard.press("Enter")  # one of the classes by now
        page.get_by_text("2 answered").wait_for()
        likely.nth(3).wait_for()
        assert last_answer(asked)["new_class"] is True and learned == [2]
        for answered in (3, 4):
            page.keyboard.press("1")
            page.get_by_text(f"{answered} answered").wait_for()
        page.get_by_text(f"All are answered. Learn from them: g4i fit {asked.data.dataset_name}").wait_for()
    training, labels = trained(asked), [line["label"] for line in read_answers(asked.file).values()]
    names = training.features["label"].names
    assert names[:3] == list(CLASSES) and names[3:] == ["hexagon"]
    assert training["label"][:].count(3) == labels.count("hexagon") >= 2


@pytest.mark.slow
def test_the_page_keeps_an_image_whose_answer_was_not_saved_and_says_at_the_end_what_was_skipped(asking):
    asked = asking("next", 3)
    with opened(asked) as (page, _, _):
        asked.file.unlink()
        asked.file.mkdir()
        page.keyboard.press("1")
        page.get_by_text(f"Not saved. {asked.file} cannot be written (Is a directory).").wait_for()
        assert page.get_by_text("0 answered, image 1 of 3").count()
        asked.file.rmdir()
        page.keyboard.press("1")
        page.get_by_text("1 answered, image 2 of 3").wait_for()
        page.keyboard.press("Backspace")
        page.get_by_text("Undone.").wait_for()
        for _ in range(3):
            page.keyboard.press(" ")
        page.get_by_text("0 answered, 3 skipped. Reload the page to see those again. (Ctrl+C").wait_for()
    assert not read_answers(asked.file)


@pytest.mark.slow
def test_gold_images_hide_what_is_known_until_they_are_answered(asking):
    asked = asking("gold", 3)
    with opened(asked) as (page, _, _):
        shown = page.locator("main").inner_text()
        assert "%" not in shown and "Labelled" not in shown and "on paper" not in shown
        assert not page.locator("#examples img").count()
        page.keyboard.press("Enter")
        page.keyboard.press("2")
        page.get_by_text("Last: cross (labelled").wait_for()
        assert (last_answer(asked)["label"], last_answer(asked)["pick"]) == ("cross", "gold")


def sent(server: LabelServer, what: str, content: dict | bytes, **headers: str) -> tuple[int, dict]:
    """Status and reply of what the page posts."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    own = {"Content-Type": "application/json", "Origin": f"http://{server.host}"}
    request = urllib.request.Request(f"{server.address}{what}", body, own | headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def test_an_answer_that_cannot_be_written_is_told_and_asked_again(asking):
    asked = asking("next", 3)
    with served(asked) as server:
        row = sent(server, "more", {})[1]["items"][0]["row"]
        asked.file.unlink()
        asked.file.mkdir()
        status, reply = sent(server, "answer", {"row": row, "label": 0})
        assert status == 409 and reply["error"].startswith(f"{asked.file} cannot be written (Is a directory).")
        assert asked.labels[row] == asked.given[row] and not asked.answered.any()
        urllib.request.urlopen(server.address, timeout=20).close()  # the page, loaded anew
        assert row in [item["row"] for item in sent(server, "more", {})[1]["items"]]
        asked.file.rmdir()
        assert sent(server, "answer", {"row": row, "label": 0})[0] == 200
    assert last_answer(asked)["file_name"] == asked.names[row] and asked.answered.sum() == 1


@pytest.mark.parametrize("pick", ["next", "gold"])
def test_a_page_may_be_answered_after_another_one_was_opened(asking, pick):
    asked = asking(pick, 3)
    with served(asked) as server:
        first, second, third = (item["row"] for item in sent(server, "more", {})[1]["items"])
        assert sent(server, "answer", {"row": first, "label": 0})[0] == 200
        urllib.request.urlopen(server.address, timeout=20).close()  # the other page
        assert sent(server, "answer", {"row": second, "label": 0})[0] == 200
        found = [item["row"] for item in sent(server, "more", {})[1]["items"]]
        assert len(found) == 1 and not {first, second} & set(found)
        assert sent(server, "answer", {"row": third, "label": 0})[0] == 200
        assert sent(server, "more", {})[1] == {"items": [], "waiting": 0} | asked.named()
    assert set(read_answers(asked.file)) == {asked.names[row] for row in (first, second, third)}


def test_an_undone_answer_gives_way_to_the_one_before_if_that_was_about_this_image(looked, tmp_path):
    """Those of images that are gone are no part of the gold sample."""
    file = tmp_path / "labels.jsonl"
    (now, other), gone = looked.names[-2:], "train/gone.png"
    digests = {now: looked.digests[-2], other: "0" * 32, gone: "1" * 32}
    lines = [line_of(name, "file_name", digest, "next", "cross") for name, digest in digests.items()]
    file.write_text("".join(lines) + line_of(gone, "file_name", digests[gone], "gold", "cross"))
    asked = Labelling(
        dataclasses.replace(looked.args, pick="gold", n=60),
        dataclasses.replace(looked.data, labels_file=str(file)),
        say=lambda text: None,
    )
    asked.compute()
    assert asked.left == 60
    with answers_to(file) as append, LabelServer(asked, append) as server:
        asked.items()
        for name, before in ((now, ("cross", "next")), (other, (None, "gold"))):
            row = asked.names.index(name)
            for answer in ({"none": True}, {"undo": True}):
                server.answer(row, **answer)
            assert (last_answer(asked)["label"], last_answer(asked)["pick"]) == before
        assert not asked.answered.any()
    assert {name: line["label"] for name, line in read_answers(file).items() if name != gone} == {now: "cross"}


def test_a_new_class_is_one_however_it_is_written(asking):
    """Two pages may be open: the second one learns of the classes of the first."""
    asked = asking("next", 3)
    with served(asked) as server:
        first, second, _ = (item["row"] for item in sent(server, "more", {})[1]["items"])
        classes = [*CLASSES, "Golden eagle"]
        reply = sent(server, "answer", {"row": first, "label": "Golden  eagle"})
        assert reply == (200, {"label": 3} | asked.named()) and asked.named()["classes"] == classes
        status, reply = sent(server, "answer", {"row": second, "label": "golden EAGLE"})
        assert (status, reply["classes"]) == (409, classes) and "There is a class 'Golden eagle'" in reply["error"]
        assert sent(server, "answer", {"row": second, "label": "Golden eagle"})[0] == 200
        assert sent(server, "more", {})[1]["classes"] == classes and asked.answered.sum() == 2


def test_a_request_without_the_token_or_from_elsewhere_is_refused(asking):
    asked = asking("wrong")
    row = asked.items()[0]["row"]
    answer = {"row": row, "label": 0}
    with served(asked) as server:

        def status(place: str, **headers: str) -> int:
            try:
                with urllib.request.urlopen(urllib.request.Request(place, headers=headers), timeout=20) as reply:
                    return reply.status
            except urllib.error.HTTPError as error:
                return error.code

        def answered(content: dict | bytes = answer, **headers: str) -> int:
            return sent(server, "answer", content, **headers)[0]

        base = f"http://{server.host}/"
        assert server.server_address[0] == "127.0.0.1" and status(f"{server.address}image/{row}") == 200
        assert status(f"{base}wrong-token/") == status(base) == 403
        assert status(server.address, Host="evil.example") == 403  # its name may lead here
        assert sent(server, "../wrong-token/answer", answer)[0] == 403
        assert answered(Origin="http://evil.example") == answered(**{"Content-Type": "text/plain"}) == 403
        assert answered(**{"Content-Length": "-1"}) == 403
        for wrong in ({"row": -1, "label": 0}, {"row": row, "label": 9}, {"row": row}, {"row": "0", "none": True}):
            assert answered(wrong) == 400
        assert answered(b'{"row":' + b"[" * 9_000) == 400
        assert not read_answers(asked.file)
        assert answered() == 200 and len(read_answers(asked.file)) == 1
        assert status(server.address) == 200
