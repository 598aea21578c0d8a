"""Soft labels of a training split from captions, for `supervision: auto`."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, List, Value

from .. import columns
from ..data.checks import labelled_rows, labels_of, with_labels
from ..data.labels import reviews_of
from ..data.texts import Texts
from ..options import RunArguments
from .model import LabelModel
from .none_of_these import weights_of_unlabelled
from .plan import Plan, choose, facts_of
from .views import View, rows_with_a_view

logger = logging.getLogger(__name__)

CAPTION, ANSWER, IMAGE = "caption", "answer", "image"  # names of views


def captions_view(split: Dataset, class_embeds: np.ndarray | None = None) -> View:
    """Of the mean of the `text_embeds` of each row, NaN without any. `class_embeds`: (C, D)."""
    texts = Texts.of(split, "mean")
    rows = np.flatnonzero(texts.counts)
    embeds = np.full((len(split), texts.embeds.shape[1]), np.nan, dtype=np.float16)
    embeds[rows] = texts.embeds[texts.starts[rows]]
    return View(embeds, class_embeds, learns=False)


@dataclass
class Supervised:
    split: Dataset  # the training rows, perhaps with `soft_labels`
    plan: Plan = field(default_factory=Plan)  # how captions are used
    facts: dict[str, Any] = field(default_factory=dict)  # the plan and its estimates, for `all_results.json`


def supervise(
    training: Dataset,
    run: RunArguments,
    *,
    num_labels: int,
    seed: int,
    soft_label_weight: float | None = None,
    image_features: Callable[[], np.ndarray | None] | None = None,
    class_embeds: Callable[[], np.ndarray | None] | None = None,
    class_weights: list[float] | str | None = None,
) -> Supervised:
    """
    Replace labels by soft labels from captions, with a [`~g4i_hf.LabelModel`] that the main process fits.

    Args:
        training: rows with `text_embeds`, and perhaps `label`.
        run: `supervision` and `unlabelled`.
        soft_label_weight: None for the default of the plan.
        image_features: gives (rows, F), a second view, in the main process; all processes call it.
        class_embeds: gives (C, D), the class names by the encoder of the captions; the main process calls it.
        class_weights: of each class, or `balanced`; they scale the soft labels.

    Raises:
        ValueError: without text embeddings, or if fewer than two classes have a labelled caption or a name.
    """
    if run.unlabelled == "drop":
        training = labelled_rows(training)
    if run.supervision == "none":
        return Supervised(training, facts={"supervision": "none"})
    if columns.TEXT_EMBEDS not in training.column_names:
        raise ValueError(
            f"supervision is {run.supervision!r}, but the training split has no text_embeds. Give --text_encoder, or "
            "embed the captions with g4i embed."
        )
    features, learned = image_features and image_features(), None  # by all processes together
    if PartialState().is_main_process:
        views = {CAPTION: captions_view(training, class_embeds and class_embeds())}
        views |= {} if features is None else {IMAGE: View(features)}
        learned = _learned(training, views, LabelModel(num_labels, seed), class_weights)
    soft, plan, facts = broadcast_object_list([learned])[0]
    if soft is None:
        return Supervised(training, plan, facts)
    weight = float(np.count_nonzero(soft.any(1)) / soft.sum(dtype=np.float64))
    plan.soft_label_weight = weight if soft_label_weight is None else soft_label_weight
    return Supervised(with_soft_labels(with_labels(training, np.full(len(training), -1)), soft), plan, facts)


def warn_of_unused_captions(training: Dataset) -> None:
    """Warn if captions of unlabelled images do not train the classifier."""
    if columns.TEXT_EMBEDS not in training.column_names:
        return
    if unused := int((labels_of(training)[Texts.of(training, "mean").counts > 0] < 0).sum()):
        logger.warning(
            "%s of %s training images have a caption and no label: the classifier learns nothing from them. Their "
            "captions may tell their classes: --supervision auto finds out.",
            f"{unused:,}",
            f"{len(training):,}",
        )


# --- Soft labels -----------------------------------------------------------------------------------------------------


def _learned(
    training: Dataset, views: Mapping[str, View], model: LabelModel, class_weights: list[float] | str | None
) -> tuple[np.ndarray | None, Plan, dict[str, Any]]:
    """
    (rows, C) float16 targets instead of labels, None where all labels stay; and the plan with its estimates. A target
    has the probabilities of the true class, times the weight of the row, which is small where no class explains it.
    """
    labels, has_view = labels_of(training), rows_with_a_view(views)
    model.fit(views, labels, reviewed=reviews_of(training) != "")
    plan = choose(model, labels[has_view])
    facts = {"supervision": "auto", "softens_labels": plan.softens} | facts_of(model)
    unlabelled, labelled = has_view & (labels < 0), np.flatnonzero(labels >= 0)
    if not plan.softens and not unlabelled.any():
        return None, plan, facts
    posterior = model.posterior_ * weights_of_unlabelled(model.none_).astype(np.float16)[:, None]
    soft = np.zeros((len(labels), model.num_labels), dtype=np.float16)
    soft[labelled, labels[labelled]] = 1
    soft[unlabelled] = plan.unlabelled_weight * posterior[unlabelled]
    if plan.softens:
        softened = has_view & (labels >= 0)
        soft[softened] = posterior[softened]
    if class_weights is not None:
        soft *= _weights(class_weights, soft.sum(0, dtype=np.float64))
    return soft, plan, facts


def _weights(class_weights: list[float] | str, counts: np.ndarray) -> np.ndarray:
    """(C,) float16; `balanced`: inversely proportional to the counts (C,) of the classes."""
    weights = class_weights if class_weights != "balanced" else counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.asarray(weights, dtype=np.float16)


def with_soft_labels(split: Dataset, soft: np.ndarray) -> Dataset:
    """Add the column `soft_labels`: `soft` (rows, C), zeros for a row without."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(soft, np.float16).reshape(-1)), soft.shape[1])
    feature = List(Value("float16"), length=soft.shape[1])
    return split.add_column(columns.SOFT_LABELS, values, feature=feature)
