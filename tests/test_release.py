"""A released student is exactly the trained one, and needs nothing of ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from students import ID2LABEL, STUDENTS, aligned_model
from transformers import AutoImageProcessor

from g4i_hf.hub import release_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor

# Loads the students of all folders given, where g4i_hf cannot be imported, and saves tensors and logits.
LOADER = """
import sys
sys.modules["g4i_hf"] = None
import timm, torch
from pathlib import Path
from transformers import AutoModelForImageClassification, AutoImageProcessor

torch.set_num_threads(1)
pixels = torch.load(sys.argv[1], weights_only=True)

def record(model, forward):
    with torch.no_grad():
        plain = forward(pixels)
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
        return {"logits": plain, "cloned": forward(pixels), "state": dict(model.state_dict())}

for folder in map(Path, sys.argv[2:]):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    found = {"transformers": record(model, lambda x: model(x).logits), "id2label": model.config.id2label}
    AutoImageProcessor.from_pretrained(folder)
    if model.config.model_type == "timm_wrapper":
        timm_model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        found["timm"] = record(timm_model, timm_model)
    torch.save(found, folder / "found.pt")
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """name -> (aligned model, what a process without g4i_hf found in the released folder)"""
    root = tmp_path_factory.mktemp("released")
    pixels = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.save(pixels, root / "pixels.pt")
    models, folders = {}, {}
    for name in STUDENTS:
        model = aligned_model(name)
        model.train()
        with torch.no_grad():
            model(pixels)  # running statistics that are not the initial ones
        run = root / name
        model.save_pretrained(run)
        generic_processor(ImageSettings(48)).save_pretrained(run)
        models[name], folders[name] = model.eval(), release_student(run)
    command = [sys.executable, "-c", LOADER, root / "pixels.pt", *folders.values()]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: torch.load(folder / "found.pt", weights_only=True) for name, folder in folders.items()}
    return {name: (models[name], pixels, folders[name], found[name]) for name in STUDENTS}


def _logits(model, pixels):
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    with torch.no_grad():
        return model(pixels).logits


@pytest.mark.parametrize("name", STUDENTS)
def test_every_tensor_and_the_logits_are_equal(released, name):
    model, pixels, _, found = released[name]
    state = model.student.state_dict()
    assert {int(i): label for i, label in found["id2label"].items()} == ID2LABEL
    for library in ("transformers", "timm"):
        if library not in found:
            assert not name.startswith("timm-")
            continue
        prefix = "timm_model." if library == "timm" else ""
        other = {prefix + key: tensor for key, tensor in found[library]["state"].items()}
        assert set(other) == set(state)
        assert all(torch.equal(other[key], state[key]) for key in state)
        expected = _logits(model, pixels)
        assert torch.equal(found[library]["cloned"], expected)
        torch.testing.assert_close(found[library]["logits"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in STUDENTS if name.startswith("timm-")])
def test_layout_suits_both_libraries(released, name):
    *_, folder, _ = released[name]
    config = json.loads((folder / "config.json").read_text())
    assert set(config) <= {"architecture", "num_classes", "label_names", "pretrained_cfg", "model_args"}
    assert "num_classes" not in config.get("model_args", {}) and config.get("model_args") != {}
    assert config["pretrained_cfg"]["input_size"] == [3, 48, 48]


def test_release_of_no_run_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"recipes/train\.py"):
        release_student(tmp_path)


def test_release_replaces_the_whole_folder(tmp_path):
    model = aligned_model("vit")
    model.save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    stale = release_student(tmp_path / "run") / "stale.bin"
    stale.touch()
    student = release_student(tmp_path / "run")
    assert not stale.exists() and AutoImageProcessor.from_pretrained(student) is not None
    assert {path.name for path in Path(student).iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
