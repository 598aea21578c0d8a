"""Objectives, classification loss and diagnostics against plain NumPy formulas; what weights and masks must do."""

import numpy as np
import pytest
import reference
import torch

from g4i_hf.losses import OBJECTIVES, alignment_diagnostics, classification_loss, make_pairs

TEMPERATURE = 0.3
CASES = {
    "plain": (),
    "weights": ("weights",),
    "null captions": ("nulls",),
    "same images": ("images",),
    "same captions": ("captions",),
    "mixed": ("mixed",),
    "mixed, a partner without caption": ("mixed", "nulls"),
    "mixed, same captions": ("mixed", "captions"),
    "mixed, a picture shown elsewhere without caption": ("mixed", "nulls", "images"),
    "all combined": ("weights", "nulls", "images", "captions", "mixed"),
}


def random_batch(case: str, seed: int, n: int = 9) -> reference.Batch:
    rng = np.random.default_rng(seed)
    what = CASES[case]
    embeds = rng.normal(size=(2, n, 5))
    image_embeds, text_embeds = embeds / np.linalg.norm(embeds, axis=-1, keepdims=True)
    weights = rng.uniform(0.1, 1.0, n) if "weights" in what else np.ones(n)
    if "nulls" in what:
        weights[rng.permutation(n)[: n // 3]] = 0.0
        text_embeds[weights == 0] = 0.0
    image_keys = rng.integers(0, n // 2, n) if "images" in what else np.arange(n)
    caption_keys = rng.integers(0, n // 2, n) if "captions" in what else np.arange(n)
    batch = reference.Batch(image_embeds, text_embeds, weights, np.stack([image_keys, caption_keys], axis=1))
    if "mixed" in what:
        pair = rng.permutation(n)  # of an odd batch one row stays as it is
        batch.partner, batch.share = np.arange(n), np.ones(n)
        for a, b in zip(pair[: n // 2], pair[n // 2 : n // 2 * 2], strict=True):
            batch.partner[[a, b]] = b, a
        others = batch.partner != np.arange(n)
        batch.share[others] = rng.uniform(0.0, 1.0, others.sum()).round(1)  # whole numbers among them
    return batch


def pairs_of(batch: reference.Batch, image_embeds: torch.Tensor | None = None, weights: np.ndarray | None = None):
    return make_pairs(
        torch.from_numpy(batch.image_embeds) if image_embeds is None else image_embeds,
        torch.from_numpy(batch.text_embeds),
        torch.from_numpy(batch.weights if weights is None else weights),
        torch.from_numpy(batch.keys),
        None if batch.partner is None else torch.from_numpy(batch.partner),
        None if batch.share is None else torch.from_numpy(batch.share),
    )


def total(objective: str, batch: reference.Batch, weights: np.ndarray | None = None) -> float:
    return OBJECTIVES[objective](pairs_of(batch, weights=weights), TEMPERATURE).item()


def batch_with_keys(keys: list[list[int]]) -> reference.Batch:
    batch = random_batch("plain", seed=3, n=len(keys))
    batch.keys = np.array(keys)
    return batch


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_equals_the_formula(objective, case, seed):
    batch = random_batch(case, seed)
    expected = reference.OBJECTIVES[objective](batch, TEMPERATURE)
    assert total(objective, batch) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_equals_the_formulas_slope(objective):
    batch = random_batch("all combined", seed=5)
    image_embeds = torch.from_numpy(batch.image_embeds.copy()).requires_grad_()
    OBJECTIVES[objective](pairs_of(batch, image_embeds), TEMPERATURE).backward()
    for index in np.ndindex(*batch.image_embeds.shape):
        sides = []
        for step in (1e-5, -1e-5):
            moved = reference.Batch(**{k: v for k, v in vars(batch).items() if k != "rows"})
            moved.image_embeds = batch.image_embeds.copy()
            moved.image_embeds[index] += step
            sides.append(reference.OBJECTIVES[objective](moved, TEMPERATURE))
        assert image_embeds.grad[index].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_divisor_is_the_number_of_rows_with_a_caption(case):
    batch = random_batch(case, seed=1)
    assert pairs_of(batch).num_captions.item() == batch.num_captions


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("case", ["plain", "mixed"])
def test_batch_without_any_caption_has_zero_loss_and_zero_gradient(objective, case):
    batch = random_batch(case, seed=0)
    image_embeds = torch.from_numpy(batch.image_embeds).requires_grad_()
    pairs = pairs_of(batch, image_embeds, weights=np.zeros_like(batch.weights))
    loss = OBJECTIVES[objective](pairs, TEMPERATURE)
    loss.backward()
    assert loss.item() == 0 and pairs.num_captions.item() == 0
    assert torch.equal(image_embeds.grad, torch.zeros_like(image_embeds))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("keys", [[[0, 0], [1, 0], [2, 0]], [[0, 0], [0, 1], [0, 2]], [[0, 0], [0, 1], [1, 0]]])
def test_first_row_is_no_negative_of_rows_with_its_image_or_caption(objective, keys):
    """Nothing pulls the first image from, nor pushes it to, texts other than its own: its gradient is as if alone."""
    batch, alone = batch_with_keys(keys), batch_with_keys(keys[:1])
    alone.image_embeds, alone.text_embeds = batch.image_embeds[:1], batch.text_embeds[:1]
    gradients = []
    for rows in (batch, alone):
        image_embeds = torch.from_numpy(rows.image_embeds).requires_grad_()
        OBJECTIVES[objective](pairs_of(rows, image_embeds), TEMPERATURE).backward()
        gradients.append(image_embeds.grad[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_half_the_weight_halves_the_loss_of_that_row_only(objective):
    batch = random_batch("plain", seed=2)
    whole = total(objective, batch)
    shares = []
    for row in batch.rows:
        weights = batch.weights.copy()
        weights[row] /= 2
        shares.append(whole - total(objective, batch, weights))
        weights[row] /= 2
        assert whole - total(objective, batch, weights) == pytest.approx(1.5 * shares[-1], rel=1e-9)
    assert 2 * sum(shares) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_doubtful_row_alone_does_not_get_full_weight(objective):
    batch = random_batch("plain", seed=2)
    only_first = np.where(np.arange(len(batch.weights)) == 0, 1.0, 0.0)
    for scale in (0.5, 0.01):
        pairs = pairs_of(batch, weights=np.full(len(batch.weights), scale))
        loss = OBJECTIVES[objective](pairs, TEMPERATURE) / pairs.num_captions
        assert loss.item() == pytest.approx(scale * total(objective, batch) / len(batch.weights), rel=1e-12)
        assert total(objective, batch, only_first * scale) == pytest.approx(
            scale * total(objective, batch, only_first), rel=1e-12
        )
        assert pairs_of(batch, weights=only_first * scale).num_captions.item() == 1


@pytest.mark.parametrize("case", CASES)
def test_diagnostics_equal_the_formulas(case):
    batch = random_batch(case, seed=4)
    sums = alignment_diagnostics(pairs_of(batch))
    count = sum(batch.takes_part(image) for image in batch.rows)
    actual = {name: value.item() / count for name, value in sums.items()}
    assert actual == pytest.approx(reference.diagnostics(batch), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("unlabelled", [[], [0, 4], list(range(7))])
def test_classification_loss_equals_the_formula(smoothing, mixed, unlabelled):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    labels[unlabelled] = -100
    partner, share = np.array([5, 4, 3, 2, 1, 0, 6]), np.array([*rng.uniform(size=6), 1.0])
    mix = {"partner": partner, "share": share} if mixed else {}
    loss, num_labelled = classification_loss(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        smoothing,
        **{f"mix_{name}": torch.from_numpy(value) for name, value in mix.items()},
    )
    assert num_labelled.item() == 7 - len(unlabelled)
    assert loss.item() == pytest.approx(reference.classification(logits, labels, smoothing, **mix), rel=1e-12)


def test_classification_loss_without_labels_is_zero_with_gradient():
    logits = torch.randn(3, 5, requires_grad=True)
    loss, _ = classification_loss(logits, torch.full((3,), -100))
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros(3, 5))
