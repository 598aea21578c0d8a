"""Soft labels of a training split from captions, for `supervision: auto`."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
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
from ..files import replace_text
from ..options import RunArguments
from .model import LabelModel
from .none_of_these import weights_of_unlabelled
from .plan import Estimates, Plan, choose
from .views import View

logger = logging.getLogger(__name__)

POSTERIOR, FACTS = "posterior.npy", "supervision.json"
CAPTION, ANSWER, IMAGE = "caption", "answer", "image"  # names of views


@dataclass
class CaptionedRows:
    """Rows whose caption is embedded."""

    rows: np.ndarray  # (n,) their numbers in the split
    labels: np.ndarray  # (n,) class indices, negative without a label
    reviewed: np.ndarray  # (n,) whether a person gave or confirmed the label
    texts: Texts  # of the whole split, one text a row: the mean of its captions

    @classmethod
    def of(cls, split: Dataset) -> "CaptionedRows":
        """`split` needs `text_embeds`; it may have `label`."""
        texts = Texts.of(split, "mean")
        rows = np.flatnonzero(texts.counts)
        return cls(rows, labels_of(split)[rows], reviews_of(split)[rows] != "", texts)

    def text_embeds(self) -> np.ndarray:
        """(n, D) float16, in memory."""
        return np.asarray(self.texts.embeds[self.texts.starts[self.rows]])


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
    folder: Path | None = None,
    made_with: str = "",
) -> Supervised:
    """
    Replace labels by soft labels from captions, with a [`~g4i_hf.LabelModel`] fitted on the rows with a caption.

    Args:
        training: rows with `text_embeds`, and perhaps `label`.
        run: `supervision` and `unlabelled`.
        soft_label_weight: None for the default of the plan.
        image_features: gives (rows, F), a second view, in the main process; all processes call it.
        class_embeds: gives (C, D), the class names by the encoder of the captions; the main process calls it.
        class_weights: of each class, or `balanced`; they scale the soft labels.
        folder: stores the probabilities for other processes and a resumed run; None: nothing is stored.
        made_with: digest of everything that `image_features` and `class_embeds` depend on, in the main process.
            Estimates that were stored with another one are computed again.

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
    captioned = CaptionedRows.of(training)
    posteriors = _load_or_fit(captioned, LabelModel(num_labels, seed), image_features, class_embeds, folder, made_with)
    plan = choose(posteriors.estimates)
    split = training
    if plan.softens or (captioned.labels < 0).any():
        soft = _targets(labels_of(training), captioned, posteriors.posterior, plan)
        if class_weights is not None:
            soft *= _weights(class_weights, soft.sum(0, dtype=np.float64))
        weight = float(np.count_nonzero(soft.any(1)) / soft.sum(dtype=np.float64))
        plan.soft_label_weight = weight if soft_label_weight is None else soft_label_weight
        split = with_soft_labels(with_labels(training, np.full(len(training), -1)), soft)
    facts = {"supervision": "auto", "softens_labels": plan.softens} | posteriors.estimates.facts()
    return Supervised(split, plan, facts)


def warn_of_unused_captions(training: Dataset) -> None:
    """Warn if captions of unlabelled images do not train the classifier."""
    if columns.TEXT_EMBEDS not in training.column_names:
        return
    labels = CaptionedRows.of(training).labels
    unused = int((labels < 0).sum())
    if unused:
        logger.warning(
            "%s of %s training images have a caption and no label: the classifier learns nothing from them. Their "
            "captions may tell their classes: --supervision auto finds out.",
            f"{unused:,}",
            f"{len(training):,}",
        )


# --- Class probabilities ---------------------------------------------------------------------------------------------


@dataclass
class Posteriors:
    """The predictions of a [`~g4i_hf.LabelModel`] for n captioned rows."""

    # (n, C) float16, given the caption, and the label where there is one. An unlabelled row is scaled by its weight,
    # which is small where no class explains it
    posterior: np.ndarray
    estimates: Estimates  # of all rows


