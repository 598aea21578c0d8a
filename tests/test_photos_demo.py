"""The photographs of the demo are what its README says, and the literal command trains on them."""

import json
import subprocess
from pathlib import Path

import pytest
from loaded import ACCELERATE

from g4i_hf import load_images

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "recipes" / "photos_demo"


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
