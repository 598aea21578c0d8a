"""
Writes the tables between the markers of the pages in `PAGES` from the files in results/.

    python benchmarks/readme_tables.py
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import median

import numpy as np
from result_files import ROOT, grouped, mean, read_result, right_of
from scipy import stats

from g4i_hf.evaluation.estimate import difference_interval
from g4i_hf.names import WITH_VIEWS

PAGES = (
    "README.md",
    "docs/index.md",
    "docs/evidence.md",
    "docs/speed.md",
    "docs/guides/large_datasets.md",
    "docs/guides/predict.md",
    "docs/guides/captions.md",
    "docs/guides/classes.md",
    "docs/guides/wrong_labels.md",
    "docs/guides/views.md",
    "docs/guides/all_layers.md",
)
SHARES = ("false_alarms", "found")
TABLES: dict[str, Callable[[], str]] = {}


def of_page(make: Callable[[], str]) -> Callable[[], str]:
    """A table of a page, by the name of its function."""
    TABLES[make.__name__] = make
    return make


def table(head: Sequence[str], rows: Iterable[Sequence[str] | str], align: str = "l") -> str:
    """
    Args:
        rows: cells; a text alone is a title between rows.
        align: l or r a column; the columns that it does not have are aligned to the right.
    """
    align = align.ljust(len(head), "r")
    lines = [f"| {' | '.join(head)} |", f"|{''.join('---|' if side == 'l' else '---:|' for side in align)}"]
    for row in rows:
        is_title = isinstance(row, str)
        lines.append(f"| *{row}* |{' |' * (len(head) - 1)}" if is_title else f"| {' | '.join(row)} |")
    return "\n".join(lines)


def rows_of(name: str, **wanted) -> list[dict]:
    return [row for row in read_result(f"{name}.json")["rows"] if wanted.items() <= row.items()]


def percent(share: float | None, form: str = ".1f") -> str:
    return "" if share is None else f"{100 * share:{form}}"


def held(estimates: list[dict]) -> str:
    """How often 95% intervals hold the truth, and their median half-width in points."""
    told = [each for each in estimates if each and each["interval"] is not None]
    if not told:
        return ""
    holds = np.mean([each["interval"][0] <= each["truth"] <= each["interval"][1] for each in told])
    half = median((each["interval"][1] - each["interval"][0]) / 2 for each in told)
    return f"{holds:.0%} ({percent(half)})"


NAMES = {"cifar10": "CIFAR-10", "caltech101": "Caltech-101", "flowers102": "Flowers-102"}
FROZEN, SCRATCH = "efficientnet_lite0, last layer", "small resnet, from scratch"
STUDENTS = {
    FROZEN: "frozen EfficientNet-Lite0",
    SCRATCH: "small ResNet from scratch",
    "small cvt, from scratch": "small CvT from scratch",
}


# --- Accuracy on `test` ----------------------------------------------------------------------------------------------

FIT = {
    "none": "no labels",
    "1 a class": "1 label per class",
    "4 a class": "4 labels per class",
    "uneven": "as many, drawn at random",
    "40% wrong": "40% of the labels wrong",
    "40% wrong, no captions": "40% of the labels wrong, without captions²",
    "40% wrong, removed": "these 40% removed by hand³",
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
        cells = [f"{percent(a)}, {percent(b)}" if b else "" for a, b in zip(said, true, strict=True)]
        gains = [after - before for before, after in (said, true)] if said[0] else []
        judge = "`validation`" if with_validation else "kept or labelled images"
        labels = FIT[setting].rstrip("¹") + "¹" * (len(rows) == 1)
        lines.append([NAMES[data], labels, judge, *cells, ", ".join(percent(gain, "+.1f") for gain in gains)])
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


# --- Estimates -------------------------------------------------------------------------------------------------------

COVERED = {
    "labels_only": "labels only",
    "with_views": "with captions",
    "difference": "difference",
    "together": "all views",
    "wrong_labels": "wrong labels",
}


MEASURED = ("captions", "of other images", "of half")  # the views of most tables on intervals
SHIPPED = {
    "captions": "captions",
    "of other images": "captions of other images",
    "of half": "captions of half of the images",
    "of unlabelled images": "captions of the unlabelled images alone",
    "scores trained on the labels": "scores of a model that was trained on the labels",
    "scores of BiomedCLIP": "scores of BiomedCLIP (CIFAR-10)",
}


def rows_of_coverage() -> list[dict]:
    return [row for row in rows_of("coverage") if row["views"] in MEASURED]


@of_page
def coverage() -> str:
    rows = rows_of_coverage()
    groups = grouped(rows, "labels", "wrong") | {("all", None): rows}
    lines = [
        [str(labels), percent(wrong, ".0f") + "%" * (wrong is not None)]
        + [held([row.get(name) for row in group]) for name in COVERED]
        for (labels, wrong), group in groups.items()
    ]
    return table(["labels per class", "wrong", *COVERED.values()], lines)


@of_page
def shipped() -> str:
    """A row a kind of views: whether views helped, how often the other classifier was better, and by how much."""
    groups, lines = grouped(rows_of("coverage"), "views"), []
    for views, title in SHIPPED.items():
        rows = groups[(views,)]
        gains = [row["on_others"]["with_views"] - row["on_others"].get("labels_only", 0) for row in rows]
        cells = [mean(of_cell, "regret") for of_cell in grouped(rows, "data", "labels", "wrong").values()]
        worse = f"{sum(row['regret'] > 0 for row in rows)} of {len(rows)}"
        regret = [percent(value, ".2f") for value in (mean(rows, "regret"), max(cells))]
        lines.append(
            [
                title,
                f"{100 * np.mean(gains):+.1f}",
                worse,
                *regret,
                *(held([row[name] for row in rows]) for name in ("with_views", "difference")),
            ]
        )
    head = [
        "image features and",
        "views gain",
        "the other is better",
        "regret",
        "worst cell",
        "with views",
        "difference",
    ]
    return table(head, lines)


@of_page
def verdicts() -> str:
    """Over all draws of coverage.json: how often each verdict was given, and was true."""
    rows, lines = [row for row in rows_of_coverage() if row["verdict"]], []
    for verdict, sign in (("helped", 1), ("hurt", -1), ("cannot tell", 0)):
        given = [row for row in rows if row["verdict"] == verdict]
        cells = ["", ""]
        if given and sign:
            gains = [row["on_others"]["with_views"] - row["on_others"]["labels_only"] for row in given]
            kept = [row["difference"]["truth"] for row in given]
            cells = [f"{np.mean([sign * gain > 0 for gain in found]):.0%}" for found in (kept, gains)]
        lines.append([verdict, f"{len(given) / len(rows):.0%}", *cells])
    return table(["verdict", "given", "true of the kept images", "true of other images"], lines)


@of_page
def wrong_labels() -> str:
    """A row a kind of errors, views and share of labels; means over the draws, precision that of all draws."""
    lines = []
    for (data, kind, views, fraction), rows in grouped(
        rows_of("wrong_labels"), "data", "kind", "views", "label_fraction"
    ).items():
        cells = [NAMES[data], f"{fraction:.0%}, {'right' if kind == 'all' else kind}"]
        cells += ["both" if "and" in views else views, percent(mean(rows, "accuracy"))]
        cells += [percent(mean(rows, name)) for name in ("wrong", "estimated_wrong")]
        holds = sum(row["interval"][0] <= row["wrong"] <= row["interval"][1] for row in rows)
        cells.append(f"{holds} of {len(rows)}")
        for name in ("ours", "cleanlab"):
            found = [row[name] for row in rows]
            called, right = (sum(each[what] for each in found) for what in ("found", "right_called_wrong"))
            recall = percent(mean(found, "recall"), ".0f")
            cells.append(recall and f"{percent(1 - right / called, '.0f')} / {recall}")
            cells.append(f"{right / len(rows):.0f}")
        lines.append(cells)
    head = ["images", "labels", "views", "accuracy", "wrong", "estimated", "in the interval", "precision / recall"]
    return table([*head, "right, called wrong", "cleanlab's", "right, called wrong"], lines, "lll")


# --- Views, review, images of no class -------------------------------------------------------------------------------

VIEWS = {
    "captions": "captions",
    "Lite0": "features of EfficientNet-Lite0, the student",
    "Lite0-2": "of Lite0, 1 and 2",
    "captions + Lite0": "captions, Lite0",
    "captions + Lite0-2": "captions, Lite0 to 2",
    "captions + Lite0 + answers": "captions, Lite0, answers of people",
    "captions + Lite0 + random": "captions, Lite0, random numbers",
    "captions + Lite0 + of other images": "captions, Lite0, features of other images",
}


@of_page
def views_added() -> str:
    """Accuracy of unlabelled training images by sets of views, means over draws."""
    groups = grouped(rows_of("label_model_views"), "views", "data", "setting")
    columns = [(data, setting) for data in NAMES for setting in ("no labels", "1 a class", "4 a class")]
    lines = [
        [title, *(percent(mean(groups.get((views, *column), []), "accuracy")) for column in columns)]
        for views, title in VIEWS.items()
    ]
    return table(
        ["views", *(f"{NAMES[data]}, {setting}".replace(" a class", " per class") for data, setting in columns)], lines
    )


@of_page
def class_words() -> str:
    """Names of the classes, and what synonyms and descriptions add to them."""
    groups = grouped(rows_of("class_words"), "texts", "data", "setting", "views")
    cells = [("no labels", "nearest", "no labels, nearest text"), ("no labels", "captions", "no labels, captions")]
    cells += [(setting, "captions + Lite0", f"{setting}, captions + Lite0") for setting in ("no labels", "1 a class")]
    lines: list[Sequence[str] | str] = []
    for data, name in NAMES.items():
        lines.append(name)
        for texts in dict.fromkeys(texts for texts, *_ in groups):
            lines.append([texts, *(percent(mean(groups[texts, data, *cell[:2]], "accuracy")) for cell in cells)])
    return table(["texts of a class", *(cell[2].replace(" a class", " per class") for cell in cells)], lines)


@of_page
def bad_views() -> str:
    """CIFAR-10, means over the draws."""
    found = grouped(rows_of("real_views", data="cifar10"), "views", "setting")
    lines = []
    for views in (
        "captions",
        "captions + image",
        "captions + image + BiomedCLIP",
        "captions + BiomedCLIP + Swahili + image",
        "captions + SigLIP 2",
        "captions + SigLIP 2 + BiomedCLIP + image",
        "SigLIP 2",
        "image + SigLIP 2",
        "image + SigLIP 2 + Swahili",
        "captions + BiomedCLIP",
    ):
        cells = [percent(mean(found.get((views, setting), []), "accuracy")) for setting in OF_REAL_VIEWS]
        lines.append([views.replace(" + ", ", ").replace("image", "features"), *cells])
    return table(["views", *OF_REAL_VIEWS], lines)


OF_REAL_VIEWS = ("no labels", "1 a class", "4 a class")


@of_page
def next_labels() -> str:
    """Accuracy after more labels, by how they are chosen."""
    titles = {"next": "**`--pick next`**", "random": "at random"}
    titles |= {"margin": "least margin", "entropy": "greatest entropy"}
    lines = []
    for (data,), rows in grouped(rows_of("review", what="next"), "data").items():
        groups = grouped(rows, "kind")
        for kind, title in titles.items():
            means = np.mean([row["accuracies"] for row in groups[kind,]], axis=0)[[0, 1, 3, 5, 10]]
            lines.append([f"{NAMES[data]}, {len(groups[kind,])}", title, *map(percent, means)])
    return table(["photographs, draws", "labels chosen", "+0", "+20", "+60", "+100", "+200"], lines, "ll")


@of_page
def wrong_labels_found() -> str:
    """Wrong ones among the first 100 labels that are shown; means over the draws."""
    lines = []
    for (data, kind), rows in grouped(rows_of("review", what="wrong"), "data", "kind").items():
        share, ours, theirs = (mean(rows, name) for name in ("share", "wrong", "cleanlab"))
        kind = "as people err" if kind == "people" else kind
        lines.append([f"{NAMES[data]}, {len(rows)}", f"{share:.0%}, {kind}", f"**{ours:.0f}**", f"{theirs:.0f}"])
    return table(["photographs, draws", "wrong labels", "`--pick wrong`", "cleanlab"], lines, "ll")


@of_page
def gold_intervals() -> str:
    """How often the 95% interval of a gold sample holds the truth; its half-width with other images, and alone."""
    lines, sizes, shown = [], ("50", "100", "200"), {"with_views": "with captions", "difference": "difference"}
    for (data,), rows in grouped(rows_of("review", what="gold"), "data").items():
        for name, what in shown.items():
            cells = [f"{NAMES[data]}, {len(rows)}", what, percent(mean(rows, name))]
            for size in sizes:
                of = {key: np.mean([row[size][key][name] for row in rows]) for key in ("holds", "half", "half_alone")}
                cells.append(f"{of['holds']:.0%} (**±{percent(of['half'])}**, ±{percent(of['half_alone'])})")
            lines.append(cells)
    return table(["photographs, draws", "", "true", *(f"{size} images" for size in sizes)], lines, "ll")


@of_page
def none_of_these() -> str:
    """Pools with images of no class: how many are said to be there, and the student's accuracy."""
    lines = []
    for (data, _), rows in grouped(rows_of("none_of_these"), "data", "others").items():
        of = {name: mean(rows, name) for name in rows[0] if name not in ("data", "commit")}
        cells = [NAMES[data], f"{of['share']:.0%}", f"{of['said_at_least']:.0%}", "", ""]
        if "none_auroc" in of:
            cells[3:] = [f"{of['none_auroc']:.2f} ({of['max_softmax_auroc']:.2f})", f"{of['none_false_alarms']:.0%}"]
        lines.append([*cells, percent(of["plain"]), f"**{percent(of['weighed'])}**", percent(of["by_hand"])])
    head = ["images", "of no class", "at least, said", "AUROC", "false alarms", "counted like others"]
    return table([*head, "**weighed**", "left out by hand"], lines)


