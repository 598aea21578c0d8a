"""The whole way out: a released student in a pipeline predicts what evaluate.py reports, picture by picture."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from transformers import pipeline

ROOT = Path(__file__).parent.parent
CLASSES = ["disc", "square", "stripes"]


def _picture(rng: np.random.Generator, label: int, side: int) -> bytes:
    """A noisy shape of a random size and place, in one of many shapes of picture, so that resize and crop matter."""
    height, width = side + int(rng.integers(0, side)), side + int(rng.integers(0, side))
    y, x = np.mgrid[:height, :width]
    cy, cx, radius = height * rng.uniform(0.3, 0.7), width * rng.uniform(0.3, 0.7), side * rng.uniform(0.2, 0.4)
    mask = [
        (y - cy) ** 2 + (x - cx) ** 2 < radius**2,
        (abs(y - cy) < radius) & (abs(x - cx) < radius),
        (x // max(2, int(radius / 3))) % 2 == 0,
    ][label]
    pixels = np.where(mask[..., None], rng.integers(0, 255, 3), rng.integers(0, 255, 3)) + rng.normal(
        0, 25, (height, width, 3)
    )
    buffer = io.BytesIO()
    image = PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8))
    (image.convert("L") if rng.random() < 0.2 else image).save(buffer, format=rng.choice(["PNG", "JPEG", "WEBP"]))
    return buffer.getvalue()


@pytest.fixture(scope="module", params=[48, 224])
def pictures(request, tmp_path_factory):
    """(side, folder of a data set with splits `train` and `test`, whose pictures are also files)"""
    side, folder = request.param, tmp_path_factory.mktemp(f"pictures{request.param}")
    rng = np.random.default_rng(side)
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES), "image_id": Value("string")})
    splits = {}
    for split, count in (("train", 48), ("test", 40)):
        rows = [{"label": i % 3, "image_id": f"{split}-{i}"} for i in range(count)]
        for row in rows:
            row["image"] = {"bytes": _picture(rng, row["label"], side), "path": None}
        splits[split] = Dataset.from_list(rows, features=features)
    (folder / "files").mkdir()
    for row in splits["test"].cast_column("image", Image(decode=False)):
        (folder / "files" / row["image_id"]).write_bytes(row["image"]["bytes"])
    DatasetDict(splits).save_to_disk(folder / "data")
    return side, folder


def _script(name: str, *options) -> None:
    command = [sys.executable, str(ROOT / "recipes" / name), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "student",
    [
        ("resnet18", '{"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32]}'),
        ("resnet", '{"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}'),
    ],
    ids=["timm", "transformers"],
)
def test_pipeline_on_files_gives_the_predictions_of_evaluate(pictures, tmp_path, student):
    side, folder = pictures
    run = tmp_path / "run"
    options = ["--student", student[0], "--student_args", student[1], "--image_size", side, "--max_steps", 6]
    options += ["--learning_rate", 3e-3, "--per_device_train_batch_size", 16, "--align_weight", 0, "--use_cpu", "true"]
    _script("train.py", "--dataset_name", folder / "data", "--output_dir", run, "--save_strategy", "no", *options)
    _script("evaluate.py", "--run", run)
    _script("release.py", "--run", run)
    predicted = Dataset.from_parquet(str(run / "predictions" / "test.parquet"))
    classifier = pipeline("image-classification", model=str(run / "student"), device="cpu")
    assert (run / "student" / "images" / "predictions.png").is_file() and (run / "lineage.json").is_file()
    assert len(set(predicted["prediction"])) > 1  # a constant answer would agree with everything
    for row in predicted:
        (best,) = classifier(str(folder / "files" / row["image_id"]), top_k=1)
        assert best["label"] == row["prediction"], row["image_id"]
        assert best["score"] == pytest.approx(row["score"], abs=1e-5)
