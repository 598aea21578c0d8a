"""The page of `g4i fit`: accuracy of the classifier with its interval, accuracy of each view, and images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import softmax

from .. import columns
from ..data.texts import caption_lists
from ..names import LABELS_ONLY, WITH_VIEWS
from ..pages import thumbnail, write_page

PREDICTIONS, DOUBTS, SUSPICIOUS, CONFUSIONS = 12, 12, 12, 8  # at most as many are shown
RARELY = 0.02  # share of confusions from which they are shown


@dataclass
class Judged:
    """Images that judged, and the predictions of the released classifier for them."""

    images: Dataset  # n rows
    logits: np.ndarray  # (n, C)
    probabilities: np.ndarray  # (n, C) of the classes; one-hot for labels
    has_labels: bool  # whether these are labels


def write_fit_report(
    path: str | Path,
    title: str,
    verdict: Sequence[str],
    results: dict[str, Any],
    names: dict[str, str],
    judged: Judged,
    suspicious: Iterable[dict[str, Any]],
    classes: dict[int, str],
    settings: dict[str, Any],
) -> None:
    """
    Write the page, a single HTML file with its images. `results` are the fields of `FitResult`, `suspicious` cards of
    [`suspicious_cards`], `settings` are shown in a folded section.
    """
    accuracies = ((names.get(name), results[f"{name}_accuracy"], results[f"{name}_interval"]) for name in BARS)
    shown = [(name, share, interval) for name, share, interval in accuracies if share is not None]
    about = "Drawn at random from the images that judged." if len(judged.images) else ""
    reason = "Their label is another class" if judged.has_labels else "The views think of another class"
    write_page(
        path,
        title,
        "fit_report.html.j2",
        verdict=verdict,
        bars=[{"name": name, "share": share, "low": low, "high": high} for name, share, (low, high) in shown],
        views=results["views"],
        suspicious=list(suspicious),
        predictions=_predictions(judged, classes),
        about_pictures=about,
        doubts=_doubts(judged, classes),
        heading_of_doubts="Mistakes" if judged.has_labels else "Where classifier and views disagree",
        about_doubts=f"{reason}, where the classifier is surest of its own.",
        confusions=_confusions(judged, classes),
        estimated=not judged.has_labels,
        settings=settings,
    )


BARS = (LABELS_ONLY, WITH_VIEWS)


def suspicious_cards(
    images: Dataset, labels: np.ndarray, probabilities: np.ndarray, classes: dict[int, str]
) -> list[dict[str, Any]]:
    """Cards of rows whose most probable class, by out-of-fold probabilities (N, C), is not their label."""
    rows = suspicious_rows(labels, probabilities)[:SUSPICIOUS]
    suggested = probabilities[rows].argmax(1)
    remarks = [
        f"rather {classes[int(other)]}, {probabilities[row, other]:.0%}"
        for row, other in zip(rows, suggested, strict=True)
    ]
    return [
        _card(images, row, f"labelled {classes[int(labels[row])]}", [("wrong", line)])
        for row, line in zip(rows.tolist(), remarks, strict=True)
    ]


def suspicious_rows(labels: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """Rows whose label (N,), if any, is not the most probable class (N, C); the least probable labels first."""
    rows = np.flatnonzero((labels >= 0) & (posterior.argmax(1) != labels))
    return rows[np.argsort(posterior[rows, labels[rows]], kind="stable")]


def _predictions(judged: Judged, classes: dict[int, str]) -> list[dict[str, Any]]:
    rows = np.sort(np.random.default_rng(0).permutation(len(judged.images))[:PREDICTIONS])
    return [_predicted(judged, int(row), classes) for row in rows]


def _doubts(judged: Judged, classes: dict[int, str]) -> list[dict[str, Any]]:
    """Images where the most probable class is another one, sorted by the confidence of the classifier."""
    if not len(judged.images):
        return []
    predicted, score = judged.logits.argmax(1), softmax(judged.logits, axis=1).max(1)
    differ = np.flatnonzero(judged.probabilities.argmax(1) != predicted)
    doubt = score * judged.probabilities.max(1)
    rows = differ[np.argsort(-doubt[differ], kind="stable")][:DOUBTS]
    return [_predicted(judged, int(row), classes) for row in rows]


def _confusions(judged: Judged, classes: dict[int, str]) -> list[dict[str, Any]]:
    """Pairs of a true class and a class that is predicted for some of its images."""
    if not len(judged.images):
        return []
    number = judged.logits.shape[1]
    counts = judged.probabilities.T.astype(np.float64) @ np.eye(number)[judged.logits.argmax(1)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    pairs = np.argsort(-shares, axis=None, kind="stable")[:CONFUSIONS]
    top = [(int(pair) // number, int(pair) % number) for pair in pairs]
    return [
        {
            "true": classes[true],
            "predicted": classes[other],
            "images": counts[true].sum(),
            "share": shares[true, other],
        }
        for true, other in top
        if shares[true, other] > RARELY
    ]


def _predicted(judged: Judged, row: int, classes: dict[int, str]) -> dict[str, Any]:
    predicted, score = int(judged.logits[row].argmax()), float(softmax(judged.logits[row]).max())
    other, is_other = int(judged.probabilities[row].argmax()), judged.probabilities[row].argmax() != predicted
    lines = [("soft", f"{100 * score:.0f}% sure")]
    if judged.has_labels:
        lines.append(("wrong", f"is {classes[other]}") if is_other else ("right", "right"))
    elif is_other:
        lines.append(("wrong", f"views say {classes[other]}"))
    return _card(judged.images, row, classes[predicted], lines)


def _card(images: Dataset, row: int, title: str, lines: list[tuple[str, str]]) -> dict[str, Any]:
    captions = next(caption_lists(images.select([row])))
    return {
        "picture": {"uri": thumbnail(images, row), "alt": f"image of which is said: {title}"},
        "title": title,
        "lines": [{"kind": kind, "text": text} for kind, text in [*lines, ("soft", images[row][columns.IMAGE_ID])]],
        "caption": captions[0] if captions else "",
    }
