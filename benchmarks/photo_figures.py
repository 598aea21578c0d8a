"""
Draws docs/images/photos_*.png: accuracy against the share of wrong labels, and against the labels a class, beside
methods without captions (results/photos_*.json); what each view adds (results/label_model_views.json).

    python benchmarks/photo_figures.py
"""

from typing import Any

import matplotlib
from provenance import ROOT, read_result
from tables_of_photos import FROZEN, NAMES, SCRATCH, TITLES, summary

matplotlib.use("Agg")
from matplotlib import pyplot

IMAGES = ROOT / "docs" / "images"
CAPTIONS, BASELINE, RIVAL, LANGUAGE_MODEL = "#c2410c", "#475569", "#2563eb", "#a3a3a3"
LINES = {
    "with captions": (CAPTIONS, "-", "o"),
    "best method without captions": (RIVAL, "--", "s"),
    "labels only": (BASELINE, "-", "o"),
    "a caption of every test image": (LANGUAGE_MODEL, ":", "^"),
}
AGAINST_NOISE = (
    "linear probe",
    "label smoothing",
    "GCE",
    "small-loss filter",
    "cleanlab",
    "co-teaching",
    "LightlyTrain",
)
WITH_FEW = ("linear probe", "self-training", "label propagation", "Tip-Adapter", "FixMatch")


def best(found: dict, data: str, student: str, setting: str, names: tuple[str, ...]) -> float | None:
    rows = [found.get((data, student, setting, name)) for name in names]
    values = [row["accuracy"] for row in rows if row]
    return max(values) if values else None


def accuracy(found: dict, *key: str) -> float | None:
    row = found.get(key)
    return row and row["accuracy"]


def draw(axes: Any, places: list[float], values: dict[str, list[float | None]]) -> None:
    for name, line in values.items():
        color, style, marker = LINES[name]
        points = [(place, 100 * value) for place, value in zip(places, line, strict=True) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=color, marker=marker, label=name, markersize=5)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Any, panels: Any) -> None:
    """One legend for all panels, off their curves."""
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def few_labels() -> None:
    few, whole = summary("few_labels"), summary("all_labels")
    settings = ["no labels", "1 a class", "4 a class", "16 a class"]
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
    for axes, (data, name) in zip(panels, NAMES.items(), strict=True):

        def line(variant: str, data: str = data) -> list[float | None]:
            rows = [accuracy(few, data, FROZEN, each, variant) for each in settings]
            return [*rows, accuracy(whole, data, FROZEN, "all", variant)]

        values = {
            "with captions": line("auto"),
            "best method without captions": [*(best(few, data, FROZEN, each, WITH_FEW) for each in settings), None],
            "labels only": line("baseline"),
            "a caption of every test image": line("captions at inference"),
        }
        draw(axes, list(range(5)), values)
        axes.set_xticks(range(5), ["0", "1", "4", "16", "all"])
        axes.set(title=name, xlabel="labels a class")
    panels[0].set_ylabel(f"accuracy on test, %\n{TITLES[FROZEN]}")
    legend_below(figure, panels)
    figure.savefig(IMAGES / "photos_few_labels.png", dpi=130)


def wrong_labels() -> None:
    wrong, whole = summary("wrong_labels"), summary("all_labels")
    figure, (*curves, bars) = pyplot.subplots(
        1, 3, figsize=(12, 3.9), layout="constrained", gridspec_kw={"width_ratios": [1, 1, 1.4]}
    )
    settings = ["20% symmetric", "40% symmetric", "60% symmetric"]
    for curve, student in zip(curves, (SCRATCH, FROZEN), strict=True):

        def line(variant: str, student: str = student) -> list[float | None]:
            rows = [accuracy(wrong, "cifar10", student, each, variant) for each in settings]
            return [accuracy(whole, "cifar10", student, "all", variant), *rows]

        rivals = [best(wrong, "cifar10", student, each, AGAINST_NOISE) for each in settings]
        values = {
            "with captions": line("auto"),
            "best method without captions": [None, *rivals],
            "labels only": line("baseline"),
        }
        draw(curve, [0, 20, 40, 60], values)
        curve.set(title=f"CIFAR-10,\n{TITLES[student]}", xlabel="wrong labels, %")
    curves[0].set_ylabel("accuracy on test, %")
    legend_below(figure, curves)
    cases = [(data, student) for student in (SCRATCH, FROZEN) for data in NAMES]
    cases = [case for case in cases if accuracy(wrong, *case, "40% symmetric", "auto") is not None]
    for place, (data, student) in enumerate(cases):
        for shift, name, variant in ((-0.2, "labels only", "baseline"), (0.2, "with captions", "auto")):
            value = 100 * accuracy(wrong, data, student, "40% symmetric", variant)
            bars.bar(place + shift, value, 0.38, color=LINES[name][0])
            bars.annotate(f"{value:.0f}", (place + shift, value), ha="center", va="bottom", fontsize=8)
    words = [f"{NAMES[data]}\n{'scratch' if student == SCRATCH else 'frozen'}" for data, student in cases]
    bars.set_xticks(range(len(cases)), words, fontsize=8)
    bars.set(title="40% of the labels wrong")
    bars.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / "photos_wrong_labels.png", dpi=130)


VIEWS = {
    "Lite0": ("#cbd5e1", "image features"),
    "Lite0-2": (BASELINE, "features of three encoders"),
    "captions": ("#fdba74", "captions"),
    "captions + Lite0": (CAPTIONS, "captions and features"),
    "captions + Lite0-2": ("#7c2d12", "captions and three encoders"),
    "captions + Lite0 + answers": (RIVAL, "captions, features, answers of people"),
}


def views() -> None:
    rows = [row for row in read_result("label_model_views.json")["rows"] if row["setting"] == "1 a class"]
    figure, axes = pyplot.subplots(figsize=(9, 3.7), layout="constrained")
    for number, (views, (color, title)) in enumerate(VIEWS.items()):
        for place, data in enumerate(NAMES):
            found = [100 * row["accuracy"] for row in rows if (row["data"], row["views"]) == (data, views)]
            if found:
                x, value = place + 0.14 * (number - 2.5), sum(found) / len(found)
                axes.bar(x, value, 0.13, color=color, label=title)
                axes.annotate(f"{value:.0f}", (x, value), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(NAMES)), NAMES.values())
    axes.set_ylabel("one label a class: right probabilities\nof unlabelled training images, %")
    axes.spines[["top", "right"]].set_visible(False)
    bars = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(bars.values(), bars.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(IMAGES / "photos_views.png", dpi=130)


if __name__ == "__main__":
    views()
    few_labels()
    wrong_labels()
