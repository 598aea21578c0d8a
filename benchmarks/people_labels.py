"""
Labels that people really get wrong: how many does the label model say are wrong, which does it call wrong, and how
many right labels among them? Beside it, cleanlab's filter (AGPL-3.0, not a dependency) on the same probabilities.

    python recipes/efficientnet_lite0/convert.py
    pip install cleanlab
    python benchmarks/people_labels.py PHOTOS --counts cifar10h-counts.npy

PHOTOS and `--cache` are those of photos_frozen.py. `--counts`: of CIFAR-10H (https://github.com/jcpeterson/cifar-10h,
Peterson et al., arXiv 1908.07086, CC BY-NC-SA 4.0), where row i has how many of about 51 people gave image i of
CIFAR-10's test set each class. `a person`: the label is one answer, drawn at random. `worst of three`: a wrong answer
among three, where there is one. Right labels, and a tenth at random, are measured on all three datasets, with two
draws. All labels are given, or 10% of them. The views are captions, with class names, and image features; people's
labels are also compared with captions alone, as `g4i check` does.

Rows that are there already stay. Writes results/people_labels.json.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from label_model import by_cleanlab, precision_and_recall
from photos import PEOPLE, Photos, load_photos
from provenance import RESULTS, provenance

from g4i_hf import LabelModel, View

KEY = ("data", "kind", "views", "label_fraction", "draw")
BOTH, CAPTIONS = "captions and image features", "captions"
FRACTIONS = (1.0, 0.1)
AT_RANDOM = 0.1


def at_random(truth: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A tenth of the labels are drawn from all classes, of which the true one is one."""
    drawn = generator.integers(truth.max() + 1, size=len(truth))
    return np.where(generator.random(len(truth)) < AT_RANDOM, drawn, truth)


def kinds_of(photos: Photos, counts: np.ndarray | None) -> dict[str, tuple[int, Callable]]:
    """Kinds of errors: how many draws of them, and what gives labels."""
    truth, kinds = photos.truth, {}
    if photos.name == "cifar10" and counts is not None:
        answers = counts[[int(image_id.split("/")[1]) for image_id in photos.training["image_id"][:]]]
        for kind, labels_of in PEOPLE.items():
            kinds[kind] = (5, lambda generator, labels_of=labels_of: labels_of(answers, truth, generator))
    kinds["right"] = (2, lambda _: truth)
    kinds["10% at random"] = (2, lambda generator: at_random(truth, generator))
    return kinds


def measured(photos: Photos, labels: np.ndarray, names_of_views: str, seed: int) -> dict:
    embeds = np.asarray(photos.training.with_format("numpy")["text_embeds"][:], dtype=np.float32)
    embeds[~embeds.any(1)] = np.nan  # no caption
    views = {"caption": View(embeds, photos.class_embeds, learns=False)}
    if names_of_views == BOTH:
        views["image"] = View(photos.features.numpy())
    model = LabelModel(photos.num_labels, seed).fit(views, labels)
    known, truth = labels >= 0, photos.truth
    wrong = known & (labels != truth)
    suspicious = np.flatnonzero(known & (model.posterior_.argmax(1) != labels))
    low, high = model.label_noise_interval_
    share = float(wrong.sum() / known.sum())
    return {
        "labels": int(known.sum()),
        "wrong": share,
        "estimated_wrong": model.label_noise_,
        "interval": [low, high],
        "interval_holds": bool(low <= share <= high),
        "accuracy": float((model.probabilities_.argmax(1) == truth).mean()),
        "estimated_accuracy": model.accuracy_.share,
        "accuracy_interval": model.accuracy_.interval,
        "ours": precision_and_recall(suspicious, wrong),
        "cleanlab": by_cleanlab(labels, model.probabilities_.astype(np.float64), wrong),
    }


def summary(rows: list[dict]) -> list[dict]:
    """For each dataset, kind of errors and share of labels: means over the draws, in how many the interval holds."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY[:-1]), []).append(row)
    found = []
    for key, runs in groups.items():
        line = dict(zip(KEY[:-1], key, strict=True)) | {"draws": len(runs)}
        for name in ("labels", "wrong", "estimated_wrong", "accuracy", "estimated_accuracy"):
            line[name] = statistics.mean(run[name] for run in runs)
        line["interval"] = [statistics.mean(run["interval"][end] for run in runs) for end in (0, 1)]
        line["interval_holds"] = sum(run["interval_holds"] for run in runs)
        for method in ("ours", "cleanlab"):
            if all(run[method] for run in runs):
                line[method] = together([run[method] for run in runs])
        found.append(line)
    return found


def together(runs: list[dict]) -> dict:
    """Means over draws; precision is that of all labels that are called wrong in any draw."""
    found, right = (sum(run[name] for run in runs) for name in ("found", "right_called_wrong"))
    recalls = [run["recall"] for run in runs if run["recall"] is not None]  # None: no label was wrong
    return {
        "found": found / len(runs),
        "right_called_wrong": right / len(runs),
        "precision": 1 - right / found if found and recalls else None,
        "recall": statistics.mean(recalls) if recalls else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", type=Path, help="of CIFAR-10H; without it, right labels and random errors alone")
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    parser.add_argument("--out", type=Path, default=RESULTS / "people_labels.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    counts = np.load(args.counts, allow_pickle=False) if args.counts else None
    made = provenance() | {"command": "python benchmarks/people_labels.py PHOTOS --counts cifar10h-counts.npy"}
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    done = {tuple(row[name] for name in KEY) for row in rows}
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        for kind, (draws, label) in kinds_of(photos, counts).items():
            kinds_of_views = (BOTH, CAPTIONS) if kind in PEOPLE else (BOTH,)
            for views, draw, fraction in product(kinds_of_views, range(draws), FRACTIONS):
                key = (data, kind, views, fraction, draw)
                if key in done:
                    continue
                generator = np.random.default_rng(draw)
                labels = label(generator)
                labels = np.where(generator.random(len(labels)) < fraction, labels, -1)
                row = dict(zip(KEY, key, strict=True)) | measured(photos, labels, views, draw)
                rows.append(row)
                print(json.dumps(row), flush=True)
                args.out.write_text(json.dumps(made | {"summary": summary(rows), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
