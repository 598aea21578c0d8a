"""
Writes OUT/pictures: the photographs of `pictures` with a label for every training image, some of the labels wrong.

    python recipes/photos_demo/wrong.py OUT --wrong 0.4

A wrong label is any other class with the same probability. OUT/truth.json has the class of each training image.
Images are hard links where possible; an earlier OUT/pictures is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def write_wrong(output_dir: Path, wrong: float, seed: int = 0) -> None:
    classes = sorted(path.name for path in (HERE / "pictures" / "test").iterdir())
    truth = json.loads((HERE / "truth.json").read_text())
    lines = map(json.loads, (HERE / "pictures" / "train" / "metadata.jsonl").read_text().splitlines())
    captions = {Path(line["file_name"]): line["caption"] for line in lines}
    truth = {file.name: truth.get(file.name, file.parent.name) for file in captions}

    random = np.random.default_rng(seed)
    shifts = np.zeros(len(captions), dtype=int)
    chosen = random.permutation(len(captions))[: round(wrong * len(captions))]
    shifts[chosen] = random.integers(1, len(classes), len(chosen))

    train = output_dir / "pictures" / "train"
    shutil.rmtree(output_dir / "pictures", ignore_errors=True)
    metadata = []
    for (file, caption), shift in zip(captions.items(), shifts, strict=True):
        label = classes[(classes.index(truth[file.name]) + shift) % len(classes)]
        link(HERE / "pictures" / "train" / file, train / label / file.name)
        metadata.append(json.dumps({"file_name": f"{label}/{file.name}", "caption": caption}) + "\n")
    (train / "metadata.jsonl").write_text("".join(metadata))
    for path in sorted((HERE / "pictures" / "test").rglob("*.jpg")):
        link(path, output_dir / path.relative_to(HERE))
    (output_dir / "truth.json").write_text(json.dumps(truth, indent=0, sort_keys=True) + "\n")
    print(f"{output_dir / 'pictures'}: {len(captions):,} training images, {len(chosen):,} of them with a wrong label")


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--wrong", type=float, default=0.4, help="share of the labels, from 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_wrong(args.output_dir, args.wrong, args.seed)


if __name__ == "__main__":
    main()
