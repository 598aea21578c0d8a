"""Figures of one split: accuracy and caption retrieval."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .metrics import Accuracy, retrieval_recall
from .predict import Predictions, texts_of

RESULTS_FILE = "all_results.json"
FIGURES = (
    "samples",
    "weights",
    "accuracy",
    "gallery_size",
    "recall_at_1",
    "recall_at_5",
    "chance_at_1",
    "chance_at_5",
)


def split_metrics(predictions: Predictions, split: Dataset, name: str) -> dict[str, Any]:
    """
    Returns:
        `{name}_accuracy` over labelled rows and, where the split has text embeddings, `{name}_recall_at_1`, `_5`,
        `{name}_chance_at_1`, `_5` and `{name}_gallery_size` over rows with a caption.
    """
    labelled = predictions.labels >= 0
    metrics: dict[str, Any] = {f"{name}_samples": len(split)}
    if labelled.any():
        accuracy = Accuracy().compute(
            predictions=predictions.predicted[labelled], references=predictions.labels[labelled]
        )
        metrics[f"{name}_accuracy"] = accuracy["accuracy"]
    metrics.update({f"{name}_{key}": value for key, value in retrieval_metrics(predictions, split).items()})
    return metrics


def retrieval_metrics(predictions: Predictions, split: Dataset) -> dict[str, float]:
    """
    Returns:
        `recall_at_1`, `_5`, `chance_at_1`, `_5` and `gallery_size` over rows with a caption; nothing where the split
        has no text embeddings.
    """
    texts = texts_of(split, predictions)
    if texts is None:
        return {}
    captioned = np.flatnonzero(texts.counts)
    owners = np.repeat(np.arange(len(captioned)), texts.counts[captioned])
    return retrieval_recall(predictions.image_embeds[captioned], texts.embeds, owners=owners)


def update_results(run: str | Path, metrics: dict[str, Any], splits: Iterable[str] = ()) -> dict[str, Any]:
    """
    Adds metrics to a folder's `all_results.json`, replacing the file in one step.

    Args:
        run: the folder, made where there is none.
        metrics: by name.
        splits: their earlier figures are dropped: a split without captions has no retrieval any more.

    Returns:
        All metrics of the file.
    """
    path = Path(run) / RESULTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.is_file() else {}
    dropped = {f"{split}_{figure}" for split in splits for figure in FIGURES}
    results = {name: value for name, value in results.items() if name not in dropped} | metrics
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=4, sort_keys=True) + "\n")
    os.replace(temporary, path)
    return results


def results_folder(run: str | Path, own: dict[str, Any], data: dict[str, Any]) -> Path:
    """
    Where the figures of a run on some data go: into the run itself for the data that it was trained with, else into a
    folder of their own in `evaluations/`, so that one data set never passes for another.

    Args:
        run: run folder.
        own: `dataset_name`, `captions_name` and their versions, of the run; a folder is relative to it.
        data: the same of what is evaluated; a folder is relative to the current one.
    """

    def known_by(options: dict[str, Any], base: Path) -> tuple[Any, ...]:
        names = [options.get(name) for name in ("dataset_name", "captions_name")]
        places = [(base / name).resolve() if name and (base / name).exists() else name for name in names]
        return (*places, *(options.get(name) for name in versions))

    versions = ("dataset_config_name", "dataset_revision", "captions_revision")
    if known_by(own, Path(run)) == known_by(data, Path()):
        return Path(run)
    parts = [data.get(name) for name in ("dataset_name", *versions[:2], "captions_name", versions[2])]
    name = "-".join(re.sub(r"[^\w.-]+", "_", str(part)).strip("._") for part in parts if part)
    return Path(run) / "evaluations" / name
