"""The shapes data set and its captioner: drawn again as published, and described right, in process and by a server."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from served_captioner import CAPTIONER, Server, served_captioner  # noqa: F401

from g4i_hf.captioning.answers import Answer, Decoding, Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.captioning.local import LocalCaptioner
from g4i_hf.data.loading import open_images

SHAPES = Path(__file__).parent.parent / "recipes" / "shapes"
PLAIN = "Describe this image in detail."
CLASS = "The main subject of this image is: {label}. Describe this image in detail."


def load_build():
    spec = importlib.util.spec_from_file_location("shapes_build", SHAPES / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


build = load_build()
NEW = {f"unseen-{number}": build.draw(f"unseen-{number}") for number in range(100)}


# --- Data -----------------------------------------------------------------------------------------------------------


def test_the_data_set_loads_as_its_card_says():
    splits = load_dataset(str(SHAPES))
    assert {name: len(split) for name, split in splits.items()} == build.SPLITS
    for split in splits.values():
        assert split.column_names == ["image", "label", "image_id"]
        assert split.features["label"].names == list(build.SHAPES)
        assert set(split["label"]) == set(range(len(build.SHAPES)))
    assert splits["train"][0]["image"].size == (32, 32)
    image_ids = [image_id for split in open_images(str(SHAPES)).values() for image_id in split["image_id"]]
    assert len(set(image_ids)) == sum(build.SPLITS.values())


def test_pictures_are_drawn_again_as_published():
    for name, split in load_dataset(str(SHAPES)).items():
        for row in split.select(range(0, len(split), 40)):
            drawn = build.draw(row["image_id"])
            assert drawn.shape == build.SHAPES[row["label"]], row["image_id"]
            difference = np.abs(np.asarray(row["image"], int) - np.asarray(drawn.image, int))
            assert difference.mean() <= build.MAX_MEAN_DIFFERENCE, row["image_id"]
        pixels = {np.asarray(image).tobytes() for image in split["image"]}
        assert len(pixels) == len(split), f"{name} holds a picture twice"


def test_the_check_sees_another_picture(tmp_path):
    assert build.differences(SHAPES / "data") == []
    (tmp_path / "data").mkdir()
    for split in build.SPLITS:
        (tmp_path / "data" / f"{split}.parquet").write_bytes((SHAPES / "data" / f"{split}.parquet").read_bytes())
    rows = load_dataset(str(SHAPES), split="test")
    rows.select([1, 0, *range(2, len(rows))]).to_parquet(tmp_path / "data" / "test.parquet")
    assert build.differences(tmp_path / "data") == ["test: other ids"]


def test_captions_name_what_is_drawn():
    picture = build.Picture(Image.new("RGB", (32, 32)), "heart", "orange", "pink")
    assert picture.caption == "an orange heart on a pink background"
    assert len({picture.caption for picture in NEW.values()}) > 60
    for picture in NEW.values():
        corners = np.asarray(picture.image)[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
        assert np.abs(corners - build.BACKGROUNDS[picture.background]).mean(axis=1).min() < build.SHADE
        distance = np.abs(np.asarray(picture.image, int) - build.COLOURS[picture.colour]).max(axis=-1)
        assert (distance <= build.SHADE).sum() >= 8  # pixels


def test_what_is_shipped_is_small():
    assert sum(path.stat().st_size for path in CAPTIONER.iterdir()) < 1_000_000
    assert {path.suffix for path in CAPTIONER.iterdir()} <= {".json", ".jinja", ".safetensors"}
    assert sum(path.stat().st_size for path in (SHAPES / "data").iterdir()) < 2_000_000


# --- Captioner ------------------------------------------------------------------------------------------------------


def questions(prompt: str) -> list[Question]:
    return [
        Question(name, {"bytes": picture.png(), "path": None}, prompt.format(label=picture.shape), f"key {name}")
        for name, picture in NEW.items()
    ]


def described(captioner: LocalCaptioner | EndpointCaptioner, prompt: str) -> dict[str, Answer]:
    found = {}

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        found.update({asked.image_id: answer for asked, answer in pairs})

    captioner.run(iter(questions(prompt)), deliver, lambda: True)
    assert found.keys() == NEW.keys()
    assert {answer.status for answer in found.values()} == {"ok"}
    return found


def named(found: dict[str, Answer], what: str) -> int:
    """How many captions name the colour, shape or background of the picture in their own row."""
    return sum(getattr(NEW[name], what) in answer.text.split() for name, answer in found.items())


@pytest.fixture(scope="module")
def in_process() -> dict[str, Answer]:
    return described(LocalCaptioner(str(CAPTIONER), Decoding(24)), PLAIN)


def test_in_process_it_names_colours_and_backgrounds_of_new_images(in_process):
    assert named(in_process, "colour") >= 95 and named(in_process, "background") >= 95
    assert all(answer.finish_reason == "stop" for answer in in_process.values())
    assert all(answer.completion_tokens == len(answer.text.split()) + 1 for answer in in_process.values())


def test_named_the_class_it_names_the_shape():
    """As real captioners are, it is better when the prompt names the class."""
    found = described(LocalCaptioner(str(CAPTIONER), Decoding(24)), CLASS)
    assert named(found, "shape") >= 95 and named(found, "colour") >= 95


def test_an_answer_that_is_cut_off_says_so():
    found = described(LocalCaptioner(str(CAPTIONER), Decoding(3)), PLAIN)
    assert all(answer.finish_reason == "length" and answer.completion_tokens == 3 for answer in found.values())


def test_rows_in_the_wrong_place_would_be_seen(in_process):
    rotated = dict(zip(in_process, [*list(in_process.values())[1:], in_process["unseen-0"]], strict=True))
    assert named(rotated, "colour") < 50


@pytest.mark.slow
def test_behind_a_server_it_says_the_same(served_captioner: Server, in_process):  # noqa: F811
    endpoint = EndpointCaptioner(served_captioner.model, served_captioner.base_url, Decoding(24))
    found = described(endpoint, PLAIN)
    assert named(found, "colour") >= 95 and named(found, "background") >= 95
    # Not all: the endpoint sends JPEG
    assert sum(answer.text == in_process[name].text for name, answer in found.items()) >= 90
    assert served_captioner.log.read_text().count("POST /v1/chat/completions") >= 100


@pytest.mark.slow
def test_the_captioner_is_trained_by_the_script(tmp_path):
    """Some steps of it: it learns, and saves a folder that describes images."""
    build.train_captioner(tmp_path / "captioner", steps=300)
    found = described(LocalCaptioner(str(tmp_path / "captioner"), Decoding(24)), PLAIN)
    assert named(found, "background") >= 80
    assert {path.name for path in (tmp_path / "captioner").iterdir()} == {path.name for path in CAPTIONER.iterdir()}


@pytest.mark.slow
def test_the_script_builds_the_data_set_anew(tmp_path):
    command = [sys.executable, SHAPES / "build.py", "--output_dir", tmp_path, "--check"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert build.differences(tmp_path / "data") == []
    image = load_dataset("parquet", data_files=str(tmp_path / "data" / "test.parquet"), split="train")[0]["image"]
    picture = io.BytesIO(build.draw("test-0000").png())
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(picture)))
