"""
Makes `pictures` and `truth.json`: photographs of 30 classes of Caltech-101 with captions, nearly all without a label.

    python recipes/photos_demo/build.py --train photos/caltech101/train.parquet --test photos/caltech101/test.parquet

`recipes/photos/build.py` makes the Parquet files. The same files, seed and version of Pillow give the same images.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

HERE = Path(__file__).parent
CLASSES, MOST = 30, {"train": 60, "test": 25}  # the largest classes; images of each
# These show the same as another class, or a part of it
SKIPPED = {"Faces", "Faces easy", "car side", "cougar face", "cougar body", "flamingo head", "crocodile head"}
SHORTER_SIDE, QUALITY = 128, 65  # together they take 11 MB


def build(train: Path, test: Path, output_dir: Path, seed: int) -> None:
    from datasets import Image, load_dataset

    splits = {
        name: load_dataset("parquet", data_files=str(path), split="train").cast_column("image", Image(decode=False))
        for name, path in (("train", train), ("test", test))
    }
    names = splits["train"].features["label"].names
    by_size = Counter(splits["train"]["label"]).most_common()
    classes = [label for label, _ in by_size if names[label] not in SKIPPED][:CLASSES]
    random = np.random.RandomState(seed)
    rows = {}
    for name, split in splits.items():
        labels = np.array(split["label"])
        rows[name] = [random.permutation(np.flatnonzero(labels == label))[: MOST[name]] for label in classes]
    folders = [names[label].lower().replace(" ", "_") for label in classes]
    shutil.rmtree(output_dir / "pictures", ignore_errors=True)

    # One image of each class is in its folder, all others are in `unlabelled`; their numbers say nothing
    numbers = iter(random.permutation(sum(map(len, rows["train"]))) + 1)
    captions, truth = {}, {}
    for folder, of_class in zip(folders, rows["train"], strict=True):
        for place, row in zip([folder] + ["unlabelled"] * (len(of_class) - 1), of_class, strict=True):
            name = f"img_{next(numbers):05d}.jpg"
            save(splits["train"], row, output_dir / "pictures" / "train" / place / name)
            [captions[f"{place}/{name}"]] = splits["train"][int(row)]["caption"]
            if place == "unlabelled":
                truth[name] = folder
    for folder, of_class in zip(folders, rows["test"], strict=True):
        for number, row in enumerate(of_class, 1):
            save(splits["test"], row, output_dir / "pictures" / "test" / folder / f"{number:02d}.jpg")

    lines = [json.dumps({"file_name": name, "caption": captions[name]}) + "\n" for name in sorted(captions)]
    (output_dir / "pictures" / "train" / "metadata.jsonl").write_text("".join(lines))
    (output_dir / "truth.json").write_text(json.dumps(truth, indent=0, sort_keys=True) + "\n")

    classes_of = {name: truth.get(Path(name).name, Path(name).parent.name) for name in captions}
    num_named = sum(classes_of[name].replace("_", " ") in caption.lower() for name, caption in captions.items())
    size = sum(path.stat().st_size for path in (output_dir / "pictures").rglob("*.*")) / 1e6
    print(f"{len(folders)} classes, {len(captions):,} training images, {sum(map(len, rows['test'])):,} test images")
    print(f"{size:.1f} MB; {num_named:,} captions name the class of their image")


def save(split: Dataset, row: int, path: Path) -> None:
    """Writes an image as JPEG without metadata, made smaller where its shorter side is longer than SHORTER_SIDE."""
    from PIL import Image

    image = Image.open(io.BytesIO(split[int(row)]["image"]["bytes"])).convert("RGB")
    scale = SHORTER_SIDE / min(image.size)
    if scale < 1:
        image = image.resize([round(scale * side) for side in image.size], Image.Resampling.LANCZOS)
    image.info = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=QUALITY, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="Parquet file: image, label, caption")
    parser.add_argument("--test", type=Path, required=True, help="Parquet file: image, label")
    parser.add_argument("--output_dir", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build(args.train, args.test, args.output_dir, args.seed)


if __name__ == "__main__":
    main()
