"""
Is a person's time well spent on the images that `g4i label` shows? With the truth in place of a person.

    pip install -e '.[demo]'
    python benchmarks/review.py PHOTOS --counts cifar10h-counts.npy

PHOTOS, `--cache` and `--counts` are those of photos_frozen.py. Each set is reduced as in
coverage.py: 30 classes (CIFAR-10 has 10) and 1,500 images.

`next`: one label a class, then rounds of 20 labels. After each the label model is fitted again, and a last layer on
what it says, as `g4i fit` does; its accuracy is that on images that nobody labels. Beside `g4i label --pick next` the
images are drawn at random, or have the least margin between the two likeliest classes, or the greatest entropy. These
labels are reviewed: they carry no noise, and only those drawn at random choose the regularisation of the last layer.
`wrong`: all labels, 20% of them wrong, symmetric or always the same other class (confusable), or as people err
(CIFAR-10); errors among the first 100 of `--pick wrong`, and in the order of cleanlab, which is that of the
probability of the given label.
`gold`: how often the interval of a random sample of 50 to 200 images holds the accuracy, and its median half-width,
beside that of the sample alone. The classifiers are those of one label a class, or five, among 500 images. 1,000 times
the sample and 500 others are drawn from the captioned images that are left. `shift` is by how much the mean of the
training images themselves differs from these, with its standard error by chance. Writes results/review.json.
"""

from collections.abc import Callable, Iterator

import numpy as np
from controls import with_label_noise
from coverage import Drawn
from photos import Photos, layers_of_fit, load_photos, parsed, parser_of, worst_of_three
from result_files import Results

from g4i_hf import LabelModel
from g4i_hf.data.checks import labels_of, with_labels
from g4i_hf.data.labels import MANUAL
from g4i_hf.evaluation.estimate import Expected, judged_by_labels
from g4i_hf.fitting.evidence import Evidence
from g4i_hf.fitting.heads import Sample, expected_right
from g4i_hf.fitting.targets import Targets
from g4i_hf.label_model.picks import ROUND, pick_next, pick_wrong
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS

ROUNDS, CLICKS = 10, 100
SAMPLES, SIZES = 1_000, (50, 100, 200)  # of gold images
ROWS_OF_GOLD = 500  # so that many more images are left, which stand for all
STRATEGIES = ("next", "random", "margin", "entropy")
KEY = ("what", "data", "kind", "seed")


def targets_of(drawn: Drawn, labels: np.ndarray, seed: int, reviews: np.ndarray | None = None) -> Targets:
    views = drawn.views("captions", labels, seed)
    reviewed = None if reviews is None else reviews != ""
    model = LabelModel(len(drawn.classes), seed).fit(views, labels, reviewed=reviewed)
    return Targets.of(Evidence(labels, views, model, np.arange(len(labels)), reviews))


def picked(strategy: str, model: LabelModel, drawn: Drawn, labels: np.ndarray, seed: int) -> np.ndarray:
    rows, told = np.flatnonzero(labels < 0), model.probabilities_.astype(np.float32)
    if strategy == "next":
        none, is_none = model.none_, np.zeros(len(labels), dtype=bool)
        return pick_next(told, labels, none, is_none, [drawn.embeds, drawn.features], ROUND, seed)
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
        targets = targets_of(drawn, labels, seed, reviews)
        head = layers_of_fit(targets, drawn.features)[WITH_VIEWS]
        right = head.logits(drawn.others).argmax(1) == drawn.truth_of_others
        accuracies.append(round(float(right.mean()), 4))
        if number < ROUNDS:
            rows = picked(strategy, targets.evidence.model, drawn, labels, seed)
            labels[rows] = drawn.truth[rows]
            reviews[rows] = MANUAL if strategy == "random" else "next"
    return {"accuracies": accuracies}


def of_wrong(drawn: Drawn, labels: np.ndarray, seed: int) -> dict:
    model = targets_of(drawn, labels, seed).evidence.model
    wrong, told = labels != drawn.truth, model.probabilities_.astype(np.float32)
    by_label = np.argsort(told[np.arange(len(labels)), labels], kind="stable")
    orders = {"wrong": pick_wrong(told, labels), "cleanlab": by_label}
    return {"share": float(wrong.mean())} | {name: int(wrong[order[:CLICKS]].sum()) for name, order in orders.items()}


