"""The report of `g4i fit`: one HTML file with its verdict, and the images that judged."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import softmax

from .. import columns
from ..data.texts import visible_texts
from ..evaluation.decisions import Point
from ..evaluation.report import shortened
from ..label_model.picks import suspicious_rows
from ..pages import Shown, thumbnail, write_page
from . import words
from .judge import Judge
from .result import FitResult
from .rounds import curve_of, rounds_of
from .thresholds import in_words, picture_of

PREDICTIONS, DOUBTS, SUSPICIOUS, CONFUSIONS = 12, 12, 12, 8  # at most as many are shown
RARELY = 0.02  # share of confusions from which they are shown


def write_fit_report(
    path: str | Path,
    title: str,
    result: FitResult,
    judge: Judge,
    logits: np.ndarray,
    judging: Dataset,
    suspicious: Iterable[Shown],
    classes: dict[int, str],
    settings: dict[str, Any],
    points: list[Point],
) -> None:
    """
    Write the page, a single HTML file with its images. `judging` are the images of the judge, `logits` (n, C) of the
    released classifier for them, `suspicious` cards of [`suspicious_cards`], `settings` are shown in a folded section.
    `points` are the precision of its answers.
    """
    about = "A random sample of the evaluation images." if len(judging) else ""
    has_labels = judge.has_labels
    reason = "Their label is another class" if has_labels else "The views predict another class"
    predicted, likeliest, score = logits.argmax(1), judge.probabilities.argmax(1), softmax(logits, axis=1).max(1)
    drawn = np.sort(np.random.default_rng(0).permutation(len(judging))[:PREDICTIONS])
    differ = np.flatnonzero(likeliest != predicted)
    doubt = (score * judge.probabilities.max(1))[differ]

    def card(row: int) -> Shown:
        lines, other = [("soft", f"{100 * score[row]:.0f}% sure")], classes[int(likeliest[row])]
        is_other = likeliest[row] != predicted[row]
        if has_labels:
            lines.append(("wrong", f"is {other}") if is_other else ("right", "right"))
        elif is_other:
            lines.append(("wrong", f"views say {other}"))
        return _card(judging, row, classes[int(predicted[row])], lines)

    write_page(
        path,
        title,
        "fit_report.html.j2",
        verdict=words.judgement_lines(result),
        bars=words.accuracy_bars(result),
        views=result.views,
        suspicious=list(suspicious),
        predictions=[card(row) for row in drawn.tolist()],
        about_pictures=about,
        doubts=[card(row) for row in differ[np.argsort(-doubt, kind="stable")][:DOUBTS].tolist()],
        heading_of_doubts="Mistakes" if has_labels else "Where classifier and views disagree",
        about_doubts=f"{reason}, where the classifier is most confident.",
        confusions=_confusions(predicted, judge.probabilities, classes),
        estimated=not has_labels,
        settings=settings,
        decisions=in_words(result),
        picture=picture_of(points, classes, result.decisions),
        curve=curve_of(rounds_of(result.classifier.parent)),
    )


def suspicious_cards(
    images: Dataset, labels: np.ndarray, probabilities: np.ndarray, classes: dict[int, str]
) -> list[Shown]:
    """Cards of rows whose most probable class, by out-of-fold probabilities (N, C), is not their label."""
    cards = []
    for row in suspicious_rows(labels, probabilities)[:SUSPICIOUS].tolist():
        other = int(probabilities[row].argmax())
        remark = f"rather {classes[other]}, {probabilities[row, other]:.0%}"
        cards.append(_card(images, row, f"labelled {classes[int(labels[row])]}", [("wrong", remark)]))
    return cards


def _confusions(predicted: np.ndarray, probabilities: np.ndarray, classes: dict[int, str]) -> list[dict[str, Any]]:
    """Pairs of a class (n, C) and another that is predicted (n,) for some of its images."""
    number = len(classes)
    counts = probabilities.T.astype(np.float64) @ np.eye(number)[predicted]
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


def _card(images: Dataset, row: int, title: str, lines: list[tuple[str, str]]) -> Shown:
    item = images[row]
    captions = visible_texts(item.get(columns.CAPTION))
    texts = [item[columns.IMAGE_ID], *(shortened(caption) for caption in captions[:1])]
    return Shown(thumbnail(images, row), title, [*lines, *(("soft", text) for text in texts)])
