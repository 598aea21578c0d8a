"""The app of recipes/space: what it predicts, what it rejects, its page, and the files that a Space needs."""

import re
import runpy
from pathlib import Path

import pytest
import yaml
from PIL import Image
from released_runs import a_run
from students import ID2LABEL
from transformers import pipeline

from g4i_hf import ZeroShotImageClassifier
from g4i_hf.hub import release_student

SPACE = Path(__file__).parent.parent / "recipes" / "space"
IMAGE = Image.linear_gradient("L").resize((60, 40))
pytestmark = pytest.mark.slow  # scripts of a recipe, outside of the package


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


def test_its_page_is_built(app):
    pytest.importorskip("gradio")
    (called,) = [each for each in app["build"]().config["dependencies"] if each["api_name"] == "predict"]
    assert len(called["inputs"]) == len(called["outputs"]) == 2


def test_its_folder_is_a_space():
    page = (SPACE / "README.md").read_text(encoding="utf-8")
    card = yaml.safe_load(page.split("---\n")[1])
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file()
    assert (SPACE / "requirements.txt").read_text() == "g4i_hf @ git+REPOSITORY_URL\n"
    assert "`REPOSITORY_URL`" in page and re.search(r"^hf upload \S+ recipes/space --type space$", page, flags=re.M)
