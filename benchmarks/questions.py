"""
Which question pays: how often do 64 labelled images choose as all images do? `g4i caption --dry_run 64` of several
`--prompt` compares the views of their answers. In place of questions stand captions that a model wrote: whole, their
first five words, their nouns alone, and those of other images; for CIFAR-10 also answers of people, one an image.

    pip install textblob
    python benchmarks/questions.py PHOTOS --counts cifar10h-counts.npy

PHOTOS and `--cache` are those of photos_frozen.py. Nouns are by the lexicon in textblob. Both the 64 images and "all
images", `--rows` of them drawn once, have their true labels. Writes results/questions.json.
"""

import argparse
import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import torch
from photos import by_a_person, encoded, load_photos
from provenance import RESULTS, provenance, write_rows

from g4i_hf import LabelModel, View

FILE = RESULTS / "questions.json"
ASKED = 64
CLOSE = 0.02  # of the best accuracy: a choice that loses no more than that is as good


def nouns() -> set[str]:
    package = Path(importlib.util.find_spec("textblob").origin).parent
    lines = (package / "en" / "en-lexicon.txt").read_text(encoding="utf-8").splitlines()
    tags = dict(line.split(" ", 1) for line in lines if line and not line.startswith(";;;"))
    return {word.lower() for word, tag in tags.items() if tag.startswith("NN")}


def texts_of(captions: list[str], known: set[str], generator: np.random.Generator) -> dict[str, list[str]]:
    words = [re.findall(r"[a-z-]+", text.lower()) for text in captions]
    return {
        "whole": captions,
        "first five words": [" ".join(text.split()[:5]) for text in captions],
        "nouns": [" ".join(word for word in row if word in known) for row in words],
        "of other images": [captions[row] for row in generator.permutation(len(captions))],
    }


def accuracy(view: View, labels: np.ndarray, number: int) -> float:
    """As the dry run estimates it; 0 where it cannot."""
    try:
        found = LabelModel(number).fit({"question": view}, labels).accuracy_
    except ValueError:
        return 0.0
    return found.share if found else 0.0


def views_of(photos, rows: np.ndarray, counts: np.ndarray | None) -> dict[str, View]:
    generator = np.random.default_rng(0)
    texts = texts_of([photos.captions[row] for row in rows], nouns(), generator)
    views = {}
    for name, values in texts.items():
        embeds = encoded(values).astype(np.float32)
        embeds[[not text for text in values]] = np.nan
        views[name] = View(embeds, photos.class_embeds, learns=False)
    if photos.name == "cifar10" and counts is not None:
        ids = photos.training.select(rows)["image_id"][:]
        answers = by_a_person(counts[[int(image_id.split("/")[1]) for image_id in ids]], generator)
        views["answers of people"] = View.answers(answers, photos.num_labels)
    return views


def compared(views: dict[str, View], labels: np.ndarray, number: int, draws: int) -> dict:
    of_all = {name: accuracy(view, labels, number) for name, view in views.items()}
    best, chosen = max(of_all, key=of_all.__getitem__), []
    for draw in range(draws):
        rows = np.random.default_rng(draw).choice(len(labels), ASKED, replace=False)
        few = {n: View(v.values[rows], v.class_values, learns=v.learns) for n, v in views.items()}
        found = {name: accuracy(view, labels[rows], number) for name, view in few.items()}
        chosen.append(max(found, key=found.__getitem__))
    lost = [of_all[best] - of_all[name] for name in chosen]
    return {
        "accuracy": of_all,
        "best": best,
        "chosen": {name: chosen.count(name) for name in views},
        "same_choice": chosen.count(best) / draws,
        "as_good": float(np.mean([each <= CLOSE for each in lost])),
        "mean_loss": float(np.mean(lost)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", type=Path)
    parser.add_argument("--data", nargs="+", default=["cifar10", "caltech101", "flowers102"])
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts = None if args.counts is None else np.load(args.counts, allow_pickle=False)
    made = provenance() | {"command": "python benchmarks/questions.py PHOTOS --counts cifar10h-counts.npy"}
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    for data in args.data:
        if data in {row["data"] for row in rows}:
            continue
        start = time.process_time()
        photos = load_photos(args.photos, data, args.cache)
        chosen = np.random.default_rng(0).permutation(len(photos.training))[: args.rows]
        views = views_of(photos, chosen, counts)
        found = compared(views, photos.truth[chosen], photos.num_labels, args.draws)
        row = {"data": data, "images": len(chosen), "asked": ASKED, "draws": args.draws}
        rows.append(row | found | {"cpu_seconds": round(time.process_time() - start, 1)})
        write_rows(FILE, made, rows)


if __name__ == "__main__":
    main()
