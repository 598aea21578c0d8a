"""Architectures that a user has registered, as docs/own_architectures.md says: trained, compared, released, loaded."""

import importlib
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
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    RegNetConfig,
    TimmWrapperConfig,
    ViTConfig,
)

from g4i_hf import AlignedImageClassification
from g4i_hf.hub.card import Student, student_card
from g4i_hf.hub.release import release_student, release_with_card
from g4i_hf.modeling.own_architecture import own_module
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.modeling.student import new_student, student_config_from
from g4i_hf.options import ReleaseArguments
from g4i_hf.study import read_results

ROOT = Path(__file__).parent.parent
G4I = Path(sys.executable).with_name("g4i")
PAGE = (ROOT / "docs" / "own_architectures.md").read_text(encoding="utf-8")
OF_TIMM, OF_TRANSFORMERS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.M | re.S)
COMMANDS = re.search(r"^```sh\n(.*?)^```$", PAGE, flags=re.M | re.S)[1].replace("\\\n", " ").splitlines()
MODULES = {"tiny_net": OF_TIMM, "tiny-net": OF_TRANSFORMERS}
BUILD = {"id2label": ID2LABEL, "text_embed_dim": 8, "image_size": 24}
FIXED = '{"tiny_net": {"input_size": (3, 24, 24), "fixed_input_size": True}}'


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module and imports it, under a name of its own in each test."""

    def write(text: str, name: str = "my_student"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return write


def run(place: Path, *command: str, expected: int = 0) -> subprocess.CompletedProcess:
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    return done


def test_a_model_registered_with_timm_is_a_student(module):
    module(OF_TIMM)
    model = AlignedImageClassification.from_student("tiny_net", **BUILD, student_args={"width": 16})
    config = model.config.student_config
    assert model.projector(torch.rand(2, 16)).shape == (2, 8) and config.pretrained_cfg["input_size"] == [3, 24, 24]
    assert own_module(config) == "my_student" and model.training
    assert own_module(RegNetConfig()) is own_module(TimmWrapperConfig(architecture="resnet18.a1_in1k")) is None
    config.architecture = "tiny_nets"
    with pytest.raises(ValueError, match="no architecture 'tiny_nets'. If it is your own, import the module"):
        new_student(config)


@pytest.mark.parametrize("size", [24, 32])
def test_a_model_that_must_know_the_size_of_images_is_told_it_as_a_number(module, size):
    text = OF_TIMM.replace("width: int = 32)", "width: int = 32, img_size: int = 0)")
    text = text.replace("super().__init__()", "super().__init__()\n        self.size = img_size // 8")
    text = text.replace("build_model_with_cfg, register", "build_model_with_cfg, generate_default_cfgs, register")
    module(text.replace("@register_model", f"default_cfgs = generate_default_cfgs({FIXED})\n\n\n@register_model"))
    model = AlignedImageClassification.from_student("tiny_net", **BUILD | {"image_size": size})
    assert model.student.timm_model.size == size // 8
    assert model.config.student_config.model_args == {"img_size": size}


def test_a_model_registered_with_transformers_is_a_student(module):
    mine = module(OF_TRANSFORMERS.replace('"tiny-net"', '"tiny-net-2"'))  # registered once in a process
    model = AlignedImageClassification.from_student("tiny-net-2", **BUILD, student_args={"width": 16})
    assert own_module(model.config.student_config) == "my_student" and model.config.student_config.width == 16
    assert model.student.stem[0].weight.std() > 0.05  # not N(0, 0.02)
    with pytest.raises(ValueError, match="'widht', which TinyNetConfig has no field for. Did you mean 'width'"):
        AlignedImageClassification.from_student("tiny-net-2", **BUILD, student_args={"widht": 16})
    # configuration and model in two files: what is imported is what registers
    mine.TinyNetForImageClassification.__module__ = "other_file"
    assert own_module(model.config.student_config) == "other_file"


LOST = "gives other logits after it was saved and loaded.*Register buffers without persistent=False"


@pytest.mark.parametrize(
    "line, factor, said",
    [
        ('self.register_buffer("scale", torch.full((1,), 3.0), persistent=False)', "self.scale", LOST),
        ("self.scale = torch.tensor(3.0)", "self.scale", "cannot be used: .* it fails with RuntimeError: .*meta"),
        ("", "self.scale", "with two images of 24 x 24 pixels.* it fails with AttributeError: "),
    ],
)
def test_what_would_fail_later_is_said_before_training(module, line, factor, said):
    text = OF_TIMM.replace("super().__init__()", f"super().__init__()\n        {line}")
    module(text.replace(".mean((2, 3)))", f".mean((2, 3)) * {factor})"))
    with pytest.raises(ValueError, match=said):
        AlignedImageClassification.from_student("tiny_net", **BUILD)
    module(text)  # where it is not used
    AlignedImageClassification.from_student("tiny_net", **BUILD)


def test_trying_a_model_changes_neither_it_nor_what_is_drawn_next(module, monkeypatch):
    jitter = 'self.jitter = torch.rand(1, device="cpu").item()'  # also when it is built without memory
    module(OF_TIMM.replace("super().__init__()", f"super().__init__()\n        {jitter}"))
    found = []
    for tried in (True, False):
        if not tried:
            monkeypatch.setattr("g4i_hf.modeling.modeling_aligned.check_own", lambda *_: None)
        torch.manual_seed(0)
        model = AlignedImageClassification.from_student("tiny_net", **BUILD)
        found.append((model.state_dict(), torch.rand(3)))
    (tried, drawn), (untried, also) = found
    assert torch.equal(drawn, also) and all(torch.equal(tried[name], untried[name]) for name in untried)


def test_ordinary_python_in_a_model_is_no_error(module):
    depth = "self.rates = [x.item() for x in torch.linspace(0, 0.1, 3)]"  # fails on a model without memory
    module(OF_TIMM.replace("super().__init__()", f"super().__init__()\n        {depth}"))
    assert AlignedImageClassification.from_student("tiny_net", **BUILD).student.timm_model.rates[2] > 0.09


def test_unknown_students_are_said_with_what_is_near(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no such repository")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    with pytest.raises(OSError, match="'resnet_18' is no folder, no model of timm.*Did you mean 'resnet18'.*your own"):
        student_config_from("resnet_18")
    with pytest.raises(OSError, match="^no such repository"):
        student_config_from("me/resnet_18")
    with pytest.raises(ValueError, match="'hiden_size', which ViTConfig has no field for. Did you mean 'hidden_size'"):
        student_config_from(ViTConfig(), {"hiden_size": 3})
    with pytest.raises(ValueError, match="No pretrained weights exist.*Leave --pretrained out"):
        AlignedImageClassification.from_student("mixer_s32_224", **BUILD | {"image_size": 224}, pretrained=True)


@pytest.mark.parametrize(
    "name, student_args, size",
    [
        ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, 224),
        ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}, 32),
    ],
)
def test_a_timm_student_of_no_given_size_can_be_released(tmp_path, name, student_args, size):
    build = {"id2label": ID2LABEL, "text_embed_dim": 8, "student_args": student_args}
    AlignedImageClassification.from_student(name, **build).save_pretrained(tmp_path / "run")
    student = release_student(tmp_path / "run", aligned=False)
    inputs = AutoImageProcessor.from_pretrained(student)(Image.new("RGB", (60, 50)), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, size, size)
    logits = AutoModelForImageClassification.from_pretrained(student)(**inputs).logits
    assert logits.shape == (1, len(ID2LABEL))


def test_what_was_released_is_a_student_to_start_from(module, tmp_path):
    """Of a size that timm does not expect, which the released folder knows."""
    text = OF_TIMM.replace("width: int = 32)", "width: int = 32, img_size: int = 0)")
    text = text.replace(
        "def forward(",
        "def forward(self, x):\n        assert x.shape[-1] == 16\n"
        "        return self.forward_any(x)\n\n    def forward_any(",
    )
    module(text)
    first = AlignedImageClassification.from_student("tiny_net", **BUILD | {"image_size": 16})
    first.save_pretrained(tmp_path / "run")
    student = str(release_student(tmp_path / "run", aligned=False))
    again = AlignedImageClassification.from_student(
        student, id2label={0: "a", 1: "b"}, text_embed_dim=8, pretrained=True
    )
    assert torch.equal(again.student.timm_model.stem[0].weight, first.student.timm_model.stem[0].weight)
    adapted = AlignedImageClassification.from_student(
        student,
        id2label=ID2LABEL,
        text_embed_dim=8,
        pretrained=True,
        lora={"r": 2, "lora_alpha": 2, "lora_dropout": 0.0, "target_modules": ["body.0"]},
    )
    assert adapted.config.lora["r"] == 2
    from timm.models import _registry

    for known in (_registry._model_entrypoints, _registry._model_to_module):
        known.pop("tiny_net")
    with pytest.raises(ValueError, match="no architecture 'tiny_net'. If it is your own"):
        student_config_from(student)


def test_the_card_of_an_adapter_imports_the_module_and_a_script_is_no_module(module, tmp_path, monkeypatch):
    facts = {"architecture": "tiny_net", "num_labels": 2, "num_parameters": 9, "options": {}, "module": "my_student"}
    (block,) = snippets(str(student_card(Student(**facts, adapter="me/base"))))
    assert block.startswith("import my_student\nimport torch\nfrom peft")
    mine = module(OF_TIMM)
    AlignedImageClassification.from_student("tiny_net", **BUILD).save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(24)).save_pretrained(tmp_path / "run")
    mine.tiny_net.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # not `python -m pytest`
    with pytest.raises(ValueError, match="registered by the script or notebook itself"):
        release_with_card(ReleaseArguments(run=str(tmp_path / "run"), license="mit"))


def test_a_model_that_draws_at_any_time_or_gives_no_numbers_is_let_through(module):
    """What is no fault of saving and loading."""
    for noise in ("torch.rand(len(x), 1)", "float('nan')"):
        module(OF_TIMM.replace(".mean((2, 3)))", f".mean((2, 3))) * {noise}"))
        AlignedImageClassification.from_student("tiny_net", **BUILD)


def test_attention_of_a_student_can_be_chosen():
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    for student, more in (("vit", size), (ViTConfig(**size), {})):
        config = student_config_from(student, more | {"attn_implementation": "eager"})
        assert config._attn_implementation == "eager"


RUN = """
import torch
import my_student
from g4i_hf import AlignedImageClassification
from g4i_hf.modeling.processing import ImageSettings, generic_processor
torch.manual_seed(0)
model = AlignedImageClassification.from_student(NAME, **BUILD, student_args={"width": 16}).eval()
model.save_pretrained("run")
generic_processor(ImageSettings(24)).save_pretrained("run")
torch.save(model(torch.ones(2, 3, 24, 24)).logits.detach(), "logits.pt")
"""
LOAD = """
import torch
import my_student
from g4i_hf import AlignedImageClassification
from transformers import AutoModelForImageClassification
for loaded in (
    AlignedImageClassification.from_pretrained("run"), AutoModelForImageClassification.from_pretrained("run/student")
):
    logits = loaded.eval()(torch.ones(2, 3, 24, 24)).logits
    assert torch.equal(logits, torch.load("logits.pt", weights_only=True))
