"""What holds of every objective and batch: finite, zero without captions, the same in any order of the rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g4i_hf.losses.classification import UNLABELLED, classification_loss, soft_label_loss
from g4i_hf.losses.objectives import OBJECTIVES, LogitSettings, alignment_diagnostics
from g4i_hf.losses.pairs import make_pairs

DIM, CLASSES = 4, 3
settings_of = st.builds(
    LogitSettings,
    temperature=st.sampled_from([0.005, 0.07, 1.0, 100.0]),
    bias=st.sampled_from([-20.0, 0.0, 5.0]),
)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=(*shape, DIM))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float64)


@st.composite
def batches(draw) -> dict:
    """Arguments of `make_pairs` as arrays: rows 0 to 7, texts 1 to 3, weights of which many or all are 0, any keys."""
    n, k = draw(st.integers(0, 7)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.uniform(size=(n, k)) * (rng.uniform(size=(n, k)) < draw(st.sampled_from([0.0, 0.4, 1.0]))) / k
    kinds = draw(st.sampled_from([1, 2, 100]))  # of keys: all rows alike, two kinds of them, all different
    found = {
        "image_embeds": unit(rng, n),
        "text_embeds": unit(rng, n, k) * draw(st.sampled_from([0.0, 1.0])),
        "text_weights": weights,
        "keys": [rng.integers(-1, kinds, (n, 1)), rng.integers(-1, kinds, (n, k))],
    }
    if draw(st.booleans()):
        partner = np.arange(n)
        even = n // 2 * 2
        partner[:even] = partner[:even][::-1]
        share = np.where(partner == np.arange(n), 1.0, rng.choice([0.0, 0.3, 1.0], n))
        found |= {"mix_partner": partner, "mix_share": share}
    return found


def tensors(value):
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    return [tensors(each) for each in value] if isinstance(value, (list, tuple)) else value


def pairs_of(batch: dict):
    arguments = {name: tensors(value) for name, value in batch.items()}
    arguments["image_embeds"].requires_grad_()
    return arguments["image_embeds"], make_pairs(**arguments)


def permuted(batch: dict, order: np.ndarray) -> dict:
    back = np.argsort(order)
    moved = {name: value[order] for name, value in batch.items() if isinstance(value, np.ndarray)}
    moved["keys"] = [group[order] for group in batch["keys"]]
    if "mix_partner" in batch:
        moved["mix_partner"] = back[batch["mix_partner"][order]]
    return batch | moved


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(batch=batches(), settings=settings_of)
def test_loss_and_gradient_are_finite_and_those_of_any_order(objective, batch, settings):
    image_embeds, pairs = pairs_of(batch)
    loss = OBJECTIVES[objective](pairs, settings)
    loss.backward()
    assert all(torch.isfinite(value) for value in alignment_diagnostics(pairs).values())
    assert loss.ndim == 0 and torch.isfinite(loss) and loss >= -1e-6
    assert torch.isfinite(image_embeds.grad).all()
    if not batch["text_weights"].any():
        assert loss == 0 and not image_embeds.grad.any() and pairs.num_captions == 0

    order = np.random.default_rng(0).permutation(len(batch["text_weights"]))
    moved_embeds, moved_pairs = pairs_of(permuted(batch, order))
    moved = OBJECTIVES[objective](moved_pairs, settings)
    moved.backward()
    torch.testing.assert_close(moved, loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved_embeds.grad, image_embeds.grad[order], rtol=1e-5, atol=1e-6)


@st.composite
def labelled(draw) -> dict:
    n = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, CLASSES, n)
    labels[rng.uniform(size=n) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = UNLABELLED
    scale = draw(st.sampled_from([0.0, 1.0, 1e4]))
    found = {"logits": (scale * rng.normal(size=(n, CLASSES))).astype(np.float32), "labels": labels}
    if draw(st.booleans()):
        found["mix_partner"] = np.flip(np.arange(n)).copy()
        found["mix_share"] = rng.choice([0.0, 0.25, 1.0], n).astype(np.float32)
    return found


@given(
    batch=labelled(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    kind=st.sampled_from(["cross_entropy", "bce"]),
    threshold=st.none() | st.sampled_from([0.0, 0.2]),
    weighted=st.booleans(),
)
def test_classification_is_finite_and_zero_without_labels(batch, smoothing, kind, threshold, weighted):
    arguments = {name: tensors(value) for name, value in batch.items()}
    arguments["logits"].requires_grad_()
    weights = torch.tensor([0.0, 0.5, 2.0]) if weighted else None
    more = {"kind": kind, "bce_target_threshold": threshold, "class_weights": weights}
    loss, divisor = classification_loss(**arguments, label_smoothing=smoothing, **more)
    loss.backward()
    assert torch.isfinite(loss) and loss >= 0 and torch.isfinite(arguments["logits"].grad).all()
    if "mix_share" not in batch and (batch["labels"] == UNLABELLED).all():
        assert loss == 0 and divisor == 0 and not arguments["logits"].grad.any()


@given(batch=batches(), seed=st.integers(0, 99), mixed=st.booleans())
def test_soft_labels_of_any_rows_have_a_finite_gradient(batch, seed, mixed):
    rng = np.random.default_rng(seed)
    n = len(batch["text_weights"])
    soft = tensors(rng.dirichlet(np.ones(CLASSES), n) * rng.integers(0, 2, (n, 1)))
    mixing = (tensors(rng.permutation(n)), tensors(rng.uniform(size=n))) if mixed else ()
    logits = torch.zeros(n, CLASSES, dtype=torch.float64, requires_grad=True)
    loss, rows = soft_label_loss(logits, soft, *mixing)
    loss.backward()
    assert torch.isfinite(loss) and loss >= 0 and torch.isfinite(logits.grad).all()
    assert (soft.sum(1) > 0).sum() <= rows <= n and (rows > 0) == (loss > 0)
    assert loss <= np.log(CLASSES) + 1e-12
