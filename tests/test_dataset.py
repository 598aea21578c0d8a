"""
Which rows make a batch, what an item holds, that augmentation depends on (seed, epoch, row) alone, and texts: one or
several an image.
"""

import pickle
import random

import make
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from students import aligned_model
from tiny_training import TEXT_DIM, arguments, rows

from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, Draw, DrawnRows, GlobalBatchSampler
from g4i_hf.data.texts import Embeddings
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments
from g4i_hf.training import AlignmentTrainer

ROWS, SIZE = 10, 32
CAPTIONS = ["same", "same", None, None, *(f"caption {row}" for row in range(4, ROWS))]
# Python's, NumPy's and torch's randomness are all at work here
AUGMENTATION = AugmentationArguments(image_size=SIZE, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)


def rows_with(captions: list, embeds: list) -> Dataset:
    return make.rows(len(captions), draw=lambda row: make.noise(row, 30, 40), caption=captions, text_embeds=embeds)


@pytest.fixture(scope="module")
def split() -> Dataset:
    return rows_with(CAPTIONS, [np.eye(4)[row % 4] for row in range(ROWS)])


def augmented(split: Dataset, seed: int = 0) -> CaptionedImages:
    return CaptionedImages(split, train_transform(AUGMENTATION, SIZE), seed=seed)


def pixels(split: Dataset, draws: list[Draw], seed: int = 0) -> list[torch.Tensor]:
    return [item["pixel_values"] for item in augmented(split, seed).get_draws(draws)]


def all_equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


# --- Augmentation ----------------------------------------------------------------------------------------------------


def test_a_row_is_the_same_in_any_order_of_access_and_another_epoch_seed_row_or_repeat_draws_something_else(split):
    forward = pixels(split, [Draw(row, 3) for row in range(ROWS)])
    backward = pixels(split, [Draw(row, 3) for row in reversed(range(ROWS))])[::-1]
    alone = [pixels(split, [Draw(row, 3)])[0] for row in range(ROWS)]
    images = augmented(split)
    images.set_epoch(3)
    by_index = [images[row]["pixel_values"] for row in range(ROWS)]
    assert all(all_equal(forward, other) for other in (backward, alone, by_index))
    same_image = split.select([0] * ROWS)
    first = pixels(same_image, [Draw(row, 0) for row in range(ROWS)])
    others = {
        "epoch": pixels(same_image, [Draw(row, 1) for row in range(ROWS)]),
        "seed": pixels(same_image, [Draw(row, 0) for row in range(ROWS)], seed=1),
        "row": first[1:] + first[:1],
        "repeat": pixels(same_image, [Draw(row, 0, repeat=1) for row in range(ROWS)]),
    }
    for what, found in others.items():
        assert not any(torch.equal(a, b) for a, b in zip(first, found, strict=True)), what


def random_states() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_global_random_states_neither_matter_nor_change_also_after_an_error(split):
    expected = pixels(split, [Draw(0, 0), Draw(5, 0)])
    mixed = AlignmentCollator(mixup_alpha=0.8)(augmented(split).get_draws([Draw(0, 0), Draw(5, 0)]))
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        states = random_states()
        items = augmented(split).get_draws([Draw(0, 0), Draw(5, 0)])
        assert all_equal(expected, [item["pixel_values"] for item in items])
        again = AlignmentCollator(mixup_alpha=0.8)(items)
        assert torch.equal(again["pixel_values"], mixed["pixel_values"]) and random_states() == states

        def fail(image):
            torch.rand(1), random.random()
            raise RuntimeError("no transform")

        with pytest.raises(RuntimeError, match="no transform"):
            CaptionedImages(split, fail)[0]
        assert random_states() == states


# --- Items -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [list(range(ROWS)), [7, 0, 2, 4, 1]], ids=["all rows", "selected rows"])
def test_an_item_holds_label_keys_and_embedding_of_its_own_row(split, order):
    some = split.select(order)
    items = [CaptionedImages(some, np.asarray)[row] for row in range(len(order))]
    assert [item["labels"] for item in items] == [row % 2 for row in order]
    assert len({int(item["image_key"]) for item in items}) == len(order)
    keys, captions = [item["caption_keys"].tolist() for item in items], [CAPTIONS[row] for row in order]
    assert [key == [-1] for key in keys] == [caption is None for caption in captions]
    assert (np.asarray(keys) == np.asarray(keys).T).tolist() == [[a == b for b in captions] for a in captions]
    for row, item in zip(order, items, strict=True):
        expected = np.eye(4, dtype=np.float16)[[row % 4]] * (CAPTIONS[row] is not None)
        np.testing.assert_array_equal(item["text_embeds"], expected)
        assert item["caption_weight"].tolist() == [CAPTIONS[row] is not None]


# --- Sampler ---------------------------------------------------------------------------------------------------------


