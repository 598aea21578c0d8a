"""Which rows make a batch, and that a row's augmentation depends on (seed, epoch, row) and nothing else."""

import random

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, Draw, DrawnRows, GlobalBatchSampler, finish_batch
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments

ROWS, SIZE = 10, 32
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
# Python's, NumPy's and torch's randomness are all at work here
AUGMENTATION = AugmentationArguments(image_size=SIZE, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    features = Features(
        {
            "image": Image(decode=False),
            "label": ClassLabel(names=["a", "b"]),
            "image_id": Value("string"),
            "caption": Value("string"),
            "text_embeds": List(Value("float16"), length=4),
        }
    )
    images = [PILImage.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)) for _ in range(ROWS)]
    rows = {
        "image": [Image().encode_example(image) for image in images],
        "label": [row % 2 for row in range(ROWS)],
        "image_id": [f"id-{row}" for row in range(ROWS)],
        "caption": ["same", "same", None, None, *(f"caption {row}" for row in range(4, ROWS))],
        "text_embeds": [np.eye(4)[row % 4] for row in range(ROWS)],
    }
    return Dataset.from_dict(rows, features=features)


def augmented(split, seed: int = 0) -> CaptionedImages:
    return CaptionedImages(split, train_transform(AUGMENTATION, SIZE, MEAN, STD), seed=seed)


def pixels(split, draws: list[Draw], seed: int = 0) -> list[torch.Tensor]:
    return [item["pixel_values"] for item in augmented(split, seed).get_draws(draws)]


# --- Augmentation ---------------------------------------------------------------------------------------------------


def test_a_row_is_the_same_in_any_order_of_access_and_beside_any_others(split):
    forward = pixels(split, [Draw(row, 3) for row in range(ROWS)])
    backward = pixels(split, [Draw(row, 3) for row in reversed(range(ROWS))])[::-1]
    alone = [pixels(split, [Draw(row, 3)])[0] for row in range(ROWS)]
    images = augmented(split)
    images.set_epoch(3)
    by_index = [images[row]["pixel_values"] for row in range(ROWS)]
    for other in (backward, alone, by_index):
        assert all(torch.equal(a, b) for a, b in zip(forward, other, strict=True))


@pytest.mark.parametrize("change", ["epoch", "seed", "row"])
def test_another_epoch_seed_or_row_draws_something_else(split, change):
    """The rows of the last case hold one and the same image."""
    same_image = split.select([0] * ROWS)
    first = pixels(same_image, [Draw(row, 0) for row in range(ROWS)])
    if change == "row":
        others = first[1:] + first[:1]
    else:
        draws = [Draw(row, int(change == "epoch")) for row in range(ROWS)]
        others = pixels(same_image, draws, seed=int(change == "seed"))
    assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))


