"""
All layers beside the last layer of the same network, at the same image size, with and without the alignment loss.

    pip install -e '.[demo]'
    python benchmarks/all_layers.py PHOTOS --real_views REAL_VIEWS
    python benchmarks/all_layers.py PHOTOS --cells ALIGNMENT --arms 0 0.1 0.3 1 TextTeacher --seeds 0 1 2

PHOTOS are those of photos.py; `--real_views` is the folder of real_views.py, for cells with scores of SigLIP 2. Each
cell is a smaller draw of a dataset, so that it takes about 15 minutes of a core, and goes through
`g4i fit --finetune true` itself (its Python function). It trains for as many steps as are usual, or `--steps`, so that
a busy machine changes nothing. Images judge as users have them: `validation` where every image has a label, else
unlabelled ones that are kept. An arm is a weight of the alignment loss, or `labels only`. All classifiers are scored
on `test`: what ships beside its last layer. Arms are compared by what was trained, whether or not it ships, as the
judge errs by more than they differ; with paired 95% intervals. Writes results/all_layers.json, a row for each cell,
arm and seed, or all_layers_alignment.json where arms have a weight; rows that are there are not measured again.
"""

import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from photos import ENCODER, SIGLIP2, parsed, parser_of, photos_of, views_of_models
from photos_fit import drawn, fitted, predictions_of
from result_files import ROOT, Results, grouped, right_of
from views import converted

from g4i_hf.data.checks import labels_of
from g4i_hf.evaluation.estimate import difference_interval
from g4i_hf.evaluation.predict import load_run, predict
from g4i_hf.fitting import all_layers
from g4i_hf.names import ALL_LAYERS, LABELS_ONLY, WITH_VIEWS

sys.path.append(str(ROOT / "recipes" / "text_teacher"))
import text_teacher  # noqa: F401  registers its objective

KEY = ("cell", "steps", "arm", "seed")  # `steps` as given; null for the usual number


@dataclass
class Cell:
    data: str
    setting: str  # of photos_fit.py
    images: int  # for training at most
    size: int  # in pixels
    classes: int | None = None  # the most frequent ones
    has_scores: bool = False  # of SigLIP 2, beside captions
    lite: int | None = None  # EfficientNet-Lite1 of views.py, in place of Lite0


