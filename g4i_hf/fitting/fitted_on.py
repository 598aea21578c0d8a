"""The numbers that go with a classifier, so that `g4i predict` can compare new images with those it was fitted on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset
from scipy.special import softmax

from .. import columns
from ..evaluation.new_images import axes_of
from ..evaluation.predict import load_run
from ..inference.fitted_on import FittedOn, digest_of_last_layer
from ..training.features import FEATURES, student_features
from .all_layers import Trained
from .evidence import Evidence, FitImages
from .judge import CrossValidation, Judge
from .targets import Targets

MOST_KEPT = 1_000  # images, and as many that judge: 0.6 MB for 1,280 features and 10 classes


def fitted_on(
    features: np.ndarray,
    classes: np.ndarray,
    groups: np.ndarray,
    predicted: np.ndarray,
    truth: np.ndarray,
    counts: np.ndarray,
    accuracy: np.ndarray | None,
    last_layer: np.ndarray,
) -> FittedOn:
    """
    Of a sample, one image a scene. See [`~g4i_hf.inference.fitted_on.FittedOn`].

    Args:
        features: (N, F) of images whose features the network has not learned.
        classes: (N, C) probabilities.
        groups: (N,) the same for images of one scene.
        predicted: (n, C) by classifiers that have not learned these rows, and `truth`, of their classes.
    """
    order = np.random.default_rng(0).permutation(len(features))
    _, first = np.unique(groups[order], return_index=True)
    rows = order[np.sort(first)[:MOST_KEPT]]
    mean, axes = axes_of(features[rows], classes[rows].astype(np.float64))
    judging = np.random.default_rng(1).permutation(len(predicted))[:MOST_KEPT]
    return FittedOn(
        mean,
        axes,
        (features[rows] - mean) @ axes,
        classes[rows],
        predicted[judging],
        truth[judging],
        counts.astype(np.int64),
        np.array([np.nan] * 3 if accuracy is None else accuracy, dtype=np.float32),
        last_layer,
    )


def save_fitted_on(
    folder: Path,
    images: FitImages,
    judge: Judge,
    judging: Dataset,
    targets: Targets | None,
    names: Mapping[str, Trained | None],
) -> None:
    """
    Writes the file of each of these runs. The one with all layers has a `Trained`: of its features, those of the
    images that judge count, which it has not learned. The others have the features of the frozen network. All
    processes call it.
    """
    for name, trained in names.items():
        model, processor = load_run(folder / name)
        features = images.features
        if trained is not None:
            shown = judging.select_columns([columns.IMAGE, columns.IMAGE_ID])
            features = student_features(model, processor, shown, folder / FEATURES, images.accelerator)
        if targets is not None and images.accelerator.is_main_process:
            last_layer = digest_of_last_layer(model.student)
            of_run(name, trained, features, judge, targets.evidence, last_layer).save(folder / name)


def of_run(
    name: str, trained: Trained | None, features: np.ndarray, judge: Judge, evidence: Evidence, last_layer: np.ndarray
) -> FittedOn:
    truth, logits = judge.probabilities, judge.logits[name] if trained is None else trained.logits
    of_images = evidence.model.posterior_.astype(np.float32), evidence.groups
    if trained is not None:
        of_images = truth, np.arange(len(truth)) if judge.groups is None else judge.groups
    if isinstance(judge, CrossValidation):  # whose labels may be wrong
        truth = evidence.model.posterior_[judge.rows]
    counts = np.bincount(evidence.labels[evidence.labels >= 0], minlength=evidence.num_labels)
    estimate = judge.judgement().accuracies.get(name if trained is None else trained.classifier)
    accuracy = None
    if estimate is not None and estimate.interval is not None:
        moved = 0.0 if trained is None else trained.accuracy - trained.last_layer_accuracy
        accuracy = np.clip(np.array([estimate.share, *estimate.interval]) + moved, 0, 1)
    return fitted_on(features, *of_images, softmax(logits, axis=1), truth, counts, accuracy, last_layer)
