"""Figures in the two forms that the Hub reads: `model-index` in the card, `.eval_results/*.yaml` for leaderboards."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from ..evaluation.comparison import MEASURES, ComparisonRow, SeedRow, mean_and_sd
from ..files import read_mapping
from .figures import Seeds
from .origin import bare_name

FOLDER = ".eval_results"
TASK = "image-classification"
METRICS = {name: measure for measure, name in MEASURES.items()}  # "caption retrieval R@1" -> recall_at_1
DIGITS = 6  # of fractions; more would be noise


@dataclass
class EvaluatedData:
    """
    The data set that the figures are of.

    Args:
        name: for people.
        id: of the Hub; None for a local one.
        config: of a data set that has several.
        revision: commit.
    """

    name: str
    id: str | None = None
    config: str | None = None
    revision: str | None = None

    @property
    def type(self) -> str:
        """
        What `model-index` wants as `dataset.type`: a Hub id. A local data set has none; a bare name without slash is
        accepted there as `imagefolder` is, and names no other data set of the Hub, which all have an owner.
        """
        return self.id or re.sub(r"[^A-Za-z0-9_]+", "-", self.name)[:96].strip("-") or "local"

    @classmethod
    def of(cls, lineage: dict[str, Any]) -> "EvaluatedData | None":
        """
        Of a run's `lineage.json`: the images, by their Hub id where they have one. None where nothing is known.
        """
        sources = lineage.get("sources") or []
        with_images = [source for source in sources if source.get("images")]
        chosen = next((source for source in reversed(with_images) if source.get("id")), None)
        chosen = chosen or (with_images[-1] if with_images else None)
        if chosen is None:
            return None
        name = chosen.get("id") or bare_name(chosen["name"])
        return cls(name, chosen.get("id"), chosen.get("config"), chosen.get("revision"))


def model_index_results(
    rows: list[ComparisonRow], seeds: Seeds | None, data: EvaluatedData, weights: str
) -> list[EvalResult]:
    """
    The released checkpoint's own figures, as fractions, and beside them what they are over seeds: the mean as value,
    the rest in `metric_args`.
    """
    common = {
        "task_type": TASK,
        "task_name": "Image classification",
        "dataset_type": data.type,
        "dataset_name": data.name,
        "dataset_config": data.config,
        "dataset_revision": data.revision,
    }
    results = []
    for row in rows:
        args: dict[str, Any] = {"weights": weights}
        if row.baseline is not None:
            args["baseline"] = _rounded(row.baseline)
        results.append(_result(common, row.split, row.measure, row.aligned, row.measure, args))
    for row in seeds.rows if seeds else []:
        name = f"{row.measure}, mean of {row.values.seeds} seeds"
        results.append(_result(common, row.split, row.measure, row.values.mean, name, _seed_args(row, seeds.seeds)))
    return results


def _result(
    common: dict[str, Any], split: str, measure: str, value: float, name: str, args: dict[str, Any]
) -> EvalResult:
    return EvalResult(
        **common,
        dataset_split=split,
        metric_type=METRICS[measure],
        metric_value=_rounded(value),
        metric_name=f"{name} ({split})",
        metric_args=args,
    )


def _seed_args(row: SeedRow, seeds: list[int]) -> dict[str, Any]:
    args: dict[str, Any] = {"seeds": seeds, "standard_deviation": _rounded(row.values.sd)}
    if row.paired is not None:
        args |= {
            "baseline_mean": _rounded(row.paired.baseline_mean),
            "baseline_standard_deviation": _rounded(row.paired.baseline_sd),
            "paired_difference": _rounded(row.paired.difference),
            "interval_95": [_rounded(row.paired.low), _rounded(row.paired.high)],
        }
    return args


def eval_result_entries(
    rows: list[ComparisonRow],
    seeds: Seeds | None,
    data: EvaluatedData,
    *,
    weights: str,
    date: str | None = None,
    tasks: list[dict[str, Any]] | None = None,
) -> list[EvalResultEntry]:
    """
    The checkpoint's accuracy for leaderboards. A leaderboard belongs to a data set of the Hub, so a local one has no
    entries: their figures are in `model-index`. The Hub shows those of data sets that are registered as benchmarks.

    Args:
        rows, seeds: figures.
        data: what they are of.
        weights: `"raw"` or `"ema"`.
        date: of the evaluation, ISO 8601.
        tasks: of the benchmark's `eval.yaml`: a split that is no task of it has no entry. None for a data set that
            has no such file; a split is then called by its name.
    """
    if data.id is None:
        return []
    over = {(row.split, row.measure): row for row in seeds.rows} if seeds else {}
    entries = []
    for row in rows:
        task = _task_of(row.split, data.config, tasks)
        if METRICS[row.measure] != "accuracy" or task is None:
            continue
        notes = [f"split {row.split}", f"{weights} weights"]
        if (row.split, row.measure) in over:
            values = over[row.split, row.measure].values
            named = ", ".join(map(str, seeds.seeds))
            notes.append(f"mean ± sd of the seeds {named}: {mean_and_sd(values.mean, values.sd)} %")
        entries.append(
            EvalResultEntry(
                dataset_id=data.id,
                task_id=task,
                value=_rounded(row.aligned),
                dataset_revision=data.revision,
                date=date,
                notes="; ".join(notes),
            )
        )
    return entries


def _task_of(split: str, config: str | None, tasks: list[dict[str, Any]] | None) -> str | None:
    if tasks is None:
        return split
    fitting = [task for task in tasks if task.get("split") == split and config in (None, task.get("config"))]
    return fitting[0]["id"] if fitting else None


def benchmark_tasks(data: EvaluatedData) -> list[dict[str, Any]] | None:
    """The tasks of a benchmark, from `eval.yaml` in its data set; None where there is none, or it is out of reach."""
    if data.id is None:
        return None
    try:
        path = hf_hub_download(data.id, "eval.yaml", repo_type="dataset", revision=data.revision)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        return None
    try:
        tasks = read_mapping(Path(path)).get("tasks")
    except ValueError:  # somebody else's file, and no reason to stop
        return None
    return [task for task in tasks if isinstance(task, dict) and "id" in task] if isinstance(tasks, list) else None


def write_entries(folder: str | Path, entries: list[EvalResultEntry]) -> None:
    """One file in `.eval_results`, called like the data set."""
    if not entries:
        return
    name = re.sub(r"[^\w.-]+", "-", entries[0].dataset_id.split("/")[-1])
    path = Path(folder) / FOLDER / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)
