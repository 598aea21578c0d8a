"""Baseline against aligned: a table, the same in the terminal and on the page."""

from dataclasses import dataclass
from typing import Any

from .statistics import PairedSummary, Spread, paired_summary, spread

MEASURES = {"accuracy": "accuracy", "recall_at_1": "caption retrieval R@1", "recall_at_5": "caption retrieval R@5"}


@dataclass
class ComparisonRow:
    """One measure of one split, as fractions; `baseline` and `chance` may be missing."""

    split: str
    measure: str
    aligned: float
    baseline: float | None = None
    chance: float | None = None

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None else self.aligned - self.baseline


def compare(aligned: dict[str, Any], baseline: dict[str, Any] | None, splits: list[str]) -> list[ComparisonRow]:
    """Rows for every measure that the aligned run has, from both runs' `all_results.json`."""
    rows = []
    for measure, name in MEASURES.items():
        for split in splits:
            key = f"{split}_{measure}"
            if key in aligned:
                chance = aligned.get(key.replace("recall", "chance"))
                value = (baseline or {}).get(key)
                rows.append(ComparisonRow(split, name, aligned[key], value, chance if measure != "accuracy" else None))
    return rows


@dataclass
class SeedRow:
    """One measure of one split over the seeds: `values` of the aligned runs, `paired` where there are baselines."""

    split: str
    measure: str
    values: Spread
    paired: PairedSummary | None = None


def compare_seeds(aligned: list[dict[str, Any]], baselines: list[dict[str, Any]], splits: list[str]) -> list[SeedRow]:
    """
    Args:
        aligned: the runs' `all_results.json`, one a seed.
        baselines: those of their baselines in the same order, or none.
        splits: in the order of the table.

    Returns:
        Rows for every measure that all the aligned runs have; paired where all the baselines have it too.
    """
    rows = []
    for measure, name in MEASURES.items():
        for split in splits:
            key = f"{split}_{measure}"
            if not all(key in results for results in aligned):
                continue
            values = [results[key] for results in aligned]
            is_paired = baselines and all(key in results for results in baselines)
            paired = paired_summary([results[key] for results in baselines], values) if is_paired else None
            rows.append(SeedRow(split, name, spread(values), paired))
    return rows


def as_text(rows: list[ComparisonRow]) -> str:
    """The table for a terminal, in percent and percentage points; without a baseline, only the run's own column."""
    with_baseline = any(row.baseline is not None for row in rows)
    head = f"{'baseline':>10}{'aligned':>10}{'difference':>12}" if with_baseline else f"{'value':>10}"
    lines = [f"{'':28}{'split':12}{head}"]
    for row in rows:
        cells = f"{100 * row.aligned:>10.1f}"
        if with_baseline:
            baseline = "" if row.baseline is None else f"{100 * row.baseline:.1f}"
            difference = "" if row.difference is None else f"{100 * row.difference:+.1f}"
            cells = f"{baseline:>10}{cells}{difference:>12}"
        chance = f" (chance {100 * row.chance:.1f})" if row.chance is not None else ""
        lines.append(f"{row.measure:28}{row.split:12}{cells}{chance}")
    return "\n".join(lines)


def as_markdown(rows: list[ComparisonRow]) -> str:
    """The table for a card, in percent and percentage points; without a baseline, only the run's own column."""
    with_baseline = any(row.baseline is not None for row in rows)
    lines = ["| measure | split | baseline | aligned | difference |", "|---|---|---:|---:|---:|"]
    if not with_baseline:
        lines = ["| measure | split | value |", "|---|---|---:|"]
    for row in rows:
        cells = [row.measure, row.split]
        if with_baseline:
            cells.append("" if row.baseline is None else f"{100 * row.baseline:.1f}")
        cells.append(f"{100 * row.aligned:.1f}")
        if with_baseline:
            cells.append("" if row.difference is None else f"{100 * row.difference:+.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seeds_as_markdown(rows: list[SeedRow]) -> str:
    """The table for a card, in percent and percentage points: mean ± standard deviation."""
    if not any(row.paired for row in rows):
        lines = ["| measure | split | mean ± sd |", "|---|---|---:|"]
        cells = [f"| {row.measure} | {row.split} | {mean_and_sd(row.values.mean, row.values.sd)} |" for row in rows]
        return "\n".join(lines + cells)
    lines = ["| measure | split | baseline | aligned | paired difference (95% interval) |", "|---|---|---:|---:|---:|"]
    for row in rows:
        cells = [row.measure, row.split, "", mean_and_sd(row.values.mean, row.values.sd), ""]
        if row.paired is not None:
            cells[2] = mean_and_sd(row.paired.baseline_mean, row.paired.baseline_sd)
            interval = f"{100 * row.paired.low:+.1f} to {100 * row.paired.high:+.1f}"
            cells[4] = f"{100 * row.paired.difference:+.1f} ({interval})"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_and_sd(mean: float, sd: float) -> str:
    return f"{100 * mean:.1f} ± {100 * sd:.1f}"
