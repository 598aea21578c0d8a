"""Pseudo-labels: images without a label take the class that their captions tell."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.labels import UNLABELLED, labels_of, with_labels
from ..data.texts import Texts

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

logger = logging.getLogger(__name__)

C = 100.0  # of scikit-learn: weak, as for embeddings of unit norm
MAX_ITER = 1000
MOST = 50_000  # labelled rows that the classifier is fitted on; of more a sample is taken
FOLDS = 10  # of cross-validation, which wants as many rows, and as many that are given a label
ONCE = 2_000  # labelled rows; of more one fold is left out, not each in turn
# Of what naming the most frequent class leaves. Harm was measured at 13% right, perhaps at 40%, gain from 56%
DOUBTFUL = 1 / 3
BLOCK = 8192  # rows predicted at once


def with_pseudo_labels(split: Dataset, seed: int, threshold: float = 0.0) -> Dataset:
    """
    Labels the rows of a training split that have a caption and no label, by a logistic regression on the text
    embeddings of those that have both (Lee, 2013, with captions in the place of images). Several captions of a row are
    averaged; a row whose `caption_weight` is zero takes no part and keeps its null. The log says how many of
    these labels to expect right, and warns where captions tell little more than the most frequent class would.

    Args:
        split: with `text_embeds`, and perhaps `caption_weight`.
        seed: of the sample where there are very many labelled rows, and of the cross-validation.
        threshold: probability below which a row keeps its null, from 0 to 1.

    Raises:
        ValueError: without text embeddings, or when captions of fewer than two classes are labelled.
    """
    if columns.TEXT_EMBEDS not in split.column_names:
        raise ValueError(
            "unlabelled is 'pseudo_label', but the training split has no text_embeds. Give --text_encoder, or embed "
            "the captions with g4i embed."
        )
    labels, texts = labels_of(split), Texts.of(split, "mean")
    trusted = texts.counts > 0
    if columns.CAPTION_WEIGHT in split.column_names:
        trusted &= np.asarray([weight is None or weight > 0 for weight in split[columns.CAPTION_WEIGHT][:]])
    known, asked = np.flatnonzero(trusted & (labels >= 0)), np.flatnonzero(trusted & (labels < 0))
    if len(asked) == 0:
        return split
    if len(np.unique(labels[known])) < 2:
        raise ValueError(
            "unlabelled is 'pseudo_label', but fewer than two classes have a labelled image with a caption to learn "
            "from. Set it to keep or drop."
        )
    if len(known) > MOST:
        known = np.sort(np.random.default_rng(seed).choice(known, MOST, replace=False))

    def vectors(rows: np.ndarray) -> np.ndarray:
        return np.asarray(texts.embeds[texts.starts[rows]], dtype=np.float32)

    learned_from, truth = vectors(known), labels[known]
    # Of several processes one says it
    expected = expected_right(learned_from, truth, seed, threshold) if logger.isEnabledFor(logging.WARNING) else None
    classifier = _fitted(learned_from, truth)
    told = 0
    for rows in np.array_split(asked, -(-len(asked) // BLOCK)):
        found, sure = _told(classifier, vectors(rows), threshold)
        labels[rows[sure]] = found[sure]
        told += sure.sum()
    _report(int(told), int((labels == UNLABELLED).sum()), truth, expected, threshold)
    return with_labels(split, labels)


def _report(told: int, without: int, truth: np.ndarray, expected: float | None, threshold: float) -> None:
    """What came of it, before it is trained on; `truth` are the labels that were learned from."""
    logger.info(
        "unlabelled is pseudo_label: %d rows take the class that a logistic regression on %d labelled captions gives "
        "theirs; %s; %d rows stay without.",
        *(told, len(truth)),
        "how many are right is not known" if expected is None else f"about {expected:.0%} of them will be right",
        without,
    )
    if told == 0:
        logger.warning(
            "No caption tells a class with a probability of %g: set a lower --pseudo_label_threshold.", threshold
        )
    by_chance = np.unique(truth, return_counts=True)[1].max() / len(truth)
    if expected is not None and expected - by_chance < DOUBTFUL * (1 - by_chance):
        logger.warning(
            "Captions say little of the classes: by cross-validation %.0f%% of these labels are right, where always "
            "naming the most frequent class is right for %.0f%% of all images. Labels as wrong as that can cost more "
            "than they bring. Do captions belong to their images? Label more images; or try a higher "
            "--pseudo_label_threshold, which leaves fewer labels: of them, more have to be right. Compare with "
            "--unlabelled drop on validation.",
            *(100 * expected, 100 * by_chance),
        )


def expected_right(vectors: np.ndarray, labels: np.ndarray, seed: int, threshold: float = 0.0) -> float | None:
    """
    How often captions that are given a label will be given the right one, by cross-validation among those that have
    one: provided that they are a random sample of all. It learns from fewer, so that it is low where there are few.
    The only caption of a class is left out of it, as nothing else could tell that class.

    Args:
        vectors: (rows, D) text embeddings.
        labels: (rows,)
        seed: of the folds.
        threshold: probability below which a caption is given none.

    Returns:
        A share; None for fewer than ten rows, or where fewer than ten tell a class with the threshold's probability.
    """
    from sklearn.model_selection import KFold

    if len(labels) < FOLDS:
        return None
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    right = []
    for kept, left_out in KFold(FOLDS, shuffle=True, random_state=seed).split(vectors):
        left_out = left_out[counts[classes[left_out]] > 1]
        if len(left_out):
            found, sure = _told(_fitted(vectors[kept], labels[kept]), vectors[left_out], threshold)
            right.extend(found[sure] == labels[left_out[sure]])
        if len(labels) > ONCE:
            break
    return float(np.mean(right)) if len(right) >= FOLDS else None


def _told(classifier: ClassifierMixin, vectors: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The classes of captions (rows,), and which are as probable as the threshold (rows,)."""
    shares = classifier.predict_proba(vectors)
    return classifier.classes_[shares.argmax(1)], shares.max(1) >= threshold


def _fitted(vectors: np.ndarray, labels: np.ndarray) -> ClassifierMixin:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:  # which a fold can have
        return DummyClassifier().fit(vectors, labels)
    return LogisticRegression(C=C, max_iter=MAX_ITER).fit(vectors, labels)
