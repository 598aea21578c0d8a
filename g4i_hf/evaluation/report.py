"""One page a run for people who would rather look than read: a file of HTML that needs no other."""

from pathlib import Path
from typing import Any

import jinja2
from datasets import DatasetDict

from ..options import aligns, learned_from_captions
from ..training.run_folder import read_options
from .comparison import ComparisonRow
from .predict import Predictions
from .report_sections import (
    ShownSplit,
    caption_cards,
    confusion_tables,
    curve_pictures,
    differing_cards,
    gain_bars,
    map_cards,
    mistake_cards,
)
from .speed import speed_note, speed_rows


def write_report(
    path: str | Path,
    rows: list[ComparisonRow],
    runs: dict[str, Path],
    options: dict[str, Any],
    splits: DatasetDict,
    predictions: dict[str, dict[str, Predictions]],
    id2label: dict[int, str],
    weights: str = "raw",
    results: dict[str, Any] | None = None,
) -> None:
    """
    What compares two runs is left out where there is no baseline; what needs a package that is not installed says so.

    Args:
        path: the HTML file; its pictures are in it.
        rows: the comparison.
        runs: run folders, `aligned` and perhaps `baseline`.
        options: those of the aligned run.
        splits: the evaluated splits. Pictures are of `test`, else of the first, of those with labels.
        predictions: of each run, of each split.
        id2label: class names.
        weights: `"raw"` or `"ema"`, those that predicted.
        results: `all_results.json` of the aligned run, for its size and speed.
    """
    labelled = [name for name in splits if (predictions["aligned"][name].labels >= 0).any()]
    name = next(name for name in ("test", *labelled, *splits) if name in (labelled or splits))
    order = [run for run in ("baseline", "aligned") if run in runs]
    shown = ShownSplit(splits[name], {run: predictions[run][name] for run in order}, id2label)
    both = "baseline" in runs and bool(labelled)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("g4i_hf", "evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
    environment.filters["cosine"] = lambda value: "" if value is None else f"{value:z.2f}"
    page = environment.get_template("report.html.j2").render(
        title="Baseline and aligned student" if "baseline" in runs else f"The student {runs['aligned'].name}",
        rows=rows,
        accuracies=[row for row in rows if row.measure == "accuracy"],
        runs=order,
        split=name,
        images=len(splits[name]),
        classes=len(id2label),
        maps=map_cards(shown, {run: runs[run] for run in order}, weights),
        captions=caption_cards(shown) if aligns(options) else None,
        differing=differing_cards(shown) if both else None,
        mistakes=mistake_cards(shown) if labelled else None,
        confusions=confusion_tables(shown) if both else None,
        gains=gain_bars(shown) if both else None,
        curves=curve_pictures(runs),
        speed={"rows": speed_rows(results or {}, list(splits)), "note": speed_note(results or {})},
        taught=learned_from_captions(read_options(runs["baseline"])) if "baseline" in runs else None,
        options=options,
        weights=weights,
        seed=options.get("seed", 42),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
