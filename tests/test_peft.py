"""Models of `get_peft_model`, as peft makes them, in `AlignmentTrainer`: trained, saved whole, resumed."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from students import aligned_model
from tiny_training import TEXT_DIM, StopAfter, arguments, rows, same, train
from transformers import AutoModelForImageClassification

from g4i_hf import AlignedImageClassification, AlignmentTrainer
from g4i_hf.hub import release_student

QUERIES = ["q_proj", "v_proj"]
KINDS = {
    "adapters": {"target_modules": QUERIES},
    "classifier": {"target_modules": QUERIES, "modules_to_save": ["classifier"]},
    "both heads": {"target_modules": QUERIES, "modules_to_save": ["classifier", "projector"]},
    "all linear": {"target_modules": "all-linear", "use_dora": True},
}
STEPS = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.02, "seed": 3}


def adapted(**lora):
    torch.manual_seed(1)
    return get_peft_model(aligned_model("vit", TEXT_DIM), LoraConfig(r=2, init_lora_weights=False, **lora))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.stack([row["pixel_values"] for row in rows(4)])).logits


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_the_merged_model(tmp_path, kind):
    """By `save_student` and, of the run, by a release; loaded without peft. All that should learn has learned."""
    model = adapted(**KINDS[kind])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = train(tmp_path / "run", model, rows(), align_weight=0.5, **STEPS)
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learns = ("lora_", "projector", *(["classifier.modules_to_save"] if kind in ("classifier", "both heads") else []))
    assert moved and all(any(part in name for name in moved) for part in learns)
    assert not any("base_layer" in name for name in moved)
    assert "loss_align" in trainer.state.log_history[0]

    expected = logits(copy.deepcopy(model).merge_and_unload())
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    trainer.save_student(tmp_path / "student")
    trainer.save_run()
    release_student(tmp_path / "run", tmp_path / "release")
    for folder in (tmp_path / "student", tmp_path / "release"):
        assert torch.equal(logits(AutoModelForImageClassification.from_pretrained(folder)), expected)
    aligned = AlignedImageClassification.from_pretrained(tmp_path / "release" / "aligned")
    assert torch.equal(logits(aligned), expected)
    assert not any("lora" in name for name in aligned.state_dict())


def test_a_resumed_training_is_that_without_an_interruption(tmp_path):
    options = STEPS | {"save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path / "whole", adapted(**KINDS["classifier"]), rows(), **options)
    train(tmp_path / "run", adapted(**KINDS["classifier"]), rows(), callbacks=[StopAfter(2)], **options)
    resumed = AlignmentTrainer(adapted(**KINDS["classifier"]), arguments(tmp_path / "run", **options), rows())
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4 and same(resumed.model.state_dict(), whole.model.state_dict())


def test_the_best_checkpoint_is_loaded_again(tmp_path):
    model, data = adapted(**KINDS["adapters"]), rows()
    options = STEPS | {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    args = arguments(tmp_path, load_best_model_at_end=True, save_total_limit=9, **options)
    trainer = AlignmentTrainer(model, args, train_dataset=data, eval_dataset=data)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 4
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize("option", [{"ema_decay": 0.9}, {"freeze_backbone": True}])
def test_what_does_not_go_with_adapters_is_told(tmp_path, option):
    with pytest.raises(ValueError, match=f"{[*option][0]}.*peft|peft.*{[*option][0]}"):
        train(tmp_path, adapted(**KINDS["adapters"]), rows(), **STEPS, **option)
