"""Figures of a release, beside the baseline's, also as `model-index`."""

import logging
import re
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import EvalResult

from .. import columns
from ..data.record import SPLIT, Record, differences
from ..evaluation.comparison import CARD_MEASURES, ComparisonRow, compare, interval_text
from ..evaluation.estimate import difference_interval
from ..evaluation.metrics import read_results, speed_text
from ..names import bare_name, run_of
from ..options import ReleaseArguments, about, learned_from_captions, marked
from ..training.run_folder import read_lineage, read_options, with_defaults
from ..words import ends_in_words

logger = logging.getLogger(__name__)

DIGITS = 6  # of fractions; more would be noise
# In what the data of two runs must not differ, by kind: captions may, and where the images lie
OTHER_FIGURES = (columns.LABEL, columns.IMAGE_DIGEST, "new", "removed", "class_names", SPLIT)


def figures(run: str | Path, weights: str) -> dict[str, Any]:
    """What a card shows of `all_results.json`: not of splits that were evaluated with other weights than released."""
    results = read_results(run)
    for split in _splits(results):
        if results.get(f"{split}_weights", "raw") != weights:
            message = "%s: %s was not evaluated with the %s weights, see --weights of g4i evaluate."
            logger.warning(message, run, split, weights)
            others = {f"{split}_{name}" for name in (*CARD_MEASURES, "samples")}
            results = {key: value for key, value in results.items() if key not in others}
    return results


def measured(args: ReleaseArguments) -> dict[str, Any]:
    """
    `rows` of the run's figures, beside the baseline's; empty before any evaluation. `speed` and the `judgement` of
    `g4i fit`: sentences, empty where there is none; what it was `taught_by`; `labels_summary`: how many images had a
    label; `estimates` before training, by name; `intervals`: for each split its images, and the 95% intervals of the
    accuracy and of its difference from the baseline's. ValueError for no baseline.
    """
    if args.baseline:
        _check_baseline(args.run, args.baseline)
    results, shown = read_results(args.run), figures(args.run, args.weights)
    baseline = figures(args.baseline, args.weights) if args.baseline else None
    splits = _in_order(_splits(shown), args.run)
    names = ("supervision", "relabels", "views", "label_noise_estimate", "label_noise_interval")
    return {
        "rows": compare(shown, baseline, splits),
        "speed": speed_text(results),
        "judgement": results.get("judgement", ""),
        "labels_summary": results.get("labels_summary", ""),
        "taught_by": results.get("taught_by"),
        "estimates": {name: results[name] for name in names if results.get(name) is not None},
        "intervals": [
            {
                "split": split,
                "images": (labelled := shown.get(f"{split}_labelled", shown[f"{split}_samples"])),
                "interval": ends_in_words(shown[f"{split}_accuracy_interval"])  # by scenes
                if f"{split}_accuracy_interval" in shown
                else interval_text(shown[f"{split}_accuracy"], labelled),
                "difference": _difference_in_words(args, split),
            }
            for split in splits
            if shown.get(f"{split}_accuracy") is not None
        ],
    }


def _difference_in_words(args: ReleaseArguments, split: str) -> str:
    """The paired interval in percentage points, from the predictions of both runs; empty where one has none."""
    files = [Path(run) / "predictions" / f"{split}.parquet" for run in (args.run, args.baseline) if run]
    if len(files) < 2 or not all(file.is_file() for file in files):
        return ""
    one, other = (pq.read_table(file, columns=["image_id", "label", "prediction", "scene"]) for file in files)
    if one.select(["image_id", "label"]) != other.select(["image_id", "label"]):
        return ""
    one, other = (table.filter(pc.is_valid(table["label"])) for table in (one, other))
    right = [pc.equal(table["label"], table["prediction"]).to_numpy().astype(float) for table in (one, other)]
    return ends_in_words(difference_interval(right[0] - right[1], one["scene"].to_numpy()), "+")


def _splits(results: dict[str, Any]) -> list[str]:
    return [key.removesuffix("_samples") for key in results if key.endswith("_samples")]


def _in_order(splits: list[str], run: str | Path) -> list[str]:
    """As the data has them; the file of figures is sorted by name."""
    known = list(read_lineage(run).get("rows", ()))
    return sorted(splits, key=lambda split: known.index(split) if split in known else len(known))


def _check_data(run: str, other: str) -> None:
    """ValueError where the figures of two runs are of other images or labels, or one was trained on others."""
    records = [Record.read(run_of(each)) for each in (run, other)]
    if None in records:
        return
    shared = set(records[0].splits) & set(records[1].splits)
    changes = differences(*(record.of_splits(shared).labelled() for record in records))
    words = [changes[kind] for kind in OTHER_FIGURES if kind in changes]
    if words:
        raise ValueError(
            f"{other} was trained or evaluated on other data than {run}. What differs: {', '.join(words)}. Train it "
            "again with --overwrite true, and evaluate both with g4i evaluate."
        )


def _check_baseline(run: str, baseline: str) -> None:
    """ValueError where they differ in an option that a difference of their figures could come from."""
    _check_data(run, baseline)
    if weights := learned_from_captions(read_options(baseline)):
        raise ValueError(
            f"{baseline} is no baseline: it learned from captions too ({weights}). Train one with --align_weight 0 "
            "and --supervision none, or leave baseline out."
        )
    options, others = (_options_of_images(each) for each in (run, baseline))
    names = sorted(options.keys() | others.keys())
    if differing := [name for name in names if options.get(name) != others.get(name)]:
        shown = ", ".join(f"{name} ({others.get(name)!r}, not {options.get(name)!r})" for name in differing[:3])
        raise ValueError(
            f"{baseline} is no baseline of {run}: it was trained with another {shown}. Only what belongs to the "
            "captions may differ: train one with --align_weight 0 and --supervision none, or leave baseline out."
        )


def _options_of_images(run: str) -> dict[str, Any]:
    """What the images alone teach; data are compared by their content. Folders as they are seen from here."""
    given = with_defaults(read_options(run))
    options = {name: value for name, value in given.items() if about(name) == "training"}
    for name in marked("path"):
        value = options.get(name)
        if isinstance(value, str) and (Path(run) / value).exists():
            options[name] = str((Path(run) / value).resolve())
    return options


def evaluated_data(lineage: dict[str, Any]) -> dict[str, str | None] | None:
    """
    For `model-index`, from a run's `lineage.json`: the images, by their Hub id where they have one, or else by a bare
    name, which names no other dataset of the Hub. None where nothing is known.
    """
    sources = [source for source in lineage.get("sources") or [] if source.get("images")]
    if not sources:
        return None
    chosen = ([source for source in sources if source.get("id")] or sources)[-1]
    name = chosen.get("id") or bare_name(chosen["name"])
    bare = re.sub(r"[^A-Za-z0-9_]+", "-", name)[:96].strip("-") or "local"
    where = {f"dataset_{part}": chosen.get(part) for part in ("config", "revision")}
    return {"dataset_name": name, "dataset_type": chosen.get("id") or bare} | where


def model_index_results(rows: list[ComparisonRow], data: dict[str, Any], weights: str) -> list[EvalResult]:
    """The checkpoint's own figures, as fractions; `data` of [`evaluated_data`]."""
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            **data,
            dataset_split=row.split,
            metric_type=row.figure,
            metric_value=round(float(row.aligned), DIGITS),
            metric_name=f"{row.measure.title} ({row.split})",
            metric_args={"weights": weights},
        )
        for row in rows
    ]