"""
RELEASE = """
import sys
import my_student
from g4i_hf.options import ReleaseArguments
from g4i_hf.hub.space import build_space
from g4i_hf.hub.release import release_with_card
student, _ = release_with_card(ReleaseArguments(run="run", onnx=True))
try:
    build_space("run", student, "space")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_run_is_released_with_the_name_of_its_module_and_loads_after_it_alone(tmp_path, name):
    (tmp_path / "my_student.py").write_text(MODULES[name])
    run(tmp_path, "-c", RUN.replace("NAME", repr(name)).replace("BUILD", repr(BUILD)))
    a_run(tmp_path / "run", model=False, results=None, lineage=None, student=name)
    done = run(tmp_path, "-c", RELEASE)
    assert "registered by the module my_student, which a Space does not have" in done.stdout
    run(tmp_path, "-c", LOAD)
    student = tmp_path / "run" / "student"
    card = (student / "README.md").read_text()
    assert "neither timm nor transformers before the module `my_student` registers it" in card
    assert "my_student.py" not in {path.name for path in student.rglob("*")}
    Image.new("RGB", (30, 40), (200, 30, 30)).save(tmp_path / "picture.png")
    *blocks, zero_shot = [block.replace("path/to/student", str(student)) for block in snippets(card)]
    own = [block for block in blocks if "onnxruntime" not in block]
    assert len(own) == (3 if name == "tiny_net" else 2) and len(blocks) == len(own) + 1
    assert all(block.startswith("import my_student\n") for block in [*own, zero_shot])
    for block in blocks:
        run(tmp_path, "-c", block)
    (tmp_path / "my_student.py").rename(tmp_path / "another.py")
    assert run(tmp_path, "-c", own[0].removeprefix("import my_student\n"), expected=1)
    load = "from g4i_hf import AlignedImageClassification; AlignedImageClassification.from_pretrained('run')"
    said = run(tmp_path, "-c", load, expected=1).stderr
    assert re.search(rf"knows no (architecture|model type) '{name}'. If it is your own, import the module", said)


