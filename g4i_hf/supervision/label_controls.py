"""Controls of a study on labels of the training split: fewer, wrong, long-tailed."""

import hashlib
import logging
from collections.abc import Iterator

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.checks import UNLABELLED, labels_of, with_labels
from ..data.texts import Texts

logger = logging.getLogger(__name__)


def keep_label_fraction(split: Dataset, fraction: float, seed: int) -> Dataset:
    """
    Keeps the labels of a share of each class, rounded, of at least one row; the others become null. Of a share of 0,
    all become null.

    Rows are ranked by a hash of the seed and their `image_id`: the choice depends neither on the order of the rows nor
    on other classes, and labels of a smaller fraction are among those of a larger one.

    Args:
        split: rows with `image_id`, and perhaps `label`. Unlabelled ones are not counted.
        fraction: in [0, 1].
    """
    labels = labels_of(split)
    if fraction >= 1 or not (labels >= 0).any():
        return split
    kept = np.full(len(split), UNLABELLED)
    for label, rows, _ in _ranked(split, labels, seed):
        kept[rows[: max(1, int(fraction * len(rows) + 0.5)) if fraction else 0]] = label
    logger.info(
        "label_fraction is %g: %d of %d labels of training are kept, the other rows are unlabelled.",
        *(fraction, (kept >= 0).sum(), (labels >= 0).sum()),
    )
    return with_labels(split, kept)


def with_label_noise(split: Dataset, rate: float, seed: int, num_labels: int, kind: str = "symmetric") -> Dataset:
    """
    Makes a share of the labels of each class wrong, drawn as in [`keep_label_fraction`]: the wrong labels of a lower
    rate are among those of a higher one.

    Args:
        split: rows with `image_id` and `label`; with `text_embeds` for `confusable`.
        rate: share of the labels, in [0, 1).
        kind: `symmetric`, any other class with equal probability; or `confusable`, the class with the nearest mean of
            text embeddings.
    """
    labels = labels_of(split)
    if rate <= 0 or not (labels >= 0).any():
        return split
    likely = _most_alike(split, labels, num_labels) if kind == "confusable" else None
    found = labels.copy()
    for label, rows, ranks in _ranked(split, labels, seed):
        wrong = int(rate * len(rows) + 0.5)
        shift = 1 + (ranks[:wrong] >> np.uint64(8)) % np.uint64(num_labels - 1)  # 1 to C - 1
        found[rows[:wrong]] = (label + shift.astype(np.int64)) % num_labels if likely is None else likely[label]
    logger.info("label_noise_rate is %g: %d labels of training are made wrong.", rate, (found != labels).sum())
    return with_labels(split, found)


def with_long_tail(split: Dataset, factor: float, seed: int) -> Dataset:
    """
    Keeps of class k of C the share factor ** (-k / (C - 1)), of at least one row: the long tail of Cao et al. (2019,
    arXiv 1906.07413). Rows without a label stay.

    Args:
        split: rows with `image_id` and `label`.
        factor: images of the first class over those of the last, of classes of equal size.
    """
    labels = labels_of(split)
    classes = np.unique(labels[labels >= 0])
    if factor <= 1 or len(classes) < 2:
        return split
    kept = [np.flatnonzero(labels < 0)]
    for label, rows, _ in _ranked(split, labels, seed):
        share = factor ** (-label / max(classes.max(), 1))
        kept.append(rows[: max(1, int(share * len(rows) + 0.5))])
    rows = np.sort(np.concatenate(kept))
    logger.info("long_tail_factor is %g: %d of %d training rows are kept.", factor, len(rows), len(split))
    return split.select(rows)


def _ranked(split: Dataset, labels: np.ndarray, seed: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Label, rows in the order of their ranks, and ranks of each class: uint64 of the seed and `image_id` alone."""
    texts = [f"{seed} {image_id}".encode() for image_id in split[columns.IMAGE_ID][:]]
    hashes = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    ranks = np.frombuffer(b"".join(hashes), dtype="<u8")
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(ranks[rows])]
        yield label, rows, ranks[rows]


def _most_alike(split: Dataset, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(C,) for each class the other one with the nearest mean of text embeddings, by cosine."""
    texts = Texts.of(split, "mean")
    if texts is None:
        raise ValueError("label_noise_kind is 'confusable', which needs captions that are embedded.")
    rows = np.flatnonzero((texts.counts > 0) & (labels >= 0))
    means = np.zeros((num_labels, texts.embeds.shape[1]), dtype=np.float32)
    for label in np.unique(labels[rows]):
        means[label] = texts.embeds[texts.starts[rows[labels[rows] == label]]].astype(np.float32).mean(0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    alike = means @ means.T
    np.fill_diagonal(alike, -np.inf)
    alike[:, ~np.isin(np.arange(num_labels), labels[rows])] = -np.inf  # classes without captions
    return alike.argmax(1)
