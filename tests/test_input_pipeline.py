"""From stored images to normalised batches: the same pixels as by Pillow, torchvision and timm one after the other."""

import io
import random

import make
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from g4i_hf.data import dataset as dataset_module
from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, Draw, finish_batch, own_randomness
from g4i_hf.data.images import to_rgb
from g4i_hf.data.transforms import CropOfStored, open_for_crop, to_pixels, train_transform
from g4i_hf.options import AugmentationArguments

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHINA = PILImage.fromarray(load_sample_image("china.jpg"))  # 640 x 427


def jpeg(image: PILImage.Image, **options) -> bytes:
    return make.content(image, "JPEG", **options)


def oriented_jpeg(image: PILImage.Image, orientation: int = 6) -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return jpeg(image, exif=exif)


def split_of(files: list[bytes]) -> Dataset:
    return make.rows(len(files), image=[{"bytes": data, "path": None} for data in files], label=None)


def by_pillow(data: bytes) -> PILImage.Image:
    return to_rgb(PILImage.open(io.BytesIO(data)))


def difference(data: bytes, size: int, seed: int, interpolation: str = "bicubic") -> np.ndarray:
    """(3, size, size), of 255: the same crop, by timm's step on a decoded image and by ours on the file."""
    crop = RandomResizedCropAndInterpolation(size, interpolation=interpolation)
    pixels = []
    for step, image in ((crop, by_pillow(data)), (CropOfStored(crop), open_for_crop({"bytes": data, "path": None}))):
        random.seed(seed)
        pixels.append(to_pixels(step(image)).numpy().astype(int))
    return np.abs(np.subtract(*pixels))


def test_an_upright_jpeg_is_within_a_step_of_pillow():
    found = [difference(jpeg(CHINA, quality=92), 224, seed) for seed in range(6)]
    assert max(each.mean() for each in found) < 0.1 and max(each.max() for each in found) <= 2
    assert any(each.any() for each in found)  # else this is not the way that is meant


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
def test_a_large_crop_is_decoded_at_a_part_of_its_size_and_still_looks_the_same(interpolation):
    found = [difference(jpeg(CHINA), size, seed, interpolation).mean() for size in (24, 40) for seed in range(12)]
    if interpolation == "nearest":
        assert not any(found)
    else:
        assert np.mean(found) < 2 and 6 < np.sum(np.asarray(found) > 0.2) < 24  # some are not decoded whole


# Neither side is a multiple of 8: the odd pixels come first in some orientations
FILES = {f"orientation {turn}": oriented_jpeg(CHINA.crop((0, 0, 633, 421)), turn) for turn in range(1, 9)}
FILES |= {"grey": jpeg(CHINA.convert("L")), "CMYK": jpeg(CHINA.convert("CMYK")), "tiny": jpeg(CHINA.resize((3, 2)))}
FILES |= {"PNG with alpha": make.content(CHINA.convert("RGBA"), "PNG")}


@pytest.mark.parametrize("size", [24, 128])  # 24 is small enough for decoding at a part of the size
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_image_has_the_crops_of_pillow(kind, size):
    assert np.mean([difference(FILES[kind], size, seed) for seed in range(4)]) <= 2


def test_a_damaged_jpeg_is_refused_in_pillows_words():
    crop = CropOfStored(RandomResizedCropAndInterpolation(224, scale=(0.9, 1)))
    with pytest.raises(OSError, match="truncated"):
        crop(open_for_crop({"bytes": jpeg(CHINA)[:20_000], "path": None}))


AUGMENTATIONS = {
    "flip": {},
    "erasing": {"random_erasing": 0.7},
    "policy": {"auto_augment": "rand-m9-mstd0.5-inc1"},
    "jitter": {"color_jitter": 0.4, "random_erasing": 0.5},
    "padding": {"crop_padding": 2},
}
SMALL = [make.content(CHINA.resize((48, 48)).rotate(90 * turn), kind) for turn in range(3) for kind in ("PNG", "WEBP")]


def in_floats(args: AugmentationArguments, size: int) -> transforms.Compose:
    """timm's transform as it is made, every step of it, normalised image by image."""
    given = {"hflip": args.hflip, "auto_augment": args.auto_augment, "re_prob": args.random_erasing}
    given |= {"scale": (args.crop_min_scale, 1.0), "color_jitter": args.color_jitter or None, "mean": MEAN, "std": STD}
    steps = create_transform(size, is_training=True, interpolation="bicubic", re_mode="pixel", **given).transforms
    if args.train_crop == "pad":
        resize = transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC)
        pad = transforms.Pad(args.crop_padding or size // 8, padding_mode="edge")
        steps = [resize, pad, transforms.RandomCrop(size), *steps[1:]]
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
    assert (items[0]["pixel_values"].dtype == torch.uint8) == (not args.random_erasing)  # a quarter of the bytes


@pytest.mark.parametrize(("mixing", "number"), [({"mixup_alpha": 0.8}, 5), ({"cutmix_alpha": 1.0}, 6)])
def test_mixing_8_bit_pixels_is_mixing_the_floats_that_they_become(mixing, number):
    transform = train_transform(AugmentationArguments(image_size=32, train_crop="pad"), 32, MEAN, STD)
    kinds = [CaptionedImages(split_of(SMALL), steps) for steps in (transform, lambda image: transform(image))]
    batches = [AlignmentCollator(**mixing)([images[row] for row in range(number)]) for images in kinds]
    assert batches[0]["pixel_values"].dtype == torch.uint8 and "mix_share" not in batches[0]
    later, at_once = finish_batch(batches[0]), batches[1]
    assert later.keys() == at_once.keys() and 0 < later["mix_share"][0] < 1
    assert all(torch.equal(later[name], at_once[name]) for name in later)


def test_what_is_kept_in_memory_changes_no_pixel(monkeypatch):
    """Of images decoded whole and of crops decoded at a part of the size."""
    files = [jpeg(CHINA), oriented_jpeg(CHINA), jpeg(CHINA.convert("L")), jpeg(CHINA.resize((90, 60)))]
    transform = train_transform(AugmentationArguments(image_size=48), 48, MEAN, STD)
    kept = CaptionedImages(split_of(files), transform)
    monkeypatch.setattr(dataset_module, "CACHE_BYTES", 0)
    not_kept = CaptionedImages(split_of(files), transform)
    for epoch in range(8):
        draws = [Draw(row, epoch) for row in range(len(files))]
        for one, other in zip(kept.get_draws(draws), not_kept.get_draws(draws), strict=True):
            assert torch.equal(one["pixel_values"], other["pixel_values"])
