"""`g4i label`: which images it asks about, and the page on which they are answered."""

import json
import shutil
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import test_fit
from browser import browser_page

sys.path.insert(0, str(Path(__file__).parent / "contract"))

from drawings import CLASSES, draw_folder

from g4i_hf.cli import build_options
from g4i_hf.data.labels import answers_to, read_answers
from g4i_hf.data.loading import load_reviewed
from g4i_hf.label_model.picks import pick_gold, pick_next, pick_none, pick_wrong
from g4i_hf.options import OPTIONS_OF, DataArguments
from g4i_hf.running import main
from g4i_hf.workflows.label import Labelling
from g4i_hf.workflows.label_server import LabelServer

student = test_fit.student
TRUTH = np.arange(40) % 4


def blobs(seed: int = 0, classes: int = 4) -> np.ndarray:
    """(40, 8) around the corners of a simplex."""
    return np.eye(8)[TRUTH] + 0.1 * np.random.default_rng(seed).normal(size=(40, 8))


def told(truth: np.ndarray = TRUTH, share: float = 0.9) -> np.ndarray:
    return np.full((40, 4), (1 - share) / 3) + np.eye(4)[truth] * (share - (1 - share) / 3)


# --- Which images ----------------------------------------------------------------------------------------------------


def test_wrong_labels_are_picked_by_doubt_and_equal_images_that_differ_first():
    labels, probabilities = TRUTH.copy(), told()
    labels[[3, 5]] = 0, 2  # of classes 3 and 1
    probabilities[5] = told(share=0.6)[5]
    labels[8] = -1
    assert pick_wrong(probabilities, labels).tolist() == [3, 5]
    contents = np.arange(40)
    contents[21] = contents[20]  # of classes 1 and 0
    assert set(pick_wrong(probabilities, labels, contents)[:2]) == {20, 21}


def test_what_to_label_next_is_uncertain_and_differs():
    labels, probabilities, points = np.full(40, -1), told(), blobs()
    labels[:3] = TRUTH[:3]  # class 3 has none
    uncertain = np.arange(16, 26)
    probabilities[uncertain] = told(share=0.4)[uncertain]
    found = pick_next(probabilities, labels, [points], 5)
    assert TRUTH[found[0]] == 3 and len(set(found)) == 5 and set(found[1:]) <= set(uncertain)
    assert set(TRUTH[found[1:]]) == {0, 1, 2, 3}  # the most uncertain alone would be the first ones
    assert len(pick_next(np.full((40, 4), 0.25), labels, [points, np.full((40, 2), np.nan)], 37)) == 37
    assert not len(pick_next(probabilities, TRUTH, [points], 5))


def test_a_gold_sample_stays_and_grows_and_has_no_image_twice():
    contents = np.random.default_rng(0).permutation(200)
    first = pick_gold(contents, 20)
    more = pick_gold(np.concatenate([contents, contents[first]]), 40)
    assert more[:20].tolist() == first.tolist() and len(set(contents[more % 200])) == 40
    assert contents[first].mean() == pytest.approx(100, abs=35)


def test_images_of_no_class_are_explained_least():
    labels, logits = np.full(40, -1), 4 * blobs()[:, :4]
    logits[[7, 11]] = 0.1
    other = logits.copy()
    other[11] = np.nan  # without a caption
    assert set(pick_none([logits, other], labels)[:2]) == {7, 11}
    labels[7] = 1
    assert pick_none([logits], labels)[0] == 11 and 7 not in pick_none([logits], labels)


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(student, tmp_path_factory) -> tuple[Path, Path]:
    """60 drawings, 4 a class with a label, of which one is wrong; and the folder with their views."""
    root = tmp_path_factory.mktemp("label")
    pictures, out = test_fit.with_unlabelled(draw_folder(root / "pictures", train=60), 4), root / "out"
    training = pictures / "train"
    training.joinpath("circle", "0.png").rename(training / "cross" / "0.png")
    lines = (training / "metadata.jsonl").read_text().replace("circle/0.png", "cross/0.png")
    (training / "metadata.jsonl").write_text(lines)
    labelling(pictures, out, student).look()
    return pictures, out


def labelling(pictures: Path, out: Path, student: str, **options) -> Labelling:
    given = {"dataset_name": str(pictures), "output_dir": str(out), "student": student} | options
    return Labelling(*build_options(OPTIONS_OF["label"], given), say=lambda text: None)