@pytest.mark.parametrize("global_seed", [1, 2])
def test_global_random_states_neither_matter_nor_change(split, global_seed):
    expected = pixels(split, [Draw(0, 0), Draw(5, 0)])
    random.seed(global_seed), np.random.seed(global_seed), torch.manual_seed(global_seed)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    drawn = pixels(split, [Draw(0, 0), Draw(5, 0)])
    assert all(torch.equal(a, b) for a, b in zip(expected, drawn, strict=True))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_global_random_states_survive_an_error_in_the_transform(split):
    def fail(image):
        torch.rand(1), random.random()
        raise RuntimeError("no transform")

    states = random.getstate(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no transform"):
        CaptionedImages(split, fail)[0]
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def epochs_through_loader(split, workers: int, persistent: bool = False) -> list[torch.Tensor]:
    sampler = GlobalBatchSampler(ROWS, 4, seed=5)
    loader = DataLoader(
        DrawnRows(augmented(split)),
        batch_sampler=sampler,
        collate_fn=AlignmentCollator(mixup_alpha=0.8),
        num_workers=workers,
        persistent_workers=persistent,
    )
    batches = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        torch.manual_seed(workers)  # whatever the global state is
        batches.append(torch.cat([batch["pixel_values"] for batch in loader]))
    return batches


def test_workers_change_nothing(split):
    """Two epochs, mixup included; persistent workers get no word of the next epoch but through the draws."""
    expected = epochs_through_loader(split, workers=0)
    assert expected[0].shape == (ROWS, 3, SIZE, SIZE)
    for actual in (epochs_through_loader(split, workers=2, persistent=True), epochs_through_loader(split, workers=1)):
        assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


# --- Items ----------------------------------------------------------------------------------------------------------


def test_an_item_holds_label_keys_and_embedding_of_its_own_row(split):
    items = [CaptionedImages(split, np.asarray)[row] for row in range(ROWS)]
    assert [item["labels"] for item in items] == split["label"][:]
    assert len({int(item["image_key"]) for item in items}) == ROWS
    keys = [item["caption_keys"].tolist() for item in items]
    captions = split["caption"][:]
    assert keys[0] == keys[1] and captions[0] == captions[1]
    assert [key == [-1] for key in keys] == [caption is None for caption in captions]
    assert len({tuple(key) for key in keys}) == len(set(captions))
    for row, item in enumerate(items):
        expected = np.eye(4, dtype=np.float16)[[row % 4]] * (captions[row] is not None)
        np.testing.assert_array_equal(item["text_embeds"], expected)


def test_without_labels_captions_and_embeddings_an_item_says_so(split):
    item = CaptionedImages(split.select_columns(["image", "image_id"]), np.asarray)[0]
    assert item["labels"] == -100 and "text_embeds" not in item


def test_without_captions_equal_embeddings_have_equal_keys(split):
    keys = CaptionedImages(split.remove_columns("caption"), np.asarray).caption_keys
    assert keys[0] == keys[4] == keys[8] and len(set(keys.flatten().tolist())) == 4


# --- Sampler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 1, 7])
@pytest.mark.parametrize("seed", [0, 42])
def test_on_one_process_the_order_is_that_of_accelerate(seed, epoch):
    stock = SeedableRandomSampler(range(ROWS), data_seed=seed)
    stock.set_epoch(epoch)
    ours = GlobalBatchSampler(ROWS, 4, seed=seed)
    ours.set_epoch(epoch)
    batches = [[draw.row for draw in batch] for batch in ours]
    order = list(stock)
    assert batches == [order[:4], order[4:8], order[8:]]
    assert all(draw == Draw(draw.row, epoch) for batch in ours for draw in batch)


def test_without_shuffling_the_order_is_that_of_the_data():
    assert [[draw.row for draw in batch] for batch in GlobalBatchSampler(5, 2, shuffle=False)] == [[0, 1], [2, 3], [4]]


def epoch_of(num_rows: int, batch_size: int, processes: int, epoch: int = 0, **kwargs) -> list[list[list[Draw]]]:
    """[step][process] -> draws"""
    batches = []
    for process in range(processes):
        sampler = GlobalBatchSampler(
            num_rows, batch_size, num_processes=processes, process_index=process, seed=3, **kwargs
        )
        sampler.set_epoch(epoch)
        batches.append(list(sampler))
        assert len(batches[-1]) == len(sampler)
    assert len({len(steps) for steps in batches}) == 1  # else a collective would hang
    return [list(step) for step in zip(*batches, strict=True)]


@pytest.mark.parametrize("num_rows", [1, 3, 8, 10, 13, 16, 17])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_row_is_drawn_once_an_epoch_whatever_the_tail(processes, num_rows):
    steps = epoch_of(num_rows, 8 // processes, processes)
    assert len(steps) == -(-num_rows // 8)
    drawn = [draw.row for step in steps for batch in step for draw in batch if not draw.padding]
    assert sorted(drawn) == list(range(num_rows))
    for step in steps:
        sizes = [sum(not draw.padding for draw in batch) for batch in step]
        assert max(sizes) - min(sizes) <= 1  # dealt out evenly
        for batch, size in zip(step, sizes, strict=True):
            assert len(batch) == max(size, 1)  # one padding row, only where there is no other
            assert 0 < len(batch) <= 8 // processes


@pytest.mark.parametrize("num_rows", [10, 16, 17])
@pytest.mark.parametrize("processes", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(processes, num_rows):
    for epoch in (0, 1):
        alone = [batch for (batch,) in epoch_of(num_rows, 8, 1, epoch)]
        shared = epoch_of(num_rows, 8 // processes, processes, epoch)
        joined = [[draw for batch in step for draw in batch if not draw.padding] for step in shared]
        assert joined == alone


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_drop_last_leaves_out_the_smaller_global_batch(processes):
    steps = epoch_of(13, 8 // processes, processes, drop_last=True)
    assert len(steps) == 1 and all(len(batch) == 8 // processes for batch in steps[0])


def test_a_padding_row_counts_for_nothing(split):
    item = DrawnRows(CaptionedImages(split, np.asarray))[Draw(1, 0, padding=True)]
    assert item["labels"] == -100 and item["caption_weight"] == 0
    assert DrawnRows(CaptionedImages(split, np.asarray))[Draw(1, 0)]["labels"] == 1


# --- Transform ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("shape", [(32, 32), (48, 20), (7, 90)])
def test_train_transform_gives_a_normalised_square(crop, size, shape):
    args = AugmentationArguments(image_size=size, train_crop=crop, hflip=0)
    white = PILImage.fromarray(np.full((*shape, 3), 255, dtype=np.uint8))
    tensor = train_transform(args, size, MEAN, STD)(white)
    assert tensor.shape == (3, size, size) and tensor.dtype == torch.float32
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(tensor, expected[:, None, None].expand_as(tensor))


@pytest.mark.parametrize("padding, largest", [(None, 4), (2, 2), (0, 0)])
def test_pad_moves_the_whole_image_by_at_most_its_padding(padding, largest):
    """One pixel is white; where it lands tells how far the crop moved."""
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[16, 16] = 255
    args = AugmentationArguments(image_size=32, train_crop="pad", crop_padding=padding, hflip=0)
    transform = train_transform(args, 32, (0, 0, 0), (1, 1, 1))
    torch.manual_seed(0)
    shifts = set()
    for _ in range(100):
        tensor = transform(PILImage.fromarray(image))
        ((y, x),) = (tensor[0] == 1).nonzero().tolist()
        shifts |= {y - 16, x - 16}
    assert shifts == set(range(-largest, largest + 1))


@pytest.mark.parametrize("shape", [(96, 16), (16, 96)])
def test_pad_shows_the_whole_of_an_image_that_is_not_square(shape):
    """A ramp from black to white along its longer side arrives with both ends."""
    ramp = np.linspace(0, 255, max(shape)).astype(np.uint8).reshape((-1, 1) if shape[0] > shape[1] else (1, -1))
    image = np.broadcast_to(ramp[..., None], (*shape, 3)).copy()
    args = AugmentationArguments(image_size=32, train_crop="pad", crop_padding=0, hflip=0)
    tensor = train_transform(args, 32, (0, 0, 0), (1, 1, 1))(PILImage.fromarray(image))
    assert tensor[0, 0, 0] < 0.05 and tensor[0, -1, -1] > 0.95


@pytest.mark.parametrize("hflip, flipped", [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_hflip_is_the_share_of_flipped_images(hflip, flipped):
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :16] = 255
    args = AugmentationArguments(image_size=32, train_crop="pad", crop_padding=0, hflip=hflip)
    transform = train_transform(args, 32, (0, 0, 0), (1, 1, 1))
    torch.manual_seed(0)
    assert {bool(transform(PILImage.fromarray(image))[0, 0, 0] == 0) for _ in range(30)} == flipped


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "v0"])
def test_policies_run_at_every_strength(policy):
    """Posterised to 0 bits, an image ends the run under Pillow 13."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    transform = train_transform(AugmentationArguments(image_size=16, auto_augment=policy))
    random.seed(0)
    np.random.seed(0)
    for _ in range(200):
        assert transform(PILImage.fromarray(noise)).isfinite().all()


def test_steps_that_draw_nothing_are_done_once_an_image_and_give_the_same_pixels(split):
    transform = train_transform(AugmentationArguments(image_size=16, train_crop="pad", hflip=0.5), 16, MEAN, STD)
    whole = CaptionedImages(split, lambda image: transform(image), seed=3)
    prepared, fixed = [], transform.fixed
    in_parts = CaptionedImages(split, transform, seed=3)
    in_parts.prepare = lambda image: prepared.append(image) or fixed(image)
    for epoch in range(3):
        for row in range(ROWS):
            both = [AlignmentCollator()(rows.get_draws([Draw(row, epoch)])) for rows in (whole, in_parts)]
            assert torch.equal(*(finish_batch(batch)["pixel_values"] for batch in both))
    assert len(prepared) == ROWS