@pytest.mark.slow
def test_the_commands_of_the_page_train_evaluate_and_release(tmp_path, folder):  # noqa: F811
    (tmp_path / "my_student.py").write_text(OF_TIMM)
    (tmp_path / "evaluate.py").write_text("raise SystemExit('not the package evaluate')")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    smaller = ["--image_size", "16", "--num_train_epochs", "1", "--per_device_train_batch_size", "8"]
    assert [command.split()[:2] for command in COMMANDS] == [["g4i", "train"], ["g4i", "evaluate"], ["g4i", "release"]]
    for line in COMMANDS:
        command, *options = shlex.split(line)[1:]
        if command == "train":
            options += ["--dataset_name", str(folder / "data"), *smaller, "--report_to", "none", "--use_cpu", "true"]
        launcher = ["--num_processes", "2"] if command != "release" else []
        done = run(tmp_path, str(G4I), command, *launcher, *options)
        if command == "train":
            assert "g4i evaluate --run runs/mine --module my_student.py" in done.stdout
    saved = json.loads((tmp_path / "runs" / "mine" / "student" / "config.json").read_text())
    assert (saved["architecture"], saved["model_args"]) == ("tiny_net", {"width": 64})
    assert json.loads((tmp_path / "runs" / "mine" / "all_results.json").read_text())["test_accuracy"] > 0


