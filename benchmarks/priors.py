"""
Which constants of `g4i_hf/priors.py` change a result? Each group of them at half and at double its value.

    python benchmarks/priors.py PHOTOS --counts cifar10h-counts.npy

PHOTOS, `--cache` and `--counts` are those of photos_frozen.py and wrong_labels.py. The cells of `few labels` are sets
as in coverage.py, with 1, 3 or 10 labels a class or labels at random, and CIFAR-10 with 10% of its labels, from people
or confusable. Those of `all labels` are CIFAR-10 with all of them. Of each cell: accuracy of the label model on
unlabelled rows and on labelled ones, and of a last layer with views on other images; ends of intervals. Those of
`judged` have the judge of `g4i fit` too. A cell that reads none of a group's constants cannot change, and is left out.

Classes with one label or none: by how much the mean probability of the label model exceeds its accuracy, for the
images of a third of the classes, where the others have four labels; and the same of the other two sets.

Writes results/priors.json: points (x100) throughout.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev
from types import ModuleType

import numpy as np
from coverage import Drawn
from photos import PEOPLE, Photos, labels_with, load_photos, parsed, parser_of
from result_files import Results

from g4i_hf import LabelModel, View, priors
from g4i_hf.evaluation.estimate import Estimate
from g4i_hf.fitting.evidence import Evidence, rows_to_hold_out
from g4i_hf.fitting.heads import Head, fit_head, last_layers
from g4i_hf.fitting.judge import judge_in_training, judged_heads
from g4i_hf.fitting.targets import Targets
from g4i_hf.linear import Scale
from g4i_hf.names import LABELS_ONLY, WITH_VIEWS

KEY = ("group", "change", "panel", "seed")
FACTORS = {"half": 0.5, "double": 2.0}
OF_LABEL_MODEL = {
    "temperature": ("PRIOR_MEAN_INVERSE_TEMPERATURE",),
    "spread of temperatures": ("PRIOR_STD_LOG_TEMPERATURE", "PRIOR_STD_POWER"),
    "share of wrong labels": ("PRIOR_MEAN_WRONG_LABELS", "MAX_NOISE"),
    "labels of people": ("PRIOR_MEAN_NOISE_EXPONENT", "PRIOR_STD_NOISE_EXPONENT", "MAX_NOISE_EXPONENT"),
    "pattern of wrong labels": ("MIN_GAIN_OF_PATTERN", "MIN_GAIN_OF_PATTERN_A_ROW"),
    "few wrong labels": ("FEW_WRONG_LABELS", "NEGLIGIBLE_WRONG_LABELS"),
    "anchors": ("MIN_SKILL", "SUREST_ROWS", "MIN_ANCHORS", "MIN_SHARE_OF_ANCHORS"),
    "contradictions": ("CLEAREST_CONTRADICTIONS", "MIN_RECALL"),
    "views in common": (
        "MIN_ROWS_IN_COMMON",
        "MIN_ROWS_IN_COMMON_A_CLASS",
        "ENOUGH_ROWS_IN_COMMON",
        "ALPHA_IN_COMMON",
        "ALPHA_OF_NAMES",
    ),
    "views that judge each other": ("STD_OF_AGREEMENT", "MIN_ACCURACY_OF_VOTE", "MIN_ACCURACY_OF_BEST"),
    "regularisation without labels": ("DEFAULT_C",),
    "auxiliary regressions": ("AUXILIARY_C",),
    "self-training": ("SELF_TRAINED_SHRINKAGE", "MIN_SELF_TRAINED", "ENOUGH_LABELS_A_CLASS"),
}
JUDGING = {
    "variance of estimates": ("EXTRA_ROWS", "MIN_EXPECTED_ERROR"),
    "degrees of freedom": ("DEGREES_OF_FREEDOM",),
    "frequency of classes": ("PSEUDO_COUNT",),
    "last layers": ("DEFAULT_STRENGTH", "PSEUDO_COUNT_OF_CLASS", "ENOUGH_HELD_OUT"),
    "few held-out rows": ("MIN_HELD_OUT",),
    "holdout": ("HOLDOUT_SHARE", "MIN_HOLDOUT", "MAX_HOLDOUT"),
    "confidence of a classifier": ("HALF_CONFIDENCE_IMAGES",),
    "weight of unlabelled images": ("MIN_ACCURACY_OF_VIEWS", "POWER_OF_KNOWN"),
}
OF_WRONG_LABELS = (
    "share of wrong labels",
    "labels of people",
    "pattern of wrong labels",
    "few wrong labels",
    "anchors",
    "contradictions",
)
# Values that leave a rule out, or make two constants one
WITHOUT = {
    "significance levels, one": {"ALPHA_IN_COMMON": priors.ALPHA_OF_NAMES},
    "pattern of wrong labels, gain of a row": {"MIN_GAIN_OF_PATTERN_A_ROW": 0.0},
    "labels of people, largest exponent": {"MAX_NOISE_EXPONENT": 1.0},
    "anchors, any": {"MIN_ANCHORS": 1_000_000},
    "last layers, small pseudo-count": {"PSEUDO_COUNT_OF_CLASS": 1.0},
    "frequency of classes, by Laplace": {"PSEUDO_COUNT": 1},
}
# Labels a class, wrong ones, captions
DRAWN = (
    (1, 0.0, "captions"),
    (3, 0.2, "of half"),
    (10, 0.2, "captions"),
    ("at random", 0.0, "of half"),
)
JUDGED = (("cifar10", 1), ("caltech101", 3), ("cifar10", "at random"))  # cells of `JUDGING`
ACCURACIES = ("unlabelled", "labelled", "classifier", "labels only", "confidence")
PEOPLE_ROWS = 3000
WHICH = ("classes without a label", "classes with one label")
SEED, DRAWS = 200, range(210, 214)


class Read(ModuleType):
    """The constants, which notes those that are read."""

    names: set[str] = set()

    def __getattribute__(self, name: str):
        Read.names.add(name)
        return super().__getattribute__(name)


@dataclass
class Case:
    name: str
    views: dict[str, View]
    labels: np.ndarray
    truth: np.ndarray
    features: np.ndarray
    others: np.ndarray  # images that nothing is learned from
    truth_of_others: np.ndarray
    num_labels: int

    @classmethod
    def of(cls, data: str, drawn: Drawn, each: int | str, wrong: float, kind: str) -> "Case":
        labels = drawn.labels(each, wrong, SEED)
        known = labels, drawn.truth, drawn.features, drawn.others, drawn.truth_of_others, len(drawn.classes)
        name = f"{data}, {each}, {wrong:.0%} wrong, {kind}"
        return cls(name, drawn.views(kind, labels, SEED, None), *known)


@dataclass
class Panel:
    name: str
    cases: list[Case]
    groups: dict[str, tuple[str, ...]]
    is_judged: bool = False  # by the judge of `g4i fit`


def panels(loaded: dict[str, Photos], counts: np.ndarray | None) -> Iterator[Panel]:
    cases, judged = [], []
    for data, photos in loaded.items():
        drawn = Drawn(photos, SEED)
        for each, wrong, kind in DRAWN:
            cases.append(Case.of(data, drawn, each, wrong, kind))
            judged += cases[-1:] if (data, each) in JUDGED else []
        if data == "caltech101":
            cases.append(Case.of(data, drawn, 1, 0.0, "of other images"))
        if data == "cifar10":
            cases += of_people(photos, counts, 0.1)
    yield Panel("few labels", cases, OF_LABEL_MODEL)
    if "cifar10" in loaded:
        of_labels = {group: OF_LABEL_MODEL[group] for group in OF_WRONG_LABELS}
        yield Panel("all labels", list(of_people(loaded["cifar10"], counts, 1.0)), of_labels)
    yield Panel("judged", judged, JUDGING, is_judged=True)


def of_people(photos: Photos, counts: np.ndarray | None, fraction: float) -> Iterator[Case]:
    """Labels of people, or confusable ones."""
    generator, (others, truth_of_others) = np.random.default_rng(SEED), photos.test
    rows = np.sort(generator.permutation(len(photos.truth))[:PEOPLE_ROWS])
    features, kinds = photos.features.numpy()[rows], ["20% confusable", *(PEOPLE if counts is not None else ())]
    views = {"caption": View(photos.embeds[rows], photos.class_embeds, self_trains=False), "image": View(features)}
    for kind in kinds:
        if kind in PEOPLE:
            labels = PEOPLE[kind](photos.answers(counts), photos.truth, generator)[rows]
        else:
            labels = labels_with(photos.training, kind, SEED)[rows]
        labels = np.where(generator.random(len(rows)) < fraction, labels, -1)
        known = photos.truth[rows], features, others.numpy(), truth_of_others
        yield Case(f"cifar10, {fraction:.0%}, {kind}", views, labels, *known, photos.num_labels)


# --- What is measured ------------------------------------------------------------------------------------------------


def measured(case: Case, strength: float | None, judged: bool) -> dict:
    """`strength`: of the last layer with views; None: it is selected."""
    order = np.random.default_rng([SEED, 3]).permutation(len(case.labels))
    holdout = rows_to_hold_out(case.labels, order)
    kept = np.isin(np.arange(len(order)), holdout)
    model = LabelModel(case.num_labels, SEED).fit(case.views, case.labels, ids=order, kept=kept)
    known, truth = case.labels >= 0, case.truth
    right, wrong = model.probabilities_.argmax(1) == truth, case.labels[known] != truth[known]
    accuracy, without_label = model.accuracy_ or Estimate(np.nan), right if known.all() else right[~known]
    figures = {
        "unlabelled": points(without_label.mean()),
        "labelled": points((model.posterior_.argmax(1) == truth)[known].mean()),
        "intervals": interval_of("label model", accuracy.interval, without_label.mean())
        | interval_of("wrong labels", model.label_noise_interval_, wrong.mean()),
    }
    targets = Targets.of(Evidence(case.labels, case.views, model, order, holdout=holdout))
    if judged:
        return figures | of_judge(case, targets, figures["intervals"])
    if strength is None:
        head = last_layers(targets, case.features)[WITH_VIEWS]
    else:
        rows, learned = targets.learned(WITH_VIEWS, targets.rows)
        head = fit_head(case.features[rows], learned, strength, Scale.of(case.features))
    return figures | {"classifier": of_others(head, case), "strength": head.strength}


def of_judge(case: Case, targets: Targets, intervals: dict) -> dict:
    judge = judge_in_training(targets, case.features)
    heads = judged_heads(targets, case.features, judge)
    judgement, truth = judge.judgement(), case.truth[judge.rows]
    right = {name: (predicted == truth).mean() for name, predicted in judge.predicted.items()}
    found = dict(intervals)
    for name, estimate in judgement.accuracies.items():
        found |= interval_of(name, estimate.interval, right[name])
    if judgement.difference:
        first, second = right.values()
        found |= interval_of("difference", judgement.difference.interval, second - first)
    logits = heads[WITH_VIEWS].logits(case.others).astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    accuracies = {"classifier": of_others(heads[WITH_VIEWS], case), "labels only": of_others(heads[LABELS_ONLY], case)}
    return accuracies | {"confidence": points((1 / shares.sum(1)).mean()), "intervals": found}


def of_others(head: Head, case: Case) -> float:
    return points((head.logits(case.others).argmax(1) == case.truth_of_others).mean())


def interval_of(name: str, interval: tuple[float, float] | None, truth: float) -> dict:
    """Both ends and the truth; {} without an interval."""
    return {name: [points(each) for each in (*interval, truth)]} if interval else {}


def points(share: float) -> float:
    return round(100 * float(share), 2)


# --- Groups ----------------------------------------------------------------------------------------------------------


@contextmanager
def changed(values: dict[str, float]) -> Iterator[None]:
    before = {name: getattr(priors, name) for name in values}
    for name, value in values.items():
        setattr(priors, name, value)
    yield
    for name, value in before.items():
        setattr(priors, name, value)


def multiplied(name: str, factor: float) -> float:
    value = getattr(priors, name)
    if name == "MAX_NOISE":
        return 1 - factor * (1 - value)
    return max(round(factor * value), 1) if isinstance(value, int) else factor * value


def changes_of(panel: Panel) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Group, which change, and the values of constants."""
    for (group, names), (change, factor) in product(panel.groups.items(), FACTORS.items()):
        yield group, change, {name: multiplied(name, factor) for name in names}
    for group, values in WITHOUT.items():
        if {*values} <= {name for names in panel.groups.values() for name in names}:
            yield group, "without", values


