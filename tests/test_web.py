"""The page of recipes/web in an offline browser: what `g4i predict` says, and lines for labels.jsonl."""

import functools
import json
import shutil
import threading
import urllib.request
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import make
import pytest
from browser import browser_page
from doors import ROOT, ended
from loaded import PYTHON
from PIL import Image

from g4i_hf import fit, predict
from g4i_hf.data.labels import read_answers
from g4i_hf.hub import release_student

if not (find_spec("onnxruntime") and find_spec("onnxscript")):
    pytest.skip("needs the extra onnx", allow_module_level=True)
pytestmark = pytest.mark.slow
BUILD = ROOT / "recipes" / "web" / "build.py"
PHOTOS = ROOT / "recipes" / "photos_demo" / "pictures" / "test"
CLASSES = ("airplanes", "bonsai", "brain", "butterfly")


def run(*words):
    return ended([PYTHON, str(BUILD), *map(str, words)], None, ROOT)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """
    Fitted on two photographs a class, so that it is not sure of the others, of which every other is enlarged; and on
    noise that a person took out.
    """
    folder = tmp_path_factory.mktemp("web")
    for label in CLASSES:
        for number, photo in enumerate(sorted((PHOTOS / label).iterdir())[:7]):
            place = folder / ("train" if number < 2 else "photos") / label / f"{label}_{photo.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo, place)
            if number % 2:
                Image.open(photo).resize((613 + number, 407)).save(place, quality=90)
    lines = []
    for number in range(24):
        make.noise(number, 128).save(folder / "train" / CLASSES[0] / f"noise_{number}.png")
        lines.append(json.dumps({"file_name": f"{CLASSES[0]}/noise_{number}.png", "label": None, "none": True}) + "\n")
    (folder / "train" / "labels.jsonl").write_text("".join(lines))
    fit(folder / "train", output_dir=folder / "run", image_size=128, group_by="none", finetune="false", verbose=False)
    return folder


@pytest.fixture(scope="module")
def site(classifier) -> Path:
    release_student(classifier / "run", aligned=False, formats=["onnx-fp16"])
    runtime = classifier / "runtime.tgz"
    address = next(line.split('"')[1] for line in BUILD.read_text().splitlines() if line.startswith("RUNTIME = "))
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            runtime.write_bytes(response.read())
    except OSError as error:
        pytest.skip(f"needs npm's registry: {error}")
    done = run(classifier / "run" / "classifier", classifier / "site", "--runtime", runtime)
    assert done.code == 0, done.err
    assert sum(path.stat().st_size for path in (classifier / "site").iterdir()) < 25_000_000
    return classifier / "site"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@contextmanager
def opened(site: Path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with browser_page() as (page, outside):
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: message.type == "error" and errors.append(message.text))
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function("status => document.getElementById('status').textContent === 'Ready.'")
            yield page, errors
            assert not outside
    finally:
        server.shutdown()


def test_the_page_predicts_as_g4i_predict(classifier, site, tmp_path):
    photos = sorted((classifier / "photos").rglob("*.jpg"))
    assert len(photos) == 20
    turned, grey = tmp_path / "turned.jpg", tmp_path / "grey.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos[0]).save(turned, exif=exif, quality=95)
    Image.open(photos[1]).convert("L").resize((301, 97)).save(grey)
    photos += [turned, grey]
    for number in range(100, 104):
        photos.append(tmp_path / f"noise_{number}.png")
        make.noise(number, 150).save(photos[-1])
    expected = {Path(row["file_name"]).name: row for row in predict(classifier / "run", photos)}
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with opened(site) as (page, errors):
        page.locator("input[multiple]").set_input_files([*photos, broken])
        page.wait_for_function("() => document.getElementById('status').textContent === '27 images done.'")
        cards = page.locator("#cards .card")
        assert cards.count() == 27 and "broken.png cannot be read" in cards.first.text_content()
        assert {row["decision"] for row in expected.values()} == {"answer", "ask", "none"}
        differences = []
        for photo in photos:
            card, row = page.locator(f"[data-name='{photo.name}']"), expected[photo.name]
            differences.append(abs(float(card.get_attribute("data-probability")) - row["probability"]))
            assert card.locator(".label").text_content() == row["label"]
            remark = {"ask": ["ask a person"], "none": ["none of the classes"]}.get(row["decision"], [])
            assert card.locator(".decision").all_text_contents() == remark
        assert max(differences) < 0.02 and not errors


def test_a_click_corrects_and_gives_lines_for_labels(classifier, site, tmp_path):
    with opened(site) as (page, errors):
        page.locator("input[webkitdirectory]").set_input_files(classifier / "photos")
        page.wait_for_function("() => document.getElementById('status').textContent === '20 images done.'")
        card = page.locator("#cards .card").first
        name = card.get_attribute("data-name")
        card.locator("button").nth(1).click()
        card.locator("select").select_option("bonsai")
        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(tmp_path / "labels.jsonl")
        assert not errors
    (answer,) = read_answers(tmp_path / "labels.jsonl").values()
    assert (answer["file_name"], answer["label"], answer["pick"]) == (name, "bonsai", "next")
    assert (classifier / "photos" / name).is_file()


def test_what_cannot_become_a_page_is_said(classifier, tmp_path):
    (tmp_path / "student").mkdir()
    done = run(tmp_path / "student", tmp_path / "site")
    assert done.code == 2 and "holds no graph. Make one: g4i release --run RUN --formats onnx-fp16" in done.err
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "site").exists()
