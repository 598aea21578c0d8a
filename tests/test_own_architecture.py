"""Architectures that a user has registered, as docs/guides/training.md says: built, released, loaded."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from students import ID2LABEL
from transformers import RegNetConfig, TimmWrapperConfig

from g4i_hf import AlignedImageClassification
from g4i_hf.hub.release import release_with_card
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.modeling.student import new_student, own_module
from g4i_hf.options import ReleaseArguments
from g4i_hf.running import main

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
MODULES = r"^<!-- test: my_student with \w+ -->\n```python\n(.*?)^```$"
OF_TIMM, OF_TRANSFORMERS = re.findall(MODULES, PAGE, flags=re.M | re.S)
BUILD = {"id2label": ID2LABEL, "text_embed_dim": 8, "image_size": 24}
pytestmark = pytest.mark.filterwarnings("ignore:Overwriting tiny_net in registry")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module and imports it."""

    def write(text: str, name: str = "my_student"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return write


def test_a_model_registered_with_timm_is_a_student(module):
    module(OF_TIMM)
    torch.manual_seed(0)
    expected, drawn_next = timm.create_model("tiny_net", num_classes=5, width=16).state_dict(), torch.rand(3)
    torch.manual_seed(0)
    model = AlignedImageClassification.from_student("tiny_net", **BUILD, student_args={"width": 16})
    assert torch.equal(torch.rand(3), drawn_next), "the wrapper draws nothing"
    assert all(torch.equal(model.student.timm_model.state_dict()[key], expected[key]) for key in expected)
    config = model.config.student_config
    assert model.projector(torch.rand(2, 16)).shape == (2, 8) and config.pretrained_cfg["input_size"] == [3, 24, 24]
    assert own_module(config) == "my_student" and model.training
    assert own_module(RegNetConfig()) is own_module(TimmWrapperConfig(architecture="resnet18.a1_in1k")) is None
    config.architecture = "tiny_nets"
    with pytest.raises(ValueError, match="no architecture 'tiny_nets'. If it is your own, import the module"):
        new_student(config)


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


def test_a_script_is_no_module_to_publish(module, tmp_path, monkeypatch):
    mine = module(OF_TIMM)
    AlignedImageClassification.from_student("tiny_net", **BUILD).save_pretrained(tmp_path / "run")
    generic_processor(ImageSettings(24)).save_pretrained(tmp_path / "run")
    mine.tiny_net.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # not `python -m pytest`
    with pytest.raises(ValueError, match="registered by the script or notebook itself"):
        release_with_card(ReleaseArguments(run=str(tmp_path / "run"), license="mit"))


@pytest.mark.parametrize("name", ["registering.py", "evaluate.py"])
def test_the_module_is_imported_before_a_command_reads_its_options(tmp_path, monkeypatch, capsys, name):
    """Also one that a file of options names; not one with the name of a package."""
    (tmp_path / name).write_text("print('registered')")
    (tmp_path / "options.yaml").write_text(f"dataset_name: x\nmodule: {name}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "--config", "options.yaml", "--print_config"])
    out, err = capsys.readouterr()
    if name == "evaluate.py":
        assert "cannot be imported as 'evaluate'; give the file another name" in err
    else:
        assert out.startswith("registered\n# The resolved options")