@pytest.fixture
def copied(seen, tmp_path) -> tuple[Path, Path]:
    """The pictures, which may be changed, and the folder with their views."""
    return Path(shutil.copytree(seen[0], tmp_path / "pictures")), seen[1]


def listed(capsys, pictures: Path, out: Path, student: str, *words: str) -> list[list[str]]:
    main(["label", str(pictures), "-o", str(out), "--student", student, "--list", *words])
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_it_lists_what_to_look_at(copied, student, capsys):
    pictures, out = copied
    wrong = listed(capsys, pictures, out, student, "--pick", "wrong")
    assert wrong[0][:2] == ["train/cross/0.png", "circle"] and 0.5 < float(wrong[0][2]) <= 1
    picked = {pick: listed(capsys, pictures, out, student, "--pick", pick, "--n", "9") for pick in ("next", "none")}
    for found in picked.values():
        assert len({name for name, *_ in found}) == 9 and all("/unlabelled/" in name for name, *_ in found)
    gold = listed(capsys, pictures, out, student, "--pick", "gold", "--n", "9")
    line = {"file_name": gold[0][0], "label": "circle", "pick": "gold"}
    (pictures / "labels.jsonl").write_text(json.dumps(line) + "\n")
    assert [name for name, *_ in listed(capsys, pictures, out, student, "--pick", "gold", "--n", "9")] == [
        name for name, *_ in gold[1:]
    ]
    (pictures / "labels.jsonl").write_text(json.dumps(line | {"label": "=cmd|' /C calc'!A0"}) + "\n")
    main(["label", str(pictures), "-o", str(out), "--export", "csv"])
    assert "'=cmd|" in (pictures / "labels.csv").read_text()


def test_without_any_label_or_caption_the_images_differ(student, tmp_path, capsys):
    pictures = test_fit.with_unlabelled(draw_folder(tmp_path / "pictures", train=24), 0)
    (pictures / "train" / "metadata.jsonl").unlink()
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    words = ("--class_names_file", str(tmp_path / "names.txt"), "--views", "image:student", "--n", "6")
    found = listed(capsys, pictures, tmp_path / "out", student, *words)
    assert len(found) == 6 and {probability for _, _, probability in found} == {"0.3333"}


# --- The page --------------------------------------------------------------------------------------------------------


@contextmanager
def served(pictures: Path, out: Path, student: str, **options):
    asked = labelling(pictures, out, student, **options)
    with answers_to(asked.file) as append:
        asked.look()
        with LabelServer(asked, append) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield server
            finally:
                server.shutdown()


