"""
All layers within a budget of time beside the last layer of the same network, at the same image size.

    pip install -e '.[demo]'
    python benchmarks/all_layers.py PHOTOS --cells "flowers102, all" --minutes 10

PHOTOS are those of photos.py; `--real_views` is the folder of real_views.py, for cells with scores of SigLIP 2. Each
cell is a smaller draw of a dataset, so that it takes about 15 minutes of a core, and goes through `g4i fit --minutes`
itself (its Python function). Images judge as users have them: `validation` where every image has a label, else
unlabelled ones that are kept. Both classifiers are scored on `test`, with a paired 95% interval. Writes
results/all_layers.json, a row for each cell, budget and seed; rows that are there are not measured again.
"""

import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from photos import ENCODER, parsed, parser_of, photos_of
from photos_fit import drawn, fitted
from result_files import Results
from scipy.special import softmax

from g4i_hf import View
from g4i_hf.data.checks import labels_of
from g4i_hf.evaluation.estimate import judged_by_labels
from g4i_hf.evaluation.predict import load_run, predict
from g4i_hf.names import ALL_LAYERS, LABELS_ONLY, WITH_VIEWS

KEY = ("cell", "minutes", "seed")
SCORES = "siglip2_b16"


@dataclass
class Cell:
    data: str
    setting: str  # of photos_fit.py
    images: int  # for training at most
    size: int  # in pixels
    classes: int | None = None  # the most frequent ones
    has_scores: bool = False  # of SigLIP 2, beside captions


CELLS = {
    "cifar10, none": Cell("cifar10", "none", 3_000, 96),
    "cifar10, none, scores": Cell("cifar10", "none", 3_000, 96, has_scores=True),
    "cifar10, 40% wrong": Cell("cifar10", "40% wrong", 3_000, 96),
    "caltech101, all": Cell("caltech101", "all", 2_000, 128),
    "caltech101, 1 a class": Cell("caltech101", "1 a class", 2_000, 128),
    "flowers102, all": Cell("flowers102", "all", 1_100, 112),
    "flowers102, 4 a class": Cell("flowers102", "4 a class", 1_100, 112),
    "flowers102, 24 classes, all": Cell("flowers102", "all", 960, 112, classes=24),
}
NEEDS_VALIDATION = ("all", "40% wrong")  # without unlabelled images


def photos_of_cell(root: Path, cell: Cell, seed: int) -> DatasetDict:
    """Its splits, with the labels of its setting; a part of each, with as many images of each class as can be."""
    splits = photos_of(root, cell.data)
    counts = np.bincount(labels_of(splits["train"]))
    kept = np.sort(np.argsort(-counts, kind="stable")[: cell.classes])
    names = [splits["train"].features["label"].names[label] for label in kept]
    sizes = {"train": cell.images, "validation": cell.images // 4, "test": 2_000}
    parts = {name: smaller(splits[name], kept, names, size, seed) for name, size in sizes.items()}
    validation = parts.pop("validation").remove_columns("caption")
    parts["train"] = drawn(parts["train"], cell.setting, seed)
    return DatasetDict(parts | ({"validation": validation} if cell.setting in NEEDS_VALIDATION else {}))


def smaller(split: Dataset, kept: np.ndarray, names: list[str], size: int, seed: int) -> Dataset:
    """At most `size` rows of the classes `kept`, in turn of each class; those of `test` are the same for all seeds."""
    labels = labels_of(split)
    order = np.random.default_rng(seed if size < 2_000 else 0).permutation(np.flatnonzero(np.isin(labels, kept)))
    turns = np.empty(len(order), dtype=int)
    for label in kept:
        of_class = labels[order] == label
        turns[of_class] = np.arange(of_class.sum())
    rows = np.sort(order[np.argsort(turns, kind="stable")[:size]])
    place = {int(label): number for number, label in enumerate(kept)}
    renamed = [place[int(label)] for label in labels[rows]]
    features = split.features["label"].__class__(names=names)
    part = split.select(rows).remove_columns("label")
    return part.add_column("label", renamed).cast_column("label", features)


def scores_of(folder: Path, training: Dataset) -> View:
    logits = np.load(folder / "cifar10_logits.npz", allow_pickle=False)[SCORES]
    rows = [int(image_id.split("/")[1]) for image_id in training["image_id"][:]]
    return View(softmax(logits[rows], axis=1).astype(np.float32), np.eye(10, dtype=np.float32), source=SCORES)


def measured(photos: DatasetDict, cell: Cell, minutes: float, seed: int, cache: Path, real_views: Path | None) -> dict:
    splits = DatasetDict({name: photos[name] for name in photos if name != "test"})
    views = ["caption", "image:student", scores_of(real_views, splits["train"])] if cell.has_scores else None
    start, began = time.process_time(), time.monotonic()
    options = {"text_encoder": ENCODER, "image_size": cell.size, "minutes": minutes, "views": views, "seed": seed}
    result, folder = fitted(splits, cache, **options)
    row = {"seconds_of_cpu": round(time.process_time() - start), "seconds": round(time.monotonic() - began)}
    row |= {"images": len(splits["train"]), "image_size": cell.size, "test_images": len(photos["test"])}
    row |= {"judged_on": result.judged_on, "judged_images": result.judged_images, "of_fit": result.all_layers}
    accelerator, truth = Accelerator(cpu=not torch.accelerator.is_available()), labels_of(photos["test"])
    predicted = {}
    for name in (LABELS_ONLY, WITH_VIEWS, ALL_LAYERS):
        if (folder / name).is_dir():
            model, processor = load_run(folder / name)
            found = predict(model, processor, photos["test"], accelerator, output_image_embeds=False)
            predicted[name] = found.predicted
            row |= {name: float((found.predicted == truth).mean())}
    if ALL_LAYERS in predicted:  # the names are those that the estimate compares
        pair = {LABELS_ONLY: predicted[result.all_layers["classifier"]], WITH_VIEWS: predicted[ALL_LAYERS]}
        difference = judged_by_labels(pair, truth).difference
        row |= {"difference": difference.share, "difference_interval": list(difference.interval)}
    return row


def main() -> None:
    parser = parser_of(__doc__, seeds=range(2), cache="runs/all_layers")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--minutes", nargs="+", type=float, default=[10])
    parser.add_argument("--real_views", type=Path, help="of cells with scores")
    args = parsed(parser)
    results = Results(args.results / "all_layers.json", KEY)
    for seed, minutes, name in product(args.seeds, args.minutes, args.cells):
        cell = CELLS[name]
        if results.has(name, minutes, seed):
            continue
        if cell.has_scores and args.real_views is None:
            print(f"{name}: left out, as it needs --real_views", flush=True)
            continue
        photos = photos_of_cell(args.photos, cell, seed)
        cache = args.cache / f"{cell.data}-{cell.size}"
        results.add(name, minutes, seed, **measured(photos, cell, minutes, seed, cache, args.real_views))


if __name__ == "__main__":
    main()
