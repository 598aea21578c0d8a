"""Architectures that a user has registered, as docs/own_architectures.md says: trained, compared, released, loaded."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from released_runs import a_run
from students import ID2LABEL
from test_card import snippets
from test_compare_script import folder  # noqa: F401, a fixture
from transformers import RegNetConfig, TimmWrapperConfig

from g4i_hf import AlignedImageClassification
from g4i_hf.comparison.results import read_results
from g4i_hf.modeling.student import new_student, own_module

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "own_architectures.md").read_text(encoding="utf-8")
MODULE, RUNNER = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.M | re.S)
COMMANDS = re.search(r"^```sh\n(.*?)^```$", PAGE, flags=re.M | re.S)[1].replace("\\\n", " ").splitlines()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "my_student.py").write_text(MODULE)
    (tmp_path / "mine.py").write_text(RUNNER)
    return tmp_path


def run(place: Path, *command: str, expected: int = 0) -> subprocess.CompletedProcess:
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    return done


def test_the_module_of_a_student_is_known_and_an_unknown_architecture_said(place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    import my_student

    build = {"id2label": ID2LABEL, "text_embed_dim": 8, "image_size": 24}
    model = AlignedImageClassification.from_student("tiny_net", **build, student_args={"width": 16})
    config = model.config.student_config
    assert model.projector(torch.rand(2, 16)).shape == (2, 8) and config.pretrained_cfg["input_size"] == [3, 24, 24]
    assert own_module(config) == my_student.__name__ == "my_student"
    assert own_module(RegNetConfig()) is own_module(TimmWrapperConfig(architecture="resnet18.a1_in1k")) is None
    config.architecture = "tiny_nets"
    with pytest.raises(ValueError, match="no architecture 'tiny_nets'. If it is your own, import the module"):
        new_student(config)


BUILD = """
import my_student
from g4i_hf import AlignedImageClassification
from g4i_hf.modeling.processing import ImageSettings, generic_processor
model = AlignedImageClassification.from_student(
    "tiny_net", id2label=ID2LABEL, text_embed_dim=8, student_args={"width": 16}, image_size=24
)
model.save_pretrained("run")
generic_processor(ImageSettings(24)).save_pretrained("run")
"""
RELEASE = """
import sys
import my_student
from g4i_hf.hub.arguments import ReleaseArguments
from g4i_hf.hub.space import build_space
from g4i_hf.hub.student_folder import release_with_card
student, _ = release_with_card(ReleaseArguments(run="run", repo_id=None))
try:
    build_space("run", student, "space")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_run_is_released_with_the_name_of_its_module_and_loads_after_it_alone(place):
    run(place, "-c", BUILD.replace("ID2LABEL", repr(ID2LABEL)))
    a_run(place / "run", model=False, results=None, lineage=None, student="tiny_net")
    done = run(place, "-c", RELEASE)
    assert "registered by the module my_student, which a Space does not have" in done.stdout
    student = place / "run" / "student"
    card = (student / "README.md").read_text()
    assert "neither timm nor transformers before the module `my_student` registers it" in card
    assert "my_student.py" not in {path.name for path in student.rglob("*")}
    Image.new("RGB", (30, 40), (200, 30, 30)).save(place / "picture.png")
    pipeline, plain, timm_alone, _ = [block.replace("path/to/student", str(student)) for block in snippets(card)]
    for block in (pipeline, plain, timm_alone):
        assert block.startswith("import my_student\n")
        run(place, "-c", block)
    bare = timm_alone.removeprefix("import my_student\n")
    assert "Unknown model" in run(place, "-c", bare, expected=1).stderr
    load = "from g4i_hf import AlignedImageClassification; AlignedImageClassification.from_pretrained('run')"
    assert (
        "no architecture 'tiny_net'. If it is your own, import the module" in run(place, "-c", load, expected=1).stderr
    )


@pytest.mark.slow
def test_the_commands_of_the_page_train_evaluate_and_release(place, folder):  # noqa: F811
    smaller = ["--image_size", "16", "--num_train_epochs", "1", "--per_device_train_batch_size", "16"]
    for command in COMMANDS:
        script, *options = shlex.split(command)[3:]
        if script == "train":
            options += ["--dataset_name", str(folder / "data"), *smaller, "--report_to", "none"]
        run(place, "-m", "accelerate.commands.launch", "--num_processes", "1", "mine.py", script, *options)
    saved = json.loads((place / "runs" / "mine" / "student" / "config.json").read_text())
    assert (saved["architecture"], saved["model_args"]) == ("tiny_net", {"width": 64})
    assert json.loads((place / "runs" / "mine" / "all_results.json").read_text())["test_accuracy"] > 0


@pytest.mark.slow
def test_processes_of_a_comparison_know_the_architecture(tmp_path, folder):  # noqa: F811
    script = ROOT / "recipes" / "emoji_styles" / "mlp_mixer.py"
    options = {"student": "mlp_mixer", "student_args": {"patch_size": 8, "num_blocks": 1, "embed_dim": 16}}
    grid = {"train_config": str(folder / "train.yaml"), "students": {"mixer": options}, "seeds": [0]}
    grid |= {"variants": {"baseline": {"align_weight": 0}}, "results": str(tmp_path / "cells.jsonl"), "processes": 1}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    run(tmp_path, str(script), "compare", "--config", "grid.yaml")
    (result,) = read_results(tmp_path / "cells.jsonl")
    assert result.training["parameters"] > 0 and set(result.predicted) == {"validation"}
