"""Tables of a run beside its baseline, for the terminal, the report and cards."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..options import aligns
from .measures import ALL_MEASURES, OF_PROJECTOR
from .statistics import PairedSummary, Spread, paired_summary, spread

# Those of a card; `g4i evaluate` shows all of ALL_MEASURES that it took
MEASURES = {figure: ALL_MEASURES[figure].title for figure in ("accuracy", "recall_at_1", "recall_at_5")}


@dataclass
class ComparisonRow:
    """
    One measure of one split, as fractions or, where it is no share, the number; `baseline` and `chance` may be
    missing. `group` is the heading in a table.
    """

    split: str
    measure: str
    aligned: float
    baseline: float | None = None
    chance: float | None = None
    group: str = ""
    is_share: bool = True
    lower_is_better: bool = False

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None else self.aligned - self.baseline

    @property
    def is_better(self) -> bool | None:
        """Whether the aligned run is better; None where they are equal or there is no baseline."""
        return (self.difference < 0) == self.lower_is_better if self.difference else None

    @property
    def title(self) -> str:
        """The measure, with an arrow where less is better."""
        return f"{self.measure} ↓" if self.lower_is_better else self.measure

    def text(self, value: float | None, sign: str = "") -> str:
        """A value of the row as tables show it, in percent where it is a share; `sign` is `+` for differences."""
        if value is None:
            return ""
        return f"{100 * value:{sign}.1f}" if self.is_share else f"{value:{sign}.3f}"


def shown_results(results: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """
    The `all_results.json` of a run for tables: without retrieval and zero-shot accuracy where it was not aligned, as
    its projector has learned nothing.

    Args:
        results: all of the file.
        options: of the run.
    """
    if aligns(options) is not False:
        return results
    return {name: value for name, value in results.items() if not name.endswith(OF_PROJECTOR)}


def compare(
    aligned: dict[str, Any], baseline: dict[str, Any] | None, splits: list[str], figures: Iterable[str] = MEASURES
) -> list[ComparisonRow]:
    """Rows for each of the figures that the aligned run has, from both runs' `all_results.json`."""
    rows = []
    for figure in figures:
        known = ALL_MEASURES[figure]
        for split in splits:
            if f"{split}_{figure}" in aligned:
                row = ComparisonRow(
                    split=split,
                    measure=known.title,
                    aligned=aligned[f"{split}_{figure}"],
                    baseline=(baseline or {}).get(f"{split}_{figure}"),
                    chance=aligned.get(f"{split}_{known.chance}"),
                    group=known.group,
                    is_share=known.is_share,
                    lower_is_better=known.lower_is_better,
                )
                rows.append(row)
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
    """
    The table for a terminal, in percent and percentage points where a measure is a share, under a heading for each
    group; without a baseline, only the run's own column.
    """
    with_baseline = any(row.baseline is not None for row in rows)
    head = f"{'baseline':>10}{'aligned':>10}{'difference':>12}" if with_baseline else f"{'value':>10}"
    lines, group = [f"{'':28}{'split':12}{head}"], ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines += ["", group]
        cells = f"{row.text(row.aligned):>10}"
        if with_baseline:
            cells = f"{row.text(row.baseline):>10}{cells}{row.text(row.difference, '+'):>12}"
        chance = f" (chance {row.text(row.chance)})" if row.chance is not None else ""
        lines.append(f"{row.title:28}{row.split:12}{cells}{chance}")
    if any(row.lower_is_better for row in rows):
        lines += ["", "In percent, except NLL and the Brier score; ↓: less is better."]
    return "\n".join(lines)


def as_markdown(rows: list[ComparisonRow]) -> str:
    """The table for a card, as [`as_text`] without the headings."""
    if not any(row.baseline is not None for row in rows):
        cells = [[row.title, row.split, row.text(row.aligned)] for row in rows]
        return markdown_table(["measure", "split", "value"], cells, texts=2)
    cells = []
    for row in rows:
        values = (row.text(row.baseline), row.text(row.aligned), row.text(row.difference, "+"))
        cells.append([row.title, row.split, *values])
    return markdown_table(["measure", "split", "baseline", "aligned", "difference"], cells, texts=2)


def seeds_as_markdown(rows: list[SeedRow]) -> str:
    """The table for a card, in percent and percentage points: mean ± standard deviation."""
    if not any(row.paired for row in rows):
        cells = [[row.measure, row.split, mean_and_sd(row.values.mean, row.values.sd)] for row in rows]
        return markdown_table(["measure", "split", "mean ± sd"], cells, texts=2)
    cells = []
    for row in rows:
        baseline, difference = "", ""
        if (paired := row.paired) is not None:
            baseline = mean_and_sd(paired.baseline_mean, paired.baseline_sd)
            low, high = 100 * paired.low, 100 * paired.high
            difference = f"{100 * paired.difference:+.1f} ({low:+.1f} to {high:+.1f})"
        cells.append([row.measure, row.split, baseline, mean_and_sd(row.values.mean, row.values.sd), difference])
    heads = ["measure", "split", "baseline", "aligned", "paired difference (95% interval)"]
    return markdown_table(heads, cells, texts=2)


def markdown_table(heads: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """Of its columns the first `texts` are left-aligned, the others numbers."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    lines.insert(1, "|" + "---|" * texts + "---:|" * (len(heads) - texts))
    return "\n".join(lines)


def mean_and_sd(mean: float, sd: float) -> str:
    return f"{100 * mean:.1f} ± {100 * sd:.1f}"
