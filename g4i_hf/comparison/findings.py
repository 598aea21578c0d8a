"""What the results of a grid say: a row a student and variant, and one a variant over all students."""

from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..options import CompareArguments
from .grid import Cell
from .results import Result
from .statistics import Difference, estimate_difference, holm


@dataclass
class Labels:
    """
    Of one split: classes (n,), negative for unlabelled images, which are not scored; the clusters (n,) of its images;
    and which images they are, see [`~g4i_hf.comparison.results.digest_of_rows`].
    """

    classes: np.ndarray
    clusters: np.ndarray
    digest: str | None = None


@dataclass
class Finding:
    """
    Accuracy on one split as fractions: of each seed, and the difference to the variant it is compared with over the
    seeds that both have. `p_holm`: the p value corrected for the number of students. `student` is None in the
    row over all of them.
    """

    split: str
    student: str | None
    variant: str
    compared_with: str | None
    accuracies: dict[int, float]
    difference: Difference | None = None
    p_holm: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean([*self.accuracies.values()]))

    @property
    def sd(self) -> float:
        values = [*self.accuracies.values()]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean": self.mean, "sd": self.sd}


def find(
    args: CompareArguments, cells: list[Cell], results: dict[str, Result], labels: dict[str, Labels]
) -> list[Finding]:
    """
    Args:
        args: which variant is compared with which.
        cells: of the grid.
        results: by name of the cell; cells that are missing are left out, with the pair they belong to.
        labels: of the splits that are scored.

    Raises:
        ValueError: when a split has other images, or other numbers of its classes, than were predicted.
    """
    names = list(dict.fromkeys(cell.student for cell in cells))
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    findings = []
    for split, every in labels.items():
        right = {
            (cell.student, cell.variant, cell.seed): _right(results[cell.name], split, every)
            for cell in cells
            if cell.name in results
        }
        labelled = every.classes >= 0
        known = Labels(every.classes[labelled], every.clusters[labelled])
        for variant in variants:
            other = args.reference_of(variant)
            rows = [_of_student(split, name, variant, other, right, known) for name in names]
            rows = [row for row in rows if row is not None]
            _correct(rows)
            findings += rows
            together = _of_all(split, variant, other, rows, right, known)
            findings += [together] if together is not None else []
    return findings


def _right(result: Result, split: str, labels: Labels) -> np.ndarray:
    predicted = result.predicted[split]
    if len(predicted) != len(labels.classes):
        raise ValueError(
            f"{split} has {len(labels.classes)} images, but {result.student}/{result.variant}/{result.seed} predicted "
            f"{len(predicted)}: the data has changed. Give another file of results (--results)."
        )
    if labels.digest != result.images.get(split, labels.digest):
        raise ValueError(
            f"{result.student}/{result.variant}/{result.seed} predicted other images of {split} than the data of the "
            "first cell has, or in another order, or classes with other numbers. Give all variants the same data, or "
            "another file of results (--results)."
        )
    return (predicted == labels.classes)[labels.classes >= 0].astype(float)


def _of_student(split, student, variant, other, right, labels: Labels) -> Finding | None:
    accuracies = {seed: float(rows.mean()) for (s, v, seed), rows in right.items() if (s, v) == (student, variant)}
    if not accuracies:
        return None
    gains = _gains(student, variant, other, right)
    difference = estimate_difference(np.stack([*gains.values()]), labels.clusters) if len(gains) > 1 else None
    return Finding(split, student, variant, other, accuracies, difference)


def _gains(student: str, variant: str, other: str | None, right: dict) -> dict[int, np.ndarray]:
    """By seed that both have, (n,): right minus right of the variant compared with."""
    seeds = [seed for (s, v, seed) in right if (s, v) == (student, variant) and (student, other, seed) in right]
    return {seed: right[student, variant, seed] - right[student, other, seed] for seed in seeds}


def _correct(rows: list[Finding]) -> None:
    compared = [row for row in rows if row.difference is not None]
    for row, p in zip(compared, holm([row.difference.p for row in compared]), strict=True):
        row.p_holm = p


def _of_all(split, variant, other, rows: list[Finding], right, labels: Labels) -> Finding | None:
    """Over the students, of the seeds that all of them have."""
    if len(rows) < 2:
        return None
    seeds = set.intersection(*(set(row.accuracies) for row in rows))
    accuracies = {seed: float(np.mean([row.accuracies[seed] for row in rows])) for seed in sorted(seeds)}
    gains = [_gains(row.student, variant, other, right) for row in rows]
    paired = sorted(set.intersection(*map(set, gains)))
    difference = None
    if len(paired) > 1:
        means = np.stack([np.mean([of_student[seed] for of_student in gains], axis=0) for seed in paired])
        positive = sum(of_student[seed].sum() > 0 for of_student in gains for seed in paired)
        difference = replace(
            estimate_difference(means, labels.clusters), positive=int(positive), seeds=len(paired) * len(gains)
        )
    return Finding(split, None, variant, other, accuracies, difference) if accuracies else None


def as_table(findings: Iterable[Finding], bars: dict[str, float], few_labels: Container[str | None] = ()) -> str:
    """
    Markdown, in percent and percentage points.

    Args:
        findings: any.
        bars: split -> accuracy that a baseline has to reach; students below it are marked.
        few_labels: students that are not, as they had fewer labels than what they would be measured by.
    """
    lines = [
        "| split | student | variant | accuracy | difference | 95% interval | seeds better | p, Holm |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in findings:
        spread = f" ± {100 * row.sd:.1f}" if len(row.accuracies) > 1 else ""
        is_measured = row.compared_with is None and row.student not in few_labels
        low = is_measured and row.mean < bars.get(row.split, 0)
        cells = [row.split, row.student or "all", row.variant]
        cells.append(f"{100 * row.mean:.1f}{spread}" + (" (below the nearest neighbour)" if low else ""))
        if row.difference is None:
            cells += [""] * 4
        else:
            found = row.difference
            mean, low, high = (points(value) for value in (found.mean, found.low, found.high))
            cells += [mean, f"{low} to {high}"]
            cells += [f"{found.positive} of {found.seeds}", "" if row.p_holm is None else f"{row.p_holm:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def points(value: float) -> str:
    """Percentage points; no minus before what is zero but for rounding errors."""
    return f"{round(100 * value, 9) + 0.0:+.1f}"
