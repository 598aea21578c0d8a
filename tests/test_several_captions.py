"""Several captions an image, all the way: lists in the data, K x D embeddings, training, retrieval."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf.evaluation.predict import load_run
from g4i_hf.running import main

CAPTIONS = [["a red square", "something red"], ["a blue square"], None, ["a green square", "", "green all over"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=["a", "b"]),
            "image_id": Value("string"),
            "caption": List(Value("string")),
        }
    )
    images = [PILImage.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(12)]
    rows = [
        {"image": image, "label": row % 2 if row else None, "image_id": str(row), "caption": CAPTIONS[row % 4]}
        for row, image in enumerate(images)
    ]
    split = Dataset.from_list(rows, features=features)
    folder = tmp_path_factory.mktemp("several") / "data"
    DatasetDict(train=split, validation=split.select(range(1, 12))).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("choice", ["sample", "mean", "all"])
def test_lists_of_captions_are_embedded_trained_on_and_retrieved(data, tmp_path, choice):
    """Row 0 is unlabelled; the aligned model keeps the mean of the texts, which evaluation subtracts too."""
    command = ["train", "--dataset_name", str(data), "--text_encoder", "sentence-transformers/all-MiniLM-L6-v2"]
    command += ["--student", "resnet18", "--student_args", '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}']
    command += ["--image_size", "32", "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    command += ["--per_device_train_batch_size", "4", "--require_labels", "false", "--align_captions", choice]
    command += ["--align_text_bank", "2", "--align_center", "true", "--report_to", "none"]
    main(command)
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["validation_gallery_size"] == 5  # distinct captions
    assert results["validation_chance_at_1"] == pytest.approx(13 / 8 / 5)  # 13 own captions of 8 images
    assert 0 <= results["validation_recall_at_1"] <= 1 and results["train_loss"] > 0
    model, _ = load_run(tmp_path / "run")
    assert model.config.center_text and model.text_mean.norm() > 0.1