CELLS = {
    "cifar10, none": Cell("cifar10", "none", 3_000, 96),
    "cifar10, none, scores": Cell("cifar10", "none", 3_000, 96, has_scores=True),
    "cifar10, all": Cell("cifar10", "all", 3_000, 96),
    "cifar10, 40% wrong": Cell("cifar10", "40% wrong", 3_000, 96),
    "cifar10, 6,000, none": Cell("cifar10", "none", 6_000, 112),
    "cifar10, 6,000, none, scores": Cell("cifar10", "none", 6_000, 112, has_scores=True),
    "cifar10, 6,000, 40% wrong": Cell("cifar10", "40% wrong", 6_000, 112),
    "caltech101, all": Cell("caltech101", "all", 2_000, 128),
    "caltech101, 1 a class": Cell("caltech101", "1 a class", 2_000, 128),
    "flowers102, all": Cell("flowers102", "all", 1_100, 112),
    "flowers102, 4 a class": Cell("flowers102", "4 a class", 1_100, 112),
    "flowers102, 24 classes, all": Cell("flowers102", "all", 960, 112, classes=24),
    "flowers102, Lite1, all": Cell("flowers102", "all", 1_100, 112, lite=1),
}
ALIGNMENT_CELLS = ("flowers102, all", "flowers102, 4 a class", "caltech101, all", "cifar10, all")
LABELS_ONLY_ARM = "labels only"
ARMS = {weight: {"align_weight": float(weight)} for weight in ("0", "0.1", "0.3", "1")} | {
    "TextTeacher": {"align_weight": 0.3, "align_loss": "text_teacher", "align_temperature": 1.0},
    LABELS_ONLY_ARM: {"align_weight": 0.0},
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


was_kept: list[bool] = []  # by each fit


def keep_what_is_trained() -> None:
    """Also where the last layer ships."""
    judged = all_layers.AllLayers._judged

    def kept(*of_run: object) -> all_layers.Trained:
        trained = judged(*of_run)
        was_kept.append(trained.kept)
        return replace(trained, kept=True)

    all_layers.AllLayers._judged = kept


def measured(
    photos: DatasetDict, cell: Cell, arm: str, steps: int | None, seed: int, cache: Path, real_views: Path | None
) -> dict:
    splits, test = DatasetDict({name: photos[name] for name in photos if name != "test"}), photos["test"]
    views = (
        ["caption", "image:student", views_of_models(splits["train"], "cifar10", real_views)[SIGLIP2]]
        if cell.has_scores
        else None
    )
    learned = LABELS_ONLY if arm == LABELS_ONLY_ARM else WITH_VIEWS
    all_layers.ALIGNMENT = ARMS[arm]
    if steps:
        all_layers.USUAL_STEPS = steps, steps
    start, began = time.process_time(), time.monotonic()
    options = {"text_encoder": ENCODER, "image_size": cell.size, "views": views, "seed": seed}
    if cell.lite:
        options["student"] = str(converted(cell.lite, cache))
    result, folder = fitted(splits, cache, **options, finetune="true", release=learned)
    row = {"seconds_of_cpu": round(time.process_time() - start), "seconds": round(time.monotonic() - began)}
    row |= {"images": len(splits["train"]), "image_size": cell.size, "test_images": len(test)}
    row |= {"judged_on": result.judged_on, "judged_images": result.judged_images, "of_fit": result.all_layers}
    truth = labels_of(test)
    right = {name: found.predicted == truth for name, found in predictions_of(folder, test).items()}
    row |= {name: float(each.mean()) for name, each in right.items()}
    model, processor = load_run(folder / ALL_LAYERS)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    trained = predict(model, processor, test, accelerator, output_image_embeds=False).predicted == truth
    row |= {"trained": float(trained.mean()), "right": np.packbits(trained).tobytes().hex()}
    ships = trained if was_kept[-1] else right[learned]
    difference = ships.astype(float) - right[learned]
    row |= {"ships": float(ships.mean()), "difference": difference.mean()}
    return row | {"difference_interval": difference_interval(difference)}


def lines_of(rows: list[dict]) -> list[str]:
    """For each cell, how much an arm gains over the one without alignment, on the same draws and images."""
    lines, by_key = [], {tuple(row[name] for name in KEY): row for row in rows}
    for (cell, steps, arm), found in grouped(rows, *KEY[:-1]).items():
        pairs = [(row, by_key.get((cell, steps, "0", row["seed"]))) for row in found]
        differences = [right_of(row) - right_of(without) for row, without in pairs if without is not None]
        if arm != "0" and differences:
            of_images = np.mean(differences, 0)
            points, low, high = (100 * each for each in (of_images.mean(), *difference_interval(of_images)))
            draws = ", ".join(f"{100 * each.mean():+.1f}" for each in differences)
            lines.append(f"{cell}, {arm} - 0: {points:+.1f} points ({low:+.1f} to {high:+.1f}); draws {draws}")
    return lines


def main() -> None:
    parser = parser_of(__doc__, seeds=range(2), cache="runs/all_layers")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=[*CELLS, "ALIGNMENT"])
    parser.add_argument("--arms", nargs="+", default=["0"], choices=list(ARMS))
    parser.add_argument("--steps", type=int, help="by default as many as are usual")
    parser.add_argument("--real_views", type=Path, help="of cells with scores")
    args = parsed(parser)
    weights = "_alignment" if {*args.arms} - {"0", "labels only"} else ""
    results = Results(args.results / f"all_layers{weights}.json", KEY)
    keep_what_is_trained()
    cells = ALIGNMENT_CELLS if args.cells == ["ALIGNMENT"] else args.cells
    for seed, name, arm in product(args.seeds, cells, args.arms):
        cell, key = CELLS[name], (name, args.steps, arm, seed)
        if results.has(*key):
            continue
        if cell.has_scores and args.real_views is None:
            print(f"{name}: left out, as it needs --real_views", flush=True)
            continue
        photos, cache = photos_of_cell(args.photos, cell, seed), args.cache / f"{cell.data}-{cell.size}"
        results.add(*key, **measured(photos, cell, arm, args.steps, seed, cache, args.real_views))
    print("\n".join(lines_of(results.rows)))


if __name__ == "__main__":
    main()
