"""What a training split is learned from: of its labels and captions, those that the options leave or put there."""

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
from datasets import Dataset, List, Value

from .. import columns
from ..data.checks import labelled_rows, labels_of, with_labels
from ..data.texts import Texts
from ..embedding import EncoderArguments
from ..files import replace_text
from ..options import RunArguments
from .caption_classifier import CaptionClassifier
from .caption_controls import control_captions
from .label_controls import keep_label_fraction, with_label_noise, with_long_tail
from .plan import Estimates, Plan, choose

logger = logging.getLogger(__name__)

PROBABILITIES, FACTS = "probabilities.npy", "supervision.json"


@dataclass
class Supervised:
    """
    Attributes:
        split: the training rows; with `soft_labels` where they learn from them.
        plan: how captions are used.
        facts: `supervision`, `caption_accuracy_estimate`, `label_noise_estimate` and what they were made of, as JSON
            values.
    """

    split: Dataset
    plan: Plan
    facts: dict[str, Any] = field(default_factory=dict)


def controlled(
    training: Dataset, run: RunArguments, encoder: EncoderArguments, class_names: list[str], seed: int
) -> Dataset:
    """The training rows after the controls of a study. Labels first: one that is not kept plays no part after it."""

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
    folder: Path | None = None,
) -> Supervised:
    """
    Labels and soft labels from captions, by a [`CaptionClassifier`] fitted on the labelled rows with a caption.

    Args:
        training: rows with `label` and `text_embeds`.
        run: `supervision`, `label_noise` and `unlabelled`.
        num_labels: C.
        seed: of the folds.
        soft_label_weight: given by the user.
        image_features: (rows, F) a second view, in the main process; called by all processes at once.
        folder: keeps the probabilities, so that a resumed run and other processes read what was found; None: nothing
            is written.

    Raises:
        ValueError: without text embeddings, or when captions of fewer than two classes are labelled.
    """
    noise = run.label_noise or "keep"
    if run.supervision == "none" and noise == "keep":
        rows = labelled_rows(training) if run.unlabelled == "drop" else training
        return Supervised(rows, Plan("none", "keep", 0.0, ("", "")), {"supervision": "none"})
    if columns.TEXT_EMBEDS not in training.column_names:
        asked = "supervision" if run.supervision != "none" else "label_noise"
        raise ValueError(
            f"{asked} is {getattr(run, asked)!r}, but the training split has no text_embeds. Give --text_encoder, or "
            "embed the captions with g4i embed."
        )
    labels, texts = labels_of(training), Texts.of(training, "mean")
    trusted = texts.counts > 0
    if columns.CAPTION_WEIGHT in training.column_names:
        trusted &= np.asarray([weight is None or weight > 0 for weight in training[columns.CAPTION_WEIGHT][:]])
    rows = np.flatnonzero(trusted)
    found = _Estimator(labels[rows], num_labels, seed, folder)
    probabilities, estimates, noise_rate = found(
        lambda: np.asarray(texts.embeds[texts.starts[rows]]), _of_rows(image_features, rows)
    )
    plan = choose(estimates) if run.supervision == "auto" else Plan(run.supervision, "keep", 1.0, ("", ""))
    if run.label_noise is not None:
        plan.label_noise = run.label_noise
    weight = plan.soft_label_weight or 1.0 if soft_label_weight is None else soft_label_weight
    split = _learned(training, labels, rows, probabilities, plan, noise_rate)
    plan.soft_label_weight = weight if columns.SOFT_LABELS in split.column_names else 0.0
    split = labelled_rows(split) if run.unlabelled == "drop" else split
    return Supervised(split, plan, _facts(plan, estimates))


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
    """Says, before training, that captions of unlabelled images could teach the classifier, where they do not."""
    texts, labels = Texts.of(training, "mean"), labels_of(training)
    if texts is None or not ((texts.counts > 0) & (labels >= 0)).any():
        return
    silent = int(((texts.counts > 0) & (labels < 0)).sum())
    if silent:
        logger.warning(
            "%s of %s training images have a caption and no label: the classifier learns nothing from them. Their "
            "captions may tell their classes: --supervision auto finds out.",
            f"{silent:,}",
            f"{len(training):,}",
        )


def _of_rows(image_features: Callable | None, rows: np.ndarray) -> Callable[[], np.ndarray | None] | None:
    if image_features is None:
        return None

    def of_rows() -> np.ndarray | None:
        found = image_features()
        return None if found is None else found[rows]

    return of_rows


