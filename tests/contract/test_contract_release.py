"""A released student needs nothing of this package, and says what the evaluation wrote."""

import json

import pytest

pytestmark = pytest.mark.slow  # `make test` has the options, the mistakes and the front door


def test_evaluation_wrote_what_the_pipeline_says(quick, loop):
    code = """
import json, sys
sys.modules["g4i_hf"] = None
import pyarrow.parquet as pq
from transformers import pipeline

rows = pq.read_table(sys.argv[1] + "/predictions/validation.parquet").to_pylist()
classifier = pipeline("image-classification", model=sys.argv[1] + "/student", device="cpu")
answers = [classifier(f"{sys.argv[2]}/validation/{row['image_id']}", top_k=1)[0] for row in rows]
print(json.dumps([[row["prediction"], row["score"], a["label"], a["score"]] for row, a in zip(rows, answers)]))
"""
    rows = json.loads(quick.python(code, loop / "aligned", loop / "pictures").splitlines()[-1])
    assert len(rows) == 9
    for prediction, score, label, other in rows:
        assert (prediction, score) == (label, pytest.approx(other, abs=1e-5))


def test_the_run_folder_is_taken_by_the_auto_classes(quick, loop):
    code = """
import sys
import torch
from g4i_hf import AlignedImageClassification, AlignedImageClassificationConfig
from transformers import AutoConfig, AutoModelForImageClassification, pipeline

model = AutoModelForImageClassification.from_pretrained(sys.argv[1]).eval()
assert isinstance(model, AlignedImageClassification), type(model)
found = model(torch.zeros(2, 3, 32, 32), output_image_embeds=True)
assert (*found.logits.shape, *found.image_embeds.shape) == (2, 3, 2, 384)
assert isinstance(AutoConfig.from_pretrained(sys.argv[1]), AlignedImageClassificationConfig)
print(pipeline("image-classification", model=sys.argv[1], device="cpu")(sys.argv[2], top_k=3))
"""
    image = next((loop / "pictures" / "validation").glob("*/*.png"))
    assert "circle" in quick.python(code, loop / "aligned", image)
