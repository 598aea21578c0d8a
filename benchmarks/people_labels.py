"""
Labels that people really get wrong: how many does the label model say are wrong, which does it call wrong, and how
many right labels among them? Beside it, cleanlab's filter (AGPL-3.0, not a dependency) on the same probabilities.

    pip install -e '.[demo]'
    pip install cleanlab
    python benchmarks/people_labels.py PHOTOS --counts cifar10h-counts.npy

PHOTOS and `--cache` are those of photos_frozen.py. `--counts`: of CIFAR-10H (https://github.com/jcpeterson/cifar-10h,
Peterson et al., arXiv 1908.07086, CC BY-NC-SA 4.0), where row i has how many of about 51 people gave image i of
CIFAR-10's test set each class. `a person`: the label is one answer, drawn at random. `worst of three`: a wrong answer
among three, where there is one. Right labels, and a tenth at random, are measured on all three datasets, with two
draws. All labels are given, or 10% of them. The views are captions, with class names, and image features; people's
labels are also compared with captions alone, as `g4i check` does.

Writes results/people_labels.json.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
from label_model import by_cleanlab, precision_and_recall
from photos import PEOPLE, Photos, load_photos, parsed, parser_of
from result_files import Results

from g4i_hf import LabelModel

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
        answers = photos.answers(counts)
        for kind, labels_of in PEOPLE.items():
            kinds[kind] = (5, lambda generator, labels_of=labels_of: labels_of(answers, truth, generator))
    kinds["right"] = (2, lambda _: truth)
    kinds["10% at random"] = (2, lambda generator: at_random(truth, generator))
    return kinds


def measured(photos: Photos, labels: np.ndarray, names_of_views: str, seed: int) -> dict:
    views = photos.views
    if names_of_views == CAPTIONS:
        del views["image"]
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


def main() -> None:
    args = parsed(parser_of(__doc__))
    results = Results(args.results / "people_labels.json", KEY)
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        for kind, (draws, label) in kinds_of(photos, args.counts).items():
            kinds_of_views = (BOTH, CAPTIONS) if kind in PEOPLE else (BOTH,)
            for views, draw, fraction in product(kinds_of_views, range(draws), FRACTIONS):
                key = data, kind, views, fraction, draw
                if not results.has(*key):
                    generator = np.random.default_rng(draw)
                    labels = label(generator)
                    labels = np.where(generator.random(len(labels)) < fraction, labels, -1)
                    results.add(*key, **measured(photos, labels, views, draw))


if __name__ == "__main__":
    main()