@of_page
def none_at_inference() -> str:
    """The score of new images, beside the label model's in training, where captions tell too."""
    names = ("at_inference", "max_softmax", "in_training")
    lines = [
        [NAMES[data], *(f"{mean(rows, name):.2f}" for name in names), *(f"{mean(rows, name):.0%}" for name in SHARES)]
        for (data,), rows in grouped(rows_of("none_at_inference"), "data").items()
    ]
    head = ["photographs", "AUROC", "of the probability alone", "of the estimate in training"]
    return table([*head, "decided `none` of a known class", "of other classes"], lines)


@of_page
def another_month() -> str:
    """What `g4i predict` says of new images without labels, by what is new about them and by their number."""
    kinds: dict[str, Callable[[dict], bool]] = {
        "as they come": lambda row: row["shift"] == "none",
        "another mix of classes": lambda row: row["shift"].startswith("mix"),
        "changed, 5 points or more lost": lambda row: row["drop"] >= 0.05,
        "changed, less lost": lambda row: True,
    }
    groups: dict[tuple[str, int], list[dict]] = {(kind, size): [] for kind in kinds for size in (200, 500)}
    for row in rows_of("another_month"):
        groups[next(kind for kind, fits in kinds.items() if fits(row)), row["size"]].append(row)
    lines = []
    for (kind, size), rows in groups.items():
        given = [{"truth": row["accuracy"], "interval": row["interval"]} for row in rows if row["interval"]]
        known = f"{len(given) / len(rows):.0%}"
        of_classes = f"{mean(rows, 'shares_held'):.0%} ({percent(mean(rows, 'shares_half'))})"
        lines.append([kind, str(size), str(len(rows)), f"{mean(rows, 'differs'):.1%}", of_classes, known, held(given)])
    head = ["new images", "number", "cases", "differ", "class shares in their intervals"]
    return table([*head, "accuracy given", "right"], lines)


