"""Soft labels from captions: known answers, what must not leak, and the trainer that learns from them."""

import numpy as np
import pytest
import torch

from g4i_hf.losses import LabelledTexts, caption_label_loss, caption_labels
from g4i_hf.training import AlignmentArguments
from g4i_hf.training.caption_teacher import CaptionTeacher

TEXTS = torch.eye(4)[:3]  # three captions at right angles
KNOWN = LabelledTexts(TEXTS, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))


def labels_of(embeds, keys, labels, weight=None, known=KNOWN, temperature=1.0):
    keys = torch.tensor(keys).reshape(len(labels), -1)
    weight = torch.ones(keys.shape) if weight is None else torch.tensor(weight).reshape(keys.shape)
    return caption_labels(
        embeds.reshape(*keys.shape, -1),
        keys,
        weight,
        torch.tensor(labels),
        known,
        num_labels=3,
        temperature=temperature,
    )


def test_soft_labels_are_the_softmax_over_captions_added_up_by_class():
    soft, weights = labels_of(TEXTS[:1], [7], [-100])  # like caption 0, but another one
    p = np.exp([1, 0, 0]) / np.exp([1, 0, 0]).sum()
    torch.testing.assert_close(soft, torch.tensor([[p[0], p[1] + p[2], 0]], dtype=torch.float32))
    assert weights.tolist() == [1]
    hard, _ = labels_of(TEXTS[:1], [7], [-100], temperature=0.01)
    torch.testing.assert_close(hard, torch.tensor([[1.0, 0, 0]]))


def test_a_labelled_image_learns_nothing_from_its_own_caption_and_an_unlabelled_one_all():
    soft, _ = labels_of(TEXTS[[1, 1]], [1, 1], [1, -100], temperature=0.01)
    torch.testing.assert_close(soft, torch.tensor([[0.5, 0.5, 0], [0, 1, 0]]))


def test_without_a_caption_or_another_to_compare_with_the_weight_is_zero():
    only = LabelledTexts(TEXTS[:1], torch.tensor([0]), torch.tensor([2]))
    soft, weights = labels_of(TEXTS[[0, 1]], [0, -1], [2, -100], weight=[1.0, 0.0], known=only)
    assert weights.tolist() == [0, 0] and soft.isfinite().all()
    logits = torch.zeros(2, 3, requires_grad=True)
    loss, rows = caption_label_loss(logits, soft, weights)
    loss.backward()
    assert (loss.item(), rows.item()) == (0, 0) and not logits.grad.any()


def test_a_labelled_image_whose_class_no_other_caption_knows_is_not_told_that_it_is_of_others():
    _, weights = labels_of(TEXTS[[0, 0, 1]], [0, 0, 1], [0, -100, 1], temperature=0.01)
    assert weights.tolist() == [0, 1, 1]  # of class 0 there is caption 0 alone; of class 1 there are two


def test_several_captions_are_averaged_by_their_weights():
    soft, weights = labels_of(TEXTS[[0, 1]], [7, 8], [-100], weight=[0.75, 0.25], temperature=0.01)
    torch.testing.assert_close(soft, torch.tensor([[0.75, 0.25, 0]]))
    assert weights.tolist() == [1]


def test_a_labelled_image_is_not_told_by_captions_of_its_own_that_were_not_drawn():
    """Captions 0 and 1 are of one image, of class 1; caption 2 of another one of that class, caption 3 of class 0."""
    embeds, keys = torch.eye(4), torch.arange(4)
    known = LabelledTexts(embeds, keys, torch.tensor([1, 1, 1, 0]), keys)
    drawn = {"text_keys": torch.tensor([[0], [0]]), "caption_weight": torch.ones(2, 1), "num_labels": 2}
    soft, weights = caption_labels(
        embeds[[1, 1]].unsqueeze(1),  # like its other caption
        **drawn,
        labels=torch.tensor([1, -100]),
        known=known,
        temperature=0.01,
        caption_keys=torch.tensor([[0, 1], [0, 1]]),
    )
    torch.testing.assert_close(soft, torch.tensor([[0.5, 0.5], [0, 1]]))  # as like to 2 as to 3; the other may know
    assert weights.tolist() == [1, 1]


