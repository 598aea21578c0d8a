"""Activation checkpointing, compilation, mixed precision and several processes change how, not what, is learned."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from students import aligned_model
from test_optimization import StopAfter, arguments, rows, trainer_of
from torch import nn
from transformers import AutoModelForImageClassification

from g4i_hf.hub import release_student
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.training import AlignmentTrainer

WORKER = Path(__file__).parent / "workers" / "two_processes.py"
CANNOT_RECOMPUTE = {"resnet", "convnext", "mobilenet_v2", "regnet"}
ALSO = ("timm-mobilenetv3", "timm-convnext", "timm-swin", "swin")
RECOMPUTED = ["timm-resnet", "timm-vit", "vit", "deit-two-heads"]
RECOMPUTED += [pytest.param(name, marks=pytest.mark.slow) for name in ALSO]
# The options' names of transformers 5.24 and, deprecated, of before
OPTIONS = ["activation_checkpointing", "gradient_checkpointing"]


# --- Activation checkpointing ----------------------------------------------------------------------------------------


def step(folder, model, **options) -> tuple[AlignmentTrainer, int]:
    """One step of a copy; its change is the negative gradient. How often the layers of the student's body ran, too."""
    model, calls = copy.deepcopy(model), []
    for module in model.student.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    options |= {"max_steps": 1, "optim": "sgd", "sgd_momentum": 0.0, "max_grad_norm": 0.0, "learning_rate": 0.5}
    trainer = AlignmentTrainer(model, arguments(folder, lr_scheduler_type="constant", **options), ROWS)
    trainer.train()
    return trainer, len(calls)


ROWS = rows(4, torch.float64)


@pytest.mark.parametrize("name", RECOMPUTED)
def test_recomputed_gradients_and_running_statistics_are_the_same(tmp_path, name):
    """Batch norms see each batch twice, but count it once."""
    torch.manual_seed(0)
    model = aligned_model(name, 12).double()
    kept, calls = step(tmp_path, model)
    recomputed, more_calls = step(tmp_path, model, **{OPTIONS[len(name) % 2]: True})
    assert more_calls > calls  # something was computed again
    loss = [trainer.state.log_history[0]["loss"] for trainer in (kept, recomputed)]
    assert loss[0] == loss[1]
    before, ours, expected = model.state_dict(), recomputed.model.state_dict(), kept.model.state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-10, atol=1e-14, msg=key)
    assert any(not torch.equal(before[key], tensor) for key, tensor in expected.items())
    counted = [tensor for key, tensor in ours.items() if key.endswith("num_batches_tracked")]
    assert all(count == 1 for count in counted)
    assert bool(counted) == (name in ("timm-resnet", "timm-mobilenetv3"))
    # without a trainer around, too: on, off, and in evaluation
    assert not recomputed.model._forward_pass.classifier_inputs
    recomputed.model.activation_checkpointing_disable()
    assert all(
        module.track_running_stats for module in recomputed.model.modules() if isinstance(module, nn.BatchNorm2d)
    )


def test_a_copy_of_a_recomputing_model_keeps_its_own_statistics():
    model = aligned_model("timm-resnet", 12)
    model.activation_checkpointing_enable()
    twin = copy.deepcopy(model).train()
    twin(torch.randn(4, 3, 48, 48)).logits.sum().backward()
    counts = {
        owner: {tensor.item() for key, tensor in owner.state_dict().items() if key.endswith("num_batches_tracked")}
        for owner in (model, twin)
    }
    assert counts == {model: {0}, twin: {1}}


@pytest.mark.parametrize("name", sorted(CANNOT_RECOMPUTE))
def test_a_student_that_cannot_recompute_is_an_error_that_names_it(tmp_path, name):
    trainer = trainer_of(tmp_path, name, activation_checkpointing=True, max_steps=1)
    with pytest.raises(ValueError, match=f"The student {name} cannot .*leave activation_checkpointing out"):
        trainer.train()


def test_options_that_timm_would_ignore_are_an_error(tmp_path):
    options = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}}
    with pytest.raises(ValueError, match="timm's vit_tiny_patch16_224 takes no activation_checkpointing_kwargs"):
        trainer_of(tmp_path, "timm-vit", max_steps=1, **options).train()
    trainer = trainer_of(tmp_path, "vit", max_steps=1, **options)
    trainer.train()
    assert [layer.gradient_checkpointing for layer in trainer.model.student.vit.layers] == [True, False]


# --- Compilation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm-resnet", "vit"])
@pytest.mark.slow
def test_a_compiled_run_learns_the_same_resumes_and_is_released(tmp_path, name):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "sgd", "ema_decay": 0.5}
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    plain = trainer_of(tmp_path / "plain", name, **options)
    plain.train()
    trainer_of(tmp_path / "run", name, [StopAfter(2)], **options | compiled).train()
    trainer = trainer_of(tmp_path / "run", name, seed_of_model=1, **options | compiled)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert type(trainer.model_wrapped).__name__ == "OptimizedModule"
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (plain, trainer)]
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-5)

    trainer.save_model()
    generic_processor(ImageSettings(48)).save_pretrained(tmp_path / "run")
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-4"):
        keys = set(load_file(folder / "model.safetensors"))
        assert keys == set(load_file(tmp_path / "plain" / "checkpoint-4" / "model.safetensors"))
        assert not any("_orig_mod" in key for key in keys)
    assert not any("_orig_mod" in key for key in load_file(tmp_path / "run" / "checkpoint-4" / "ema.safetensors"))
    student = AutoModelForImageClassification.from_pretrained(release_student(tmp_path / "run"))
    released, expected = student.state_dict(), plain.model.student.state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(released[key], tensor, rtol=1e-4, atol=1e-6, msg=key)


# --- Mixed precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm-resnet", "vit"])
def test_bfloat16_trains_and_keeps_float32_weights(tmp_path, name):
    dtypes = set()
    options = {"max_steps": 20, "learning_rate": 1e-3, "per_device_train_batch_size": 8, "save_strategy": "steps"}
    trainer = trainer_of(tmp_path, name, bf16=True, save_steps=20, ema_decay=0.5, **options)
    layer = next(module for module in trainer.model.student.modules() if isinstance(module, nn.Conv2d))
    layer.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    trainer.train()
    assert dtypes == {torch.bfloat16}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    for file in ("model.safetensors", "ema.safetensors"):
        saved = load_file(tmp_path / "checkpoint-20" / file)
        assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {torch.float32}


# --- Several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_step_the_schedule_once_and_wait_for_no_unused_parameter(tmp_path):
    """With a frozen backbone, and with the unused token of DINOv2: left to DDP, either would be an error."""
    counts = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *counts, "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", str(WORKER), str(tmp_path / "result.pt")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, found in torch.load(tmp_path / "result.pt", weights_only=True).items():
        assert found["wrapper"] == "DistributedDataParallel", name
        assert found["find_unused_parameters"] is False, name
        assert found["course"] == pytest.approx(found["expected"], rel=1e-9), name
        assert len(found["course"]) == found["steps"] == 6, name