@dataclass
class _Estimator:
    """Fits the classifier in the main process; the others, and a resumed run, read what it found."""

    labels: np.ndarray
    num_labels: int
    seed: int
    folder: Path | None

    def __call__(
        self, embeds: Callable[[], np.ndarray], features: Callable | None
    ) -> tuple[np.ndarray, Estimates, float]:
        """(n, C) float16 probabilities, out of fold for labelled rows; estimates; and the rate of label noise."""
        text_embeds = embeds()
        if self.folder is None:
            return self._fitted(text_embeds, features and features())
        key, state = self._key(text_embeds, features is not None), PartialState()
        state.wait_for_everyone()
        is_there = (self.folder / FACTS).is_file() and json.loads((self.folder / FACTS).read_text())["key"] == key
        state.wait_for_everyone()  # nobody writes before all have looked
        if not is_there:
            image_features = features and features()  # by all processes together
            if state.is_main_process:
                self._write(key, *self._fitted(text_embeds, image_features))
            state.wait_for_everyone()
        facts = json.loads((self.folder / FACTS).read_text())
        return (
            np.load(self.folder / PROBABILITIES, mmap_mode="r", allow_pickle=False),
            Estimates(**facts["estimates"]),
            facts["noise_rate"],
        )

    def _write(self, key: str, probabilities: np.ndarray, estimates: Estimates, noise_rate: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FACTS).unlink(missing_ok=True)
        np.save(self.folder / PROBABILITIES, probabilities)
        facts = {"key": key, "estimates": asdict(estimates), "noise_rate": noise_rate}
        replace_text(self.folder / FACTS, json.dumps(facts, indent=2) + "\n")

    def _key(self, text_embeds: np.ndarray, with_features: bool) -> str:
        digest = hashlib.blake2b(f"{self.num_labels} {self.seed} {with_features}".encode(), digest_size=16)
        digest.update(self.labels.tobytes())
        digest.update(np.ascontiguousarray(text_embeds))
        return digest.hexdigest()

    def _fitted(
        self, text_embeds: np.ndarray, image_features: np.ndarray | None
    ) -> tuple[np.ndarray, Estimates, float]:
        labels = self.labels
        classifier = CaptionClassifier(self.num_labels, self.seed).fit(text_embeds, labels, image_features)
        accuracies, unlabelled = classifier.view_accuracies_, labels < 0
        agreement = None
        if image_features is not None and unlabelled.any():
            views = classifier.predicted_by_view(text_embeds[unlabelled], image_features[unlabelled])
            agreement = float((views[0] == views[1]).mean())
        estimates = Estimates(
            captions=accuracies[0],
            image=accuracies[1] if image_features is not None else None,
            both=classifier.accuracy_,
            noise=classifier.label_noise_,
            noise_interval=classifier.label_noise_interval_,
            unlabelled=float(unlabelled.mean()),
            agreement=agreement,
        )
        return classifier.out_of_fold_, estimates, classifier.noise_rate_


def _learned(
    training: Dataset, labels: np.ndarray, rows: np.ndarray, probabilities: np.ndarray, plan: Plan, noise_rate: float
) -> Dataset:
    """The split with the labels, and perhaps soft labels, that the plan gives its rows."""
    found, given = labels.copy(), labels[rows]
    contradicted = np.zeros(len(rows), dtype=bool)
    if plan.label_noise != "keep":
        likely = most_likely(probabilities, given, noise_rate)
        contradicted = (given >= 0) & (likely != given)
        found[rows[contradicted]] = likely[contradicted] if plan.label_noise == "relabel" else -1
        logger.info("label_noise is %s: captions contradict %d labels.", plan.label_noise, contradicted.sum())
    if plan.supervision == "pseudo":
        asked = given < 0
        found[rows[asked]] = np.asarray(probabilities).argmax(1)[asked]
        logger.info("supervision is pseudo: %d rows take the class that their caption tells.", asked.sum())
    split = with_labels(training, found) if (found != labels).any() else training
    taught = np.ones(len(rows), dtype=bool) if plan.supervision == "soft" else contradicted & (found[rows] < 0)
    if not taught.any():
        return split
    if taught.all() and len(rows) == len(training):
        return with_soft_labels(split, probabilities)  # stays where it is, on the disk
    soft = np.zeros((len(training), probabilities.shape[1]), dtype=np.float16)
    soft[rows[taught]] = probabilities[taught]
    return with_soft_labels(split, soft)


def most_likely(probabilities: np.ndarray, labels: np.ndarray, noise_rate: float) -> np.ndarray:
    """(n,) the most probable class of each row, its given label considered; see [`CaptionClassifier.posterior`]."""
    classifier = CaptionClassifier(probabilities.shape[1])
    classifier.noise_rate_ = noise_rate
    return classifier.posterior(probabilities, labels).argmax(1)


def with_soft_labels(split: Dataset, soft: np.ndarray) -> Dataset:
    """The split with the column `soft_labels`: (rows, C) probabilities, zeros for a row without."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(soft, np.float16).reshape(-1)), soft.shape[1])
    feature = List(Value("float16"), length=soft.shape[1])
    return split.add_column(columns.SOFT_LABELS, values, feature=feature)
