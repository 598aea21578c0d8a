"""Mixing in the collator: what the batch says about it is what happened to the pixels."""

import random

import numpy as np
import pytest
import torch

from g4i_hf.data.dataset import AlignmentCollator

MIXUP, CUTMIX = AlignmentCollator(mixup_alpha=0.8), AlignmentCollator(cutmix_alpha=1.0)


def items(n: int, draw_seed: int | None = 0) -> list[dict]:
    pixels = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = [{"pixel_values": pixels[i], "labels": i, "image_key": i, "caption_keys": i} for i in range(n)]
    return rows if draw_seed is None else [row | {"draw_seed": draw_seed + i} for i, row in enumerate(rows)]


def plain(n: int) -> torch.Tensor:
    return AlignmentCollator()(items(n))["pixel_values"]


@pytest.mark.parametrize("n", [2, 6, 7])
def test_mixup_pixels_are_the_shares_of_the_row_and_its_partner(n):
    batch, x = MIXUP(items(n)), plain(n)
    share = batch["mix_share"].view(-1, 1, 1, 1)
    torch.testing.assert_close(batch["pixel_values"], share * x + (1 - share) * x[batch["mix_partner"]])
    assert 0 < batch["mix_share"][0] < 1


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("seed", range(5))
def test_cutmix_share_is_the_part_of_the_picture_left(n, seed):
    batch, x = CUTMIX(items(n, seed)), plain(n)
    own, other = batch["pixel_values"] == x, batch["pixel_values"] == x[batch["mix_partner"]]
    assert (own | other).all()
    torch.testing.assert_close(own.float().mean(dim=(1, 2, 3)), batch["mix_share"])


@pytest.mark.parametrize("collator", [MIXUP, CUTMIX])
@pytest.mark.parametrize("n", [1, 7])
def test_last_row_of_an_odd_batch_stays_as_it_is(collator, n):
    batch = collator(items(n))
    assert torch.equal(batch["pixel_values"][-1], plain(n)[-1])
    if n > 1:
        assert batch["mix_share"][-1] == 1 and batch["mix_partner"].tolist() == [5, 4, 3, 2, 1, 0, 6]


def test_labels_and_keys_stay_those_of_the_row():
    batch = MIXUP(items(6))
    assert batch["labels"].tolist() == list(range(6)) and batch["image_keys"].tolist() == batch[
        "caption_keys"
    ].tolist() == [[i] for i in range(6)]


def test_batch_is_not_mixed_with_probability_zero():
    batch = AlignmentCollator(mixup_alpha=0.8, cutmix_alpha=1.0, mix_prob=0.0)(items(6))
    assert torch.equal(batch["pixel_values"], plain(6)) and (batch["mix_share"] == 1).all()


@pytest.mark.parametrize("collator", [MIXUP, CUTMIX])
def test_mixing_depends_on_the_draw_seed_alone_and_leaves_the_random_state(collator):
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = collator(items(6, draw_seed=3))
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    np.random.seed(2)
    again, other = collator(items(6, draw_seed=3)), collator(items(6, draw_seed=4))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert torch.equal(first["mix_share"], again["mix_share"])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_several_captions_of_an_image_are_stacked_as_the_texts_of_its_row():
    rows = [row | {"caption_keys": np.array([3, -1, 4])} for row in items(4)]
    texts = {"text_embeds": np.ones((2, 5), np.float16), "caption_weight": np.array([0.5, 0.25]), "text_keys": [7, 8]}
    batch = AlignmentCollator()([row | texts for row in rows])
    assert batch["text_embeds"].shape == (4, 2, 5) and batch["text_embeds"].dtype == torch.float16
    doubles = AlignmentCollator()([row | texts | {"text_embeds": np.ones((2, 5))} for row in rows])
    assert doubles["text_embeds"].dtype == torch.float32
    assert batch["caption_weight"].tolist() == [[0.5, 0.25]] * 4 and batch["text_keys"].tolist() == [[7, 8]] * 4
    assert batch["caption_keys"].tolist() == [[3, -1, 4]] * 4
