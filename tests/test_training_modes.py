"""Activation checkpointing, compilation and mixed precision change how, not what, is learned."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from students import aligned_model
from test_optimization import trainer_of
from tiny_training import ONE_STEP, StopAfter, rows, train
from torch import nn
from transformers import AutoModelForImageClassification

from g4i_hf.hub import release_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.training import AlignmentTrainer


def losses(trainer: AlignmentTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def step(folder, model, **options) -> tuple[AlignmentTrainer, int]:
    """One step of a copy, and how often the norms of the student ran."""
    model, calls = copy.deepcopy(model), []
    for module in model.student.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer = train(folder, model, rows(4, torch.float64), per_device_train_batch_size=4, **ONE_STEP | options)
    return trainer, len(calls)


@pytest.mark.parametrize("name", ["timm-vit", "vit", "deit-two-heads", "swin"])
def test_recomputed_gradients_are_the_same(tmp_path, name):
    torch.manual_seed(0)
    model = aligned_model(name).double()
    kept, calls = step(tmp_path, model)
    recomputed, more_calls = step(tmp_path, model, activation_checkpointing=True)
    assert more_calls > calls and losses(kept) == losses(recomputed)
    before, ours, expected = model.state_dict(), recomputed.model.state_dict(), kept.model.state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-10, atol=1e-14, msg=key)
    assert any(not torch.equal(before[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize(
    "name, message",
    [
        ("timm-resnet", "The student has batch norms.*leave activation_checkpointing out"),
        ("convnext", "ConvNextForImageClassification does not support"),
    ],
)
def test_what_a_student_cannot_recompute_is_an_error(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, name, activation_checkpointing=True, max_steps=1).train()


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_resumes_and_is_released(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "sgd", "ema_decay": 0.5}
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    plain = trainer_of(tmp_path / "plain", "vit", **options)
    plain.train()
    trainer_of(tmp_path / "run", "vit", [StopAfter(2)], **options | compiled).train()
    trainer = trainer_of(tmp_path / "run", "vit", seed_of_model=1, **options | compiled)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert type(trainer.model_wrapped).__name__ == "OptimizedModule"
    assert len(losses(plain)) == 4 and losses(trainer) == pytest.approx(losses(plain), rel=1e-5)

    trainer.save_run()
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    for file in ("model.safetensors", "checkpoint-4/model.safetensors", "checkpoint-4/ema.safetensors"):
        plain_file = tmp_path / "plain" / "checkpoint-4" / Path(file).name
        assert set(load_file(tmp_path / "run" / file)) == set(load_file(plain_file))
    student = AutoModelForImageClassification.from_pretrained(release_student(tmp_path / "run"))
    for key, tensor in plain.model.student.state_dict().items():
        torch.testing.assert_close(student.state_dict()[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
