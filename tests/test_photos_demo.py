"""The literal command of the README trains on the photographs of the demo."""

import json
import subprocess

import pytest
from doors import ROOT
from loaded import ACCELERATE


@pytest.mark.slow
def test_the_literal_command_trains_with_the_alignment_loss_and_on_labels_only(tmp_path):
    """`accelerate launch recipes/train.py` in a clone, without any options."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    command = [ACCELERATE, "launch", "recipes/train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    out = tmp_path / "runs" / "photos_demo_train"
    both = [json.loads((run / "all_results.json").read_text()) for run in (out / "labels_only", out)]
    labels_only, aligned = (results["test_accuracy"] for results in both)
    assert f"Accuracy on test: labels only {labels_only:.1%}, with captions {aligned:.1%}." in done.stdout
    assert aligned > 0.9 and labels_only < 0.8 and "loss_align" in done.stdout