def confusable(photos: Photos, drawn: Drawn, seed: int) -> np.ndarray:
    """(N,) labels, of which 20% of each class are those of the class with the nearest captions."""
    rows = with_labels(photos.training.select(drawn.rows), drawn.truth)
    return labels_of(with_label_noise(rows, 0.2, seed, len(drawn.classes), "confusable"))


def of_gold(drawn: Drawn, each: int, seed: int) -> dict:
    labels = drawn.labels(each, 0.0, seed)
    targets = targets_of(drawn, labels, seed)
    heads = layers_of_fit(targets, drawn.features)
    pool = np.flatnonzero(np.isfinite(drawn.embeds_of_others).all(1))
    images, truth = drawn.others[pool], drawn.truth_of_others[pool]
    sample = Sample(images, {"caption": drawn.embeds_of_others[pool], "image": images})
    expected = expected_right(targets, drawn.features, sample, heads)
    told = {name: head.logits(images).argmax(1) for name, head in heads.items()}
    true = {name: float((classes == truth).mean()) for name, classes in told.items()}
    true["difference"] = true[WITH_VIEWS] - true[LABELS_ONLY]
    generator, found = np.random.default_rng([seed, 5]), {name: round(each, 4) for name, each in true.items()}
    found |= {"images": len(pool), "shift": {}, "error_of_shift": {}}
    for name, each in expected.items():
        variances = each.of_others.var() / len(each.of_others) + each.of_sample.var() / len(pool)
        found["shift"][name] = round(float(each.of_others.mean() - each.of_sample.mean()), 4)
        found["error_of_shift"][name] = round(float(np.sqrt(variances)), 4)
    for size in SIZES:
        holds, halves, alone = ({name: [] for name in true} for _ in range(3))
        for _ in range(SAMPLES):
            rows, others = (generator.integers(len(pool), size=number) for number in (size, ROWS_OF_GOLD))
            predicted = {name: classes[rows] for name, classes in told.items()}
            of_rows = {name: Expected(each.of_sample[rows], each.of_sample[others]) for name, each in expected.items()}
            for given, into in ((None, alone), (of_rows, halves)):
                judged = judged_by_labels(predicted, truth[rows], given)
                for name, estimate in {**judged.accuracies, "difference": judged.difference}.items():
                    low, high = estimate.interval
                    into[name].append((high - low) / 2)
                    if given:
                        holds[name].append(low <= true[name] <= high)
        found[str(size)] = {"holds": {name: round(float(np.mean(each)), 3) for name, each in holds.items()}} | {
            what: {name: round(float(np.median(each)), 4) for name, each in of.items()}
            for what, of in (("half", halves), ("half_alone", alone))
        }
    return found


def cells(photos: Photos, counts: np.ndarray | None, seeds: list[int]) -> Iterator[tuple[tuple, Callable[[], dict]]]:
    """A key, and what measures it."""
    for seed in seeds:
        drawn = Drawn(photos, seed)
        for each in (1, 5):
            fewer = Drawn(photos, seed, ROWS_OF_GOLD)
            yield ("gold", photos.name, f"{each} a class", seed), lambda n=each, on=fewer, by=seed: of_gold(on, n, by)
        for strategy in STRATEGIES:
            yield ("next", photos.name, strategy, seed), lambda of=strategy, on=drawn, by=seed: of_next(on, of, by)
        wrong = {"symmetric": drawn.labels(len(drawn.truth), 0.2, seed), "confusable": confusable(photos, drawn, seed)}
        if photos.name == "cifar10" and counts is not None:
            of_rows = photos.answers(counts)[drawn.rows][:, drawn.classes]
            wrong["people"] = worst_of_three(of_rows, drawn.truth, np.random.default_rng(seed))
        for kind, labels in wrong.items():
            yield ("wrong", photos.name, kind, seed), lambda of=labels, on=drawn, by=seed: of_wrong(on, of, by)


def main() -> None:
    parser = parser_of(__doc__, seeds=range(5))
    parser.add_argument("--what", nargs="+", default=["next", "wrong", "gold"])
    args = parsed(parser)
    results = Results(args.results / "review.json", KEY)
    for data in args.data:
        for key, measure in cells(load_photos(args.photos, data, args.cache), args.counts, args.seeds):
            if key[0] in args.what and not results.has(*key):
                results.add(*key, **measure())


if __name__ == "__main__":
    main()
