"""The benchmark of real views, with tiny random models in their place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_encoders_as_views
import tiny_captioners
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from drawings import CLASSES, drawing

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_set_of_views_has_its_rows_and_a_second_start_adds_none(tmp_path):
    features = {"image": Image(), "label": ClassLabel(names=list(CLASSES)), "image_id": Value("string")}
    for split, number in {"train": 40, "validation": 6, "test": 9}.items():
        rows = {"image": [drawing(row) for row in range(number)], "label": [row % 3 for row in range(number)]}
        rows |= {"image_id": [f"{split}-{row}" for row in range(number)], "caption": [["not used"]] * number}
        photos = Dataset.from_dict(rows, features=Features(features | {"caption": List(Value("string"))}))
        photos.to_parquet(tmp_path / "photos" / "drawings" / f"{split}.parquet")
    encoders = [test_encoders_as_views.saved(name, tmp_path / name) for name in ("siglip", "dinov2")]
    command = [sys.executable, "benchmarks/with_the_hub.py", tmp_path / "photos", "--data", "drawings", "--seeds", "0"]
    command += ["--captioner", tiny_captioners.save("smolvlm", tmp_path / "vlm"), "--encoders", *encoders]
    command += ["--settings", "1 a class", "--cache", tmp_path / "cache", "--output", tmp_path / "rows.json"]
    for _ in range(2):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
        found = json.loads((tmp_path / "rows.json").read_text())["rows"]
        assert all(0 <= row["with_views"] <= 1 for row in found)
    own = ["student", "caption", "answer", "caption, answer", "all"]
    assert [row["views"] for row in found] == [
        *own[:4],
        *encoders,
        *(f"caption, answer, {each}" for each in encoders),
        own[4],
    ]
