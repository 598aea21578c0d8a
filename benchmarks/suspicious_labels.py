"""
How well are wrong labels found? Labels of a share of the training images are made wrong; all images are then ranked by
how much their label is to be doubted. Precision among the first images, where 80% of the wrong labels are among them:

- captions: by `LabelModel`, which `g4i check` uses;
- both: by the same with the features of a frozen EfficientNet-Lite0 beside the captions;
- cleanlab: by its quality scores (AGPL-3.0, not a dependency) of a linear probe of these features, out of fold.

    pip install cleanlab
    python benchmarks/suspicious_labels.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. Writes results/suspicious_labels.json.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from cleanlab.rank import get_label_quality_scores
from photos import load_photos
from photos_frozen import Case, case_of, image_probabilities
from provenance import RESULTS, provenance

from g4i_hf import LabelModel, View

RECALL = 0.8
SETTINGS = ("20% symmetric", "40% symmetric", "20% confusable")


def precision(doubts: np.ndarray, wrong: np.ndarray) -> float:
    """Among the most doubtful rows that hold `RECALL` of the wrong labels."""
    order = np.argsort(-doubts, kind="stable")
    found = np.cumsum(wrong[order])
    number = int(np.searchsorted(found, RECALL * wrong.sum())) + 1
    return float(found[number - 1] / number)


def doubts_of(model: LabelModel, labels: np.ndarray) -> np.ndarray:
    return -model.posterior_[np.arange(len(labels)), labels]


def measured(case: Case) -> dict[str, float]:
    photos, labels = case.photos, case.labels
    wrong = labels != photos.truth
    embeds = np.asarray(photos.training.with_format("numpy")["text_embeds"][:])
    views = {"caption": View(embeds, photos.class_embeds, learns=False)}
    of_captions = LabelModel(photos.num_labels, case.seed).fit(views, labels)
    of_both = LabelModel(photos.num_labels, case.seed).fit(views | {"image": View(photos.features.numpy())}, labels)
    scores = get_label_quality_scores(labels, image_probabilities(case).astype(np.float64))
    return {
        "captions": precision(doubts_of(of_captions, labels), wrong),
        "both": precision(doubts_of(of_both, labels), wrong),
        "cleanlab": precision(1 - scores, wrong),
        "share_wrong": float(wrong.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("runs/photos"))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = provenance() | {"command": "python benchmarks/suspicious_labels.py PHOTOS"}
    found |= {"recall": RECALL, "seeds": args.seeds, "measured": []}
    for name in ("cifar10", "caltech101", "flowers102"):
        photos = load_photos(args.photos, name, args.cache)
        for setting in args.settings:
            runs = [measured(case_of(photos, setting, seed)) for seed in args.seeds]
            summary = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
            found["measured"].append({"data": name, "setting": setting, "summary": summary, "runs": runs})
            print(name, setting, json.dumps(summary), flush=True)
            (RESULTS / "suspicious_labels.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
