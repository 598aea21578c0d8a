"""Tables of accuracies on `test`."""

from collections.abc import Iterable
from itertools import product

import numpy as np
from result_files import grouped, mean
from scipy import stats
from tables import FROZEN, NAMES, STUDENTS, of_page, percent, rows_of, table

WITHHELD = "none"  # of a draw at least
FIT = {
    "none": "no labels",
    "1 a class": "1 label per class",
    "4 a class": "4 labels per class",
    "uneven": "as many, drawn at random",
    "40% wrong": "40% of the labels wrong",
    "40% wrong, no captions": "40% of the labels wrong, without captions¹",
    "40% wrong, removed": "these 40% removed by hand²",
    "a person": "labels of one person",
    "all": "all labels right",
}


def fit_table(head: str, settings: Iterable[str], end: str = "") -> str:
    """`g4i fit` itself: in each cell labels only and with captions, means over the draws of labels."""
    groups = grouped(rows_of("photos_fit", validation=False), "setting", "data")

    def cell(rows: list[dict]) -> str:
        if not rows:
            return ""
        without = percent(mean(rows, f"labels_only{end}"))
        return f"{without} → " * bool(without) + f"**{percent(mean(rows, f'with_views{end}'))}**"

    lines = [[FIT[setting], *(cell(groups.get((setting, data), [])) for data in NAMES)] for setting in settings]
    return table([head, *NAMES.values()], lines)


@of_page
def photos_fit() -> str:
    return fit_table("accuracy, %", FIT)


@of_page
def photos_fit_models() -> str:
    """With captions, and with a view of a real model beside them."""
    groups = grouped(rows_of("photos_fit", validation=False), "setting", "data")

    def cell(setting: str, data: str) -> str:
        both = groups[f"{setting}, a real model", data]
        draws = {row["seed"] for row in both}
        captions = [row for row in groups[setting, data] if row["seed"] in draws]
        return f"{percent(mean(captions, 'with_views'))} → **{percent(mean(both, 'with_views'))}**"

    settings = [setting for setting in FIT if f"{setting}, a real model" in {name for name, _ in groups}]
    lines = [[FIT[setting], *(cell(setting, data) for data in NAMES)] for setting in settings]
    return table(["accuracy, %", *NAMES.values()], lines)


@of_page
def photos_fit_short() -> str:
    return fit_table("accuracy, %", ("none", "1 a class", "40% wrong"))


@of_page
def photos_fit_estimates() -> str:
    """What `g4i fit` said of its classifiers, beside the truth."""
    lines = []
    groups = grouped(rows_of("photos_fit"), "validation", "data", "setting")
    for with_validation, data, setting in product((False, True), NAMES, FIT):
        if not (rows := groups.get((with_validation, data, setting))):
            continue
        said, true = ([mean(rows, name + end) for name in ("labels_only", "with_views")] for end in ("_estimate", ""))
        cells = [f"{percent(a) or WITHHELD}, {percent(b)}" if b else "" for a, b in zip(said, true, strict=True)]
        gains = [after - before for before, after in (said, true)] if said[0] else []
        judge = "`validation`" if with_validation else "kept or labelled images"
        lines.append([NAMES[data], FIT[setting], judge, *cells, ", ".join(percent(gain, "+.1f") for gain in gains)])
    head = (
        "captions of",
        "labels",
        "judged on",
        "labels only: said, true",
        "with captions: said, true",
        "gain: said, true",
    )
    return table(head, lines, "lll")


@of_page
def photos_fit_calibration() -> str:
    """Expected calibration errors of the classifiers of `g4i fit`: labels only and with captions."""
    return fit_table("ECE on `test`, %", FIT, "_ece")


# Variants of the tables in their order, and what they are called there
VARIANTS = {
    "baseline": "labels only",
    "auto": "**captions**",
    "auto, captions alone": "captions, without image features",
    "auto, without captions": "image features, without captions",
    "auto and alignment": "captions and alignment",
    "alignment": "captions: alignment alone",
    "linear probe": "linear probe",
    "label smoothing": "label smoothing",
    "GCE": "generalised cross entropy",
    "small-loss filter": "small-loss filter, told the share",
    "cleanlab": "cleanlab's filter",
    "co-teaching": "co-teaching, told the share",
    "self-training": "self-training",
    "label propagation": "label propagation",
    "Tip-Adapter": "Tip-Adapter's cache",
    "FixMatch": "FixMatch",
    "LightlyTrain": "LightlyTrain, from a pretrained teacher",
    "captions at inference": "a caption of every test image",
}
CONTROLS = {
    "class names": "name of the true class",
    "without class names": "captions without the names of classes",
    "captions of other images": "captions of other images",
    "random vectors": "random vectors",
}


def accuracy(rows: list[dict] | None, baseline: list[dict] | None = None) -> str:
    """The mean, and with `baseline` the difference to it, with a 95% interval by Student's t over the draws."""
    if not rows:
        return ""
    found = percent(mean(rows, "accuracy")) + "¹" * (len(rows) == 1)
    before = {row["seed"]: row["accuracy"] for row in baseline or []}
    gains = np.array([row["accuracy"] - before[row["seed"]] for row in rows if row["seed"] in before])
    if len(gains) < 2:
        return found
    half = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
    low, high = (percent(gains.mean() + side * half, "+.1f") for side in (-1, 1))
    return f"{found}, {percent(gains.mean(), '+.1f')} [{low}, {high}]"


def grid(name: str, *settings: str) -> str:
    groups, lines = grouped(rows_of(name), "student", "data", "variant", "setting"), []
    for student, title in STUDENTS.items():
        for data in NAMES:
            baselines = [groups.get((student, data, "baseline", setting)) for setting in settings]
            if any(baselines):
                lines.append(f"{NAMES[data]}, {title}")
            for variant in VARIANTS if any(baselines) else ():
                rows = [groups.get((student, data, variant, setting)) for setting in settings]
                if any(rows):
                    shown = baselines if variant == "auto" else [None] * len(rows)
                    lines.append([VARIANTS[variant], *map(accuracy, rows, shown)])
    return table(["accuracy on `test`", *(setting.replace(" a class", " per class") for setting in settings)], lines)


@of_page
def photos_few_labels() -> str:
    return grid("photos_few_labels", "no labels", "1 a class", "4 a class", "at random", "16 a class", "10%")


@of_page
def photos_wrong_labels() -> str:
    shares = "20% symmetric", "40% symmetric", "60% symmetric", "20% confusable", "40% confusable"
    return grid("photos_wrong_labels", *shares, "a person", "worst of three")


@of_page
def photos_all_labels() -> str:
    return grid("photos_all_labels", "all")


@of_page
def photos_controls() -> str:
    rows = rows_of("photos_few_labels", student=FROZEN, setting="4 a class") + rows_of("photos_controls")
    groups, lines = grouped(rows, "variant", "data"), []
    for variant, title in ({"baseline": "labels only", "auto": "captions"} | CONTROLS).items():
        lines.append([title, *(accuracy(groups[variant, data]) for data in NAMES)])
    return table(["4 labels per class", *NAMES.values()], lines)