def with_defaults(results: Results, panel: Panel) -> dict:
    """By name of a cell, what is measured with all constants as they are, and the names of those that it reads."""
    key = "defaults", "", panel.name, SEED
    if not results.has(*key):
        cells, start = {}, time.process_time()
        for case in panel.cases:
            Read.names.clear()
            cells[case.name] = measured(case, None, panel.is_judged)
            cells[case.name]["reads"] = sorted(name for name in Read.names if name.isupper())
        results.add(*key, seconds=round(time.process_time() - start), cells=cells)
    return next(row["cells"] for row in results.rows if tuple(row[name] for name in KEY) == key)


def compare(results: Results, panel: Panel, only: str | None) -> None:
    changes = [each for each in changes_of(panel) if only in (None, each[0])]
    defaults = with_defaults(results, panel) if changes else {}
    for group, change, values in changes:
        key = group, change, panel.name, SEED
        if results.has(*key):
            continue
        cells, start = {}, time.process_time()
        with changed(values):
            for case in panel.cases:
                if {*values} & {*defaults[case.name]["reads"]}:
                    cells[case.name] = measured(case, defaults[case.name].get("strength"), panel.is_judged)
        found = summary({name: defaults[name] for name in cells}, cells)
        seconds = round(time.process_time() - start)
        results.add(*key, values=values, **found, seconds=seconds, cells=cells)


