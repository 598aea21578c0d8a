"""The figures of one split, and the `all_results.json` that they go into."""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..files import replace_text
from .comparison import FIGURES, SPEED
from .metrics import Accuracy, calibration_metrics, recall_at, retrieval_recall, text_to_image_recall
from .predict import Predictions, centred, texts_of

RESULTS_FILE = "all_results.json"


def split_metrics(
    predictions: Predictions,
    split: Dataset,
    name: str,
    measures: Collection[str] = (),
    *,
    name_embeds: np.ndarray | None = None,
) -> dict[str, Any]:
    """
    The figures of a split, each after its name: `samples`, the number of `labelled` rows where it is another, and of
    labelled rows and rows with a caption, where there are any, `accuracy`, those of [`retrieval_metrics`] and of the
    measures `text_to_image`, `calibration` and `zero_shot`, which needs the text embeddings of class names.
    """
    labelled = predictions.labels >= 0
    metrics: dict[str, Any] = {"samples": len(split)}
    if labelled.any():
        metrics |= {} if labelled.all() else {"labelled": int(labelled.sum())}
        metrics |= Accuracy().compute(
            predictions=predictions.predicted[labelled], references=predictions.labels[labelled]
        )
        if "calibration" in measures:
            rows = slice(None) if labelled.all() else labelled  # a mask would copy the logits
            metrics |= calibration_metrics(predictions.logits[rows], predictions.labels[rows])
        if "zero_shot" in measures:
            metrics |= zero_shot_metrics(predictions, split, name_embeds)
    metrics |= retrieval_metrics(predictions, split, both_ways="text_to_image" in measures)
    return {f"{name}_{figure}": value for figure, value in metrics.items()}


def retrieval_metrics(predictions: Predictions, split: Dataset, both_ways: bool = False) -> dict[str, float]:
    """Recalls of rows with a caption, `both_ways` with those of images by texts; none without text embeddings."""
    texts = texts_of(split, predictions)
    if texts is None:
        return {}
    captioned = np.flatnonzero(texts.counts)
    owners = np.repeat(np.arange(len(captioned)), texts.counts[captioned])
    recalls = (retrieval_recall, text_to_image_recall) if both_ways else (retrieval_recall,)
    found: dict[str, float] = {}
    for recall in recalls:
        found |= recall(predictions.image_embeds[captioned], texts.embeds, owners=owners)
    return found


def zero_shot_metrics(
    predictions: Predictions, split: Dataset, name_embeds: np.ndarray | None = None
) -> dict[str, float]:
    """
    Accuracy where each labelled image is given the class whose text is nearest, among the classes that the split
    shows. A text that is as near as that of the right class is a miss. Two kinds of text:

    - `captions`: the mean over the distinct captions that the split has of the class, that of the image among them.
      Classes without captions are no candidates, and their images are left out.
    - `names`: the class name alone.

    `name_embeds` are (num_labels, D). Returns `zero_shot_captions_accuracy`, `zero_shot_captions_chance`,
    `zero_shot_names_accuracy` and `zero_shot_names_chance`, as far as the split has labels and texts.
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
        vectors["names"] = classes, centred(name_embeds[classes], predictions)
    found: dict[str, float] = {}
    for kind, (classes, embeds) in vectors.items():
        rows = np.flatnonzero(np.isin(predictions.labels, classes))
        if len(rows):
            right = np.searchsorted(classes, predictions.labels[rows])
            embeds = embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-12)
            recall = recall_at(predictions.image_embeds[rows], embeds, np.arange(len(rows)), right, ks=(1,))
            found |= {f"zero_shot_{kind}_accuracy": recall["recall_at_1"]}
            found |= {f"zero_shot_{kind}_chance": recall["chance_at_1"]}
    return found


def update_results(run: str | Path, metrics: dict[str, Any], splits: Iterable[str] = ()) -> dict[str, Any]:
    """
    Adds metrics to a folder's `all_results.json`, replacing the file in one step; returns all of the file. Earlier
    figures of the splits, and those of size and speed, are dropped: a split may have no captions any more.
    """
    path = Path(run) / RESULTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.is_file() else {}
    dropped = {f"{split}_{figure}" for split in splits for figure in FIGURES} | {*(SPEED if splits else ())}
    results = {name: value for name, value in results.items() if name not in dropped} | metrics
    replace_text(path, json.dumps(results, indent=4, sort_keys=True) + "\n")
    return results


def results_folder(run: str | Path, own: dict[str, Any], data: dict[str, Any]) -> Path:
    """
    Where the figures of a run on some data go: into the run itself for the data that it was trained with, else into a
    folder of their own in `evaluations/`, so that one data set never passes for another. Folders in `own`, the options
    of the run, are relative to it, those in `data` to the current one. ValueError for another `validation_fraction`.
    """

    def known_by(options: dict[str, Any], base: Path) -> tuple[Any, ...]:
        names = [options.get(name) for name in ("dataset_name", "captions_name")]
        places = [(base / name).resolve() if name and (base / name).exists() else name for name in names]
        return (*places, *(options.get(name) for name in versions))

    columns = [name for name in data if name.endswith("_column")]
    versions = ("dataset_config_name", "dataset_revision", "captions_revision", *columns)
    if known_by(own, Path(run)) == known_by(data, Path()):
        trained, given = own.get("validation_fraction"), data.get("validation_fraction")
        if given not in (None, trained):
            raise ValueError(
                f"{run} was trained with validation_fraction {trained}: with {given}, images that it was trained on "
                "would pass for held out. Leave --validation_fraction out."
            )
        return Path(run)
    parts = [data.get(name) for name in ("dataset_name", *versions[:2], "captions_name", *versions[2:])]
    name = "-".join(re.sub(r"[^\w.-]+", "_", str(part)).strip("._") for part in parts if part)
    return Path(run) / "evaluations" / name
