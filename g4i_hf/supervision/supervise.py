"""Supervision of a training split: the controls of a study, then labels and soft labels from captions."""

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
from ..data.texts import Texts
from ..embedding import EncoderArguments
from ..files import replace_text
from ..options import RunArguments
from .caption_classifier import BLOCK, CaptionClassifier
from .caption_controls import control_captions
from .label_controls import keep_label_fraction, with_label_noise, with_long_tail
from .plan import Estimates, Plan, choose

logger = logging.getLogger(__name__)

PROBABILITIES, POSTERIOR, FACTS = "probabilities.npy", "posterior.npy", "supervision.json"


@dataclass
class CaptionedRows:
    """
    The rows of a split whose caption is embedded and has a weight above zero.

    Attributes:
        rows: (n,) their numbers in the split.
        labels: (n,) class indices, negative without a label.
        texts: of the whole split; several captions of a row by their mean.
    """

    rows: np.ndarray
    labels: np.ndarray
    texts: Texts

    @classmethod
    def of(cls, split: Dataset) -> "CaptionedRows":
        """`split` needs `text_embeds`; it may have `label` and `caption_weight`."""
        texts = Texts.of(split, "mean")
        counts = texts.counts > 0
        if columns.CAPTION_WEIGHT in split.column_names:
            counts &= np.asarray([weight is None or weight > 0 for weight in split[columns.CAPTION_WEIGHT][:]])
        rows = np.flatnonzero(counts)
        return cls(rows, labels_of(split)[rows], texts)

    def text_embeds(self) -> np.ndarray:
        """(n, D) float16, in memory."""
        return np.asarray(self.texts.embeds[self.texts.starts[self.rows]])


@dataclass
class Supervised:
    """
    Attributes:
        split: the training rows, perhaps with `soft_labels`.
        plan: how captions are used.
        facts: the plan and its estimates, for `all_results.json`.
    """

    split: Dataset
    plan: Plan
    facts: dict[str, Any] = field(default_factory=dict)