def summary(before: dict, cells: dict) -> dict:
    """Changes of the cells; `labelled` apart, as a cell with 90 labels changes by 1.1 points with one of them."""
    changes = {
        name: [round(cell[name] - before[case][name], 2) for case, cell in cells.items() if name in cell]
        for name in ACCURACIES
    }
    ends = [
        abs(one - other)
        for case, cell in cells.items()
        for name in before[case]["intervals"].keys() & cell["intervals"].keys()
        for one, other in zip(before[case]["intervals"][name][:2], cell["intervals"][name][:2], strict=True)
    ]
    largest = {f"largest of {name}": max(map(abs, of_cells)) for name, of_cells in changes.items() if of_cells}
    means = {f"mean of {name}": round(fmean(of_cells), 2) for name, of_cells in changes.items() if of_cells}
    intervals = {"hold": held(cells), "held": held(before), "largest of ends": round(max(ends, default=0.0), 2)}
    return {"cells_that_read": len(cells)} | largest | means | intervals


def held(cells: dict) -> str:
    found = [low <= truth <= high for cell in cells.values() for low, high, truth in cell["intervals"].values()]
    return f"{sum(found)} of {len(found)}"


# --- Classes with one label or none ----------------------------------------------------------------------------------


def measure_few_labels(results: Results, loaded: dict[str, Photos]) -> None:
    for seed, (data, photos) in product(DRAWS, loaded.items()):
        drawn = Drawn(photos, seed)
        for number, kind, wrong in product((0, 1), ("captions", "of half"), (0.0, 0.2)):
            key = WHICH[number], f"{kind}, {wrong:.0%} wrong", data, seed
            if not results.has(*key):
                results.add(*key, **too_high(drawn, number, kind, wrong, seed))
    for number, data in product((0, 1), loaded):
        group = WHICH[number]
        rows = [row for row in results.rows if row["group"] == group and row["seed"] in DRAWS]
        others = [row["too_high"] for row in rows if row["panel"] != data]
        own = [row["too_high"] for row in rows if row["panel"] == data]
        if len(others) > 1 and not results.has(group, "of the other sets", data, SEED):
            spread = {"std": round(stdev(others), 3), "draws": len(others), "own": round(fmean(own), 3)}
            results.add(group, "of the other sets", data, SEED, too_high=round(fmean(others), 3), **spread)


