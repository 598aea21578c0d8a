"""The collator, whatever the batch: odd or of one row, with any number of captions, mixed or not."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from g4i_hf.data.dataset import AlignmentCollator
from g4i_hf.losses import make_pairs

SIDE = 6


@st.composite
def items(draw) -> list[dict]:
    n, k, c, dim = (draw(st.integers(1, most)) for most in (7, 3, 3, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for row in range(n):
        weights = rng.uniform(size=k) * (rng.uniform(size=k) < 0.5)
        rows.append(
            {
                "pixel_values": torch.from_numpy(rng.normal(size=(3, SIDE, SIDE)).astype(np.float32)),
                "labels": int(rng.integers(-100, 5)),
                "image_key": row,
                "caption_keys": rng.integers(-1, 5, c),
                "draw_seed": int(rng.integers(0, 2**56)),
                "text_embeds": rng.normal(size=(k, dim)).astype(np.float16),
                "text_keys": rng.integers(-1, 5, k),
                "caption_weight": (weights / k).astype(np.float32),
            }
        )
    kept, dropped = draw(st.booleans()), ("text_embeds", "text_keys", "caption_weight")
    return [{name: row[name] for name in row if kept or name not in dropped} for row in rows]


alphas = st.sampled_from([0.0, 0.01, 0.8, 50.0])


@given(items(), alphas, alphas, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_batch_is_its_rows_and_shares_add_up(rows, mixup, cutmix, prob, switch):
    batch = AlignmentCollator(mixup, cutmix, prob, switch)(rows)
    n = len(rows)
    assert {name: len(value) for name, value in batch.items()} == dict.fromkeys(batch, n)
    assert batch["labels"].tolist() == [row["labels"] for row in rows]
    if mixup == cutmix == 0:
        assert "mix_share" not in batch and torch.equal(batch["pixel_values"], plain(rows))
        return
    if n == 1:
        assert torch.equal(batch["pixel_values"], plain(rows))
        return
    share, partner = batch["mix_share"], batch["mix_partner"]
    assert ((share >= 0) & (share <= 1)).all()
    assert torch.equal(partner[partner], torch.arange(n)) and (share[partner == torch.arange(n)] == 1).all()
    own, other = plain(rows), plain(rows)[partner]
    low, high = torch.minimum(own, other) - 1e-5, torch.maximum(own, other) + 1e-5
    assert ((batch["pixel_values"] >= low) & (batch["pixel_values"] <= high)).all()
    if "text_embeds" in batch:
        # What the objectives make of it: the weights of an image's pairs are the shares of the weights of the two rows
        weights = batch["caption_weight"]
        pairs = make_pairs(torch.ones(n, 4), batch["text_embeds"], weights, [batch["image_keys"]], partner, share)
        of_rows = weights.sum(1)
        expected = share * of_rows + (1 - share) * of_rows[partner]
        torch.testing.assert_close(pairs.weights.sum(1), expected, rtol=1e-5, atol=1e-6)


def plain(rows: list[dict]) -> torch.Tensor:
    return torch.stack([row["pixel_values"] for row in rows])