def _load_or_fit(
    captioned: CaptionedRows,
    model: LabelModel,
    image_features: Callable | None,
    class_embeds: Callable | None,
    folder: Path | None,
    made_with: str,
) -> Posteriors:
    """Read the posteriors from `folder`, or fit the model in the main process and store them there for all."""
    text_embeds = captioned.text_embeds()

    def features() -> np.ndarray | None:
        features = image_features and image_features()  # by all processes together
        return features if features is None else features[captioned.rows]

    def fitted(image_features: np.ndarray | None) -> Posteriors:
        return _fit(model, text_embeds, captioned, image_features, class_embeds and class_embeds())

    state = PartialState()
    if folder is None:
        features_of_images = features()
        return broadcast_object_list([fitted(features_of_images) if state.is_main_process else None])[0]
    views = (image_features is not None, class_embeds is not None)
    settings = repr(("11", model.num_labels, model.seed, views, made_with))
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    digest.update(captioned.labels.tobytes())
    digest.update(captioned.reviewed.tobytes())
    digest.update(np.ascontiguousarray(text_embeds))
    key = broadcast_object_list([digest.hexdigest()])[0]  # only the main process has the right `made_with`
    is_stored = (folder / FACTS).is_file() and json.loads((folder / FACTS).read_text())["key"] == key
    state.wait_for_everyone()  # all have read the record before it is written
    if not is_stored:
        features_of_images = features()
        if state.is_main_process:
            posteriors = fitted(features_of_images)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FACTS).unlink(missing_ok=True)
            np.save(folder / POSTERIOR, posteriors.posterior)
            facts = {"key": key, "estimates": asdict(posteriors.estimates)}
            replace_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")
        state.wait_for_everyone()
    estimates = Estimates(**json.loads((folder / FACTS).read_text())["estimates"])
    return Posteriors(np.load(folder / POSTERIOR, mmap_mode="r", allow_pickle=False), estimates)


def _fit(
    model: LabelModel,
    text_embeds: np.ndarray,
    captioned: CaptionedRows,
    image_features: np.ndarray | None,
    class_embeds: np.ndarray | None,
) -> Posteriors:
    views = {CAPTION: View(text_embeds, class_embeds, learns=False)}
    if image_features is not None:
        views[IMAGE] = View(image_features)
    model.fit(views, captioned.labels, reviewed=captioned.reviewed)
    weights = weights_of_unlabelled(model.none_).astype(np.float16)[:, None]
    return Posteriors(model.posterior_ * weights, Estimates.of(model, captioned.labels))


# --- Soft labels -----------------------------------------------------------------------------------------------------


def _targets(labels: np.ndarray, captioned: CaptionedRows, posterior: np.ndarray, plan: Plan) -> np.ndarray:
    """(rows, C) float16 targets instead of labels: probabilities of the true class, times the weight of the row."""
    targets = np.zeros((len(labels), posterior.shape[1]), dtype=np.float16)
    known = labels >= 0
    targets[known, labels[known]] = 1
    unlabelled = captioned.labels < 0
    targets[captioned.rows[unlabelled]] = plan.unlabelled_weight * posterior[unlabelled]
    if plan.softens:
        targets[captioned.rows[~unlabelled]] = posterior[~unlabelled]
    return targets


def _weights(class_weights: list[float] | str, counts: np.ndarray) -> np.ndarray:
    """(C,) float16; `balanced`: inversely proportional to the counts (C,) of the classes."""
    weights = class_weights if class_weights != "balanced" else counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.asarray(weights, dtype=np.float16)


def with_soft_labels(split: Dataset, soft: np.ndarray) -> Dataset:
    """Add the column `soft_labels`: `soft` (rows, C), zeros for a row without."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(soft, np.float16).reshape(-1)), soft.shape[1])
    feature = List(Value("float16"), length=soft.shape[1])
    return split.add_column(columns.SOFT_LABELS, values, feature=feature)
