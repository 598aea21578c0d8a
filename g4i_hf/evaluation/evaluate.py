"""The metrics of one split, and the `all_results.json` that holds them."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..files import replace_text
from .comparison import METRICS_OF_A_SPLIT, SPEED
from .metrics import Accuracy, calibration_metrics, recall_at, retrieval_recall
from .predict import Predictions, texts_of

RESULTS_FILE = "all_results.json"


def split_metrics(
    predictions: Predictions, split: Dataset, name: str, name_embeds: np.ndarray | None = None
) -> dict[str, Any]:
    """
    The metrics of a split, with its name as prefix: `samples`; the number of `labelled` rows, if not all are; over
    labelled rows `accuracy`, [`calibration_metrics`] and [`zero_shot_metrics`], by captions and by `name_embeds`, text
    embeddings of the class names; and [`retrieval_recall`] over rows with a caption.
    """
    labelled = predictions.labels >= 0
    metrics: dict[str, Any] = {"samples": len(split)}
    if labelled.any():
        metrics |= {} if labelled.all() else {"labelled": int(labelled.sum())}
        metrics |= Accuracy().compute(
            predictions=predictions.predicted[labelled], references=predictions.labels[labelled]
        )
        rows = slice(None) if labelled.all() else labelled  # a mask would copy the logits
        metrics |= calibration_metrics(predictions.logits[rows], predictions.labels[rows])
        metrics |= zero_shot_metrics(predictions, split, name_embeds)
    if (texts := texts_of(split, predictions)) is not None:
        captioned = np.flatnonzero(texts.counts)
        owners = np.repeat(np.arange(len(captioned)), texts.counts[captioned])
        metrics |= retrieval_recall(predictions.image_embeds[captioned], texts.embeds, owners=owners)
    return {f"{name}_{figure}": value for figure, value in metrics.items()}


def zero_shot_metrics(
    predictions: Predictions, split: Dataset, name_embeds: np.ndarray | None = None
) -> dict[str, float]:
    """
    Accuracy of assigning each labelled image the class with the nearest text, among the classes of the split. A text
    that is as near as that of the right class counts as an error. Two kinds of text:

    - `captions`: the mean over the distinct captions of the class in the split, including that of the image. Classes
      without captions are not candidates, and their images are left out.
    - `names`: the class name only.

    `name_embeds` are (num_labels, D). Returns `zero_shot_captions_accuracy`, `zero_shot_captions_chance`,
    `zero_shot_names_accuracy` and `zero_shot_names_chance`, if the split has the labels and texts.
    """
    vectors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    texts = texts_of(split, predictions)
    if texts is not None:
        labels = np.repeat(predictions.labels, texts.counts)
        _, first = np.unique(np.stack([texts.text_keys, labels]), axis=1, return_index=True)
        first = first[labels[first] >= 0]
        classes, members = np.unique(labels[first], return_inverse=True)
        sums = np.zeros((len(classes), texts.embeds.shape[1]), dtype=np.float32)
        np.add.at(sums, members, texts.embeds[first])
        vectors["captions"] = classes, sums
    comparable = name_embeds is not None and predictions.image_embeds is not None
    if comparable and name_embeds.shape[1] == predictions.image_embeds.shape[1]:
        classes = np.unique(predictions.labels[predictions.labels >= 0])
        vectors["names"] = classes, name_embeds[classes].astype(np.float32)
    metrics: dict[str, float] = {}
    for kind, (classes, embeds) in vectors.items():
        rows = np.flatnonzero(np.isin(predictions.labels, classes))
        if len(rows):
            right = np.searchsorted(classes, predictions.labels[rows])
            embeds = embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-12)
            recall = recall_at(predictions.image_embeds[rows], embeds, np.arange(len(rows)), right, ks=(1,))
            metrics |= {f"zero_shot_{kind}_accuracy": recall["recall_at_1"]}
            metrics |= {f"zero_shot_{kind}_chance": recall["chance_at_1"]}
    return metrics


def update_results(run: str | Path, metrics: dict[str, Any], splits: Iterable[str] = ()) -> dict[str, Any]:
    """
    Add metrics to the `all_results.json` of a folder, replacing the file in one step, and return its content. Earlier
    metrics of the splits, and those of size and speed, are dropped, as a split may have lost its captions.
    """
    path = Path(run) / RESULTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.is_file() else {}
    dropped = {f"{split}_{figure}" for split in splits for figure in METRICS_OF_A_SPLIT} | {*(SPEED if splits else ())}
    results = {name: value for name, value in results.items() if name not in dropped} | metrics
    replace_text(path, json.dumps(results, indent=4, sort_keys=True) + "\n")
    return results


def results_folder(run: str | Path, own: dict[str, Any], data: dict[str, Any]) -> Path:
    """
    The folder for the metrics of a run on some data: the run for the data that it was trained on, otherwise a folder
    in `evaluations/`. Paths in `own`, the options of the run, are relative to the run; those in `data` to the current
    folder. Raises ValueError for another `validation_fraction`.
    """

    def known_by(options: dict[str, Any], base: Path) -> tuple[Any, ...]:
        names = [options.get(name) for name in ("dataset_name", "captions_name")]
        places = [(base / name).resolve() if name and (base / name).exists() else name for name in names]
        return (*places, *(options.get(name) for name in versions))

    columns = [name for name in data if name.endswith("_column")]
    versions = ("dataset_config_name", "dataset_revision", "captions_revision", *columns)
    if known_by(own, Path(run)) == known_by(data, Path()):
        trained, requested = own.get("validation_fraction"), data.get("validation_fraction")
        if requested not in (None, trained):
            raise ValueError(
                f"{run} was trained with validation_fraction {trained}: with {requested}, images that it was trained "
                "on would pass for held out. Leave --validation_fraction out."
            )
        return Path(run)
    parts = [data.get(name) for name in ("dataset_name", *versions[:2], "captions_name", *versions[2:])]
    name = "-".join(re.sub(r"[^\w.-]+", "_", str(part)).strip("._") for part in parts if part)
    return Path(run) / "evaluations" / name
