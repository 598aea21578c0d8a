"""`supervision: auto`: how captions are used, by estimates made before training, and the soft labels of a split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset, List, Value

from .. import columns, priors
from ..data.checks import labelled_rows, labels_of, with_labels
from ..data.labels import certain_reviews_of
from ..data.texts import Texts, column_of, mean_embeds
from ..label_model import LabelModel, View
from ..label_model.none_of_these import weights_of_unlabelled
from ..label_model.views import rows_with_a_view
from ..options import RunArguments
from ..processes import on_main_process
from ..views.kinds import CAPTION, IMAGE
from ..words import estimates_in_words, labels_summary

logger = logging.getLogger(__name__)


def estimates_of(model: LabelModel) -> dict[str, Any]:
    """Of a fitted model, for `all_results.json`; None where it could not estimate one."""
    noise, none = model.label_noise_interval_, model.none_share_
    return {
        "views": model.report_,
        "views_accuracy_estimate": model.accuracy_.share if model.accuracy_ else None,
        "label_noise_estimate": model.label_noise_,
        "label_noise_interval": noise and list(noise),
        "none_of_these_estimate": none.share if none else None,
        "none_of_these_interval": list(none.interval) if none else None,
    }


@dataclass
class Plan:
    relabels: bool = False  # whether labels become probabilities of the true class, given label and caption
    unlabelled_weight: float = 1.0  # of an unlabelled row, which learns from class probabilities; a label has 1
    soft_label_weight: float = 0.0  # 0 without soft labels
    reasons: tuple[str, ...] = ()  # lines for the user


def plan_for(model: LabelModel, labels: np.ndarray) -> Plan:
    """
    By what a fitted model estimates, for the labels (n,) of rows with a view:

    - Images without a label learn from class probabilities. Each has the weight of a label if the views are accurate
      or no image has a label; otherwise all of them together have the weight of all labels.
    - Labels are softened if the label model takes any for wrong.
    """
    plan, parts, unlabelled = Plan(), [], float((labels < 0).mean())
    if unlabelled == 1:
        parts.append("no image with a caption has a label: all learn soft labels")
    elif unlabelled > 0:
        tells = model.accuracy_ is not None and model.accuracy_.share >= priors.MIN_ACCURACY_OF_VIEWS
        plan.unlabelled_weight = 1.0 if tells else min(1.0, (1 - unlabelled) / unlabelled)
        weight = "each counts as a label" if tells else "together they count as the labels do"
        parts.append(f"{unlabelled:.0%} of the captioned images have no label and learn soft labels; {weight}")
    if model.label_noise_:
        plan.relabels = True
        parts.append("labels are softened where captions contradict them")
    elif unlabelled < 1:
        parts.append("labels are kept, as they may all be right")
    estimates = " ".join(estimates_in_words(estimates_of(model), labels))
    plan.reasons = f"Estimates: {estimates}", f"supervision: {'; '.join(parts)}."
    return plan


# --- The training split ----------------------------------------------------------------------------------------------


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
    of_labels = {"labels_summary": labels_summary(len(training), int((labels_of(training) >= 0).sum()))}
    if run.supervision == "none":
        return Supervised(training, facts={"supervision": "none"} | of_labels)
    if columns.TEXT_EMBEDS not in training.column_names:
        raise ValueError(
            f"supervision is {run.supervision!r}, but the training split has no text_embeds. Give --text_encoder, or "
            "embed the captions with g4i embed."
        )
    features = image_features and image_features()  # by all processes together

    def learned() -> tuple[np.ndarray | None, Plan, dict[str, Any]]:
        views = {CAPTION: View(mean_embeds(training), class_embeds and class_embeds(), self_trains=False)}
        views |= {} if features is None else {IMAGE: View(features)}
        return _learned(training, views, LabelModel(num_labels, seed), class_weights)

    soft, plan, facts = on_main_process(learned)
    facts |= of_labels
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
    model.fit(views, np.where(has_view, labels, -1), reviewed=certain_reviews_of(training) != "")
    plan = plan_for(model, labels[has_view])
    facts = {"supervision": "auto", "relabels": plan.relabels} | estimates_of(model)
    unlabelled, labelled = has_view & (labels < 0), np.flatnonzero(labels >= 0)
    if not plan.relabels and not unlabelled.any():
        return None, plan, facts
    posterior = model.posterior_ * weights_of_unlabelled(model.none_).astype(np.float16)[:, None]
    soft = np.zeros((len(labels), model.num_labels), dtype=np.float16)
    soft[labelled, labels[labelled]] = 1
    soft[unlabelled] = plan.unlabelled_weight * posterior[unlabelled]
    if plan.relabels:
        softened = has_view & (labels >= 0)
        soft[softened] = posterior[softened]
    if class_weights is not None:
        if class_weights == "balanced":  # inversely proportional to the counts
            counts = soft.sum(0, dtype=np.float64)
            class_weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
        soft *= np.asarray(class_weights, dtype=np.float16)
    return soft, plan, facts


def with_soft_labels(split: Dataset, soft: np.ndarray) -> Dataset:
    """Add the column `soft_labels`: `soft` (rows, C), zeros for a row without."""
    feature = List(Value("float16"), length=soft.shape[1])
    return split.add_column(columns.SOFT_LABELS, column_of(np.asarray(soft, np.float16)), feature=feature)
