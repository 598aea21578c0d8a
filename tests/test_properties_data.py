"""
Captions joined to images by ids of any Unicode, in any order, with some missing, left over or twice; and the collator,
whatever the batch: odd or of one row, with any number of captions, mixed or not.
"""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from hypothesis import given
from hypothesis import strategies as st

from g4i_hf.data.dataset import AlignmentCollator
from g4i_hf.data.joining import join_captions
from g4i_hf.losses.pairs import make_pairs

# All that a string of Arrow can hold: no halves of characters
ids_of = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True, min_size=1, max_size=6)
FEATURES = Features({"image": Image(decode=False), "image_id": Value("string")})


def images_of(ids: list[str]) -> DatasetDict:
    content = [{"bytes": f"{row}".encode(), "path": None} for row in range(len(ids))]
    return DatasetDict(train=Dataset.from_dict({"image": content, "image_id": ids}, features=FEATURES))


def captions_of(ids: list[str]) -> Dataset:
    return Dataset.from_dict({"image_id": ids, "caption": [f"of {image_id}" for image_id in ids]})


@given(ids_of, ids_of, st.randoms(use_true_random=False))
def test_every_image_gets_its_own_caption_or_none(ids, others, random):
    known = [image_id for image_id in ids if random.random() < 0.7]
    theirs = list(dict.fromkeys(known + others))
    random.shuffle(theirs)
    captions = {"train": captions_of(theirs)}
    if not set(ids) & set(theirs):
        with pytest.raises(ValueError, match="no image_id there is one of the images"):
            join_captions(images_of(ids), captions, "captions")
        return
    joined = join_captions(images_of(ids), captions, "captions")["train"]
    assert joined["image_id"][:] == ids
    assert [image["bytes"] for image in joined["image"]] == [f"{row}".encode() for row in range(len(ids))]
    assert joined["caption"][:] == [f"of {image_id}" if image_id in theirs else None for image_id in ids]


# --- Batches ---------------------------------------------------------------------------------------------------------


@st.composite
def items(draw) -> list[dict]:
    n, k, c, dim = (draw(st.integers(1, most)) for most in (7, 3, 3, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for row in range(n):
        weights = rng.uniform(size=k) * (rng.uniform(size=k) < 0.5)
        rows.append(
            {
                "pixel_values": torch.from_numpy(rng.normal(size=(3, 6, 6)).astype(np.float32)),
                "labels": int(rng.integers(-100, 5)),
                "image_key": row,
                "caption_keys": rng.integers(-1, 5, c),
                "draw_seed": int(rng.integers(0, 2**56)),
                "text_embeds": rng.normal(size=(k, dim)).astype(np.float16),
                "caption_weight": (weights / k).astype(np.float32),
            }
        )
    dropped = () if draw(st.booleans()) else ("text_embeds", "caption_weight")
    return [{name: value for name, value in row.items() if name not in dropped} for row in rows]


alphas, shares = st.sampled_from([0.0, 0.01, 0.8, 50.0]), st.sampled_from([0.0, 0.5, 1.0])


@given(items(), alphas, alphas, shares, shares)
def test_a_batch_is_its_rows_and_shares_add_up(rows, mixup, cutmix, prob, switch):
    batch, n = AlignmentCollator(mixup, cutmix, prob, switch)(rows), len(rows)
    own = torch.stack([row["pixel_values"] for row in rows])
    assert {name: len(value) for name, value in batch.items()} == dict.fromkeys(batch, n)
    assert batch["labels"].tolist() == [row["labels"] for row in rows]
    if mixup == cutmix == 0 or n == 1:
        assert torch.equal(batch["pixel_values"], own) and (n == 1 or "mix_share" not in batch)
        return
    share, partner = batch["mix_share"], batch["mix_partner"]
    assert ((share >= 0) & (share <= 1)).all()
    assert torch.equal(partner[partner], torch.arange(n)) and (share[partner == torch.arange(n)] == 1).all()
    low, high = torch.minimum(own, own[partner]) - 1e-5, torch.maximum(own, own[partner]) + 1e-5
    assert ((batch["pixel_values"] >= low) & (batch["pixel_values"] <= high)).all()
    if "text_embeds" in batch:
        # What the objectives make of it: the weights of an image's pairs are the shares of the weights of the two rows
        weights = batch["caption_weight"]
        pairs = make_pairs(torch.ones(n, 4), batch["text_embeds"], weights, [batch["image_keys"]], partner, share)
        expected = share * weights.sum(1) + (1 - share) * weights.sum(1)[partner]
        torch.testing.assert_close(pairs.weights.sum(1), expected, rtol=1e-5, atol=1e-6)