def too_high(drawn: Drawn, number: int, kind: str, wrong: float, seed: int) -> dict:
    """As shares: probability minus accuracy, of images of the classes with this number of labels, and of others."""
    labels = drawn.labels(4, wrong, seed)
    few = np.random.default_rng([seed, 4]).permutation(len(drawn.classes))[: len(drawn.classes) // 3]
    for label in few:
        labels[np.flatnonzero(labels == label)[number:]] = -1
    model = LabelModel(len(drawn.classes), seed).fit(drawn.views(kind, labels, seed, None), labels)
    rows = labels < 0
    excess = model.probabilities_.max(1) - (model.probabilities_.argmax(1) == drawn.truth)
    of_few = np.isin(drawn.truth, few)
    means = [round(float(excess[rows & which].mean(dtype=np.float64)), 3) for which in (of_few, ~of_few)]
    return {"too_high": means[0], "of_other_classes": means[1], "share": round(float(of_few[rows].mean()), 3)}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", help="a group, or `classes`, those with one label or none")
    args = parsed(parser)
    results = Results(args.results / "priors.json", KEY)
    loaded = {data: load_photos(args.photos, data, args.cache) for data in args.data}
    priors.__class__ = Read
    for panel in panels(loaded, args.counts):
        compare(results, panel, args.only)
    if args.only in (None, "classes"):
        measure_few_labels(results, loaded)


if __name__ == "__main__":
    main()
