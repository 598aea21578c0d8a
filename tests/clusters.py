"""Clusters as views of rows, label models fitted on them, and how right and calibrated these are."""

from dataclasses import dataclass

import numpy as np
import pytest

from g4i_hf import LabelModel, View

CLASSES, DIM = 5, 16


def slowly(*values):
    """A case that `make test` leaves to the slow suite: fits of thousands of rows take seconds."""
    return pytest.param(*values, marks=pytest.mark.slow)


@dataclass
class Clusters:
    """
    A normal distribution a class, on the unit sphere.

    Attributes:
        x: (N, DIM) embeddings.
        truth: (N,) classes.
        y: (N,) labels, a share of which is wrong.
    """

    x: np.ndarray
    truth: np.ndarray
    y: np.ndarray


def clusters(
    number: int, spread: float = 2.0, wrong: float = 0.0, seed: int = 0, view: int = 0, shares=None
) -> Clusters:
    """
    `spread`: 1 is easy (19 of 20 can be told), 2 medium (7 of 10). Views of one seed are of the same rows. `shares` of
    the classes; equal ones by default.
    """
    rng = np.random.default_rng(seed)
    truth = rng.choice(CLASSES, size=number, p=shares)
    flipped = rng.permutation(number)[: round(wrong * number)]
    labels = truth.copy()
    labels[flipped] = (truth[flipped] + rng.integers(1, CLASSES, len(flipped))) % CLASSES
    rng = np.random.default_rng([seed, view])
    centres = rng.normal(size=(CLASSES, DIM))
    x = centres[truth] + spread * rng.normal(size=(number, DIM))
    return Clusters(x / np.linalg.norm(x, axis=1, keepdims=True), truth, labels)


def some_labels(truth: np.ndarray, *each: int) -> np.ndarray:
    """Labels of the first so many rows of each class; the others have none."""
    labels = np.full(len(truth), -100)
    for label, number in enumerate(each * CLASSES if len(each) == 1 else each):
        labels[np.flatnonzero(truth == label)[:number]] = label
    return labels


def views_of(captions: np.ndarray, images: np.ndarray | None = None, names: np.ndarray | None = None) -> dict:
    views = {"caption": View(captions, names, learns=False)}
    return views if images is None else views | {"image": View(images)}


def fitted(data: Clusters, labels=None, images=None, names=None, classes: int = CLASSES, **more) -> LabelModel:
    labels = data.y if labels is None else labels
    return LabelModel(classes).fit(views_of(data.x, images, names), labels, **more)


def means_of(data: Clusters) -> np.ndarray:
    """Near the centre of each class, as its name should be."""
    return np.stack([data.x[data.truth == label].mean(0) for label in range(CLASSES)])


def alone(model: LabelModel) -> list[float | None]:
    """Accuracy of each view."""
    return [line["accuracy"] for line in model.report_.values()]


def accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(1) == truth).mean())


def calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error of the predicted class."""
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == truth
    of = np.minimum((confidence * 10).astype(int), 9)
    return sum(abs(confidence[of == b].mean() - right[of == b].mean()) * (of == b).mean() for b in np.unique(of))


def seen_twice(number: int, *, shared: float, own: float) -> tuple[Clusters, np.ndarray]:
    """
    Captions and image features of the same rows, with noise of their own and noise that both share, as where a thing
    looks like one of another class.
    """
    data, rng = clusters(number, 0.0), np.random.default_rng(1)
    seen = data.x * 4 + shared * rng.normal(size=data.x.shape)
    captions, images = ((seen + own * rng.normal(size=seen.shape)) @ rng.normal(size=(DIM, DIM)) for _ in range(2))
    return Clusters(captions, data.truth, data.y), images
