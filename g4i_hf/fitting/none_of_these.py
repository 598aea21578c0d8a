"""
A score by which a classifier recognises new images that show none of its classes, linear in its features.

Positive examples are images that a person took out (`none`), and unlabelled images as far as the label model takes
them for such. The label model also sees captions, which a new image lacks.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from .. import columns, priors
from ..evaluation.predict import load_run
from ..label_model.none_of_these import weights_of_unlabelled
from ..label_model.views import FOLDS
from ..linear import Fold, Scale, best_strength
from ..modeling.none_of_these import NoneOfThese
from ..names import ALL_LAYERS, NONE_FILE
from ..processes import on_main_process
from ..training.features import FEATURES, student_features
from ..words import is_clearly_none
from .evidence import Evidence, FitImages
from .heads import STRENGTHS, fit_head

MOST_LEARNED = 20_000  # rows
FALSE_ALARMS = 0.05  # share of the images of a class that count as none, about


def none_of_these(evidence: Evidence, features: np.ndarray, answered: np.ndarray) -> NoneOfThese | None:
    """
    The score, where it is clear that there are such images, or a person took out `MIN_ANSWERED_NONE`. Otherwise None.

    Args:
        features: (N, F) of the training rows.
        answered: (m, F) of images that a person took out.
    """
    model = evidence.model
    if is_clearly_none(model.none_share_.interval if model.none_share_ else None):
        rows = np.arange(len(features))
    elif len(answered) >= priors.MIN_ANSWERED_NONE:
        rows = np.flatnonzero(evidence.labels >= 0)
    else:
        return None
    rows = rows[:: max(-(-len(rows) // MOST_LEARNED), 1)]
    folds = np.concatenate([evidence.groups[rows] % FOLDS, np.arange(len(answered)) % FOLDS])
    if len(np.unique(folds)) < FOLDS:
        return None
    x = np.concatenate([features[rows], answered])
    none = np.concatenate([model.none_[rows], np.ones(len(answered))]).astype(np.float32)
    targets = np.stack([1 - none, none], axis=1)
    targets *= len(x) / (2 * targets.sum(0))
    scale = Scale.of(x)
    parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(FOLDS)]
    of_folds = [Fold(others, targets[others], held_out, targets[held_out]) for others, held_out in parts]
    strength, scores = best_strength(scale(x), of_folds, STRENGTHS), np.zeros(len(x), dtype=np.float32)
    for others, held_out in parts:
        logits = fit_head(x[others], targets[others], strength, scale).logits(x[held_out])
        scores[held_out] = logits[:, 1] - logits[:, 0]
    head = fit_head(x, targets, strength, scale)
    threshold = _exceeded_by(FALSE_ALARMS, scores, weights_of_unlabelled(none))
    weight, bias = head.weight[1] - head.weight[0], head.bias[1] - head.bias[0]
    return NoneOfThese(*(torch.tensor(value, dtype=torch.float32) for value in (weight, bias, threshold)))


def _exceeded_by(share: float, scores: np.ndarray, weights: np.ndarray) -> float:
    """The score (n,) that this share of the weight (n,) exceeds."""
    order = np.argsort(scores)
    below = weights[order].cumsum() / weights.sum()
    return float(scores[order][np.searchsorted(below, 1 - share)])


def save_none_of_these(folder: Path, images: FitImages, evidence: Evidence | None, names: Iterable[str]) -> bool:
    """
    Writes the score into these runs, of which the one with all layers has other features. Returns whether there is
    one. All processes call it; `evidence` is that of the main process.
    """
    needed = [columns.IMAGE, columns.IMAGE_ID]
    splits = [split.select_columns(needed) for split in (images.training, images.of_no_class)]

    def score(features: np.ndarray, answered: np.ndarray) -> NoneOfThese | None:
        return on_main_process(lambda: none_of_these(evidence, features, answered))

    answered = images.features_of(splits[1]) if len(splits[1]) else images.features[:0]
    first = of_run = score(images.features, answered)
    for name in names:
        if first is not None and name == ALL_LAYERS:
            place = folder / FEATURES, images.accelerator
            values = [student_features(*load_run(folder / name), split, *place) for split in splits if len(split)]
            of_run = score(values[0], values[1] if len(values) > 1 else values[0][:0])
        if images.accelerator.is_main_process:
            (folder / name / NONE_FILE).unlink(missing_ok=True)
            if of_run is not None:
                of_run.save(folder / name)
    return first is not None
