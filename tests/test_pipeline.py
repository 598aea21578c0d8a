"""A released student in a pipeline predicts what `g4i evaluate` reports, image by image."""

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from transformers import pipeline

from g4i_hf.running import main

SIDE = 64
STUDENTS = {
    "timm": ("resnet18", '{"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32]}'),
    "transformers": ("resnet", '{"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}'),
}


def encoded(rng: np.random.Generator, label: int) -> bytes:
    """A noisy disc, square or stripes; size, place, mode and file format vary, so that resize and crop matter."""
    height, width = SIDE + rng.integers(0, SIDE, 2)
    y, x = np.mgrid[:height, :width]
    cy, cx, radius = height * rng.uniform(0.3, 0.7), width * rng.uniform(0.3, 0.7), SIDE * rng.uniform(0.2, 0.4)
    disc = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    square = (abs(y - cy) < radius) & (abs(x - cx) < radius)
    shape = (disc, square, (x // max(2, int(radius / 3))) % 2 == 0)[label]
    pixels = np.where(shape[..., None], rng.integers(0, 255, 3), rng.integers(0, 255, 3))
    pixels = (pixels + rng.normal(0, 25, pixels.shape)).clip(0, 255).astype(np.uint8)
    image, file = PILImage.fromarray(pixels).convert("L" if rng.random() < 0.2 else "RGB"), io.BytesIO()
    image.save(file, format=rng.choice(["PNG", "JPEG", "WEBP"]))
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of the dataset `data`; the images of its split `test` are also files."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    names = ClassLabel(names=["disc", "square", "stripes"])
    features = Features({"image": Image(), "label": names, "image_id": Value("string")})
    splits = DatasetDict()
    for split, count in (("train", 48), ("test", 40)):
        rows = [{"label": n % 3, "image_id": f"{n}", "image": {"bytes": encoded(rng, n % 3)}} for n in range(count)]
        splits[split] = Dataset.from_list(rows, features=features)
    for row in rows:
        (folder / row["image_id"]).write_bytes(row["image"]["bytes"])
    splits.save_to_disk(folder / "data")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDENTS)
def test_pipeline_on_files_gives_the_predictions_of_evaluate(data, tmp_path, kind):
    run, (student, student_args) = tmp_path / "run", STUDENTS[kind]
    options = {"output_dir": run, "student": student, "student_args": student_args, "image_size": SIDE}
    options |= {"max_steps": 6, "learning_rate": 3e-3, "per_device_train_batch_size": 16, "align_weight": 0}
    options |= {"save_strategy": "no", "use_cpu": "true", "disable_tqdm": "true"}
    main(["train", str(data / "data"), *(str(word) for name in options for word in (f"--{name}", options[name]))])
    main(["evaluate", str(run)])
    main(["release", str(run)])
    predicted = Dataset.from_parquet(str(run / "predictions" / "test.parquet"))
    assert len(set(predicted["prediction"])) > 1  # a constant answer would agree with everything
    classifier = pipeline("image-classification", model=str(run / "student"), device="cpu")
    for row in predicted:
        (best,) = classifier(str(data / row["image_id"]), top_k=1)
        assert best["label"] == row["prediction"], row["image_id"]
        assert best["score"] == pytest.approx(row["score"], abs=1e-5)