def last_answer(pictures: Path) -> dict:
    return json.loads((pictures / "labels.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_keys_answer_and_every_answer_is_on_disk_before_the_next_image(copied, student):
    """Enter, a number, a name, none, skip and undo, in a browser of the size of a phone."""
    pictures, out = copied
    options = {"viewport": {"width": 380, "height": 800}, "color_scheme": "dark"}
    with served(pictures, out, student, pick="next") as server, browser_page(**options) as (page, outside):
        page.goto(server.address)
        picture, likely = page.locator("#picture"), page.locator("#likely button")

        def press(key: str, answered: int) -> dict:
            shown = picture.get_attribute("src")
            page.keyboard.press(key)
            page.wait_for_function(
                "shown => document.querySelector('#picture').getAttribute('src') !== shown", arg=shown
            )
            assert page.locator("#count").inner_text().startswith(f"{answered} answered")
            return last_answer(pictures)

        likely.first.wait_for()
        suggested, second = (each.split("\n")[1].split(" ")[0] for each in likely.all_inner_texts()[:2])
        first = press("Enter", 1)
        assert suggested.startswith(first["label"]) and (first["pick"], first["by"]) == ("next", "person")
        assert press("2", 2)["label"] in CLASSES
        page.keyboard.type("SQ")
        assert page.locator("#matches button").inner_text().split()[-1] == "square"
        assert press("Enter", 3)["label"] == "square"
        none = press("n", 4)
        assert none["none"] is True and none["label"] is None
        assert press(" ", 4) == none
        assert press("Backspace", 4) == none  # the skip
        undone = press("Backspace", 3)
        assert (undone["file_name"], undone["label"]) == (none["file_name"], None) and "none" not in undone
        box = page.locator("body").bounding_box()
        assert box["width"] <= 380 and not outside
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert len(read_answers(pictures / "labels.jsonl")) == 3 and second
        with pytest.raises(ValueError, match="Another g4i label writes"), answers_to(pictures / "labels.jsonl"):
            pass
    training = load_reviewed(DataArguments(str(pictures)))["train"]
    assert sum(label is not None for label in training["label"]) == 12 + 3
    assert len(labelling(pictures, out, student).file.read_text().splitlines()) == 5


@pytest.mark.slow
def test_a_round_is_learned_before_the_next_and_the_end_names_the_command(copied, student, monkeypatch):
    monkeypatch.setattr("g4i_hf.workflows.label.ROUND", 2)
    pictures, out = copied
    with served(pictures, out, student, pick="next", n="3") as server, browser_page() as (page, _):
        learned, learn = [], server.labelling.learn
        monkeypatch.setattr(server.labelling, "learn", lambda: (learned.append(server.answered), learn()))
        page.goto(server.address)
        for answered in (1, 2, 3):
            page.get_by_text(f"{answered - 1} answered").wait_for()
            page.locator("#likely button").first.wait_for()
            page.keyboard.press("1")
            page.get_by_text(f"{answered} answered").wait_for()
        page.get_by_text(f"Learn from them: g4i fit {pictures}").wait_for()
        assert learned[0] == 2


@pytest.mark.slow
def test_gold_images_hide_what_is_known_until_they_are_answered(copied, student):
    pictures, out = copied
    with served(pictures, out, student, pick="gold", n="3") as server, browser_page() as (page, _):
        page.goto(server.address)
        page.locator("#likely button").first.wait_for()
        shown = page.locator("main").inner_text()
        assert "%" not in shown and "Labelled" not in shown and "on paper" not in shown
        assert not page.locator("#examples img").count()
        page.keyboard.press("Enter")
        page.keyboard.press("2")
        page.get_by_text("Last: cross (labelled").wait_for()
        assert last_answer(pictures)["label"] == "cross" and last_answer(pictures)["pick"] == "gold"


@pytest.mark.slow
def test_a_static_page_downloads_what_is_answered(copied, student, tmp_path, capsys):
    pictures, out = copied
    words = ["--student", student, "--pick", "wrong", "--page", str(tmp_path / "page.html")]
    main(["label", str(pictures), "-o", str(out), *words])
    assert f"Append the labels.jsonl that it downloads to {pictures / 'labels.jsonl'}" in capsys.readouterr().out
    with browser_page() as (page, outside):
        place = "http://127.0.0.1:1/page.html"
        page.route(place, lambda route: route.fulfill(path=tmp_path / "page.html"))
        page.goto(place)
        page.get_by_text("Labelled cross.").wait_for()
        page.keyboard.press("Enter")
        page.get_by_text("1 answered").wait_for()
        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(pictures / "labels.jsonl")
        assert not outside
    training = load_reviewed(DataArguments(str(pictures)))["train"]
    assert training["label"][training["image_id"][:].index("cross/0.png")] == 0


def test_a_request_without_the_token_or_from_elsewhere_is_refused(copied, student):
    pictures, out = copied
    with served(pictures, out, student, pick="wrong") as server:
        answer = json.dumps({"row": 0, "label": 0}).encode()
        own = {"Content-Type": "application/json", "Origin": f"http://{server.host}"}

        def status(place: str, data: bytes | None = None, **headers: str) -> int:
            request = urllib.request.Request(place, data, own | headers if data else headers)
            try:
                with urllib.request.urlopen(request, timeout=20) as reply:
                    return reply.status
            except urllib.error.HTTPError as error:
                return error.code

        row = server.more()["items"][0]["row"]
        answer = json.dumps({"row": row, "label": 0}).encode()
        base = f"http://{server.host}/"
        assert server.server_address[0] == "127.0.0.1" and status(server.address) == 200
        assert status(f"{server.address}image/{row}") == 200
        assert status(f"{base}wrong-token/") == status(base) == status(f"{base}wrong-token/answer", answer) == 403
        assert status(server.address, Host="evil.example") == 403  # its name may lead here
        assert status(f"{server.address}answer", answer, Origin="http://evil.example") == 403
        assert status(f"{server.address}answer", answer, **{"Content-Type": "text/plain"}) == 403
        for wrong in ({"row": -1, "label": 0}, {"row": row, "label": 9}, {"row": row}, {"row": "0", "none": True}):
            assert status(f"{server.address}answer", json.dumps(wrong).encode()) == 400
        assert not read_answers(pictures / "labels.jsonl")
        assert status(f"{server.address}answer", answer) == 200 and len(read_answers(pictures / "labels.jsonl")) == 1
