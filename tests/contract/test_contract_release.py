"""A released student needs nothing of this package, and says what the aligned model says."""

import json
import re

import pytest
import torch

pytestmark = pytest.mark.slow  # `make test` has the options, the mistakes and the front door

# Logits of every validation drawing by the aligned model, through its public names
ALIGNED = """
import sys
from pathlib import Path

import torch
from g4i_hf import AlignedImageClassification
from PIL import Image
from transformers import AutoImageProcessor

model = AlignedImageClassification.from_pretrained(sys.argv[1]).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
images = [Image.open(path).convert("RGB") for path in sorted(Path(sys.argv[2]).glob("*/*.png"))]
pixels = processor(images, return_tensors="pt")["pixel_values"]
with torch.no_grad():
    torch.save({"pixels": pixels, "logits": model(pixels).logits, "state": model.student.state_dict()}, sys.argv[3])
"""
# The same by the student, where an import of g4i_hf fails
STUDENT = """
import json, sys
sys.modules["g4i_hf"] = None
from pathlib import Path

import timm, torch
from transformers import AutoModelForImageClassification, pipeline

folder, images, expected = sys.argv[1:4]
expected = torch.load(expected, weights_only=True)
pixels, found = expected["pixels"], {}
by_transformers = AutoModelForImageClassification.from_pretrained(folder).eval()
by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
classifier = pipeline("image-classification", model=folder, device="cpu")
state = by_transformers.state_dict()
with torch.no_grad():
    logits, timm_logits = by_transformers(pixels).logits, by_timm(pixels)
answers = [classifier(str(path), top_k=3) for path in sorted(Path(images).glob("*/*.png"))]
order = [by_transformers.config.id2label[i] for i in range(3)]
scores = torch.tensor([[{a["label"]: a["score"] for a in answer}[name] for name in order] for answer in answers])
same = [torch.equal(tensor, state[name]) for name, tensor in expected["state"].items()]
print(json.dumps({
    "tensors": state.keys() == expected["state"].keys() and all(same),
    "transformers": (logits - expected["logits"]).abs().max().item(),
    "timm": (timm_logits - expected["logits"]).abs().max().item(),
    "pipeline": (scores - expected["logits"].softmax(1)).abs().max().item(),
    "labels": order,
}))
"""


@pytest.fixture(scope="module")
def found(quick, loop, tmp_path_factory) -> dict:
    logits = tmp_path_factory.mktemp("logits") / "logits.pt"
    quick.python(ALIGNED, loop / "aligned", loop / "pictures" / "validation", logits)
    assert torch.load(logits, weights_only=True)["logits"].std(dim=0).max() > 1e-4, "images that differ"
    printed = quick.python(STUDENT, loop / "aligned" / "student", loop / "pictures" / "validation", logits)
    return json.loads(printed.splitlines()[-1])


def test_every_tensor_is_that_of_the_run(found):
    assert found["tensors"] is True and found["labels"] == ["circle", "cross", "square"]


@pytest.mark.parametrize("library", ["transformers", "timm", "pipeline"])
def test_the_same_logits_without_this_package(found, library):
    assert found[library] < 1e-5


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


def test_every_python_snippet_of_the_card_runs(quick, loop):
    """With the student's folder and an image in place of their names; those without g4i_hf where it is not."""
    card = (loop / "aligned" / "student" / "README.md").read_text()
    snippets = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    image = next((loop / "pictures" / "validation").glob("*/*.png"))
    plain = [snippet for snippet in snippets if "g4i_hf" not in snippet]
    assert len(plain) >= 3 and len(snippets) > len(plain)
    for snippet in snippets:
        code = snippet.replace("path/to/student", str(loop / "aligned" / "student"))
        code = re.sub(r'"[\w./-]+\.(png|jpe?g)"', repr(str(image)), code)
        assert str(image) in code
        quick.python(('import sys; sys.modules["g4i_hf"] = None\n' if snippet in plain else "") + code)


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
