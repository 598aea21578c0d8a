"""
Do the label model's 95% intervals hold the truth? Of many draws of few labels, clean or with 20% of them wrong: the
accuracy of captions, of image features and of all views together, and the share of wrong labels.

    python benchmarks/coverage.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. Each set is reduced to 30 classes and 1,500 training images, other
ones in each draw. 1 to 10 labels a class, or as many as 4 a class drawn at random, so that some classes have one or
none. The truth are the labels that were taken away. With one label a class nothing is held out, and no interval is
given: the estimate stands beside the truth. Validation and test images have no part. Finished draws are not made
again. Writes results/coverage.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from photos_frozen import Photos, load_photos
from provenance import RESULTS, provenance

from g4i_hf import LabelModel, View
from g4i_hf.label_model.rows import WHOLE
from g4i_hf.label_model.views import Values

FILE = RESULTS / "coverage.json"
CLASSES, ROWS = 30, 1500
EACH = (1, 2, 3, 5, 10, "at random")
WRONG = 0.2
KEY = ("data", "labels", "wrong", "seed")


def reduced(photos: Photos, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and the truth of each: a class from 0 to `CLASSES`, or fewer where the set has fewer."""
    generator = np.random.default_rng(seed)
    classes = generator.permutation(photos.num_labels)[:CLASSES]
    rows = np.flatnonzero(np.isin(photos.truth, classes))
    rows = np.sort(generator.permutation(rows)[:ROWS])
    number = np.full(photos.num_labels, -1)
    number[classes] = np.arange(len(classes))
    return rows, number[photos.truth[rows]], classes


def drawn(truth: np.ndarray, each: int | str, wrong: float, seed: int) -> np.ndarray:
    """(N,) labels, -1 without one."""
    generator = np.random.default_rng([seed, 1])
    order, number = generator.permutation(len(truth)), int(truth.max()) + 1
    if each == "at random":
        chosen = order[: 4 * number]
    else:
        chosen = np.concatenate([order[truth[order] == label][:each] for label in range(number)])
    labels = np.full(len(truth), -1)
    labels[chosen] = truth[chosen]
    flipped = chosen[generator.random(len(chosen)) < wrong]
    labels[flipped] = (labels[flipped] + generator.integers(1, number, len(flipped))) % number
    return labels


def measured(photos: Photos, each: int | str, wrong: float, seed: int) -> dict:
    rows, truth, classes = reduced(photos, seed)
    labels = drawn(truth, each, wrong, seed)
    embeds = np.asarray(photos.training.select(rows).with_format("numpy")["text_embeds"][:])
    arrays = {"caption": embeds, "image": photos.features.numpy()[rows]}
    views = {
        "caption": View(embeds, photos.class_embeds[classes], learns=False),
        "image": View(arrays["image"]),
    }
    start = time.process_time()
    model = LabelModel(len(classes), seed).fit(views, labels)
    found = {"seconds": round(time.process_time() - start, 2)}
    unlabelled, known = labels < 0, labels >= 0
    right = model.probabilities_[unlabelled].argmax(1) == truth[unlabelled]
    estimate = model.accuracy_
    found["together"] = _row(estimate and estimate.share, estimate and estimate.interval, right.mean())
    for alone in model.models_:
        if not alone.taught:
            values = Values.without_names(alone.name, arrays[alone.name], model.spaces_[alone.name])
            told = alone.by_model(WHOLE, {alone.name: values}, np.flatnonzero(unlabelled)).argmax(1)
            line = model.report_[alone.name]
            found[alone.name] = _row(line["accuracy"], line["interval"], (told == truth[unlabelled]).mean())
    share, interval = model.label_noise_, model.label_noise_interval_
    found["wrong_labels"] = _row(share, interval, (labels[known] != truth[known]).mean())
    return found


def _row(estimate: float | None, interval: tuple[float, float] | None, truth: float) -> dict:
    return {"estimate": estimate, "interval": interval, "truth": float(truth)}


def summary(rows: list[dict]) -> list[dict]:
    """For each data, labels and share of wrong ones: how often intervals hold, and their median half-width."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY[:3]), []).append(row)
    found = []
    for place, group in groups.items():
        line = dict(zip(KEY, place, strict=False)) | {"draws": len(group)}
        for name in ("together", "caption", "image", "wrong_labels"):
            told = [row[name] for row in group if name in row and row[name]["estimate"] is not None]
            with_interval = [each for each in told if each["interval"] is not None]
            if told:
                errors = [abs(each["estimate"] - each["truth"]) for each in told]
                line[f"{name}_error"] = float(np.mean(errors))
            if with_interval:
                ends = [each["interval"] for each in with_interval]
                holds = [
                    low - 1e-9 <= each["truth"] <= high + 1e-9
                    for each, (low, high) in zip(with_interval, ends, strict=True)
                ]
                line[f"{name}_holds"] = float(np.mean(holds))
                line[f"{name}_half_width"] = float(np.median([(high - low) / 2 for low, high in ends]))
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"), help="for features and embeddings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    made = provenance() | {"command": "python benchmarks/coverage.py PHOTOS"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    known = {tuple(row[name] for name in KEY) for row in rows}
    loaded = {data: load_photos(args.photos, data, args.cache) for data in args.data}
    for seed in range(args.draws):
        for data, photos in loaded.items():
            for each in EACH:
                for wrong in (0.0, WRONG):
                    key = {"data": data, "labels": each, "wrong": wrong, "seed": seed}
                    if tuple(key.values()) in known or (each == 1 and wrong):
                        continue
                    rows.append(key | measured(photos, each, wrong, seed))
        lines = [",\n".join(f"  {json.dumps(row)}" for row in part) for part in (summary(rows), rows)]
        FILE.write_text(
            f'{{"made": {json.dumps(made, indent=1)},\n"summary": [\n{lines[0]}\n],\n"rows": [\n{lines[1]}\n]}}\n'
        )
        print(seed, "done", flush=True)


if __name__ == "__main__":
    main()