# --- Cost ------------------------------------------------------------------------------------------------------------


@of_page
def step_time() -> str:
    lines = []
    for row in read_result("step_time.json")["measured"]:
        objective = f"`{row['options']['align_loss']}`" + ", soft labels" * ("soft_label_weight" in row["options"])
        low, high = row["ratio_quartiles"]
        lines.append([row["student"], str(row["batch_size"]), objective, f"{row['ratio']:.3f}"])
        lines[-1].append(f"{low:.3f} to {high:.3f}")
    return table(["student", "batch", "objective", "aligned / baseline, median", "quartiles"], lines, "lrl")


@of_page
def captioning() -> str:
    lines = []
    for found in read_result("captioner_under_faults.json")["measured"]:
        capacity = found["capacity"] / found["latency_seconds"]
        kinds = "all kinds" if len(found["faults"]) > 3 else " and ".join(f"`{kind}`" for kind in found["faults"])
        cells = [f"{found['latency_seconds']:g} s, {found['capacity']} at a time ({capacity:.0f} a second)"]
        cells.append(f"{found['fault_rate']:.0%} {kinds}" if kinds else "none")
        for way in (found.get(name) for name in ("g4i", "map", "client")):
            lost = 1 - way["captions"] / found["requests"] if way else 0
            cells.append(f"{way['share_of_capacity']:.1%}" + f", {lost:.0%} lost" * (lost > 0) if way else "")
        lines.append(cells)
    return table(["server", "faults", "`g4i caption`", "`map`", "`client`"], lines, "ll")


