"""
Wrong labels, at random, between two classes, or as people err: how many does the label model say there are, which
does it call wrong, and how many right labels among them? Beside it, cleanlab's filter (AGPL-3.0, not a dependency) on
the same probabilities.

    pip install -e '.[demo]' cleanlab
    python benchmarks/wrong_labels.py PHOTOS --counts cifar10h-counts.npy

PHOTOS and `--cache` are those of photos_frozen.py. `--counts`: of CIFAR-10H (https://github.com/jcpeterson/cifar-10h,
Peterson et al., arXiv 1908.07086, CC BY-NC-SA 4.0), where row i has how many of about 51 people gave image i of
CIFAR-10's test set each class. `a person`: the label is one answer, drawn at random. `worst of three`: a wrong answer
among three, where there is one. The views are captions, with class names, and image features, with all labels or 10%
of them; or captions alone with all labels, as `g4i check --views caption` has them.

Writes results/wrong_labels.json.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from photos import PEOPLE, Photos, labels_with, load_photos, parsed, parser_of
from result_files import Results

from g4i_hf import LabelModel

KEY = ("data", "kind", "views", "label_fraction", "draw")
KINDS = {"all": 2, "20% symmetric": 2, "20% confusable": 2} | dict.fromkeys(PEOPLE, 5)  # and draws of each
BOTH, CAPTIONS = "captions and image features", "captions"
CASES = ((BOTH, 1.0), (BOTH, 0.1), (CAPTIONS, 1.0))


def cells(photos: Photos, counts: np.ndarray | None) -> Iterator[tuple]:
    """Kind, views, share of labels, draw, and (N,) labels of all images."""
    for kind, draws in KINDS.items():
        if kind in PEOPLE and (counts is None or photos.name != "cifar10"):
            continue
        for (views, fraction), draw in product(CASES, range(draws)):
            generator = np.random.default_rng(draw)
            if kind in PEOPLE:
                labels = PEOPLE[kind](photos.answers(counts), photos.truth, generator)
            else:
                labels = labels_with(photos.training, kind, draw)
            yield kind, views, fraction, draw, np.where(generator.random(len(labels)) < fraction, labels, -1)


def measured(photos: Photos, labels: np.ndarray, names_of_views: str, seed: int) -> dict:
    views = photos.views
    if names_of_views == CAPTIONS:
        del views["image"]
    model = LabelModel(photos.num_labels, seed).fit(views, labels)
    known, truth = labels >= 0, photos.truth
    wrong = known & (labels != truth)
    suspicious = np.flatnonzero(known & (model.posterior_.argmax(1) != labels))
    return {
        "labels": int(known.sum()),
        "wrong": float(wrong.sum() / known.sum()),
        "estimated_wrong": model.label_noise_,
        "interval": model.label_noise_interval_,
        "accuracy": float((model.probabilities_.argmax(1) == truth).mean()),
        "estimated_accuracy": model.accuracy_.share,
        "accuracy_interval": model.accuracy_.interval,
        "ours": precision_and_recall(suspicious, wrong),
        "cleanlab": by_cleanlab(labels, model.probabilities_.astype(np.float64), wrong),
    }


def precision_and_recall(rows: np.ndarray, wrong: np.ndarray) -> dict[str, float | None]:
    right = float(wrong[rows].sum())
    found = {"found": len(rows), "right_called_wrong": len(rows) - int(right)}
    if not wrong.any():
        return found | {"precision": None, "recall": None}
    return found | {"precision": right / max(len(rows), 1), "recall": right / float(wrong.sum())}


def by_cleanlab(given: np.ndarray, out_of_fold: np.ndarray, wrong: np.ndarray) -> dict:
    from cleanlab.filter import find_label_issues

    known = np.flatnonzero(given >= 0)
    # It wants every class among the labels
    classes = np.unique(given[known])
    place = np.searchsorted(classes, given[known])
    shares = out_of_fold[np.ix_(known, classes)] + 1e-9
    issues = find_label_issues(place, shares / shares.sum(1, keepdims=True), n_jobs=1)
    return precision_and_recall(known[issues], wrong)


def main() -> None:
    args = parsed(parser_of(__doc__))
    results = Results(args.results / "wrong_labels.json", KEY)
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        for *key, draw, labels in cells(photos, args.counts):
            if not results.has(data, *key, draw):
                results.add(data, *key, draw, **measured(photos, labels, key[1], draw))


if __name__ == "__main__":
    main()
