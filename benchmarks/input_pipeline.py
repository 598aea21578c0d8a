"""
Images a second and core, from JPEG files to normalised batches: the way of transformers' image-classification example
(PIL, torchvision's transforms in `set_transform`), timm's `create_loader`, torchvision's ImageFolder, and ours, with
the same augmentation (random resized crop, flip) on the same files, in turn, one worker each. The processor's time is
that of the loading process and its worker. Nothing decoded is kept between epochs.

    python benchmarks/input_pipeline.py

By the clock a loading process and its worker have a core each: it needs two, and is not to be pinned to one; the
result says how many there were. Photographs of about ImageNet's size are made of those that scikit-learn and, if it is
there, gradio ship. Writes results/input_pipeline.json.
"""

import argparse
import importlib.util
import json
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from PIL import Image
from provenance import RESULTS, provenance
from torchvision import transforms
from torchvision.datasets import ImageFolder

import g4i_hf.data.dataset
from g4i_hf.data.dataset import AlignmentCollator, CaptionedImages, DrawnRows, GlobalBatchSampler, finish_batch
from g4i_hf.data.loading import open_images
from g4i_hf.data.transforms import train_transform
from g4i_hf.options import AugmentationArguments

SIZE, BATCH, QUALITY = 224, 64, 95
PLACES = {"sklearn": ("datasets/images", ("china.jpg", "flower.jpg"))}
PLACES["gradio"] = (".", ("media_assets/images/groot.jpeg", "media_assets/images/tower.jpg", "test_data/cheetah2.jpg"))
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


def speeds(folder: Path, interpolation: str, rounds: int) -> dict:
    ways = {name: way(folder, interpolation) for name, way in WAYS.items()}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    g4i_hf.data.dataset.CACHE_BYTES = 0
    found = {**provenance(), "rounds": args.rounds, "cores": len(os.sched_getaffinity(0))}
    found |= {"size": SIZE, "batch_size": BATCH, "jpeg_quality": QUALITY, "images": args.images}
    with tempfile.TemporaryDirectory() as work:
        found["photographs"] = len(photographs())
        found["mean_bytes"] = round(write_photographs(Path(work), args.images))
        found["speed"] = {mode: speeds(Path(work), mode, args.rounds) for mode in ("bicubic", "bilinear")}
    (RESULTS / "input_pipeline.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