CELLS = {
    "none": "no labels",
    "none, scores": "no labels, scores of SigLIP 2",
    "1 a class": "1 label a class",
    "4 a class": "4 labels a class",
    "40% wrong": "40% of the labels wrong",
    "all": "all labels right",
    "24 classes, all": "24 classes, all labels right",
}


DEFAULT_ARM = "0"  # of `g4i fit`


def name_of_cell(cell: str) -> str:
    data, _, setting = cell.partition(", ")
    return f"{NAMES[data]}, {CELLS[setting]}"


def in_points(difference: np.ndarray) -> str:
    """The mean of (m,) differences of images, and its 95% interval."""
    points, low, high = (100 * each for each in (difference.mean(), *difference_interval(difference)))
    return f"{points:+.1f} ({low:+.1f} to {high:+.1f})"


@of_page
def all_layers() -> str:
    lines = []
    for (cell,), found in sorted(grouped(rows_of("all_layers", arm=DEFAULT_ARM), "cell").items()):
        last, ships = (percent(mean(found, name)) for name in (WITH_VIEWS, "ships"))
        gains = np.mean([row["difference"] for row in found])
        ends = " ".join(f"{100 * row['difference']:+.1f}" for row in found)
        size = f"{found[0]['images']:,}, {found[0]['image_size']} px"
        lines.append([name_of_cell(cell), size, last, f"**{ships}**", f"{100 * gains:+.1f}", ends])
    return table(["", "images", "last layer", "all layers", "gain", "of each draw"], lines, "ll")


