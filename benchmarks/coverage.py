"""
Do the 95% intervals hold the truth? Those of the label model (accuracy of all views together; share of wrong labels)
and those of `g4i fit` (accuracy on labels only, with views, and the difference). Does the better classifier ship?

    python benchmarks/coverage.py PHOTOS --logits LOGITS

PHOTOS and `--cache` are those of photos_frozen.py; LOGITS is an .npz file with `biomedclip`, (10000, 10) zero-shot
logits of CIFAR-10's test images by a model of another field. Each set is reduced to 30 classes, 1,500 training images
and 256 components, other ones in each draw. 1 to 10 labels a class, or as many as 4 a class drawn at random, so that
some classes have one or none; 20% of the labels wrong. Views are image features, and captions (as they are, of other
images, of half of the images, of the unlabelled images alone) or scores (of a model that was trained on these labels,
or BiomedCLIP's). The truth are the labels that were taken away: for the label model of all unlabelled rows, for `fit`
of the kept ones. Beside it, the accuracy of both classifiers on the rows that are left over and on `test`, and the
regret: how much less accurate there the one that ships is than the better of the two. `fit` knows from other data
sets how far estimates are off; here, from the other two alone (`PRIORS`).

Bursts are frames of 10 images a class, made of their features: the truth of `fit` is that on other images, as on new
scenes, and on the unlabelled frames.

Writes results/coverage.json.
"""

from itertools import product
from pathlib import Path

import numpy as np
from photos import Photos, load_photos, parsed, parser_of
from result_files import Results
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from g4i_hf import LabelModel, View, priors
from g4i_hf.evaluation.estimate import Judgement
from g4i_hf.fitting.decide import decide
from g4i_hf.fitting.evidence import Evidence, rows_to_hold_out
from g4i_hf.fitting.judge import Judge, judge_in_training, judged_heads, on_these_images
from g4i_hf.fitting.targets import Targets
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS

CLASSES, ROWS = 30, 1500
EACH = (1, 2, 3, 5, 10, "at random")
WRONG = (0.0, 0.2)
CAPTIONS = ("captions", "of other images", "of half", "of unlabelled images")
TRAINED, BIOMEDCLIP = "scores trained on the labels", "scores of BiomedCLIP"
KEY = ("data", "labels", "wrong", "views", "seed")
# Standard deviations of the bias on the other two sets, from draws that are not among these
PRIORS = {
    "caltech101": (0.17, 0.095),
    "flowers102": (0.23, 0.105),
    "cifar10": (0.23, 0.115),
}


class Drawn:
    """A reduced set: rows, their truth, from 0 to `CLASSES` or fewer, and other images to look at."""

    scenes: np.ndarray | None = None  # (N,) of which each row is a frame; None: each is alone
    most_classes = CLASSES

    def __init__(self, photos: Photos, seed: int, number_of_rows: int = ROWS):
        generator = np.random.default_rng(seed)
        self.classes = generator.permutation(photos.num_labels)[: self.most_classes]
        number = np.full(photos.num_labels, -1)
        number[self.classes] = np.arange(len(self.classes))
        every = np.flatnonzero(number[photos.truth] >= 0)
        rows = self.rows = np.sort(generator.permutation(every)[:number_of_rows])
        left, (test, of_test) = np.setdiff1d(every, rows), photos.test
        in_test = np.flatnonzero(number[of_test] >= 0)
        self.features, self.truth = photos.features.numpy()[rows], number[photos.truth[rows]]
        self.others = np.concatenate([photos.features.numpy()[left], test.numpy()[in_test]])
        self.truth_of_others = number[np.concatenate([photos.truth[left], of_test[in_test]])]
        self.embeds, self.names = photos.embeds[rows], photos.class_embeds[self.classes]
        of_test_embeds = np.full((len(in_test), self.embeds.shape[1]), np.nan, dtype=np.float32)
        if photos.test_text_embeds is not None:
            of_test_embeds[:] = photos.test_text_embeds[in_test]
        self.embeds_of_others = np.concatenate([photos.embeds[left], of_test_embeds])
        self.image_ids = photos.training["image_id"][rows]

    def views(self, kind: str, labels: np.ndarray, seed: int, logits: np.ndarray | None = None) -> dict[str, View]:
        names = np.eye(len(self.classes), dtype=np.float32)
        if kind == TRAINED:
            given = View(self.scores_learned_from(labels), names, self_trains=False)
        elif kind == BIOMEDCLIP:
            numbers = [int(image_id.split("/")[1]) for image_id in self.image_ids]
            scores = softmax(logits[numbers][:, self.classes], axis=1)
            given = View(scores, names, self_trains=False)
        else:
            given = View(self.captions(kind, labels, seed), self.names, self_trains=False)
        return {"other" if kind in (TRAINED, BIOMEDCLIP) else "caption": given, "image": View(self.features)}

    def scores_learned_from(self, labels: np.ndarray) -> np.ndarray:
        """(N, C) of a regression on the labelled images, which it has memorised."""
        model = memorised(self.features, labels)
        scores = np.zeros((len(labels), len(self.classes)), dtype=np.float32)
        scores[:, model.classes_] = model.predict_proba(self.features)
        return scores

    def judge(self, targets: Targets) -> Judge:
        return judge_in_training(targets, self.features)

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        """(N,) labels, -1 without one."""
        generator = np.random.default_rng([seed, 1])
        order, number = generator.permutation(len(self.truth)), int(self.truth.max()) + 1
        if each == "at random":
            chosen = order[: 4 * number]
        else:
            chosen = np.concatenate([order[self.truth[order] == label][:each] for label in range(number)])
        labels = np.full(len(self.truth), -1)
        labels[chosen] = self.truth[chosen]
        flipped = chosen[generator.random(len(chosen)) < wrong]
        labels[flipped] = (labels[flipped] + generator.integers(1, number, len(flipped))) % number
        return labels

    def captions(self, kind: str, labels: np.ndarray, seed: int) -> np.ndarray:
        """(N, D), NaN for an image without one."""
        generator, embeds = np.random.default_rng([seed, 2]), self.embeds.copy()
        if kind == "of other images":
            return generator.permutation(embeds)
        if kind == "of half":
            embeds[generator.random(len(embeds)) < 0.5] = np.nan
        if kind == "of unlabelled images":
            embeds[labels >= 0] = np.nan
        return embeds


