"""
Labels drawn at random leave some classes with one label or none. How many unlabelled training images of these classes
does the posterior tell: by captions alone, by image features alone, and by both?

    python recipes/efficientnet_lite0/convert.py
    python benchmarks/uneven_labels.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. `at random`: as many labels as 4 a class, drawn from all images.
`a third without`: 4 labels a class, but none for a third of the classes. Validation and test images have no part.
Writes results/uneven_labels.json; the rows of another `--version` of the library, such as `before`, stay.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from label_model import calibration_error
from photos import Photos, labels_with, load_photos
from provenance import RESULTS, provenance

from g4i_hf import LabelModel, View

FILE = RESULTS / "uneven_labels.json"
DRAWS = ("at random", "a third without")


def drawn(photos: Photos, draw: str, seed: int) -> np.ndarray:
    """(N,) labels, -1 without one."""
    if draw == "at random":
        return labels_with(photos.training, draw, seed)
    labels = labels_with(photos.training, "4 a class", seed)
    without = np.random.default_rng(seed).permutation(photos.num_labels)[: photos.num_labels // 3]
    return np.where(np.isin(labels, without), -1, labels)


def measured(photos: Photos, labels: np.ndarray, seed: int) -> list[dict]:
    """A row for each of captions, image features and both: accuracy by the number of labels of the true class."""
    embeds = np.asarray(photos.training.with_format("numpy")["text_embeds"][:])
    caption, image = View(embeds, photos.class_embeds, learns=False), View(photos.features.numpy())
    sets = {
        "captions": {"caption": caption},
        "image features": {"image": image},
        "both": {"caption": caption, "image": image},
    }
    truth, unlabelled = photos.truth, labels < 0
    number = np.bincount(labels[~unlabelled], minlength=photos.num_labels)[truth]
    groups = {"none": number == 0, "one": number == 1, "more": number > 1, "all": number >= 0}
    found = []
    for name, views in sets.items():
        start = time.process_time()
        model = LabelModel(photos.num_labels, seed).fit(views, labels)
        seconds = time.process_time() - start
        probabilities = model.probabilities_.astype(np.float32)
        right = probabilities.argmax(1) == truth
        row = {"views": name, "seconds": seconds}
        row["calibration_error"] = calibration_error(probabilities[unlabelled], truth[unlabelled])
        for group, rows in groups.items():
            if (rows & unlabelled).any():
                row[group] = {
                    "images": int((rows & unlabelled).sum()),
                    "accuracy": float(right[rows & unlabelled].mean()),
                }
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    parser.add_argument("--version", default="now", help="name of the library's version in the file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    rows: list[dict] = []
    found[args.version] = provenance() | {"command": "python benchmarks/uneven_labels.py PHOTOS", "rows": rows}
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        for draw in DRAWS:
            for seed in args.seeds:
                of_draw = measured(photos, drawn(photos, draw, seed), seed)
                rows += [{"data": data, "draw": draw, "seed": seed} | row for row in of_draw]
                print(data, draw, seed, json.dumps(of_draw), flush=True)
                FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
