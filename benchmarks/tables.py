"""What the tables of the pages have in common."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import numpy as np
from result_files import read_result

from g4i_hf.evaluation.estimate import difference_interval

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


def in_points(difference: np.ndarray) -> str:
    """The mean of (m,) differences of images, and its 95% interval."""
    points, low, high = (100 * each for each in (difference.mean(), *difference_interval(difference)))
    return f"{points:+.1f} ({low:+.1f} to {high:+.1f})"
