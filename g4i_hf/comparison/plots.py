"""Pictures of findings."""

import json
from pathlib import Path

from .findings import Finding
from .grid import Cell

STYLES = ["--", "-", ":", "-."]  # of the first variant, the second, ...


def plot_differences(findings: list[Finding], path: str | Path) -> None:
    """
    Difference and 95% interval a student, in a panel a split, variants side by side.

    Raises:
        ImportError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    compared = [row for row in findings if row.difference is not None]
    splits = list(dict.fromkeys(row.split for row in compared))
    names = list(dict.fromkeys(row.student or "all" for row in compared if row.student))
    names += ["all"] if any(row.student is None for row in compared) else []
    variants = list(dict.fromkeys(row.variant for row in compared))
    height = 1.2 + 0.22 * len(names) * max(1, len(variants)) + 0.15 * len(names)
    figure, axes = plt.subplots(1, len(splits), figsize=(1.5 + 4 * len(splits), height), sharey=True, squeeze=False)
    for axis, split in zip(axes[0], splits, strict=True):
        for number, variant in enumerate(variants):
            rows = [row for row in compared if (row.split, row.variant) == (split, variant)]
            heights = [-names.index(row.student or "all") - (number + 0.5) / len(variants) * 0.8 for row in rows]
            centres = [100 * row.difference.mean for row in rows]
            bars = [
                [100 * (row.difference.mean - row.difference.low) for row in rows],
                [100 * (row.difference.high - row.difference.mean) for row in rows],
            ]
            axis.errorbar(centres, heights, xerr=bars, fmt="o", markersize=4, capsize=2, label=variant)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(split)
        axis.set_xlabel("difference of accuracy, points")
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks([-number - 0.4 for number in range(len(names))], names)
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_curves(findings: list[Finding], cells: list[Cell], option: str, path: str | Path) -> None:
    """
    Mean accuracy and standard deviation over seeds against the value of an option that students differ in, such as
    the share of labels: a panel a split, a line a student and variant.

    Args:
        findings: of the cells.
        cells: their options say which students are one student at several values of `option`.
        option: of g4i train, a number; of students that do not have it the largest value is taken to be 1.
        path: PNG file.

    Raises:
        ImportError: without matplotlib.
        ValueError: when no student has the option.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if not any(option in cell.student_options for cell in cells):
        raise ValueError(f"No student has the option {option!r}, which the curves are drawn against.")
    values = {cell.student: float(cell.student_options.get(option, 1)) for cell in cells}
    lines = lines_of(cells, option, values)
    splits = list(dict.fromkeys(row.split for row in findings))
    variants = list(dict.fromkeys(row.variant for row in findings))
    figure, axes = plt.subplots(1, len(splits), figsize=(1 + 4.5 * len(splits), 4), squeeze=False)
    for axis, split in zip(axes[0], splits, strict=True):
        found = {(row.student, row.variant): row for row in findings if row.split == split}
        for number, (name, students) in enumerate(lines.items()):
            for place, (variant, style) in enumerate(zip(variants, STYLES * len(variants), strict=False)):
                rows = [(values[student], found.get((student, variant))) for student in students]
                rows = [(value, row) for value, row in rows if row is not None]
                axis.errorbar(
                    [value for value, _ in rows],
                    [100 * row.mean for _, row in rows],
                    yerr=[100 * row.sd for _, row in rows],
                    linestyle=style,
                    color=f"C{number if len(lines) > 1 else place}",
                    marker="o",
                    markersize=3,
                    capsize=2,
                    label=f"{name}, {variant}",
                )
        axis.set_title(split)
        axis.set_xlabel(option.replace("_", " "))
        axis.set_ylabel("accuracy, %")
        axis.set_xscale("log")
        ticks = sorted(set(values.values()))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def lines_of(cells: list[Cell], option: str, values: dict[str, float]) -> dict[str, list[str]]:
    """Students that differ in the option alone, in its order, under the name of the one with most of it."""
    groups: dict[str, set[str]] = {}
    for cell in cells:
        others = {name: value for name, value in cell.student_options.items() if name != option}
        groups.setdefault(json.dumps(others, sort_keys=True), set()).add(cell.student)
    ordered = [sorted(students, key=values.get) for students in groups.values()]
    return {students[-1]: students for students in ordered}
