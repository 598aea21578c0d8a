"""Pictures of findings."""

from pathlib import Path

from .findings import Finding


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