def epoch_of(num_rows: int, batch_size: int, processes: int, epoch: int = 0, **kwargs) -> list[list[list[Draw]]]:
    """[step][process] -> draws"""
    batches = []
    for process in range(processes):
        options = {"num_processes": processes, "process_index": process, "seed": 3} | kwargs
        sampler = GlobalBatchSampler(num_rows, batch_size, **options)
        sampler.set_epoch(epoch)
        batches.append(list(sampler))
        assert len(batches[-1]) == len(sampler)
    return [list(step) for step in zip(*batches, strict=True)]  # as many on each, else a collective would hang


@pytest.mark.parametrize("num_rows", [1, 3, 8, 10, 13, 16, 17])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_row_is_drawn_once_an_epoch_whatever_the_tail_and_the_number_of_processes(processes, num_rows):
    steps = epoch_of(num_rows, 8 // processes, processes, epoch=1)
    joined = [[draw for batch in step for draw in batch if not draw.padding] for step in steps]
    assert sorted(draw.row for step in joined for draw in step) == list(range(num_rows))
    assert joined == [batch for (batch,) in epoch_of(num_rows, 8, 1, epoch=1)]
    for step in steps:
        sizes = [sum(not draw.padding for draw in batch) for batch in step]
        assert max(sizes) - min(sizes) <= 1  # dealt out evenly, one padding row only where there is no other
        assert [len(batch) for batch in step] == [max(size, 1) for size in sizes]
    whole = epoch_of(num_rows, 8 // processes, processes, drop_last=True)
    assert len(whole) == num_rows // 8 and all(len(batch) == 8 // processes for step in whole for batch in step)


def test_repeats_of_a_row_come_together():
    drawn = [draw.row for step in epoch_of(9, 4, 1, repeats=3) for draw in step[0]]
    assert len(drawn) == 9 and len(set(drawn)) == 3 and all(len(set(drawn[at : at + 3])) == 1 for at in (0, 3, 6))


def test_a_padding_row_counts_for_nothing(split):
    rows = DrawnRows(CaptionedImages(split, np.asarray))
    item = rows[Draw(1, 0, padding=True)]
    assert item["labels"] == -100 and item["caption_weight"] == 0 and rows[Draw(1, 0)]["labels"] == 1


@pytest.mark.parametrize("size", [32, 48, 64])
def test_batches_of_any_length_train_the_small_resnet(tmp_path, size):
    """At 32 px its last maps are single pixels, where torch's batch norm raises an error for a batch of one image."""
    data = [{**row, "pixel_values": torch.rand(3, size, size)} for row in rows(25)]
    model = aligned_model("timm-resnet", TEXT_DIM, projector_norm="batch")
    trainer = AlignmentTrainer(model, arguments(tmp_path, mixup_alpha=0.8), train_dataset=data)
    for length in (1, 2, 3, 25):
        model.zero_grad()
        trainer.compute_loss(model.train(), trainer.train_collator(data[:length])).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# --- Batches ---------------------------------------------------------------------------------------------------------

MIXUP, CUTMIX = AlignmentCollator(mixup_alpha=0.8), AlignmentCollator(cutmix_alpha=1.0)


def items(number: int, seed: int = 0) -> list[dict]:
    values = torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return [
        {"pixel_values": values[row], "labels": row, "image_key": row, "caption_keys": row, "draw_seed": seed + row}
        for row in range(number)
    ]


def plain(number: int) -> torch.Tensor:
    return AlignmentCollator()(items(number))["pixel_values"]


@pytest.mark.parametrize("number", [2, 6, 7])
def test_mixed_pixels_are_the_shares_of_the_row_and_its_partner(number):
    x = plain(number)
    batch = MIXUP(items(number))
    share = batch["mix_share"].view(-1, 1, 1, 1)
    torch.testing.assert_close(batch["pixel_values"], share * x + (1 - share) * x[batch["mix_partner"]])
    assert 0 < batch["mix_share"][0] < 1 and batch["labels"].tolist() == list(range(number))
    assert batch["image_keys"].tolist() == batch["caption_keys"].tolist() == [[row] for row in range(number)]
    for seed in range(5):
        batch = CUTMIX(items(number, seed))
        own, other = batch["pixel_values"] == x, batch["pixel_values"] == x[batch["mix_partner"]]
        assert (own | other).all()
        torch.testing.assert_close(own.float().mean(dim=(1, 2, 3)), batch["mix_share"])
    if number % 2:  # the last row of an odd batch stays as it is
        assert torch.equal(batch["pixel_values"][-1], x[-1]) and batch["mix_share"][-1] == 1
        assert batch["mix_partner"].tolist() == [5, 4, 3, 2, 1, 0, 6]
    unmixed = AlignmentCollator(mixup_alpha=0.8, cutmix_alpha=1.0, mix_prob=0.0)(items(number))
    assert torch.equal(unmixed["pixel_values"], x) and (unmixed["mix_share"] == 1).all()
    assert not torch.equal(MIXUP(items(number, 4))["pixel_values"], MIXUP(items(number, 3))["pixel_values"])


# --- Texts -----------------------------------------------------------------------------------------------------------


def numbered(keys: np.ndarray) -> list[int]:
    """Keys as 0, 1, 2, ... in order of first occurrence; -1 stays."""
    numbers = {-1: -1}
    return [numbers.setdefault(key, len(numbers) - 1) for key in keys.ravel().tolist()]


@pytest.fixture(scope="module")
def several() -> Dataset:
    """Rows with three, one, no and one captions; a caption of row 0 is that of row 1."""
    vectors = np.eye(4, dtype=np.float16)
    captions = [["one", "two", "", "three"], ["two"], None, ["four", None]]
    embeds = [vectors[:3].tolist(), vectors[1:2].tolist(), None, vectors[3:].tolist()]
    return rows_with(captions, embeds)


def captioned(split: Dataset, captions: str) -> CaptionedImages:
    return CaptionedImages(split, lambda image: torch.rand(3, 8, 8), captions=captions)


def test_all_captions_of_an_image_weigh_as_much_as_one(several):
    items = [captioned(several, "all")[row] for row in range(4)]
    weights = [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose([item["caption_weight"] for item in items], weights, rtol=1e-6)
    np.testing.assert_array_equal(items[0]["text_embeds"], np.eye(4)[:3])
    np.testing.assert_array_equal(items[3]["text_embeds"], [np.eye(4)[3], np.zeros(4), np.zeros(4)])
    keys = numbered(np.stack([item["caption_keys"] for item in items]))
    assert keys == [0, 1, 2, 1, -1, -1, *[-1] * 3, 3, -1, -1]


def test_mean_of_the_captions_is_one_text(several):
    items = [captioned(several, "mean")[row] for row in range(4)]
    np.testing.assert_allclose(items[0]["text_embeds"], [np.array([1, 1, 1, 0]) / np.sqrt(3)], atol=1e-3)
    assert [item["caption_weight"].tolist() for item in items] == [[1], [1], [0], [1]]
    assert numbered(items[0]["caption_keys"]) == [0, 1, 2]  # still no negative of row 1


def test_a_caption_is_drawn_each_time_an_image_is(several):
    images = captioned(several, "sample")
    drawn = [images.get_draws([Draw(0, epoch, repeat=repeat)])[0] for epoch in range(20) for repeat in range(3)]
    keys = drawn[0]["caption_keys"].tolist()
    texts = [item["text_embeds"].tolist() for item in drawn]
    assert len(set(keys)) == 3 and {tuple(*text) for text in texts} == set(map(tuple, np.eye(4)[:3].tolist()))
    assert all(item["caption_weight"].tolist() == [1] and item["caption_keys"].tolist() == keys for item in drawn)
    again = images.get_draws([Draw(0, 7, repeat=1)])[0]
    assert again["text_embeds"].tolist() == texts[7 * 3 + 1]
    assert torch.equal(again["pixel_values"], drawn[7 * 3 + 1]["pixel_values"])
    assert not torch.equal(again["pixel_values"], drawn[7 * 3]["pixel_values"]), "each repeat is augmented anew"


def test_mean_text_is_the_mean_over_rows(several):
    mean = captioned(several, "all").texts.mean()
    np.testing.assert_allclose(mean, (np.array([1, 1, 1, 0]) / 3 + np.eye(4)[1] + np.eye(4)[3]) / 3, atol=1e-3)


OF_ROWS = [[[1, 0, 0], [2, 0, 0]], [], [[3, 0, 0]], [], [[4, 0, 0], [5, 0, 0], [6, 0, 0]], [[7, 0, 0]], [[8, 0, 0]]]


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
@pytest.mark.parametrize("chosen", [[*range(7)], [6, 0, 3, 4]], ids=["all", "some"])
def test_embeddings_of_a_table_of_several_parts_are_those_of_its_rows(several, chosen):
    vector = List(Value("float16"), length=3)
    features = Features({"text_embeds": List(vector) if several else vector})
    column = OF_ROWS if several else [vectors[0] if vectors else None for vectors in OF_ROWS]
    parts = [{"text_embeds": column[start : start + 3]} for start in (0, 3, 6)]
    embeds = Embeddings(concatenate_datasets([Dataset.from_dict(part, features) for part in parts]).select(chosen))
    rows = [OF_ROWS[row] if several else OF_ROWS[row][:1] for row in chosen]
    expected = np.array([vector for vectors in rows for vector in vectors], dtype=np.float16)
    assert embeds.counts.tolist() == [*map(len, rows)]
    for found in (embeds, pickle.loads(pickle.dumps(embeds))):
        np.testing.assert_array_equal(found[:], expected)
        np.testing.assert_array_equal(found[::-2], expected[::-2])