def memorised(features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=100, max_iter=1000).fit(features[labels >= 0], labels[labels >= 0])


# --- Bursts, with their groups: the truth is that on new scenes, and on unlabelled frames --------------------------

SCENES, FRAMES = 10, 6  # of each class, and of a scene
NEAR = 0.2  # how far frames of a scene are apart, relative to two images
BURSTS = {  # which frames of a class have a label, by the number of their scene
    "random frames": lambda scenes, generator: generator.permutation(len(scenes))[:SCENES],
    "whole clips": lambda scenes, generator: np.flatnonzero(scenes < 3),
    "half of the clips": lambda scenes, generator: np.flatnonzero(scenes < SCENES // 2),
    "all frames": lambda scenes, generator: np.arange(len(scenes)),
}


class Bursts(Drawn):
    """Frames of some images, each with a part of the difference of two others, and the captions of the image."""

    def __init__(self, photos: Photos, seed: int):
        super().__init__(photos, seed)
        generator = np.random.default_rng([seed, 4])
        of_classes = [np.flatnonzero(self.truth == label) for label in range(len(self.classes))]
        # By chance, as neighbours in Flowers-102 are often of one plant
        chosen = [generator.permutation(rows)[:SCENES] for rows in of_classes]
        self.scenes = np.repeat(np.concatenate(chosen), FRAMES)
        one, other = generator.integers(len(self.truth), size=(2, len(self.scenes)))
        moved = (NEAR / np.sqrt(2)) * (self.features[one] - self.features[other])
        self.features = (self.features[self.scenes] + moved).astype(np.float32)
        self.truth, self.embeds = self.truth[self.scenes], self.embeds[self.scenes]

    def labels(self, each: int | str, wrong: float, seed: int) -> np.ndarray:
        labels, generator = np.full(len(self.truth), -1), np.random.default_rng([seed, 1])
        for label in range(len(self.classes)):
            rows = np.flatnonzero(self.truth == label)
            _, number = np.unique(self.scenes[rows], return_inverse=True)
            labels[rows[BURSTS[each](number, generator)]] = label
        return labels


def of_bursts(drawn: Bursts, targets: Targets, heads: dict, judgement: Judgement, others: dict[str, float]) -> dict:
    """The accuracies on new scenes, and on these images."""
    unlabelled, found = targets.evidence.labels < 0, {}
    these = on_these_images(targets, drawn.features, heads, judgement) or Judgement({})
    for name, head in heads.items():
        right = (head.logits(drawn.features).argmax(1) == drawn.truth)[unlabelled]
        truths = {"": others[name]} | ({" on these images": right.mean()} if len(right) else {})
        for (what, truth), of in zip(truths.items(), (judgement, these), strict=False):
            estimate = of.accuracies.get(name)
            found[f"{name}{what}"] = _row(estimate and estimate.share, estimate and estimate.interval, truth)
    return found


# --- What is measured ------------------------------------------------------------------------------------------------


def measured(drawn: Drawn, each: int | str, wrong: float, kind: str, seed: int, logits: np.ndarray | None) -> dict:
    labels, order = drawn.labels(each, wrong, seed), np.random.default_rng([seed, 3]).permutation(len(drawn.truth))
    views, groups, holdout = drawn.views(kind, labels, seed, logits), order, np.arange(0)
    if drawn.scenes is None:
        holdout = rows_to_hold_out(labels, order)
    else:
        _, first, scene = np.unique(drawn.scenes, return_index=True, return_inverse=True)
        groups = order[first][scene]
    model = LabelModel(len(drawn.classes), seed)
    model.fit(views, labels, ids=order, groups=groups, kept=np.isin(np.arange(len(labels)), holdout))
    known = labels >= 0
    unlabelled = known if known.all() else ~known
    right = model.probabilities_[unlabelled].argmax(1) == drawn.truth[unlabelled]
    estimate = model.accuracy_
    found = {"together": _row(estimate and estimate.share, estimate and estimate.interval, right.mean())}
    wrong_ones = (labels[known] != drawn.truth[known]).mean()
    found["wrong_labels"] = _row(model.label_noise_, model.label_noise_interval_, wrong_ones)
    targets = Targets.of(Evidence(labels, views, model, groups, holdout=holdout, images=order))
    return found | _of_fit(drawn, targets)


def _of_fit(drawn: Drawn, targets: Targets) -> dict:
    judge = drawn.judge(targets)
    heads = judged_heads(targets, drawn.features, judge)
    judgement = judge.judgement()
    predicted = {name: logits.argmax(1) for name, logits in judge.logits.items()}
    truth = {name: (classes == drawn.truth[judge.rows]).mean() for name, classes in predicted.items()}
    truth["difference"] = truth[WITH_VIEWS] - truth[LABELS_ONLY]
    said = dict.fromkeys(heads) | judgement.accuracies | {"difference": judgement.difference}
    others = {
        name: float((head.logits(drawn.others).argmax(1) == drawn.truth_of_others).mean())
        for name, head in heads.items()
    }
    found = {name: _row(each and each.share, each and each.interval, truth[name]) for name, each in said.items()}
    found |= of_bursts(drawn, targets, heads, judgement, others) if drawn.scenes is not None else {}
    rows, unlabelled = np.arange(len(judge.rows)), targets.evidence.labels < 0
    pool = {name: (head.logits(drawn.features).argmax(1) == drawn.truth)[unlabelled] for name, head in heads.items()}
    return found | {
        "judges": len(rows),
        "on_pool": {name: float(right.mean()) for name, right in pool.items() if len(right)},
        "verdict": judgement.verdict,
        "on_others": others,
        "regret": max(others.values()) - others[decide(judgement.verdict).released],
        "uncorrected": {name: float(judge.probabilities[rows, predicted[name]].mean()) for name in heads},
        "differ": float((predicted[WITH_VIEWS] != predicted[LABELS_ONLY]).mean()),
    }


def _row(estimate: float | None, interval: tuple[float, float] | None, truth: float) -> dict:
    return {"estimate": estimate, "interval": interval, "truth": float(truth)}


def main() -> None:
    parser = parser_of(__doc__, seeds=range(114, 117))
    parser.add_argument("--logits", type=Path, help="of BiomedCLIP")
    args = parsed(parser)
    logits = args.logits and np.load(args.logits, allow_pickle=False)["biomedclip"]
    results = Results(args.results / "coverage.json", KEY)
    loaded = {data: load_photos(args.photos, data, args.cache) for data in args.data}
    for seed, (data, photos) in product(args.seeds, loaded.items()):
        drawn = Drawn(photos, seed)
        priors.PRIOR_STD_BIAS, priors.PRIOR_STD_BIAS_OF_DIFFERENCE = PRIORS[data]
        kinds = [*CAPTIONS, TRAINED, *([BIOMEDCLIP] if data == "cifar10" and logits is not None else [])]
        for kind, each, wrong in product(kinds, EACH, WRONG):
            key = data, each, wrong, kind, seed
            if not results.has(*key) and not (each == 1 and wrong):
                results.add(*key, **measured(drawn, each, wrong, kind, seed, logits))
        bursts = Bursts(photos, seed)
        for each in BURSTS:
            if not results.has(data, each, 0.0, "captions", seed):
                results.add(data, each, 0.0, "captions", seed, **measured(bursts, each, 0.0, "captions", seed, None))


if __name__ == "__main__":
    main()
