"""A run killed at any moment and started again ends as if nothing had happened."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

WORKER = Path(__file__).parent / "workers" / "kill_and_resume.py"
SEED = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(1000)))
STEPS = 12  # 30 rows, 8 a step, 3 epochs; a checkpoint every 3 steps
# One kill before the first checkpoint and two at random steps after it; then the delicate moments of writing one
RANDOM_STEPS = random.Random(SEED).sample(range(4, STEPS), 2)
POINTS = {
    "before any checkpoint": "step:2",
    "first random step": f"step:{RANDOM_STEPS[0]}",
    "second random step": f"step:{RANDOM_STEPS[1]}",
    "write": "write",
    "ema": "ema",
    "rename": "rename",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    rng = np.random.default_rng(0)
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=["a", "b", "c"]),
            "image_id": Value("string"),
            "text_embeds": List(Value("float16"), length=8),
        }
    )
    rows = [
        {
            "image": PILImage.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)),
            "label": row % 3,
            "image_id": str(row),
            "text_embeds": (vector / np.linalg.norm(vector)).astype(np.float16),
        }
        for row, vector in enumerate(rng.normal(size=(30, 8)))
    ]
    Dataset.from_list(rows, features=features).save_to_disk(folder / "data")
    command = [sys.executable, str(WORKER), str(folder), str(folder / "data"), *POINTS.values()]
    command += ["--", "--supervision", "soft", "--soft_label_weight", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(POINTS, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_run_ends_with_the_same_weights_and_ema(outcomes, point):
    outcome = outcomes[point]
    print(f"KILL_SEED={SEED}")  # gives the same random steps again
    assert outcome["killed"], outcome
    assert outcome["resumed"] == 0, outcome["log"]
    assert outcome["went_on_from"] == (point != "before any checkpoint")
    assert outcome["same"] == {"model.safetensors": True, "ema.safetensors": True}


@pytest.mark.slow
@pytest.mark.parametrize("point", ["write", "ema", "rename"])
def test_a_checkpoint_is_whole_or_not_there(outcomes, point):
    assert outcomes[point]["checkpoints"] == ["checkpoint-3"] and outcomes[point]["whole"]
    assert outcomes[point]["leftovers"] == []
