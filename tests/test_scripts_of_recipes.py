"""Scripts of recipes: jobs, run by uv against the test Hub; the app of a Space; the captioner of Shapes."""

import contextlib
import io
import os
import re
import runpy
import socket
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from caption_doors import CAPTIONER, ROOT, Worker, draw_numbers
from datasets import load_dataset
from hub import Hub, serving
from loaded import PYTHON
from PIL import Image
from processes import happens
from released_runs import a_run
from students import ID2LABEL
from transformers import pipeline

from g4i_hf import ZeroShotImageClassifier
from g4i_hf.captioning.answers import Answer, Captioner, Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.captioning.local import LocalCaptioner
from g4i_hf.captioning.questions import PLAIN
from g4i_hf.hub import release_student
from g4i_hf.modeling.packaged import packaged_student
from g4i_hf.options import Decoding

JOBS = ROOT / "recipes" / "jobs"
SCRIPTS = sorted(JOBS.glob("*.py"))
pytestmark = pytest.mark.slow  # scripts of a recipe, outside of the package


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_dependencies_come_from_the_repository(script):
    """No package index has the package: whoever registers its name there would be installed in its place."""
    block = re.search(r"(?m)^# /// script$\n((?:^# ?.*$\n)+?)^# ///$", script.read_text())[1]  # by PEP 723
    metadata = tomllib.loads(re.sub(r"^# ?", "", block, flags=re.M))
    assert metadata["requires-python"] == ">=3.11"
    (dependency,) = metadata["dependencies"]
    assert re.fullmatch(r"g4i_hf\[[a-z,]+\] @ git\+REPOSITORY_URL", dependency)
    assert "`REPOSITORY_URL`" in (JOBS / "README.md").read_text(), "the page says what to replace"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("place", "said"), [("captions", "without its user or organisation"), ("me/captions", "[Tt]oken is required")]
)
def test_what_cannot_be_pushed_is_said_before_the_work(script, place, said, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script.name, "me/photos", "--push_to", place])
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(script), run_name="__main__")
    assert not capsys.readouterr().out


# --active: in the environment of the tests, which has the dependencies, so that nothing is installed
UV = (str(Path(sysconfig.get_path("scripts")) / "uv"), "run", "--active", "--offline")


@pytest.fixture
def hub(tmp_path):
    """With me/photos."""
    draw_numbers(tmp_path / "photos", 12)
    with serving() as hub:
        with hub.here():
            photos = load_dataset("imagefolder", data_dir=str(tmp_path / "photos" / "train"), split="train")
            photos.push_to_hub("me/photos")
        yield hub