def controlled(
    training: Dataset, run: RunArguments, encoder: EncoderArguments, class_names: list[str], seed: int
) -> Dataset:
    """The training rows after the controls of a study, those of labels before those of captions."""

    def seed_or(own: int | None) -> int:
        return seed if own is None else own

    training = with_long_tail(training, run.long_tail_factor, seed_or(run.long_tail_seed))
    training = keep_label_fraction(training, run.label_fraction, seed_or(run.label_seed))
    wrong = (run.label_noise_rate, seed_or(run.label_noise_seed), len(class_names), run.label_noise_kind)
    training = with_label_noise(training, *wrong)
    return control_captions(
        training,
        run.caption_control,
        seed=seed,
        class_names=class_names,
        encoder=encoder,
        leave_out_unlabelled=run.unlabelled == "drop",
    )


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
    Labels and soft labels from captions, by a [`CaptionClassifier`] fitted on the rows with a caption.

    Args:
        training: rows with `text_embeds`, and `label` where there are any.
        run: `supervision`, `label_noise` and `unlabelled`.
        num_labels: C.
        seed: of the folds.
        soft_label_weight: the user's; None for the default of the plan.
        image_features: called by all processes, gives (rows, F), a second view, in the main process.
        class_embeds: called by the main process, gives (C, D), the class names by the encoder of the captions.
        class_weights: of each class, or `balanced`: rows that learn from soft labels in place of labels take them.
        folder: keeps the probabilities for other processes and a resumed run; None: nothing is written.
        made_with: what `image_features` and `class_embeds` depend on, by content, in the main process; estimates that
            were made with something else are not taken from `folder`.

    Raises:
        ValueError: without text embeddings, when fewer than two classes have labelled captions or a name, or for
            `label_noise` without labels.
    """
    if run.supervision == "none" and (run.label_noise or "keep") == "keep":
        rows = labelled_rows(training) if run.unlabelled == "drop" else training
        return Supervised(rows, Plan("none"), {"supervision": "none"})
    if columns.TEXT_EMBEDS not in training.column_names:
        asked = "supervision" if run.supervision != "none" else "label_noise"
        raise ValueError(
            f"{asked} is {getattr(run, asked)!r}, but the training split has no text_embeds. Give --text_encoder, or "
            "embed the captions with g4i embed."
        )
    captioned = CaptionedRows.of(training)
    if run.supervision == "none" and not (captioned.labels >= 0).any():
        what = f"label_noise is {run.label_noise!r}, but no image with a caption has a label"
        raise ValueError(f"{what}. Leave it out; --supervision auto learns without labels.")
    found = _estimated(captioned, CaptionClassifier(num_labels, seed), image_features, class_embeds, folder, made_with)
    plan = choose(found.estimates) if run.supervision == "auto" else Plan(run.supervision)
    plan.label_noise = run.label_noise or plan.label_noise
    split, weight = _learned(training, captioned, found, plan, class_weights)
    plan.soft_label_weight = weight if soft_label_weight is None or not weight else soft_label_weight
    if run.unlabelled == "drop":  # but not rows that learn from soft labels, as their own was softened
        split = labelled_rows(split, np.maximum(labels_of(split), labels_of(training)))
    return Supervised(split, plan, _facts(plan, found.estimates))


def _facts(plan: Plan, estimates: Estimates) -> dict[str, Any]:
    facts = {
        "supervision": plan.supervision,
        "label_noise": plan.label_noise,
        "caption_accuracy_estimate": estimates.captions,
        "label_noise_estimate": estimates.noise,
        "label_noise_interval": estimates.noise_interval and list(estimates.noise_interval),
    }
    if estimates.image is not None:
        facts |= {"image_accuracy_estimate": estimates.image, "both_accuracy_estimate": estimates.both}
    return facts


def warn_of_silent_captions(training: Dataset) -> None:
    """Warns that captions of unlabelled images are not used for the classifier."""
    if columns.TEXT_EMBEDS not in training.column_names:
        return
    labels = CaptionedRows.of(training).labels
    silent = int((labels < 0).sum())
    if silent:
        logger.warning(
            "%s of %s training images have a caption and no label: the classifier learns nothing from them. Their "
            "captions may tell their classes: --supervision auto finds out.",
            f"{silent:,}",
            f"{len(training):,}",
        )


# --- What captions say -----------------------------------------------------------------------------------------------


@dataclass
class Found:
    """
    What a [`CaptionClassifier`] says of n captioned rows.

    Attributes:
        probabilities: (n, C) float16, out of fold for labelled rows.
        posterior: (n, C) float16, given the label too where there is one.
        estimates: of all rows.
    """

    probabilities: np.ndarray
    posterior: np.ndarray
    estimates: Estimates


def _estimated(
    captioned: CaptionedRows,
    classifier: CaptionClassifier,
    image_features: Callable | None,
    class_embeds: Callable | None,
    folder: Path | None,
    made_with: str,
) -> Found:
    """The main process fits the classifier for all; a resumed run reads from `folder` what it found."""
    text_embeds = captioned.text_embeds()

    def features() -> np.ndarray | None:
        found = image_features and image_features()  # by all processes together
        return found if found is None else found[captioned.rows]

    def fitted(of_images: np.ndarray | None) -> Found:
        return _fitted(classifier, text_embeds, captioned.labels, of_images, class_embeds and class_embeds())

    state = PartialState()
    if folder is None:
        of_images = features()
        return broadcast_object_list([fitted(of_images) if state.is_main_process else None])[0]
    views = (image_features is not None, class_embeds is not None)
    asked = repr(("6", classifier.num_labels, classifier.seed, views, made_with))
    digest = hashlib.blake2b(asked.encode(), digest_size=16)
    digest.update(captioned.labels.tobytes())
    digest.update(np.ascontiguousarray(text_embeds))
    key = broadcast_object_list([digest.hexdigest()])[0]  # the main process alone knows what all was made with
    is_there = (folder / FACTS).is_file() and json.loads((folder / FACTS).read_text())["key"] == key
    state.wait_for_everyone()  # nobody writes before all have looked
    if not is_there:
        of_images = features()
        if state.is_main_process:
            found = fitted(of_images)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FACTS).unlink(missing_ok=True)
            np.save(folder / PROBABILITIES, found.probabilities)
            np.save(folder / POSTERIOR, found.posterior)
            facts = {"key": key, "estimates": asdict(found.estimates)}
            replace_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")
        state.wait_for_everyone()
    estimates = Estimates(**json.loads((folder / FACTS).read_text())["estimates"])
    files = (folder / PROBABILITIES, folder / POSTERIOR)
    probabilities, posterior = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    return Found(probabilities, posterior, estimates)


def _fitted(
    classifier: CaptionClassifier,
    text_embeds: np.ndarray,
    labels: np.ndarray,
    image_features: np.ndarray | None,
    class_embeds: np.ndarray | None,
) -> Found:
    classifier.fit(text_embeds, labels, image_features, class_embeds)
    accuracies = classifier.view_accuracies_
    estimates = Estimates(
        captions=accuracies[0],
        image=accuracies[1] if len(accuracies) > 1 else None,
        both=classifier.accuracy_,
        noise=classifier.label_noise_,
        noise_interval=classifier.label_noise_interval_,
        unlabelled=float((labels < 0).mean()),
    )
    posterior = np.empty_like(classifier.out_of_fold_)
    for start in range(0, len(labels), BLOCK):
        block = slice(start, start + BLOCK)
        posterior[block] = classifier.posterior(classifier.out_of_fold_[block], labels[block])
    return Found(classifier.out_of_fold_, posterior, estimates)


# --- Labels and soft labels ------------------------------------------------------------------------------------------


def _learned(
    training: Dataset,
    captioned: CaptionedRows,
    found: Found,
    plan: Plan,
    class_weights: list[float] | str | None,
) -> tuple[Dataset, float]:
    """
    The split with the labels, and perhaps soft labels, that the plan gives its rows; the weight of soft labels. With
    `auto` or `soften` every label becomes a soft one, and the column `label` is null.
    """
    rows, given = captioned.rows, captioned.labels
    labels = labels_of(training)
    learned, unlabelled = labels.copy(), given < 0
    if plan.label_noise == "relabel":
        learned[rows[~unlabelled]] = found.posterior[~unlabelled].argmax(1)
        logger.info("label_noise is relabel: captions contradict %d labels.", (learned != labels).sum())
    if plan.supervision == "pseudo":
        learned[rows[unlabelled]] = found.posterior[unlabelled].argmax(1)
        logger.info("supervision is pseudo: %d rows take the class that their caption tells.", unlabelled.sum())
    if plan.label_noise == "soften" or (plan.supervision == "auto" and unlabelled.any()):
        soft = _targets(learned, captioned, found.posterior, plan)
        if class_weights is not None:
            soft *= _weights(class_weights, soft.sum(0, dtype=np.float64))
        weight = np.count_nonzero(soft.any(1)) / soft.sum(dtype=np.float64)
        return with_soft_labels(with_labels(training, np.full(len(labels), -1)), soft), float(weight)
    split = with_labels(training, learned) if (learned != labels).any() else training
    if plan.supervision != "soft":
        return split, 0.0
    if len(rows) == len(training):
        return with_soft_labels(split, found.probabilities), 1.0  # a memory-mapped file stays one
    soft = np.zeros((len(training), found.probabilities.shape[1]), dtype=np.float16)
    soft[rows] = found.probabilities
    return with_soft_labels(split, soft), 1.0


def _targets(labels: np.ndarray, captioned: CaptionedRows, posterior: np.ndarray, plan: Plan) -> np.ndarray:
    """(rows, C) float16 in place of labels: probabilities of the true class, times the weight of the row."""
    targets = np.zeros((len(labels), posterior.shape[1]), dtype=np.float16)
    known = labels >= 0
    targets[known, labels[known]] = 1
    unlabelled = captioned.labels < 0
    if plan.label_noise == "soften":
        targets[captioned.rows[~unlabelled]] = posterior[~unlabelled]
    if plan.supervision in ("auto", "soft"):
        targets[captioned.rows[unlabelled]] = plan.unlabelled_weight * posterior[unlabelled]
    return targets


def _weights(class_weights: list[float] | str, counts: np.ndarray) -> np.ndarray:
    """(C,) float16; `balanced`: inversely proportional to the counts (C,) of the classes."""
    weights = class_weights if class_weights != "balanced" else counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.asarray(weights, dtype=np.float16)


def with_soft_labels(split: Dataset, soft: np.ndarray) -> Dataset:
    """Adds the column `soft_labels`: `soft` (rows, C), zeros for a row without."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(soft, np.float16).reshape(-1)), soft.shape[1])
    feature = List(Value("float16"), length=soft.shape[1])
    return split.add_column(columns.SOFT_LABELS, values, feature=feature)
