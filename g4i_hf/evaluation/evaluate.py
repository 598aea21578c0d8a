"""The figures of one split, and the `all_results.json` that they go into."""

import json
import logging
import re
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from ..files import replace_text
from .comparison import FIGURES, SPEED
from .metrics import Accuracy, calibration_metrics, recall_at, retrieval_recall, text_to_image_recall
from .predict import Predictions, blocks, centred, texts_of

logger = logging.getLogger(__name__)

RESULTS_FILE = "all_results.json"


@dataclass
class Evaluated:
    """What a run predicts."""

    predictions: dict[str, Predictions] = field(default_factory=dict)  # by split
    training: Predictions | None = None  # with features, of the rows that probes are fitted on, if asked for


def split_metrics(
    predictions: Predictions,
    split: Dataset,
    name: str,
    measures: Collection[str] = (),
    *,
    name_embeds: np.ndarray | None = None,
    probes: "Probes | None" = None,
) -> dict[str, Any]:
    """
    The figures of a split, each after its name: `samples`, the number of `labelled` rows where it is another, and of
    labelled rows and rows with a caption, where there are any, `accuracy`, those of [`retrieval_metrics`] and of the
    measures `text_to_image`, `calibration` and `zero_shot`, which needs the text embeddings of class names. Fitted
    `probes` want `features` in the predictions.
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
        if probes is not None:
            metrics |= probes.metrics(predictions)
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


NEIGHBOURS = (1, 20)
STRENGTHS_OF_PENALTY = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn, the strongest first
HELD_OUT = 5  # one row in so many of the training split chooses C
MAX_ITER = 1000


class Probes:
    """
    k-NN by cosine, and a linear probe: `LogisticRegression` of scikit-learn on standardised features. Its C is the one
    with the best accuracy on a fifth of the training rows, drawn at random; it is then fitted again on all of them.
    `training` are predictions of the training split without augmentation, with `features`; unlabelled rows are left
    out. ValueError when no row is labelled.
    """

    def __init__(self, training: Predictions, description: str = "Probes"):
        from sklearn.neighbors import KNeighborsClassifier

        labelled = training.labels >= 0
        if not labelled.any():
            raise ValueError("The training split has no labels, which probes need. Leave probe out of measures.")
        features, labels = training.features[labelled], training.labels[labelled]
        self.description = description
        self.num_rows = len(labels)
        self.nearest = KNeighborsClassifier(metric="cosine", algorithm="brute").fit(features, labels)
        self.penalty, self.linear = _fit_linear(features, labels, description)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """
        `knn_1_accuracy`, `knn_20_accuracy`, `probe_samples`, the number of rows that the probes were fitted on, and,
        unless these had a single class, `linear_probe_accuracy` and `linear_probe_c`; nothing where no row is
        labelled.
        """
        labelled = predictions.labels >= 0
        if not labelled.any():
            return {}
        features, labels = predictions.features[labelled], predictions.labels[labelled]
        found: dict[str, float] = {"probe_samples": self.num_rows}
        predicted: dict[str, list[np.ndarray]] = {f"knn_{k}": [] for k in NEIGHBOURS}
        for rows in tqdm([*blocks(len(labels))], desc=f"{self.description}, k-NN", leave=False):
            for k in NEIGHBOURS:
                self.nearest.set_params(n_neighbors=min(k, self.num_rows))
                predicted[f"knn_{k}"].append(self.nearest.predict(features[rows]))
        if self.linear is not None:
            predicted["linear_probe"] = [self.linear.predict(features)]
            found["linear_probe_c"] = self.penalty
        for name, parts in predicted.items():
            found[f"{name}_accuracy"] = float(np.mean(np.concatenate(parts) == labels))
        return found


def _fit_linear(features: np.ndarray, labels: np.ndarray, description: str):
    """C and the probe; two times None where there is only one class."""
    if len(np.unique(labels)) < 2:
        return None, None
    order = np.random.default_rng(0).permutation(len(labels))
    held_out, rest = order[: len(labels) // HELD_OUT], order[len(labels) // HELD_OUT :]
    chosen, best = 1.0, -1.0  # C = 1 where there is nothing to choose it on
    choices = STRENGTHS_OF_PENALTY if len(held_out) and len(np.unique(labels[rest])) > 1 else ()
    for penalty in tqdm(choices, desc=f"{description}, C of the linear probe", leave=False):
        accuracy = _fitted(penalty, features[rest], labels[rest]).score(features[held_out], labels[held_out])
        if accuracy > best:
            chosen, best = penalty, accuracy
    probe = _fitted(chosen, features, labels)
    if probe[-1].n_iter_.max() >= MAX_ITER:
        logger.warning("%s: the linear probe had not converged after %d iterations.", description, MAX_ITER)
    return chosen, probe


def _fitted(penalty: float, features: np.ndarray, labels: np.ndarray):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=MAX_ITER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features, labels)
