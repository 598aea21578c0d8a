"""From stored images to normalised batches: the same pixels as by Pillow, torchvision and timm one after the other."""

import io
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_sample_image
from students import aligned_model
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import DataLoader
from torchvision import transforms

from g4i_hf.data import CaptionedImages, train_transform
from g4i_hf.data import dataset as dataset_module
from g4i_hf.data.dataset import AlignmentCollator, Draw, DrawnRows, GlobalBatchSampler, finish_batch, own_randomness
from g4i_hf.data.images import to_rgb
from g4i_hf.data.transforms import CropOfStored, Normalization, StoredJpeg, open_for_crop, to_pixels
from g4i_hf.options import AugmentationArguments
from g4i_hf.training import AlignmentArguments, AlignmentTrainer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHINA = PILImage.fromarray(load_sample_image("china.jpg"))  # 640 x 427
SIDEWAYS = 6  # EXIF: to be turned by 90 degrees


def encoded(image: PILImage.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented_jpeg(image: PILImage.Image, orientation: int = SIDEWAYS) -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return encoded(image, exif=exif)


def split_of(files: list[bytes]) -> Dataset:
    rows = {"image": [{"bytes": data, "path": None} for data in files]}
    rows["image_id"] = [str(row) for row in range(len(files))]
    return Dataset.from_dict(rows, features=Features(image=Image(decode=False), image_id=Value("string")))


def by_pillow(data: bytes) -> PILImage.Image:
    return to_rgb(PILImage.open(io.BytesIO(data)))


def cropped(data: bytes, size: int, seed: int, interpolation: str = "bicubic") -> list[np.ndarray]:
    """(3, size, size) of the same crop, by timm's step on a decoded image and by ours on the file."""
    crop = RandomResizedCropAndInterpolation(size, interpolation=interpolation)
    pixels = []
    for step, image in ((crop, by_pillow(data)), (CropOfStored(crop), open_for_crop({"bytes": data, "path": None}))):
        random.seed(seed)
        pixels.append(to_pixels(step(image)).numpy().astype(int))
    return pixels


# --- Pixels of a crop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_an_upright_jpeg_is_within_a_step_of_pillow(interpolation):
    data = encoded(CHINA, quality=92)
    differences = [np.abs(np.subtract(*cropped(data, 224, seed, interpolation))) for seed in range(6)]
    assert max(difference.mean() for difference in differences) < 0.1  # of 255
    assert max(difference.max() for difference in differences) <= 2
    assert any(difference.any() for difference in differences)  # else this is not the way that is meant


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_a_large_crop_is_decoded_at_a_part_of_its_size_and_still_looks_the_same(interpolation, monkeypatch):
    reductions = []
    reduced = StoredJpeg._reduced
    monkeypatch.setattr(
        StoredJpeg, "_reduced", lambda self, *args: reductions.append(args[-1]) or reduced(self, *args)
    )
    differences = [
        np.abs(np.subtract(*cropped(encoded(CHINA), size, seed, interpolation))).mean()
        for size in (24, 40)
        for seed in range(12)
    ]
    assert set(reductions) == {4, 8} and len(reductions) < len(differences)
    assert np.mean(differences) < 2


def test_nearest_pixels_are_those_of_the_whole_image():
    assert not np.any([np.subtract(*cropped(encoded(CHINA), 24, seed, "nearest")) for seed in range(4)])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_crop_of_a_part_of_the_size_lies_where_it_should_in_every_orientation(orientation):
    """Neither side is a multiple of 8: the odd pixels come first in some orientations."""
    data = oriented_jpeg(CHINA.crop((0, 0, 633, 421)), orientation)
    differences = [np.abs(np.subtract(*cropped(data, 24, seed))).mean() for seed in range(4)]
    assert np.mean(differences) < 2


KINDS = {
    "grey": encoded(CHINA.convert("L")),
    "CMYK": encoded(CHINA.convert("CMYK")),
    "rotated": oriented_jpeg(CHINA),
    "tiny": encoded(CHINA.resize((3, 2))),
    "PNG with alpha": encoded(CHINA.convert("RGBA"), "PNG"),
    "WebP": encoded(CHINA, "WEBP"),
}


@pytest.mark.parametrize("size", [24, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_has_the_crops_of_pillow(kind, size):
    """`size` 24 is small enough for decoding at a part of the size."""
    differences = [np.abs(np.subtract(*cropped(KINDS[kind], size, seed))) for seed in range(6)]
    assert np.mean(differences) <= 2
    if kind in ("PNG with alpha", "WebP") or (size == 128 and kind in ("CMYK", "rotated")):
        assert not np.any(differences)


def test_a_huge_image_is_never_decoded_whole(monkeypatch):
    data = encoded(CHINA.resize((2400, 1600)))
    crop = RandomResizedCropAndInterpolation(64, scale=(0.5, 1), interpolation="bicubic")
    stored = open_for_crop({"bytes": data, "path": None})
    monkeypatch.setattr(StoredJpeg, "pixels", lambda self: pytest.fail("decoded whole"))
    random.seed(0)
    ours = to_pixels(CropOfStored(crop)(stored)).numpy().astype(int)
    random.seed(0)
    assert np.abs(ours - to_pixels(crop(CHINA.resize((2400, 1600)))).numpy()).mean() < 2


@pytest.mark.parametrize("data", [encoded(CHINA), oriented_jpeg(CHINA)], ids=["upright", "rotated"])
def test_the_box_is_the_one_that_timm_draws(data, monkeypatch):
    boxes = []
    monkeypatch.setattr(
        StoredJpeg, "resized_crop", lambda self, *args: boxes.append(args[:4]) or PILImage.new("RGB", (32, 32))
    )
    crop = RandomResizedCropAndInterpolation(32)
    for seed in range(20):
        random.seed(seed)
        CropOfStored(crop)(open_for_crop({"bytes": data, "path": None}))
        random.seed(seed)
        assert boxes[-1] == crop.get_params(by_pillow(data), crop.scale, crop.ratio)


def test_a_damaged_jpeg_is_refused_in_pillows_words():
    with pytest.raises(OSError, match="truncated"):
        cropped(encoded(CHINA)[:20_000], 224, 0)
    with pytest.raises(OSError, match="truncated"):
        open_for_crop({"bytes": encoded(CHINA)[:20_000], "path": None}).resized_crop(
            0, 0, 400, 600, 224, transforms.InterpolationMode.BICUBIC
        )


def test_a_jpeg_is_read_from_its_file(tmp_path):
    path = tmp_path / "china.jpg"
    path.write_bytes(encoded(CHINA))
    stored = open_for_crop({"bytes": None, "path": str(path)})
    assert isinstance(stored, StoredJpeg) and (stored.width, stored.height) == CHINA.size
    assert torch.equal(stored.pixels(), to_pixels(by_pillow(path.read_bytes())))


# --- To the bit ------------------------------------------------------------------------------------------------------


def test_normalization_is_that_of_torchvision_to_the_bit():
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    picture = PILImage.fromarray(every.permute(1, 2, 0).contiguous().numpy())
    expected = transforms.Normalize(MEAN, STD)(transforms.ToTensor()(picture))
    assert torch.equal(Normalization(MEAN, STD)(every), expected)
    assert torch.equal(
        Normalization(MEAN, STD)(torch.stack([every, every.flip(1)])), torch.stack([expected, expected.flip(1)])
    )


AUGMENTATIONS = {
    "flip": {},
    "erasing": {"random_erasing": 0.7},
    "policy": {"auto_augment": "rand-m9-mstd0.5-inc1"},
    "jitter": {"color_jitter": 0.4, "random_erasing": 0.5},
}
SMALL = [encoded(CHINA.resize((48, 48)).rotate(90 * turn), kind) for turn in range(3) for kind in ("PNG", "WEBP")]


def in_floats(args: AugmentationArguments, size: int) -> transforms.Compose:
    """timm's transform as it is made, every step of it, normalised image by image."""
    steps = create_transform(
        size,
        is_training=True,
        scale=(args.crop_min_scale, 1.0),
        hflip=args.hflip,
        color_jitter=args.color_jitter or None,
        auto_augment=args.auto_augment,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        re_prob=args.random_erasing,
        re_mode="pixel",
    ).transforms
    if args.train_crop == "pad":
        resize = transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC)
        steps = [resize, transforms.Pad(size // 8, padding_mode="edge"), transforms.RandomCrop(size), *steps[1:]]
    return transforms.Compose(steps)


@pytest.mark.parametrize("options", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_images_that_are_no_jpegs_are_what_timm_makes_of_them_to_the_bit(crop, options):
    args = AugmentationArguments(image_size=32, train_crop=crop, **options)
    images = CaptionedImages(split_of(SMALL), train_transform(args, 32, MEAN, STD), seed=3)
    for epoch in range(2):
        items = images.get_draws([Draw(row, epoch) for row in range(len(SMALL))])
        batch = finish_batch(AlignmentCollator()(items))
        with own_randomness() as seed_all:
            for data, item, pixels in zip(SMALL, items, batch["pixel_values"], strict=True):
                seed_all(item["draw_seed"])
                assert torch.equal(in_floats(args, 32)(by_pillow(data)), pixels)
    assert ("normalization" in items[0]) == (items[0]["pixel_values"].dtype == torch.uint8)
    assert ("normalization" in items[0]) == (not args.random_erasing)


@pytest.mark.parametrize("mixing", [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("number", [5, 6])
def test_mixing_8_bit_pixels_is_mixing_the_floats_that_they_become(mixing, number):
    transform = train_transform(AugmentationArguments(image_size=32, train_crop="pad"), 32, MEAN, STD)
    kinds = [CaptionedImages(split_of(SMALL), steps) for steps in (transform, lambda image: transform(image))]
    batches = [AlignmentCollator(**mixing)([images[row] for row in range(number)]) for images in kinds]
    assert batches[0]["pixel_values"].dtype == torch.uint8 and "mix_share" not in batches[0]
    later, at_once = finish_batch(batches[0]), batches[1]
    assert later.keys() == at_once.keys() and 0 < later["mix_share"][0] < 1
    assert all(torch.equal(later[name], at_once[name]) for name in later)


def test_a_trainer_learns_the_same_from_8_bit_pixels_and_from_a_users_floats(tmp_path):
    """Mixing and evaluation included."""
    transform = train_transform(AugmentationArguments(image_size=48, train_crop="pad"), 48, MEAN, STD)
    split = split_of(SMALL).add_column("label", [0, 1] * 3)
    learnt, losses = [], []
    for steps in (transform, lambda image: transform(image)):
        torch.manual_seed(0)
        args = AlignmentArguments(
            str(tmp_path), align_weight=0.0, mixup_alpha=0.8, max_steps=2, use_cpu=True, save_strategy="no",
            report_to="none", disable_tqdm=True, per_device_train_batch_size=3
        )  # fmt: skip
        images = CaptionedImages(split, steps)
        trainer = AlignmentTrainer(aligned_model("timm-vit"), args, train_dataset=images, eval_dataset=images)
        trainer.train()
        losses.append(trainer.evaluate()["eval_loss"])
        learnt.append(torch.cat([weights.flatten() for weights in trainer.model.student.parameters()]))
    assert torch.equal(*learnt) and losses[0] == losses[1]


# --- Reading ---------------------------------------------------------------------------------------------------------

PHOTOGRAPHS = [encoded(CHINA), oriented_jpeg(CHINA), encoded(CHINA.convert("L")), encoded(CHINA.resize((90, 60)))]


def epochs(workers: int) -> list[torch.Tensor]:
    transform = train_transform(AugmentationArguments(image_size=48), 48, MEAN, STD)
    sampler = GlobalBatchSampler(len(PHOTOGRAPHS), 3)
    loader = DataLoader(
        DrawnRows(CaptionedImages(split_of(PHOTOGRAPHS), transform)),
        batch_sampler=sampler,
        collate_fn=AlignmentCollator(mixup_alpha=0.8),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    batches = []
    for epoch in range(8):
        sampler.set_epoch(epoch)
        batches += [finish_batch(batch)["pixel_values"] for batch in loader]
    return batches


def test_neither_workers_nor_what_is_kept_in_memory_change_pixels(monkeypatch):
    """Whole images that are kept and crops that are decoded at a part of the size are both among them."""
    expected = epochs(0)
    with_worker = epochs(1)
    monkeypatch.setattr(dataset_module, "CACHE_BYTES", 0)
    for others in (with_worker, epochs(0)):
        assert all(torch.equal(a, b) for a, b in zip(expected, others, strict=True))


def test_a_batch_is_one_look_into_the_table_and_none_once_it_is_kept():
    images = CaptionedImages(split_of(SMALL), train_transform(AugmentationArguments(image_size=32), 32))
    asked, table = [], images.images

    class Table:
        def __getitem__(self, rows):
            asked.append(rows)
            return table[rows]

    images.images = Table()
    draws = [Draw(2, 0), Draw(0, 0), Draw(2, 0, repeat=1)]
    images.get_draws(draws)
    images.get_draws(draws)
    assert asked == [[2, 0]]


@pytest.mark.parametrize("workers, given, expected", [(0, {}, False), (2, {}, True)])
def test_workers_live_on_by_default(tmp_path, workers, given, expected):
    args = AlignmentArguments(str(tmp_path), dataloader_num_workers=workers, **given)
    trainer = AlignmentTrainer(aligned_model("timm-vit"), args, train_dataset=[{"labels": 0}] * 4)
    loader = trainer.get_train_dataloader()
    assert loader.persistent_workers == expected and trainer.get_eval_dataloader([{"labels": 0}]) is not None
    assert loader.prefetch_factor == (2 if workers else None)
