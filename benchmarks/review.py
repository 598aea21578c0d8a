"""
Is a person's time well spent on the images that `g4i label` shows? With the truth in place of a person.

    python recipes/efficientnet_lite0/convert.py
    python benchmarks/review.py PHOTOS --counts cifar10h-counts.npy

PHOTOS and `--cache` are those of photos_frozen.py, `--counts` that of people_labels.py. Each set is reduced as in
coverage.py: 30 classes (CIFAR-10 has 10) and 1,500 images.

`next`: one label a class, then rounds of 20 labels. After each the label model is fitted again, and a last layer on
what it says, as `g4i fit` does; its accuracy is that on images that nobody labels. Beside `g4i label --pick next` the
images are drawn at random, or have the least margin between the two likeliest classes, or the greatest entropy. These
labels are reviewed: they carry no noise, and only those drawn at random choose the regularisation of the last layer.
`wrong`: all labels, 20% of them wrong, symmetric or always the same other class (confusable), or as people err
(CIFAR-10); errors among the first 100 of `--pick wrong`, and in the order of cleanlab, which is that of the
probability of the given label.
`gold`: how often the interval of a random sample of 50 to 200 images holds the accuracy, over 200 samples of images
that nobody labels. The classifiers are those of one label a class. Writes results/review.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from controls import with_label_noise
from coverage import Drawn
from datasets import Dataset
from photos import Photos, layers_of_fit, load_photos, worst_of_three
from provenance import RESULTS, provenance, write_rows

from g4i_hf import LabelModel, View
from g4i_hf.data.labels import MANUAL
from g4i_hf.label_model.picks import ROUND, pick_next, pick_wrong
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS
from g4i_hf.training.judged_heads import Known
from g4i_hf.training.judging import judged_by_labels

FILE = RESULTS / "review.json"
ROUNDS, CLICKS = 10, 100
SAMPLES, SIZES = 200, (50, 100, 200)  # of gold images
STRATEGIES = ("next", "random", "margin", "entropy")
KEY = ("what", "data", "kind", "seed")


def known_of(drawn: Drawn, labels: np.ndarray, seed: int, reviews: np.ndarray | None = None) -> Known:
    views = {"caption": View(drawn.embeds, drawn.names, learns=False), "image": View(drawn.features)}
    reviewed = None if reviews is None else reviews != ""
    model = LabelModel(len(drawn.classes), seed).fit(views, labels, reviewed=reviewed)
    return Known.of(model, views, labels, np.arange(len(labels)), reviews)


def picked(strategy: str, model: LabelModel, drawn: Drawn, labels: np.ndarray, seed: int) -> np.ndarray:
    rows, told = np.flatnonzero(labels < 0), model.probabilities_.astype(np.float32)
    if strategy == "next":
        return pick_next(told, labels, [drawn.embeds, drawn.features], ROUND, seed)
    if strategy == "random":
        return np.random.default_rng([seed, len(rows)]).permutation(rows)[:ROUND]
    told = told[rows]
    if strategy == "margin":
        second, first = np.partition(told, -2, axis=1)[:, -2:].T
        return rows[np.argsort(first - second, kind="stable")[:ROUND]]
    return rows[np.argsort((told * np.log(told + 1e-9)).sum(1), kind="stable")[:ROUND]]


def of_next(drawn: Drawn, strategy: str, seed: int) -> dict:
    labels, accuracies = drawn.labels(1, 0.0, seed), []
    reviews = np.full(len(labels), "", dtype="<U6")
    for number in range(ROUNDS + 1):
        known = known_of(drawn, labels, seed, reviews)
        head = layers_of_fit(known, drawn.features)[WITH_VIEWS]
        right = head.logits(drawn.others).argmax(1) == drawn.truth_of_others
        accuracies.append(round(float(right.mean()), 4))
        if number < ROUNDS:
            rows = picked(strategy, known.model, drawn, labels, seed)
            labels[rows] = drawn.truth[rows]
            reviews[rows] = MANUAL if strategy == "random" else "next"
    return {"accuracies": accuracies}


def of_wrong(drawn: Drawn, labels: np.ndarray, seed: int) -> dict:
    model = known_of(drawn, labels, seed).model
    wrong, told = labels != drawn.truth, model.probabilities_.astype(np.float32)
    by_label = np.argsort(told[np.arange(len(labels)), labels], kind="stable")
    orders = {"wrong": pick_wrong(told, labels), "cleanlab": by_label}
    return {"share": float(wrong.mean())} | {name: int(wrong[order[:CLICKS]].sum()) for name, order in orders.items()}


def confusable(drawn: Drawn, seed: int) -> np.ndarray:
    """(N,) labels, of which 20% of each class are those of the class with the nearest captions."""
    rows = {"image_id": drawn.image_ids, "label": drawn.truth.tolist(), "text_embeds": drawn.embeds.tolist()}
    return np.array(with_label_noise(Dataset.from_dict(rows), 0.2, seed, len(drawn.classes), "confusable")["label"][:])


def of_gold(drawn: Drawn, seed: int) -> dict:
    labels = drawn.labels(1, 0.0, seed)
    heads = layers_of_fit(known_of(drawn, labels, seed), drawn.features)
    told = {name: head.logits(drawn.others).argmax(1) for name, head in heads.items()}
    right = {name: (each == drawn.truth_of_others).astype(float) for name, each in told.items()}
    truth = {name: each.mean() for name, each in right.items()}
    truth["difference"] = truth[WITH_VIEWS] - truth[LABELS_ONLY]
    generator, found = np.random.default_rng([seed, 5]), {name: round(float(each), 4) for name, each in truth.items()}
    for size in SIZES:
        holds, halves = dict.fromkeys(truth, 0), []
        for _ in range(SAMPLES):
            rows = generator.integers(len(drawn.others), size=size)
            judged = judged_by_labels({name: each[rows] for name, each in told.items()}, drawn.truth_of_others[rows])
            for name, estimate in {**judged.accuracies, "difference": judged.difference}.items():
                low, high = estimate.interval
                holds[name] += int(low <= truth[name] <= high)
            low, high = judged.accuracies[WITH_VIEWS].interval
            halves.append((high - low) / 2)
        found[str(size)] = {
            "holds": {name: number / SAMPLES for name, number in holds.items()},
            "half": round(float(np.median(halves)), 4),
        }
    return found


def cells(photos: Photos, counts: np.ndarray | None, seeds: list[int]):
    """A key, and what measures it."""
    for seed in seeds:
        drawn = Drawn(photos, seed)
        yield ("gold", photos.name, "random", seed), lambda on=drawn, by=seed: of_gold(on, by)
        for strategy in STRATEGIES:
            yield ("next", photos.name, strategy, seed), lambda of=strategy, on=drawn, by=seed: of_next(on, of, by)
        labels = drawn.labels(len(drawn.truth), 0.2, seed)
        yield ("wrong", photos.name, "symmetric", seed), lambda of=labels, on=drawn, by=seed: of_wrong(on, of, by)
        labels = confusable(drawn, seed)
        yield ("wrong", photos.name, "confusable", seed), lambda of=labels, on=drawn, by=seed: of_wrong(on, of, by)
        if photos.name == "cifar10" and counts is not None:
            of_rows = counts[[int(image_id.split("/")[1]) for image_id in drawn.image_ids]][:, drawn.classes]
            people = worst_of_three(of_rows, drawn.truth, np.random.default_rng(seed))
            yield ("wrong", photos.name, "people", seed), lambda of=people, on=drawn, by=seed: of_wrong(on, of, by)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", type=Path)
    parser.add_argument("--data", nargs="+", default=["flowers102", "caltech101", "cifar10"])
    parser.add_argument("--what", nargs="+", default=["next", "wrong", "gold"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    counts = None if args.counts is None else np.load(args.counts, allow_pickle=False)
    made = provenance() | {"command": "python benchmarks/review.py PHOTOS --counts cifar10h-counts.npy"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    known = {tuple(row[name] for name in KEY) for row in rows}
    for data in args.data:
        for key, measure in cells(load_photos(args.photos, data, args.cache), counts, args.seeds):
            if key[0] in args.what and key not in known:
                rows.append(dict(zip(KEY, key, strict=True)) | measure() | {"commit": made["commit"]})
                write_rows(FILE, made, rows)


if __name__ == "__main__":
    main()