def test_the_teacher_leaves_all_captions_of_a_labelled_image_out():
    texts = bank(3, [0, 0, 1])
    inputs = {
        "labels": torch.tensor([0]),
        "text_embeds": torch.from_numpy(texts["embeds"][[0]]).unsqueeze(1),
        "text_keys": torch.tensor([[0]]),
        "caption_weight": torch.ones(1, 1),
    }
    for captions, expected in (([[0, -1]], 1), ([[0, 1]], 0)):
        keys = {"caption_keys": torch.tensor(captions)}
        _, rows, _ = teacher(texts)(torch.zeros(1, 3, requires_grad=True), inputs | keys)
        assert rows == expected  # with both its captions left out, no other knows its class
    # Means of several captions are others where they share but one of them
    texts["caption_keys"] = np.asarray([[0, 5], [1, 5], [2, 6]])
    _, rows, _ = teacher(texts)(
        torch.zeros(1, 3, requires_grad=True), inputs | {"caption_keys": torch.tensor([[0, 5]])}
    )
    assert rows == 1


def test_the_loss_is_the_cross_entropy_of_the_rows_that_have_a_weight():
    logits, soft = torch.randn(3, 3), torch.tensor([[0.2, 0.8, 0], [1, 0, 0], [0, 0, 1]])
    loss, rows = caption_label_loss(logits, soft, torch.tensor([1.0, 0.0, 0.5]))
    each = -(soft * logits.log_softmax(1)).sum(1)
    assert rows == 2 and loss.item() == pytest.approx(((each[0] + 0.5 * each[2]) / 2).item())


def test_a_mixed_image_has_the_soft_labels_of_both():
    logits, soft = torch.randn(2, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    partner, share = torch.tensor([1, 0]), torch.tensor([0.7, 0.7])
    mixed, _ = caption_label_loss(logits, soft, torch.ones(2), partner, share)
    expected, _ = caption_label_loss(logits, torch.tensor([[0.7, 0.3, 0], [0.3, 0.7, 0]]), torch.ones(2))
    torch.testing.assert_close(mixed, expected)


def test_mixed_with_an_image_that_has_no_caption_only_its_own_share_counts():
    logits, soft = torch.randn(2, 3), torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    partner, share = torch.tensor([1, 0]), torch.tensor([0.6, 0.6])
    loss, rows = caption_label_loss(logits, soft, torch.tensor([1.0, 0.0]), partner, share)
    each = -logits.log_softmax(1)[:, 0]
    assert rows == 2 and loss.item() == pytest.approx(((0.6 * each[0] + 0.4 * each[1]) / 2).item(), rel=1e-5)


# --- The teacher -----------------------------------------------------------------------------------------------------


def bank(number: int, labels) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(number, 8))
    embeds = (embeds / np.linalg.norm(embeds, axis=1, keepdims=True)).astype(np.float16)
    keys = np.arange(number)
    return {"embeds": embeds, "text_keys": keys, "labels": np.asarray(labels), "caption_keys": keys[:, None]}


def teacher(texts, size=100, seed=0) -> CaptionTeacher:
    return CaptionTeacher(texts, num_labels=3, temperature=0.1, size=size, seed=seed)


def test_captions_without_a_label_teach_nothing():
    assert teacher(bank(4, [-100, 0, 1, -100])).known.text_keys.tolist() == [1, 2]
    with pytest.raises(ValueError, match="no labelled image of the training split has a caption"):
        teacher(bank(2, [-100, -100]))


def test_of_many_captions_a_sample_is_taken_that_the_seed_decides():
    texts = bank(50, [0] * 50)
    chosen = [teacher(texts, size=10, seed=seed).known.text_keys.tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and len(set(chosen[0])) == 10


def test_it_tells_how_often_captions_know_the_class():
    texts = bank(3, [0, 0, 1])
    inputs = {
        "labels": torch.tensor([0, 1, -100]),
        "text_embeds": torch.from_numpy(texts["embeds"][[0, 0, 2]]).unsqueeze(1),  # as of another image, keys differ
        "text_keys": torch.tensor([[7], [8], [9]]),
        "caption_weight": torch.ones(3, 1),
    }
    logits = torch.zeros(3, 3, requires_grad=True)
    loss, rows, terms = teacher(texts)(logits, inputs)
    assert [term.item() for term in terms["teacher_accuracy"]] == [1, 2] and rows == 3
    loss.backward()
    assert logits.grad[2].argmin() == 1  # the unlabelled image is drawn to the class of its caption


def test_binary_cross_entropy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="teacher_weight needs classification_loss: cross_entropy"):
        AlignmentArguments(output_dir=str(tmp_path), teacher_weight=1, classification_loss="bce")
