"""
Makes a dataset of photographs as it was measured, from the images that its makers publish and captions of them.

    python recipes/photos/build.py cifar10 --images uoft-cs/cifar10 --output_dir photos/cifar10
    python recipes/photos/build.py flowers102 --images flowers --output_dir photos/flowers102
    python recipes/photos/build.py caltech101 --images 101_ObjectCategories --output_dir photos/caltech101

`--captions` is a file of JSON lines, {"image_id": "image_00004", "caption": "..."}. Without it the dataset has no
captions, and `g4i caption` writes them. README.md says where images and captions come from, and what the splits are.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

SPLITS_OF_FLOWERS = Path(__file__).parent / "flowers102_splits.json"
SHORTER_SIDE = {"cifar10": 32, "flowers102": 64, "caltech101": 128}
SHARE_TRAINED = 0.7  # of each class of Caltech-101, in the order of its files
TEST_IMAGES = 2000  # a class, of CIFAR-10's official training split
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# (split, image_id, class, image)
Rows = Iterator[tuple[str, str, str, "Image.Image"]]


def cifar10(images: str) -> Rows:
    """Only the official test images have captions, so official test and training images change places."""
    from datasets import load_dataset

    dataset = load_dataset(images)
    column = "img" if "img" in dataset["test"].column_names else "image"
    for number, row in enumerate(dataset["test"]):
        split = "validation" if number % 10 == 9 else "train"
        yield split, f"test/{number:05d}", CIFAR10_CLASSES[row["label"]], row[column]
    of_class = dict.fromkeys(CIFAR10_CLASSES, 0)
    for row in dataset["train"]:
        name = CIFAR10_CLASSES[row["label"]]
        if of_class[name] < TEST_IMAGES:
            yield "test", f"train/{name}/{of_class[name]:04d}", name, row[column]
        of_class[name] += 1


def flowers102(images: str) -> Rows:
    """`images` holds `jpg/` and `imagelabels.mat`."""
    from PIL import Image
    from scipy.io import loadmat

    known = json.loads(SPLITS_OF_FLOWERS.read_text())
    split_of = {number: split for split in ("validation", "test", "left_out") for number in known[split]}
    for number, label in enumerate(loadmat(Path(images) / "imagelabels.mat")["labels"][0], start=1):
        split, image_id = split_of.get(number, "train"), f"image_{number:05d}"
        if split != "left_out":
            yield (
                split,
                image_id,
                known["class_names"][int(label) - 1],
                Image.open(Path(images, "jpg", f"{image_id}.jpg")),
            )


def caltech101(images: str) -> Rows:
    """`images` holds a folder for each class. The first of each class are for training, the rest for `test`."""
    from PIL import Image

    for folder in sorted(Path(images).iterdir()):
        files = sorted(folder.glob("*.jpg"))
        for number, file in enumerate(files):
            split = "train" if number < int(SHARE_TRAINED * len(files)) else "test"
            if folder.name != "BACKGROUND_Google":
                yield split, f"{folder.name}/{file.stem}", folder.name.replace("_", " "), Image.open(file)


SOURCES = {"cifar10": cifar10, "flowers102": flowers102, "caltech101": caltech101}


def encoded(image: Image.Image, shorter_side: int) -> bytes:
    """JPEG, made smaller where its shorter side is longer than that."""
    scale = shorter_side / min(image.size)
    if scale < 1:
        image = image.resize(tuple(max(round(scale * side), shorter_side) for side in image.size))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def build(name: str, images: str, captions: Path | None, output_dir: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, List, Value

    captions_of: dict[str, str] = {}
    if captions is not None:
        rows = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines() if line.strip()]
        captions_of = {row["image_id"]: row["caption"] for row in rows}
    splits: dict[str, list[dict]] = {}
    for split, image_id, label, image in SOURCES[name](images):
        row = {
            "image": {"bytes": encoded(image, SHORTER_SIDE[name]), "path": None},
            "label": label,
            "image_id": image_id,
        }
        if captions_of:
            row["caption"] = [captions_of[image_id]] if captions_of.get(image_id) else []
        splits.setdefault(split, []).append(row)
    if not splits:
        raise SystemExit(
            f"error: {images} holds none of the images of {name}. Recipe and page: recipes/photos/README.md."
        )
    classes = json.loads(SPLITS_OF_FLOWERS.read_text())["class_names"] if name == "flowers102" else None
    classes = classes or sorted({row["label"] for rows in splits.values() for row in rows})
    features = Features({"image": Image(), "label": ClassLabel(names=classes), "image_id": Value("string")})
    if captions_of:
        features["caption"] = List(Value("string"))
    output_dir.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        rows.sort(key=lambda row: row["image_id"])
        Dataset.from_list(rows, features=features).to_parquet(output_dir / f"{split}.parquet")
        print(f"{output_dir / split}.parquet: {len(rows):,} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(SOURCES))
    parser.add_argument("--images", required=True, help="dataset on the Hub (cifar10) or folder (the others)")
    parser.add_argument("--captions", type=Path, help='JSON lines: {"image_id": ..., "caption": ...}')
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    build(args.name, args.images, args.captions, args.output_dir)


if __name__ == "__main__":
    main()
