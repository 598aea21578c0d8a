"""
Several people label images: how many labels are right, and how accurate is each of them?

    pip install crowd-kit cleanlab
    python benchmarks/annotators.py PHOTOS --counts cifar10h-counts.npy

2,000 images of CIFAR-10 with captions. Each of 20 people labels a share of them. A label is drawn from the answers
that people gave to the image (CIFAR-10H, Peterson et al., ICCV 2019), so errors depend on it. In some settings one
person answers at random, or one swaps cats with dogs and deer with horses. `ours` is what `g4i fit` takes: the
majority trains a label model of the captions, and `judge_annotators` starts from its held-out probabilities. CROWDLAB
gets the same probabilities. Values are shares of right labels, in percent.

Writes results/annotators.json.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from photos import encoded, first_captions, parsed, parser_of, photos_of
from result_files import Results

from g4i_hf import LabelModel, View
from g4i_hf.data.checks import labels_of
from g4i_hf.embedding.embed import name_as_text
from g4i_hf.label_model.annotators import judge_annotators, majority

IMAGES, PEOPLE, CLASSES = 2_000, 20, 10
VOTES = (1, 2, 3, 5)  # an image
SETTINGS = ("as people are", "one at random", "one swaps")
SWAPPED = {3: 5, 5: 3, 4: 7, 7: 4}  # cat and dog, deer and horse


def drawn(counts: np.ndarray, number: int, setting: str, rng: np.random.Generator) -> np.ndarray:
    """(N, A) votes."""
    votes = np.full((len(counts), PEOPLE), -1)
    for row, shares in enumerate(counts / counts.sum(1, keepdims=True)):
        people = rng.choice(PEOPLE, number, replace=False)
        votes[row, people] = rng.choice(CLASSES, number, p=shares)
    has = votes[:, 0] >= 0
    if setting == "one at random":
        votes[has, 0] = rng.integers(CLASSES, size=has.sum())
    elif setting == "one swaps":
        votes[has, 0] = [SWAPPED.get(label, label) for label in votes[has, 0]]
    return votes


def ties_at_random(votes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    counts = np.stack([(votes == label).sum(1) for label in range(CLASSES)], axis=1)
    return (counts + rng.random(counts.shape) / 2).argmax(1)


def dawid_skene(votes: np.ndarray) -> np.ndarray:
    from crowdkit.aggregation import DawidSkene

    rows, people = np.nonzero(votes >= 0)
    table = pd.DataFrame({"task": rows, "worker": people, "label": votes[rows, people]})
    return DawidSkene(100).fit_predict(table).sort_index().to_numpy()


def crowdlab(votes: np.ndarray, known: np.ndarray) -> np.ndarray:
    from cleanlab.multiannotator import get_label_quality_multiannotator

    table = pd.DataFrame(np.where(votes >= 0, votes, np.nan))
    quality = get_label_quality_multiannotator(table, known, verbose=False)
    return quality["label_quality"]["consensus_label"].to_numpy()


def cell(view: View, votes: np.ndarray, truth: np.ndarray, ids: list[str], rng: np.random.Generator) -> dict:
    model = LabelModel(CLASSES).fit({"caption": view}, majority(votes, CLASSES), ids=ids)
    known = model.probabilities_.astype(np.float64)
    people = judge_annotators(votes, known)
    ways = {
        "ours": people.posterior.argmax(1),
        "majority": ties_at_random(votes, rng),
        "captions alone": known.argmax(1),
    }
    if (votes >= 0).sum(1).max() > 1:  # of one vote an image, both are the majority or an error
        ways |= {"Dawid-Skene": dawid_skene(votes), "CROWDLAB": crowdlab(votes, known)}
    right = {name: round(float(100 * (labels == truth).mean()), 2) for name, labels in ways.items()}
    shares = np.array([(truth == each)[each >= 0].mean() for each in votes.T])
    low, high = people.intervals.T
    held = {"intervals that hold": int(((low <= shares) & (shares <= high)).sum()), "intervals": PEOPLE}
    off = round(float(100 * np.abs(people.accuracies - shares).mean()), 2)
    return right | held | {"accuracies off by": off}


def main() -> None:
    args = parsed(parser_of(__doc__, seeds=range(3)))
    if args.counts is None:
        raise SystemExit("--counts is missing: the answers of CIFAR-10H.")
    results = Results(args.results / "annotators.json", ("setting", "votes", "seed"))
    training = photos_of(args.photos, "cifar10")["train"].select(range(IMAGES))
    cache = Path(args.cache) / f"annotators_{IMAGES}.npy"
    if not cache.exists():
        texts = first_captions(training)
        np.save(cache, np.concatenate([encoded(texts[start : start + 64]) for start in range(0, len(texts), 64)]))
    embeds = np.load(cache, allow_pickle=False).astype(np.float32)
    embeds[~embeds.any(1)] = np.nan
    names = encoded([name_as_text(name) for name in training.features["label"].names]).astype(np.float32)
    truth, ids = labels_of(training), training["image_id"][:]
    counts = args.counts[[int(name.split("/")[1]) for name in ids]]
    for seed in args.seeds:
        for setting in SETTINGS:
            for number in VOTES:
                key = setting, number, seed
                if results.has(*key):
                    continue
                rng = np.random.default_rng([seed, number, SETTINGS.index(setting)])
                votes = drawn(counts, number, setting, rng)
                results.add(*key, **cell(View(embeds, names, self_trains=False), votes, truth, ids, rng))


if __name__ == "__main__":
    main()
