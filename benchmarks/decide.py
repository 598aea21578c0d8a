"""
Is what a classifier answers as right as was asked, on new images, and how much of them does it answer?

    python benchmarks/decide.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. Each set is reduced as in coverage.py, to 30 classes and 1,500
training images, other ones in each draw: 1, 4 or 10 labels a class, or all of them with 40% wrong. Views are image
features and captions. Thresholds for 90, 95 and 99% are those of `g4i fit` by the images that judge in training, or by
a random sample of 200 or 500 of the other images that a person labelled. The truth are images that no model has seen.
A row says for each precision what was `got`, the share that is `answered`, and the largest share that any threshold
could answer at that precision on these images (`oracle`).

Writes results/decide.json.
"""

from itertools import product

import numpy as np
from coverage import PRIORS, Drawn
from photos import load_photos, parsed, parser_of
from result_files import Results
from scipy.special import softmax

from g4i_hf import LabelModel, priors
from g4i_hf.fitting.evidence import Evidence, rows_to_hold_out
from g4i_hf.fitting.judge import Gold, judge_in_training, judged_heads
from g4i_hf.fitting.targets import Targets
from g4i_hf.fitting.thresholds import decisions_of
from g4i_hf.linear import one_hot
from g4i_hf.names import WITH_VIEWS

KEY = ("data", "labels", "judged by", "seed")
LABELS = (1, 4, 10, "40% wrong")
SAMPLES = (200, 500)  # labelled by a person


def labels_of(drawn: Drawn, kind: int | str, seed: int) -> np.ndarray:
    return drawn.labels(len(drawn.truth), 0.4, seed) if kind == "40% wrong" else drawn.labels(kind, 0.0, seed)


def measured(drawn: Drawn, kind: int | str, sample: int, seed: int) -> dict:
    labels, order = labels_of(drawn, kind, seed), np.random.default_rng([seed, 3]).permutation(len(drawn.truth))
    views = drawn.views("captions", labels, seed)
    holdout = rows_to_hold_out(labels, order) if not sample else np.zeros(0, dtype=int)
    model = LabelModel(len(drawn.classes), seed)
    model.fit(views, labels, ids=order, kept=np.isin(np.arange(len(labels)), holdout))
    targets = Targets.of(Evidence(labels, views, model, order, holdout=holdout))
    others = np.random.default_rng([seed, 4]).permutation(len(drawn.others))
    gold, new = others[:sample], others[sample:]
    if sample:
        truth = one_hot(drawn.truth_of_others[gold], len(drawn.classes))
        judge = Gold(np.arange(sample), drawn.others[gold], truth)
    else:
        judge = judge_in_training(targets, drawn.features)
    head = judged_heads(targets, drawn.features, judge)[WITH_VIEWS]
    _, decisions = decisions_of(judge, WITH_VIEWS, judge.logits[WITH_VIEWS])
    probabilities = softmax(head.logits(drawn.others[new]), axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == drawn.truth_of_others[new]
    found = {"judge": judge.name, "judged": len(judge.rows), "new": len(new), "accuracy": float(right.mean())}
    return found | {f"{each.precision:g}": _compared(each, confidence, right) for each in decisions}


def _compared(decision, confidence: np.ndarray, right: np.ndarray) -> dict:
    order = np.argsort(-confidence)
    precisions = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(precisions >= decision.precision)
    oracle = (reached[-1] + 1) / len(order) if len(reached) else 0.0
    answered = confidence >= (2 if decision.threshold is None else decision.threshold)
    got = float(right[answered].mean()) if answered.any() else None
    return {"certain": decision.certain, "got": got, "answered": float(answered.mean()), "oracle": float(oracle)}


def main() -> None:
    args = parsed(parser_of(__doc__, seeds=range(200, 210)))
    results = Results(args.results / "decide.json", KEY)
    loaded = {data: load_photos(args.photos, data, args.cache) for data in args.data}
    for seed, (data, photos) in product(args.seeds, loaded.items()):
        drawn = Drawn(photos, seed)
        priors.PRIOR_STD_BIAS, priors.PRIOR_STD_BIAS_OF_DIFFERENCE = PRIORS[data]
        for kind, sample in product(LABELS, (0, *SAMPLES)):
            judged_by = f"{sample} gold" if sample else "training images"
            if not results.has(data, kind, judged_by, seed):
                results.add(data, kind, judged_by, seed, **measured(drawn, kind, sample, seed))


if __name__ == "__main__":
    main()
