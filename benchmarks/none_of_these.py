"""
Unlabelled images that belong to no class: does the label model find them, and what do they cost the student? Of 30
known classes (of CIFAR-10 five) there are four labels each; the pool holds no images of other classes, as many, or
three times as many.

    pip install -e '.[demo]'
    python benchmarks/none_of_these.py PHOTOS

PHOTOS and `--cache` are those of photos_frozen.py. The student is the last layer that `g4i fit` fits on what
`LabelModel` says: with the weights that images of no class get, without these weights, and with such images left out
by the truth. Its accuracy is that on `test`, images of known classes. AUROC and the false alarms where 95% are found
are those of the label model's probability that no class explains an image, and of the lowest probability of the most
probable class. Writes results/none_of_these.json.

The score that `g4i predict` has of new images is measured on `test`, images of known and other classes: its AUROC
beside that in training and that of the student's probability, and which shares of both exceed its threshold. Writes
results/none_at_inference.json.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from photos import Photos, layers_of_fit, load_photos, parsed, parser_of
from result_files import Results
from scipy.special import softmax
from sklearn.metrics import roc_auc_score, roc_curve

from g4i_hf import LabelModel, View
from g4i_hf.fitting.evidence import Evidence
from g4i_hf.fitting.heads import Head, fit_head
from g4i_hf.fitting.none_of_these import none_of_these
from g4i_hf.fitting.targets import Targets
from g4i_hf.linear import Scale
from g4i_hf.names import WITH_VIEWS

KNOWN, LABELS = 30, 4
OTHERS = (0, 1, 3)  # of other classes, for each image of a known one
KEY = ("data", "seed", "others")


@dataclass
class Draw:
    photos: Photos
    kept: np.ndarray  # the known classes
    truth: np.ndarray  # (n,) of the images, -1 for other classes
    targets: Targets
    features: np.ndarray  # (n, F)
    head: Head  # the student

    @property
    def is_known(self) -> np.ndarray:
        """(m,) whether each image of `test` is of a known class."""
        return np.isin(self.photos.test[1], self.kept)


def drawn(photos: Photos, others: int, seed: int) -> Draw:
    generator = np.random.default_rng(seed)
    kept = generator.permutation(photos.num_labels)[: min(KNOWN, photos.num_labels // 2)]
    place = np.full(photos.num_labels, -1)
    place[kept] = np.arange(len(kept))
    is_known = np.isin(photos.truth, kept)
    of_known, of_others = (generator.permutation(np.flatnonzero(rows)) for rows in (is_known, ~is_known))
    if others:
        of_known = of_known[: len(of_others) // others]  # as many of each class as there are, in the mean
    rows = np.concatenate([of_known, of_others[: others * len(of_known)]])
    truth = place[photos.truth[rows]]
    labels = np.full(len(rows), -1)
    for label in range(len(kept)):
        chosen = np.flatnonzero(truth == label)[:LABELS]
        labels[chosen] = label
    features = photos.raw[rows]
    caption = View(photos.embeds[rows], photos.class_embeds[kept], self_trains=False)
    views = {"caption": caption, "image": View(features)}
    model = LabelModel(len(kept), seed).fit(views, labels)
    targets = Targets.of(Evidence(labels, views, model, np.arange(len(rows))))
    return Draw(photos, kept, truth, targets, features, layers_of_fit(targets, features)[WITH_VIEWS])


def in_training(draw: Draw) -> dict:
    targets, features, truth, model = draw.targets, draw.features, draw.truth, draw.targets.evidence.model
    weighed, plain = targets.of_all_rows(WITH_VIEWS), model.posterior_.astype(np.float32)
    order = np.argsort(draw.kept)
    tested = draw.photos.test[1][draw.is_known]
    x, y = draw.photos.raw_test[draw.is_known], order[np.searchsorted(draw.kept, tested, sorter=order)]

    def accuracy(targets: np.ndarray) -> float:
        head = fit_head(features, targets, draw.head.strength, Scale.of(features))
        return float((head.logits(x).argmax(1) == y).mean())

    unlabelled, share = targets.evidence.labels < 0, model.none_share_
    is_none = truth[unlabelled] < 0
    row = {"images": len(truth), "tested": len(y), "share": float(is_none.mean())}
    row |= {"said": share and share.share, "said_at_least": share and share.interval[0]}
    row |= {"weighed": accuracy(weighed), "plain": accuracy(plain), "by_hand": accuracy(plain * (truth >= 0)[:, None])}
    if is_none.any():
        scores = {"none": model.none_[unlabelled], "max_softmax": -model.probabilities_[unlabelled].max(1)}
        for name, score in scores.items():
            alarms, found, _ = roc_curve(is_none, score)
            row[f"{name}_auroc"] = float(roc_auc_score(is_none, score))
            row[f"{name}_false_alarms"] = float(alarms[found >= 0.95].min())
    return row


def at_inference(draw: Draw) -> dict:
    evidence, is_none, new = draw.targets.evidence, ~draw.is_known, draw.photos.raw_test
    unlabelled = evidence.labels < 0
    row = {"in_training": float(roc_auc_score(draw.truth[unlabelled] < 0, evidence.model.none_[unlabelled]))}
    row["max_softmax"] = float(roc_auc_score(is_none, -softmax(draw.head.logits(new), axis=1).max(1)))
    score = none_of_these(evidence, draw.features, draw.features[:0])
    if score is None:
        return row | {"at_inference": None}
    scores = score.scores(torch.from_numpy(new)).numpy()
    finds = scores > score.threshold.item()
    row["at_inference"] = float(roc_auc_score(is_none, scores))
    return row | {"false_alarms": float(finds[~is_none].mean()), "found": float(finds[is_none].mean())}


def main() -> None:
    args = parsed(parser_of(__doc__, seeds=range(5)))
    results = Results(args.results / "none_of_these.json", KEY)
    of_new = Results(args.results / "none_at_inference.json", KEY)
    for data in args.data:
        photos = load_photos(args.photos, data, args.cache)
        for seed, others in product(args.seeds, OTHERS):
            key, draw = (data, seed, others), None
            if not results.has(*key):
                draw = drawn(photos, others, seed)
                results.add(*key, **in_training(draw))
            if others and not of_new.has(*key):
                of_new.add(*key, **at_inference(draw or drawn(photos, others, seed)))


if __name__ == "__main__":
    main()
