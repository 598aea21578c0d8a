"""Figures of one split: accuracy and caption retrieval."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .. import columns
from .metrics import Accuracy, retrieval_recall
from .predict import Predictions

RESULTS_FILE = "all_results.json"


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
    if columns.TEXT_EMBEDS in split.column_names:
        embeds = split.select_columns([columns.TEXT_EMBEDS])[columns.TEXT_EMBEDS][:]
        captioned = [row for row, embed in enumerate(embeds) if embed is not None]
        # a baseline trained without captions may have a projector of another size
        if captioned and len(embeds[captioned[0]]) == predictions.image_embeds.shape[1]:
            texts = np.asarray([embeds[row] for row in captioned], dtype=np.float32)
            recall = retrieval_recall(predictions.image_embeds[captioned], texts)
            metrics.update({f"{name}_{key}": value for key, value in recall.items()})
    return metrics


def update_results(run: str | Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Adds metrics to a run's `all_results.json`, replacing the file in one step, and returns all of them."""
    path = Path(run) / RESULTS_FILE
    results = json.loads(path.read_text()) if path.is_file() else {}
    results.update(metrics)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=4, sort_keys=True) + "\n")
    os.replace(temporary, path)
    return results
