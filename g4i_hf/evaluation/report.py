"""A page for people who would rather look than read."""

from pathlib import Path
from typing import Any

import jinja2
from datasets import DatasetDict

from .comparison import ComparisonRow
from .pictures import draw_bars, draw_class_gains, draw_curves, draw_examples
from .predict import Predictions


def write_report(
    path: str | Path,
    rows: list[ComparisonRow],
    runs: dict[str, Path],
    options: dict[str, Any],
    splits: DatasetDict,
    predictions: dict[str, dict[str, Predictions]],
    id2label: dict[int, str],
) -> None:
    """
    Args:
        path: the HTML file; its pictures go into a folder of the same name.
        rows: the comparison.
        runs: run folders, `aligned` and `baseline`.
        options: those of the aligned run.
        splits: the evaluated splits.
        predictions: of each run, of each split.
        id2label: class names.
    """
    path = Path(path)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    draw_bars(rows, folder / "accuracy.png")
    draw_curves(runs, folder / "curves.png")
    shown = next((name for name in ("test", *splits) if name in splits), None)
    if shown is not None:
        of_split = {run: by_split[shown] for run, by_split in predictions.items()}
        draw_examples(splits[shown], of_split, id2label, folder / "examples.png")
        draw_class_gains(of_split, id2label, folder / "classes.png")
    environment = jinja2.Environment(loader=jinja2.PackageLoader("g4i_hf", "evaluation"), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title="Baseline and aligned student",
        rows=rows,
        folder=folder.name,
        examples=shown,
        options=options,
        seed=options.get("seed", 42),
        percent=lambda value: "" if value is None else f"{100 * value:.1f}",
        points=lambda value: "" if value is None else f"{100 * value:+.1f}",
    )
    path.write_text(page)