def run(hub: Hub, folder: Path, script: str, *words: object, start: tuple = (PYTHON,)) -> str:
    """The script, with the package at hand in place of that of the repository."""
    text = (JOBS / script).read_text()
    (folder / script).write_text(re.sub(r'"g4i_hf\[.*REPOSITORY_URL"', '"g4i_hf"', text))
    environment = hub.environment(folder / "home", VIRTUAL_ENV=sys.prefix)
    command, more = [*start, script, *map(str, words)], {"capture_output": True, "text": True, "timeout": 1800}
    done = subprocess.run(command, cwd=folder, env=environment, **more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def test_a_dataset_is_captioned_and_a_student_trained_on_it_and_pushed_only_if_asked(hub, tmp_path):
    server = Worker()
    words = ["me/photos", "--base_url", f"{server.url}/v1", "--captioner_model", "tiny"]
    try:
        said = run(hub, tmp_path, "caption.py", *words, "--push_to", "me/photos-captions", "--dry_run", 2, start=UV)
        assert "number" in said and server.stats()["distinct"] == 2
        run(hub, tmp_path, "caption.py", *words)
        assert set(hub.state()) == {"datasets/me/photos"} and (tmp_path / "captions" / "train.parquet").is_file()
        run(hub, tmp_path, "caption.py", *words, "--push_to", "me/photos-captions")
    finally:
        server.stop()
    captions = hub.repositories["datasets/me/photos-captions"]
    (table,) = [file for name, file in captions.at("main").files.items() if name.endswith(".parquet")]
    found = {row["image_id"]: row["caption"] for row in pq.read_table(io.BytesIO(table.content)).to_pylist()}
    assert captions.private and found == {f"{number}.png": [f"number {number}"] for number in range(12)}

    words = ["me/photos-captions", "--student", str(packaged_student()), "--push_to", "me/photos-student"]
    assert "Nothing was written" in run(hub, tmp_path, "fit.py", *words, "--dry_run")
    assert "models/me/photos-student" not in hub.state() and not (tmp_path / "fitted").exists()
    run(hub, tmp_path, "fit.py", *words, "--license", "apache-2.0")
    student = hub.state()["models/me/photos-student"]
    assert student["private"] and {"config.json", "model.safetensors"} <= set(student["files"])


# --- The app of recipes/space ----------------------------------------------------------------------------------------

SPACE = Path(__file__).parent.parent / "recipes" / "space"
IMAGE = Image.linear_gradient("L").resize((60, 40))


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return release_student(a_run(tmp_path_factory.mktemp("runs") / "run", results=None))


@pytest.fixture
def app(student, monkeypatch) -> dict:
    monkeypatch.setenv("MODEL", str(student))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored afterwards
    return runpy.run_path(str(SPACE / "app.py"))


def test_it_predicts_what_the_student_and_the_aligned_model_do(app, student):
    classes, named = app["predict"](IMAGE, "cat\n tench, Tinca tinca \n\ncat")
    expected = pipeline("image-classification", model=str(student), device="cpu")(IMAGE.convert("RGB"))
    assert classes == pytest.approx({each["label"]: each["score"] for each in expected}, abs=1e-5)
    assert set(classes) == set(ID2LABEL.values())
    expected = ZeroShotImageClassifier(student, device="cpu")(IMAGE, ["cat", "tench, Tinca tinca"])
    assert named == pytest.approx({each["label"]: each["score"] for each in expected}, abs=1e-5)
    assert app["predict"](IMAGE, None) == (classes, None)


def test_what_a_visitor_can_correct_is_an_error(app):
    many = "\n".join(map(str, range(201)))
    mistakes = [(None, "cat", "Upload an image first"), (IMAGE, many, "at most 200 names")]
    for image, names, message in [*mistakes, (IMAGE, "x" * 201, "at most 200 characters")]:
        with pytest.raises(ValueError, match=message):
            app["predict"](image, names)


def test_its_folder_is_a_space():
    page = (SPACE / "README.md").read_text(encoding="utf-8")
    card = yaml.safe_load(page.split("---\n")[1])
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file()
    assert (SPACE / "requirements.txt").read_text() == "g4i_hf @ git+REPOSITORY_URL\n"
    assert "`REPOSITORY_URL`" in page and re.search(r"^hf upload \S+ recipes/space --type space$", page, flags=re.M)


# --- The captioner of recipes/shapes, in process and behind the real `transformers serve` ----------------------------

SHAPES = ROOT / "recipes" / "shapes"

build = SimpleNamespace(**runpy.run_path(str(SHAPES / "build.py")))
NEW = {f"unseen-{number}": build.draw(f"unseen-{number}") for number in range(100)}


def described(captioner: Captioner) -> dict[str, str]:
    questions = [
        Question(name, {"bytes": picture.png(), "path": None}, PLAIN, f"key {name}") for name, picture in NEW.items()
    ]
    pairs: list[tuple[Question, Answer]] = []
    captioner.run(iter(questions), pairs.extend, lambda: True)
    assert {answer.status for _, answer in pairs} == {"ok"} and len(pairs) == len(NEW)
    return {asked.image_id: answer.text for asked, answer in pairs}


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False


def test_in_process_it_names_colours_of_new_images_and_behind_a_server_it_says_the_same(tmp_path):
    in_process = described(LocalCaptioner(str(CAPTIONER), Decoding(24)))
    for what in ("colour", "background"):
        assert sum(getattr(NEW[name], what) in text.split() for name, text in in_process.items()) >= 95
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", CAPTIONER, "--host", "127.0.0.1"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [str(word) for word in [*command, "--port", port, "--device", "cpu"]]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        assert happens(lambda: answers(port), process), log.read_text()[-3000:]
        served = described(EndpointCaptioner(str(CAPTIONER), f"http://127.0.0.1:{port}/v1", Decoding(24)))
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert sum(text == in_process[name] for name, text in served.items()) >= 90  # not all: the endpoint sends JPEG
    assert log.read_text().count("POST /v1/chat/completions") >= 100
