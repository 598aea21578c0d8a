"""What a user adds: objectives, as recipes/text_teacher, by their formula; architectures: built, released, loaded."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from students import ID2LABEL, aligned_model
from tiny_training import ONE_STEP, TEXT_DIM, Rows, first_log, one_step, rows
from torch import nn
from transformers import RegNetConfig, TimmWrapperConfig

from g4i_hf import AlignedImageClassification, register_objective
from g4i_hf.modeling.student import own_module
from g4i_hf.running import main

sys.path.append(str(Path(__file__).parents[1] / "recipes" / "text_teacher"))

import text_teacher  # noqa: F401

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
WEIGHT, TEMPERATURE, ROWS = 0.4, 0.7, 8
OPTIONS = {"align_loss": "text_teacher", "align_weight": WEIGHT, "align_temperature": TEMPERATURE}
OPTIONS |= {"per_device_train_batch_size": ROWS}


def test_a_step_of_the_recipe_is_that_of_the_formula(tmp_path):
    """Dot products of projected features and centred texts, neither of unit norm, in the place of cosines."""
    torch.manual_seed(1)
    data, model = Rows(rows(ROWS, torch.float64)), aligned_model("vit", TEXT_DIM).double()
    trainer, moved = one_step(tmp_path, model, data, **OPTIONS)

    output = model.train()(torch.stack([row["pixel_values"] for row in data]), output_features=True)
    images, texts = model.projector.layers(output.features), data.embeds - data.embeds.mean(0)
    logits, own = images @ torch.from_numpy(texts).T / TEMPERATURE, torch.arange(ROWS)
    by_texts = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
    log = first_log(trainer)
    assert log["loss_align"] == pytest.approx(by_texts.item(), rel=1e-6)
    assert log["loss"] == pytest.approx(log["loss_ce"] + WEIGHT * log["loss_align"], rel=1e-6)
    assert all(-1 <= log[f"cosine_{kind}"] <= 1 for kind in ("positive", "negative"))

    by_labels = nn.functional.cross_entropy(output.logits, torch.from_numpy(data.labels))
    (by_labels + WEIGHT * by_texts).backward()
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]
    expected = -ONE_STEP["learning_rate"] * torch.cat([gradient.flatten() for gradient in gradients])
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        evaluated = trainer.model.eval()(data[0]["pixel_values"][None], output_image_embeds=True).image_embeds
    assert evaluated.norm().item() == pytest.approx(1), "only training compares what is not of unit norm"


def test_the_objective_of_the_page_trains(tmp_path):
    exec(re.search(r"<!-- test: my_objective -->\n```python\n(.*?)```", PAGE, flags=re.S)[1], {})
    model, data = aligned_model("vit", TEXT_DIM), Rows(rows(ROWS))
    trainer, _ = one_step(tmp_path, model, data, **OPTIONS | {"align_loss": "distance"})
    with torch.no_grad():
        images = model.train()(torch.stack([row["pixel_values"] for row in data])).image_embeds
    expected = (images.numpy() - data.embeds).astype(np.float64)
    assert first_log(trainer)["loss_align"] == pytest.approx(np.linalg.norm(expected, axis=1).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="There is an objective 'clip' already"):
        register_objective("clip", len)


def test_an_objective_returns_a_sum(tmp_path):
    register_objective("of_each", lambda pairs, settings: pairs.image_embeds.norm(dim=-1))
    with pytest.raises(TypeError, match=r"'of_each' returned a Tensor of shape \(\d+,\): return a tensor without dim"):
        one_step(tmp_path, aligned_model("vit", TEXT_DIM), Rows(rows(ROWS)), **OPTIONS | {"align_loss": "of_each"})


# --- An architecture -------------------------------------------------------------------------------------------------

MODULES = r"^<!-- test: my_student with \w+ -->\n```python\n(.*?)^```$"
OF_TIMM, OF_TRANSFORMERS = re.findall(MODULES, PAGE, flags=re.M | re.S)
BUILD = {"id2label": ID2LABEL, "text_embed_dim": 8, "image_size": 24}
pytestmark = pytest.mark.filterwarnings("ignore:Overwriting tiny_net in registry")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module and imports it."""

    def write(text: str):
        (tmp_path / "my_student.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "my_student", raising=False)
        return importlib.import_module("my_student")

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


def test_a_model_registered_with_transformers_is_a_student(module):
    mine = module(OF_TRANSFORMERS.replace('"tiny-net"', '"tiny-net-2"'))  # registered once in a process
    model = AlignedImageClassification.from_student("tiny-net-2", **BUILD, student_args={"width": 16})
    assert own_module(model.config.student_config) == "my_student" and model.config.student_config.width == 16
    assert model.student.stem[0].weight.std() > 0.05  # not N(0, 0.02)
    # configuration and model in two files: what is imported is what registers
    mine.TinyNetForImageClassification.__module__ = "other_file"
    assert own_module(model.config.student_config) == "other_file"


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
