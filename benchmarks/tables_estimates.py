"""Tables of accuracies that are estimated, and of thresholds and new images."""

from collections.abc import Callable
from itertools import product

import numpy as np
from result_files import grouped, mean
from tables import NAMES, held, of_page, percent, rows_of, table

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


@of_page
def worlds() -> str:
    """Data that are no random sample: how far accuracies are off in the mean, and how often intervals hold."""
    lines = []
    for (name,), rows in grouped(rows_of("worlds"), "world").items():
        cells = [name, str(len(rows))]
        for what in ("labels_only", "with_views", "difference"):
            told = [row[what] for row in rows if row[what] and row[what]["interval"]]
            hold = sum(each["interval"][0] <= each["truth"] <= each["interval"][1] for each in told)
            off = np.mean([each["estimate"] - each["truth"] for each in told])
            cells.append(f"{100 * off:+.0f}, {hold} of {len(told)}" if told else "")
        lines.append(cells)
    return table(["labels, images and captions", "draws", "labels only", "with views", "difference"], lines)


@of_page
def decisions() -> str:
    """Thresholds of `g4i fit` for new images: how many are certain, what they reach, and what the others do."""
    lines = []
    for precision, ((judge,), rows) in product((0.9, 0.95, 0.99), grouped(rows_of("decide"), "judged by").items()):
        given = [row[f"{precision:g}"] for row in rows if f"{precision:g}" in row]
        certain = [each for each in given if each["certain"] and each["got"] is not None]
        others = [each for each in given if not each["certain"] and each["got"] is not None]
        reached = sum(each["got"] >= precision for each in certain)
        names = ("answered", "oracle") if certain else ()
        shares = [f"{np.mean([each[name] or 0 for each in certain]):.0%}" for name in names]
        needed = [each["got"] for each in others if each["oracle"] < 1]  # else all answers together are as right
        mean_of_others = percent(np.mean(needed)) if needed else ""
        cells = [f"{precision:.0%}", judge, f"{len(certain)} of {len(rows)}", f"{reached}", " of ".join(shares)]
        lines.append([*cells, str(len(others)), mean_of_others])
    head = ["asked", "judged by", "certain", "reached", "answered, of what could be", "unreviewed", "their precision"]
    return table(head, lines, "ll")