@pytest.mark.slow
def test_processes_of_a_comparison_know_the_architecture(tmp_path, folder):  # noqa: F811
    options = {"student": "mlp_mixer", "student_args": {"patch_size": 8, "num_blocks": 1, "embed_dim": 16}}
    grid = {"train_config": str(folder / "train.yaml"), "students": {"mixer": options}, "seeds": [0]}
    grid |= {"variants": {"baseline": {"align_weight": 0}}, "results": str(tmp_path / "cells.jsonl"), "processes": 1}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mixer.py").symlink_to(ROOT / "recipes" / "emoji_styles" / "mlp_mixer.py")
    run(tmp_path, "-m", "g4i_hf", "compare", "--module", "mine.mixer", "--config", "grid.yaml")
    (result,) = read_results(tmp_path / "cells.jsonl")
    assert result.training["parameters"] > 0 and set(result.predicted) == {"validation"}


@pytest.mark.parametrize("name", ["my_student.py", "my_student", "evaluate.py"])
def test_the_module_is_imported_before_a_command_reads_its_options(tmp_path, name):
    """A file under its bare name, also one that is named in a file of options; not beside a package of that name."""
    (tmp_path / "my_student.py").write_text("print('registered')")
    (tmp_path / "evaluate.py").touch()
    (tmp_path / "options.yaml").write_text(f"dataset_name: x\nmodule: {name}\n")
    fails = name == "evaluate.py"
    for words in (["--dataset_name", "x", "--module", name], ["--config", "options.yaml"]):
        done = run(tmp_path, str(G4I), "train", *words, "--print_config", expected=2 * fails)
        assert done.stdout.startswith("registered\n# The resolved options") != fails
        assert "cannot be imported as 'evaluate'; give the file another name" in done.stderr or not fails
