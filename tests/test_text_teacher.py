"""An objective of one's own: recipes/text_teacher, against the formula, and by the command."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from students import aligned_model
from tiny_training import ONE_STEP, TEXT_DIM, Rows, first_log, one_step, rows
from torch import nn

sys.path.append(str(Path(__file__).parent.parent / "recipes" / "text_teacher"))

import text_teacher

from g4i_hf import register_objective

RECIPE = Path(text_teacher.__file__).parent
WEIGHT, TEMPERATURE, ROWS = 0.4, 0.7, 8
OPTIONS = {"align_loss": "text_teacher", "align_weight": WEIGHT, "align_temperature": TEMPERATURE}
OPTIONS |= {"per_device_train_batch_size": ROWS}


def test_a_step_of_the_recipe_is_that_of_the_formula(tmp_path):
    """Dot products of projected features and centred texts, neither of unit norm, in the place of cosines."""
    torch.manual_seed(1)
    data, model = Rows(rows(ROWS, torch.float64)), aligned_model("vit", TEXT_DIM, projector_type="linear").double()
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
    page = (RECIPE.parent.parent / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
    exec(re.search(r"<!-- test: my_objective -->\n```python\n(.*?)```", page, flags=re.S)[1], {})
    model, data = aligned_model("vit", TEXT_DIM), Rows(rows(ROWS))
    trainer, _ = one_step(tmp_path, model, data, **OPTIONS | {"align_loss": "distance"})
    with torch.no_grad():
        images = model.train()(torch.stack([row["pixel_values"] for row in data])).image_embeds
    expected = (images.numpy() - data.embeds).astype(np.float64)
    assert first_log(trainer)["loss_align"] == pytest.approx(np.linalg.norm(expected, axis=1).mean(), rel=1e-5)


def test_an_objective_is_called_with_pairs_and_prepared_with_model_and_data(tmp_path):
    class Mine:
        def prepare(self, model, train_dataset):
            self.prepared = model, train_dataset

        def __call__(self, pairs, settings):
            return (pairs.own_weights * settings.temperature).sum()

    mine = Mine()
    register_objective("mine", mine)
    model, data = aligned_model("vit", TEXT_DIM), Rows(rows(ROWS))
    trainer, _ = one_step(tmp_path, model, data, **OPTIONS | {"align_loss": "mine"})
    assert mine.prepared == (trainer.model, data) and first_log(trainer)["loss_align"] == pytest.approx(TEMPERATURE)
    with pytest.raises(ValueError, match="There is an objective 'clip' already"):
        register_objective("clip", mine)