@of_page
def alignment() -> str:
    by_key = {(row["cell"], row["arm"], row["seed"]): row for row in rows_of("all_layers")}
    lines = []
    for (cell,), found in sorted(grouped(rows_of("all_layers", arm="0"), "cell").items()):
        cells = []
        for arm in ("0.1", "0.3", "1", "TextTeacher"):
            pairs = [(by_key.get((cell, arm, row["seed"])), row) for row in found]
            pairs = [(other, row) for other, row in pairs if other]
            differences = [right_of(other) - right_of(row) for other, row in pairs]
            draws = f", {len(pairs)} draws" if len(pairs) > 1 else ""
            cells.append(in_points(np.mean(differences, 0)) + draws if differences else "")
        lines.append([name_of_cell(cell), percent(mean(found, "ships")), *cells])
    return table(["", "without", "weight 0.1", "0.3", "1", "TextTeacher"], lines)


@of_page
def client_rate() -> str:
    lines = []
    for row in read_result("captioner_under_faults.json")["measured"]:
        rate = 1000 / row["g4i"]["processor_ms_per_request"]
        if not row["fault_rate"]:
            server = f"{row['latency_seconds']} s, {row['capacity']} at a time"
            lines.append([server, f"{rate:.0f}", f"{500 / rate:.1f}"])
    return table(["server", "images a second of one core", "cores for 500 a second"], lines)


@of_page
def imagenet_captioning() -> str:
    lines = []
    for row in read_result("imagenet_plan.json")["captioning"]:
        hours = [f"{row[f'hours_{count}']:,.1f} h" for count in (1, 8, 64)]
        lines.append([row["captioner"], f"{row['operations'] / 1e12:.1f} T", *hours, f"{row['cost']:,.0f}"])
    return table(["captioner", "operations an image", "1 GPU", "8 GPUs", "64 GPUs", "cost"], lines)


@of_page
def shards() -> str:
    lines = [
        [f"{row['images']:,}", f"{row['shard_mb']:.0f} MB", f"{row['peak_mb']:.0f} MB"]
        for row in read_result("shards.json")["rows"]
    ]
    return table(["images of the shard", "its size", "peak memory"], lines, "r")


@of_page
def sample() -> str:
    lines, parts = [], sorted({row["part"] for row in rows_of("sample")})
    for data, setting in dict.fromkeys((row["data"], row["setting"]) for row in rows_of("sample")):
        found = {row["part"]: row for row in rows_of("sample", data=data, setting=setting)}
        cells = [f"{percent(found[part].get('labels_only'))} / {percent(found[part]['with_views'])}" for part in parts]
        lines.append([f"{data}, {found[1]['images']:,} images, labels: {setting}", *cells])
    return table(["", "all", *(f"1/{part}" for part in parts[1:])], lines)


def with_tables(text: str) -> str:
    """The text with every marked table made anew."""

    def fill(match: re.Match) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end of table -->", fill, text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(with_tables((ROOT / page).read_text()))
