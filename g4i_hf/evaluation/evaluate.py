"""Figures of one split: accuracy, retrieval, and what else is asked for."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .calibration import calibration_metrics
from .measures import FIGURES, SPEED
from .metrics import Accuracy, retrieval_recall, text_to_image_recall
from .predict import Predictions, texts_of
from .probes import Probes
from .zero_shot import zero_shot_metrics

RESULTS_FILE = "all_results.json"


@dataclass
class Evaluated:
    """
    What a run makes of the images.

    Attributes:
        predictions: by split.
        corrupted: by split, see [`~g4i_hf.evaluation.corruptions.corrupted_accuracies`]; empty unless asked for.
        training: with features, of the rows that probes are fitted on; None unless asked for.
    """

    predictions: dict[str, Predictions] = field(default_factory=dict)
    corrupted: dict[str, dict[str, float]] = field(default_factory=dict)
    training: Predictions | None = None


def split_metrics(
    predictions: Predictions,
    split: Dataset,
    name: str,
    measures: Collection[str] = (),
    *,
    name_embeds: np.ndarray | None = None,
    probes: Probes | None = None,
) -> dict[str, Any]:
    """
    Args:
        predictions: of the split.
        split: its rows.
        name: of the split, which all figures begin with.
        measures: what is wanted beside accuracy and caption retrieval: `text_to_image`, `calibration`, `zero_shot`.
        name_embeds: text embeddings of the class names, for `zero_shot`.
        probes: fitted ones, which want `features` in the predictions.

    Returns:
        `{name}_samples`, `{name}_accuracy` over labelled rows, the figures of [`retrieval_metrics`] over rows with a
        caption, and those of [`text_to_image_metrics`], [`~g4i_hf.evaluation.calibration.calibration_metrics`],
        [`~g4i_hf.evaluation.zero_shot.zero_shot_metrics`] and [`~g4i_hf.evaluation.probes.Probes`], as far as they are
        wanted and the split has what they need.
    """
    labelled = predictions.labels >= 0
    metrics: dict[str, Any] = {"samples": len(split)}
    if labelled.any():
        accuracy = Accuracy().compute(
            predictions=predictions.predicted[labelled], references=predictions.labels[labelled]
        )
        metrics["accuracy"] = accuracy["accuracy"]
        if "calibration" in measures:
            rows = slice(None) if labelled.all() else labelled  # a mask would copy the logits
            metrics |= calibration_metrics(predictions.logits[rows], predictions.labels[rows])
        if "zero_shot" in measures:
            metrics |= zero_shot_metrics(predictions, split, name_embeds)
        if probes is not None:
            metrics |= probes.metrics(predictions)
    metrics |= retrieval_metrics(predictions, split)
    if "text_to_image" in measures:
        metrics |= text_to_image_metrics(predictions, split)
    return {f"{name}_{figure}": value for figure, value in metrics.items()}


def retrieval_metrics(predictions: Predictions, split: Dataset) -> dict[str, float]:
    """
    Returns:
        `recall_at_1`, `_5`, `chance_at_1`, `_5` and `gallery_size` over rows with a caption; nothing where the split
        has no text embeddings.
    """
    return _with_captions(retrieval_recall, predictions, split)


def text_to_image_metrics(predictions: Predictions, split: Dataset) -> dict[str, float]:
    """The other direction, see [`~g4i_hf.evaluation.metrics.text_to_image_recall`]; nothing without texts."""
    return _with_captions(text_to_image_recall, predictions, split)


def _with_captions(recall: Callable, predictions: Predictions, split: Dataset) -> dict[str, float]:
    texts = texts_of(split, predictions)
    if texts is None:
        return {}
    captioned = np.flatnonzero(texts.counts)
    owners = np.repeat(np.arange(len(captioned)), texts.counts[captioned])
    return recall(predictions.image_embeds[captioned], texts.embeds, owners=owners)


def update_results(run: str | Path, metrics: dict[str, Any], splits: Iterable[str] = ()) -> dict[str, Any]:
    """
    Adds metrics to a folder's `all_results.json`, replacing the file in one step.

    Args:
        run: the folder, made where there is none.
        metrics: by name.
        splits: their earlier figures are dropped, and those of size and speed: a split without captions has no
            retrieval any more.

    Returns:
        All metrics of the file.
    """
    path = Path(run) / RESULTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.is_file() else {}
    dropped = {f"{split}_{figure}" for split in splits for figure in FIGURES} | {*(SPEED if splits else ())}
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
