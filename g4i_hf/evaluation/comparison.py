"""Baseline against aligned: a table, the same in the terminal and on the page."""

from dataclasses import dataclass
from typing import Any

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


def as_text(rows: list[ComparisonRow]) -> str:
    """The table for a terminal, in percent and percentage points."""
    lines = [f"{'':28}{'split':12}{'baseline':>10}{'aligned':>10}{'difference':>12}"]
    for row in rows:
        baseline = "" if row.baseline is None else f"{100 * row.baseline:.1f}"
        difference = "" if row.difference is None else f"{100 * row.difference:+.1f}"
        chance = f" (chance {100 * row.chance:.1f})" if row.chance is not None else ""
        lines.append(f"{row.measure:28}{row.split:12}{baseline:>10}{100 * row.aligned:>10.1f}{difference:>12}{chance}")
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
