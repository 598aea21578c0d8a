"""What the tests of `g4i fit` share: a small student and text encoder, folders in which few images have a label."""

import json
from pathlib import Path

import pytest
import torch
from drawings import CLASSES, COLOURS, draw_folder
from tiny_encoders import save_static_encoder

from g4i_hf import AlignedImageClassification, fit
from g4i_hf.hub import save_student
from g4i_hf.label_model import none_of_these


def save_resnet(folder: Path, channels: tuple[int, ...] = (8, 8, 16, 32), seed: int = 2) -> str:
    """A checkpoint of a small ResNet, of other classes."""
    args = {"layers": [1, 1, 1, 1], "channels": list(channels)}
    what = {"id2label": {0: "ant", 1: "bee"}, "text_embed_dim": 8, "image_size": 32, "student_args": args}
    torch.manual_seed(seed)
    save_student(AlignedImageClassification.from_student("resnet18", **what), folder)
    return str(folder)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    return save_resnet(tmp_path_factory.mktemp("student") / "small-resnet")


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """A text encoder that tells the words of the captions of drawings."""
    return str(save_static_encoder(tmp_path_factory.mktemp("encoder") / "words", [*CLASSES, *COLOURS], 16))


@pytest.fixture(scope="module")
def fitted(student, words, tmp_path_factory):
    """Fits in this process: `fitted(pictures, folder, **options)` is the FitResult."""

    def fitting(pictures, out: Path | None = None, **options):
        out = out or tmp_path_factory.mktemp("fitted") / "out"
        given = {"student": student, "image_size": 32, "text_encoder": words, "finetune": "false"}
        return fit(pictures, output_dir=str(out), **(given | options))

    return fitting


@pytest.fixture
def few_draws(monkeypatch):
    """For the interval of rows of no class, most of the time of a small fit; test_none_of_these.py has them all."""
    monkeypatch.setattr(none_of_these, "SAMPLES", 5)


def lines_of(pictures: Path) -> list[dict]:
    return [json.loads(line) for line in (pictures / "train" / "metadata.jsonl").read_text().splitlines()]


def write_lines(pictures: Path, lines: list[dict]) -> None:
    (pictures / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def few_labels(folder: Path, labels_a_class: int, **sizes: int) -> Path:
    """Drawings with captions; all training images but so many of each class are in `unlabelled`."""
    return draw_folder(folder / "pictures", labels_a_class=labels_a_class, **sizes)


def results_of(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())
