"""The photographs of the demo: what its README says of them, and wrong labels on request."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loaded import ACCELERATE
from PIL import Image

from g4i_hf import load_images

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "recipes" / "photos_demo"
sys.path.insert(0, str(DEMO))
from wrong import write_wrong  # noqa: E402

TRUTH = json.loads((DEMO / "truth.json").read_text())
pytestmark = pytest.mark.slow  # scripts of a recipe, outside of the package


def test_one_photograph_a_class_has_a_label_and_every_training_image_a_caption():
    splits = load_images(str(DEMO / "pictures"))
    train, test = splits["train"], splits["test"]
    names = train.features["label"].names
    labels = [label for label in train["label"] if label not in (None, -1)]
    assert sorted(labels) == list(range(30)) and len(train) == 1722 and len(test) == 731
    assert all(caption and all(caption) for caption in train["caption"])
    assert sorted(set(TRUTH.values())) == names == test.features["label"].names
    unlabelled = {path.name for path in (DEMO / "pictures" / "train" / "unlabelled").iterdir()}
    assert unlabelled == set(TRUTH)
    page = (DEMO / "README.md").read_text().replace(",", "").split()
    assert {str(len(rows)) for rows in (train, unlabelled, test)} <= set(page)


def test_images_are_small_and_carry_nothing():
    files = sorted((DEMO / "pictures").rglob("*.jpg"))
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 12e6
    for path in files:
        with Image.open(path) as image:
            assert image.format == "JPEG" and min(image.size) <= 128
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize("wrong", [0, 0.4])
def test_so_many_labels_are_wrong_and_each_image_keeps_its_caption(tmp_path, wrong):
    write_wrong(tmp_path, wrong)
    write_wrong(tmp_path, wrong)  # the same again
    lines = [json.loads(line) for line in (tmp_path / "pictures/train/metadata.jsonl").read_text().splitlines()]
    known = [json.loads(line) for line in (DEMO / "pictures/train/metadata.jsonl").read_text().splitlines()]
    caption_of = {Path(line["file_name"]).name: line["caption"] for line in known}
    assert {Path(line["file_name"]).name: line["caption"] for line in lines} == caption_of
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth.items() >= TRUTH.items() and len(truth) == 1722
    label_of = {path.name: path.parent.name for path in (tmp_path / "pictures/train").rglob("*.jpg")}
    is_wrong = np.array([label_of[name] != truth[name] for name in truth])
    assert len(label_of) == 1722 and is_wrong.sum() == round(wrong * 1722)
    assert len(list((tmp_path / "pictures/test").rglob("*.jpg"))) == 731


def test_the_literal_command_trains_with_the_alignment_loss_and_on_labels_only(tmp_path):
    """`accelerate launch recipes/train.py` in a clone, without any options."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    command = [ACCELERATE, "launch", "recipes/train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    out = tmp_path / "runs" / "photos_demo_train"
    both = [json.loads((run / "all_results.json").read_text()) for run in (out / "labels_only", out)]
    labels_only, aligned = (results["test_accuracy"] for results in both)
    assert f"Accuracy on test: labels only {labels_only:.1%}, with captions {aligned:.1%}." in done.stdout
    assert aligned > 0.9 and labels_only < 0.8
    assert "loss_align" in done.stdout
