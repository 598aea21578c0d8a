"""
Draws docs/images/photos_*.png: accuracy against the share of wrong labels, and against the labels per class, beside
methods without captions (results/photos_*.json); what each view adds (results/label_model_views.json).

    python benchmarks/photo_figures.py
"""

from typing import Any

import matplotlib
from readme_tables import FROZEN, NAMES, SCRATCH, STUDENTS, rows_of
from result_files import ROOT, grouped, mean

matplotlib.use("Agg")
from matplotlib import pyplot

IMAGES = ROOT / "docs" / "images"
CAPTIONS, BASELINE, RIVAL, LANGUAGE_MODEL = "#c2410c", "#475569", "#2563eb", "#a3a3a3"
BEST = "best method without captions"
LINES = {  # color, style, marker, variant
    "with captions": (CAPTIONS, "-", "o", "auto"),
    BEST: (RIVAL, "--", "s", None),
    "labels only": (BASELINE, "-", "o", "baseline"),
    "a caption of every test image": (LANGUAGE_MODEL, ":", "^", "captions at inference"),
}
OURS = {line[-1] for line in LINES.values()} | {"auto, captions alone", "auto and alignment", "alignment"}


class Accuracies:
    """Means over the draws, in percent, of some settings and of all labels."""

    def __init__(self, name: str):
        rows = rows_of(name) + rows_of("photos_all_labels")
        self.found = {
            key: 100 * mean(group, "accuracy")
            for key, group in grouped(rows, "data", "student", "setting", "variant").items()
        }

    def of(self, data: str, student: str, setting: str, name: str) -> float | None:
        """`name`: one of `LINES`."""
        if name != BEST:
            return self.found.get((data, student, setting, LINES[name][-1]))
        rivals = {key[-1]: value for key, value in self.found.items() if key[:3] == (data, student, setting)}
        return max((value for variant, value in rivals.items() if variant not in OURS), default=None)

    def draw(self, axes: Any, data: str, student: str, settings: dict[str, float], names: list[str]) -> None:
        """settings: places on the x axis."""
        for name in names:
            color, style, marker, _ = LINES[name]
            values = {place: self.of(data, student, setting, name) for setting, place in settings.items()}
            if name == BEST:
                values.pop(settings["all"])
            points = [(place, value) for place, value in values.items() if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, marker=marker, label=name, markersize=5)
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Any, panels: Any) -> None:
    """One legend for all panels, off their curves."""
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def few_labels() -> None:
    found = Accuracies("photos_few_labels")
    settings = {name: place for place, name in enumerate(("no labels", "1 a class", "4 a class", "16 a class", "all"))}
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
    for axes, (data, name) in zip(panels, NAMES.items(), strict=True):
        found.draw(axes, data, FROZEN, settings, list(LINES))
        axes.set_xticks(range(5), ["0", "1", "4", "16", "all"])
        axes.set(title=name, xlabel="labels per class")
    panels[0].set_ylabel(f"accuracy on test, %\n{STUDENTS[FROZEN]}")
    legend_below(figure, panels)
    figure.savefig(IMAGES / "photos_few_labels.png", dpi=130)


def wrong_labels() -> None:
    found = Accuracies("photos_wrong_labels")
    figure, (*curves, bars) = pyplot.subplots(
        1, 3, figsize=(12, 3.9), layout="constrained", gridspec_kw={"width_ratios": [1, 1, 1.4]}
    )
    settings = {"all": 0, "20% symmetric": 20, "40% symmetric": 40, "60% symmetric": 60}
    for curve, student in zip(curves, (SCRATCH, FROZEN), strict=True):
        found.draw(curve, "cifar10", student, settings, list(LINES)[:3])
        curve.set(title=f"CIFAR-10,\n{STUDENTS[student]}", xlabel="wrong labels, %")
    curves[0].set_ylabel("accuracy on test, %")
    legend_below(figure, curves)
    cases = [(data, student) for student in (SCRATCH, FROZEN) for data in NAMES]
    for place, case in enumerate(cases):
        for shift, name in ((-0.2, "labels only"), (0.2, "with captions")):
            value = found.of(*case, "40% symmetric", name)
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
    groups = grouped(rows_of("label_model_views", setting="1 a class"), "data", "views")
    figure, axes = pyplot.subplots(figsize=(9, 3.7), layout="constrained")
    for number, (views, (color, title)) in enumerate(VIEWS.items()):
        for place, data in enumerate(NAMES):
            if rows := groups.get((data, views)):
                x, value = place + 0.14 * (number - 2.5), 100 * mean(rows, "accuracy")
                axes.bar(x, value, 0.13, color=color, label=title)
                axes.annotate(f"{value:.0f}", (x, value), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(NAMES)), NAMES.values())
    axes.set_ylabel("one label per class: right probabilities\nof unlabelled training images, %")
    axes.spines[["top", "right"]].set_visible(False)
    bars = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(bars.values(), bars.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(IMAGES / "photos_views.png", dpi=130)


if __name__ == "__main__":
    views()
    few_labels()
    wrong_labels()
