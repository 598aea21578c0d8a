"""Pseudo-labels: images without a label take the class that their captions tell."""

import logging

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.labels import UNLABELLED, labels_of, with_labels
from ..data.texts import Texts

logger = logging.getLogger(__name__)

C = 100.0  # of scikit-learn: weak, as for embeddings of unit norm
MAX_ITER = 1000
MOST = 50_000  # labelled rows that the classifier is fitted on; of more a sample is taken
BLOCK = 8192  # rows predicted at once


def with_pseudo_labels(split: Dataset, seed: int) -> Dataset:
    """
    Labels the rows of a training split that have a caption and no label, by a logistic regression on the text
    embeddings of those that have both (Lee, 2013, with captions in the place of images). Several captions of a row are
    averaged; a row whose `caption_weight` is zero takes no part and keeps its null.

    Args:
        split: with `text_embeds`, and perhaps `caption_weight`.
        seed: of the sample where there are very many labelled rows.

    Raises:
        ValueError: without text embeddings, or when captions of fewer than two classes are labelled.
    """
    from sklearn.linear_model import LogisticRegression

    if columns.TEXT_EMBEDS not in split.column_names:
        raise ValueError(
            "unlabelled is 'pseudo_label', but the training split has no text_embeds. Give --text_encoder, or embed "
            "the captions with recipes/embed.py."
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

    classifier = LogisticRegression(C=C, max_iter=MAX_ITER).fit(vectors(known), labels[known])
    found = [classifier.predict_proba(vectors(rows)) for rows in np.array_split(asked, -(-len(asked) // BLOCK))]
    labels[asked] = np.concatenate([classifier.classes_[shares.argmax(1)] for shares in found])
    logger.info(
        "unlabelled is pseudo_label: %d rows take the class that a logistic regression on %d labelled captions gives "
        "theirs, with a probability of %.0f%% on average; %d rows stay without.",
        *(len(asked), len(known), 100 * np.concatenate([shares.max(1) for shares in found]).mean()),
        (labels == UNLABELLED).sum(),
    )
    return with_labels(split, labels)
