"""Objectives, classification losses and diagnostics equal plain NumPy formulas (reference.py)."""

import numpy as np
import pytest
import reference
import torch
from make import unit

from g4i_hf.losses.classification import classification_loss, soft_label_loss
from g4i_hf.losses.objectives import OBJECTIVES, LogitSettings, alignment_diagnostics
from g4i_hf.losses.pairs import make_pairs

SETTINGS = reference.Settings()
CASES = {
    "plain": (),
    "weights": ("weights",),
    "null captions": ("nulls",),
    "same images": ("images",),
    "same captions": ("captions",),
    "same classes": ("classes",),
    "nothing masked": ("images", "captions", "no mask"),
    "mixed": ("mixed",),
    "mixed, a partner without caption": ("mixed", "nulls"),
    "mixed, a picture shown elsewhere without caption": ("mixed", "nulls", "images"),
    "several captions, some fewer": ("several", "fewer"),
    "several captions, mixed": ("several", "fewer", "mixed", "captions"),
    "all combined": ("weights", "nulls", "images", "captions", "classes", "mixed", "several", "fewer"),
}


def random_batch(case: str, seed: int, n: int = 8) -> reference.Batch:
    rng = np.random.default_rng(seed)
    what = CASES[case]
    k = 3 if "several" in what else 1
    image_embeds, text_embeds = unit(rng.normal(size=(n, 5))), unit(rng.normal(size=(n, k, 5)))
    weights = rng.uniform(0.1, 1.0, (n, k)) if "weights" in what else np.full((n, k), 1.0 / k)
    if "fewer" in what:
        weights[rng.uniform(size=(n, k)) < 0.3] = 0.0
    if "nulls" in what:
        weights[rng.permutation(n)[: n // 3]] = 0.0
    text_embeds[weights == 0] = 0.0
    image_keys = rng.integers(0, max(n // 2, 1), (n, 1)) if "images" in what else np.arange(n)[:, None]
    caption_keys = rng.integers(0, max(n, 1), (n, k)) if "captions" in what else np.arange(n * k).reshape(n, k)
    keys = [image_keys, np.where(weights > 0, caption_keys, -1)]
    if "classes" in what:
        keys.append(rng.integers(-1, 3, (n, 1)))
    batch = reference.Batch(image_embeds, text_embeds, weights, [] if "no mask" in what else keys)
    if "mixed" in what:
        pair = rng.permutation(n)  # of an odd batch one row stays as it is
        batch.partner, batch.share = np.arange(n), np.ones(n)
        for a, b in zip(pair[: n // 2], pair[n // 2 : n // 2 * 2], strict=True):
            batch.partner[[a, b]] = b, a
        others = batch.partner != np.arange(n)
        batch.share[others] = rng.uniform(0.0, 1.0, others.sum()).round(1)  # whole numbers among them
    return batch


def tensor(values: np.ndarray | None) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values)


def pairs_of(batch: reference.Batch, image_embeds: torch.Tensor | None = None):
    images = tensor(batch.image_embeds) if image_embeds is None else image_embeds
    texts, mix = (batch.text_embeds, batch.weights), (batch.partner, batch.share)
    return make_pairs(images, *map(tensor, texts), list(map(tensor, batch.keys)), *map(tensor, mix))


def loss_of(objective: str, pairs, settings: reference.Settings = SETTINGS) -> torch.Tensor:
    return OBJECTIVES[objective](pairs, LogitSettings(**vars(settings)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_equals_the_formula(objective, case):
    batch = random_batch(case, seed=0)
    expected = reference.OBJECTIVES[objective](batch, SETTINGS)
    assert loss_of(objective, pairs_of(batch)).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_diagnostics_and_divisor_equal_the_formulas(case):
    batch = random_batch(case, seed=4)
    pairs = pairs_of(batch)
    assert pairs.num_captioned_rows.item() == batch.num_captioned_rows
    count = sum(batch.takes_part(image) for image in batch.rows)
    found = {name: value.item() / count for name, value in alignment_diagnostics(pairs).items()}
    assert found == pytest.approx(reference.diagnostics(batch), rel=1e-12)


@pytest.mark.parametrize("case", ["plain", "no caption", "all combined"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_are_finite(objective, case):
    """For any number of rows, at any temperature."""
    for n, temperature, bias in ((0, 1.0, 0.0), (1, 0.005, 5.0), (2, 100.0, 0.0), (7, 0.005, -20.0)):
        batch = random_batch("plain" if case == "no caption" else case, seed=n, n=n)
        batch.weights *= case != "no caption"
        image_embeds = tensor(batch.image_embeds.copy()).requires_grad_()
        pairs = pairs_of(batch, image_embeds)
        loss = loss_of(objective, pairs, reference.Settings(temperature, bias))
        loss.backward()
        assert all(map(torch.isfinite, alignment_diagnostics(pairs).values()))
        assert torch.isfinite(loss) and loss >= -1e-6 and torch.isfinite(image_embeds.grad).all()
        assert batch.num_captioned_rows or (loss == 0 and not image_embeds.grad.any())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_order_of_rows_changes_no_loss(objective, case):
    batch, order = random_batch(case, seed=1), np.random.default_rng(0).permutation(8)
    moved = {name: getattr(batch, name)[order] for name in ("image_embeds", "text_embeds", "weights")}
    moved = reference.Batch(**moved, keys=[group[order] for group in batch.keys])
    if batch.partner is not None:
        moved.partner, moved.share = np.argsort(order)[batch.partner[order]], batch.share[order]
    expected = loss_of(objective, pairs_of(batch))
    assert loss_of(objective, pairs_of(moved)).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("unlabelled", [[0, 4], list(range(7))], ids=["some unlabelled", "all unlabelled"])
@pytest.mark.parametrize("kind, threshold", [("cross_entropy", None), ("bce", None), ("bce", 0.3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_classification_loss_equals_the_formula(smoothing, mixed, unlabelled, kind, threshold, weighted):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    labels[unlabelled] = -100
    partner, share = np.array([5, 4, 3, 2, 1, 0, 6]), np.array([*rng.uniform(size=6), 1.0])
    mix = {"partner": partner, "share": share} if mixed else {}
    class_weights = rng.uniform(0.1, 0.5, 5) if weighted else None
    loss, divisor = classification_loss(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        smoothing,
        **{f"mix_{name}": torch.from_numpy(value) for name, value in mix.items()},
        kind=kind,
        bce_target_threshold=threshold,
        class_weights=tensor(class_weights),
    )
    labelled = labels[labels >= 0]
    assert divisor.item() == pytest.approx(class_weights[labelled].sum() if weighted else len(labelled))
    options = {"kind": kind, "threshold": threshold, "class_weights": class_weights}
    expected = reference.classification(logits, labels, smoothing, **mix, **options)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind, threshold", [("cross_entropy", None), ("bce", None), ("bce", 0.3)])
@pytest.mark.parametrize("n", [0, 6])
def test_losses_of_classes_are_finite_for_any_logits_and_zero_without_rows(kind, threshold, n):
    rng = np.random.default_rng(0)
    logits = tensor(1e4 * rng.normal(size=(n, 3))).float().requires_grad_()
    weights, options = torch.tensor([0.0, 0.5, 2.0]), {"kind": kind, "bce_target_threshold": threshold}
    loss, _ = classification_loss(logits, torch.arange(n) % 3, 1.0, class_weights=weights, **options)
    soft, rows = soft_label_loss(logits, tensor(rng.dirichlet(np.ones(3), n)))
    (loss + soft).backward()
    assert torch.isfinite(loss + soft) and torch.isfinite(logits.grad).all() and rows == n
    assert (loss > 0) == (soft > 0) == (n > 0)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("without", [(), (1, 4), (0, 1, 2, 3, 4)])
def test_soft_label_loss_equals_the_formula(mixed, without):
    """Row 4 is mixed with row 0, which decides whether it counts where it has no soft labels itself."""
    rng = np.random.default_rng(0)
    logits, soft = rng.normal(size=(5, 3)), rng.dirichlet(np.ones(3), size=5)
    soft[list(without)] = 0
    partner, share = np.asarray([1, 2, 0, 4, 0]), np.asarray([0.7, 0.5, 1.0, 0.25, 0.6])
    expected = share[:, None] * soft + (1 - share[:, None]) * soft[partner] if mixed else soft
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    counted = expected.sum(1) > 0
    mean = -(expected * log_softmax).sum() / max(counted.sum(), 1)
    logits = torch.from_numpy(logits).requires_grad_()
    mixing = (torch.from_numpy(partner), torch.from_numpy(share)) if mixed else ()
    loss, rows = soft_label_loss(logits, torch.from_numpy(soft), *mixing)
    loss.backward()
    assert loss.item() == pytest.approx(mean) and rows == counted.sum()
    # Of softmax and cross entropy: probabilities times the mass of the labels, less the labels
    gradient = np.exp(log_softmax) * expected.sum(1, keepdims=True) - expected
    np.testing.assert_allclose(logits.grad, gradient / max(counted.sum(), 1), atol=1e-12)
