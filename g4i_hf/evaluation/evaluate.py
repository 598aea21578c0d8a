"""Figures of one split: accuracy and caption retrieval."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .metrics import Accuracy, retrieval_recall
from .predict import Predictions, texts_of

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
    texts = texts_of(split, predictions)
    if texts is not None:
        captioned = np.flatnonzero(texts.counts)
        owners = np.repeat(np.arange(len(captioned)), texts.counts[captioned])
        recall = retrieval_recall(predictions.image_embeds[captioned], texts.embeds, owners=owners)
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
