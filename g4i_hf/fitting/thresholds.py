"""Above which probability a fitted classifier answers by itself, by the images that judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from ..evaluation.decisions import (
    PRECISIONS,
    Decision,
    Judged,
    Point,
    by_labels,
    points,
    threshold_for,
)
from ..evaluation.estimate import HeldOut, effective_number, judged_by_probabilities, judged_in_turn
from ..names import ALL_LAYERS
from .judge import CrossValidation, Judge, OfSplit, Unlabelled

if TYPE_CHECKING:
    from .result import FitResult


def decisions_of(
    judge: Judge, name: str, logits: np.ndarray, most_gold: int | None = None
) -> tuple[list[Point], list[Decision]]:
    """
    Of a classifier with these logits (n, C) of the images that judge. Where all layers are trained, these images chose
    the weights, so that nothing is certain. Without anything that checks the probabilities, there is none. A sample is
    proposed if it has `most_gold` images at most.
    """
    if not len(judge.rows) or not judge.is_checked:
        return [], []
    probabilities, rows = softmax(logits, axis=1), np.arange(len(logits))
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    of_classes = judge.probabilities[rows, predicted].astype(np.float64)
    expected, judged, right = confidence, None, None
    if isinstance(judge, OfSplit):
        right = of_classes
        judged = by_labels(right, judge.groups)
    elif isinstance(judge, Unlabelled):
        expected = of_classes
        judged = _by_probabilities(judge, name, predicted)
    elif isinstance(judge, CrossValidation):
        judged = _in_turn(judge, name, confidence)
    judged = None if name == ALL_LAYERS else judged
    candidates = points(confidence, expected, predicted, judged, judge.groups, right)
    images = effective_number(judge.groups, np.ones(len(rows), dtype=bool))
    has_labels = isinstance(judge, OfSplit)
    decisions: list[Decision] = []
    for precision in PRECISIONS:
        least = max((each.threshold or 0.0 for each in decisions), default=0.0)
        decided = threshold_for(candidates, precision, images, has_labels=has_labels, least=least)
        if most_gold is not None and decided.gold and decided.gold > most_gold:
            decided.gold = None
        decisions.append(decided)
    return candidates, decisions


def _by_probabilities(judge: Unlabelled, name: str, predicted: np.ndarray) -> Judged:
    """Labelled rows that are answered rectify the mean probability of answered ones."""
    logits = judge.logits_of_held_out.get(name)

    def judged(answered: np.ndarray, threshold: float) -> tuple[float, float]:
        held_out, classes = None, None
        if judge.held_out is not None and logits is not None:
            shares = softmax(judge.factors.get(name, 1.0) * logits, axis=1)
            held_out = _rows_of(judge.held_out, chosen := shares.max(1) >= threshold)
            classes = {name: shares.argmax(1)[chosen]} if held_out is not None else None
        groups = None if judge.groups is None else judge.groups[answered]
        given = {name: predicted[answered]}, judge.probabilities[answered], held_out, classes, groups
        estimate = judged_by_probabilities(*given).accuracies[name]
        return estimate.share, estimate.interval[0] if classes else 0.0  # labels alone make it certain

    return judged


def _in_turn(judge: CrossValidation, name: str, confidence: np.ndarray) -> Judged:
    def judged(answered: np.ndarray, threshold: float) -> tuple[float, float]:
        held_out = judge.held_out and _rows_of(judge.held_out, answered)
        if held_out is None:
            return float(confidence[answered].mean()), 0.0
        estimate = judged_in_turn({name: judge.predicted[name][answered]}, held_out).accuracies[name]
        return estimate.share, estimate.interval[0]

    return judged


def _rows_of(held_out: HeldOut, chosen: np.ndarray) -> HeldOut | None:
    """None where too few are chosen to say anything."""
    if chosen.sum() < 2:
        return None
    weights = held_out.weights[chosen]
    of_rows: dict[str, Any] = {
        name: getattr(held_out, name)[chosen] for name in ("probabilities", "labels", "if_noisy")
    }
    groups = None if held_out.groups is None else held_out.groups[chosen]
    return replace(
        held_out,
        **of_rows,
        noise=held_out.noise[:, chosen],
        weights=weights / weights.sum(),
        groups=groups,
        of_classes=None,  # a precision is that of these answers, whatever their classes
    )


def picture_of(
    candidates: list[Point], classes: Mapping[int, str], decisions: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Lines for a drawing of 500 by 200, which begins at (50, 10); empty without a point."""
    if not candidates:
        return {}
    lowest = min(
        [0.9, *(point.precision for point in candidates), *(point.worst_precision or 1 for point in candidates)]
    )
    floor = np.floor(10 * lowest) / 10

    def place(share: float, precision: float) -> tuple[float, float]:
        return round(50 + 500 * share, 1), round(210 - 200 * (max(precision, floor) - floor) / (1 - floor), 1)

    def line(values: list[tuple[float, float | None]]) -> str:
        return " ".join("{},{}".format(*place(share, value)) for share, value in values if value is not None)

    by_share = {point.share: point for point in candidates}
    chosen = [each for each in decisions if each["share"] in by_share]
    return {
        "rows": [(round(100 * value), place(0, value)[1]) for value in np.linspace(floor, 1, 5)],
        "columns": [(round(100 * value), place(value, 1)[0]) for value in np.linspace(0, 1, 5)],
        "precision": line([(point.share, point.precision) for point in candidates]),
        "low": line([(point.share, point.low) for point in candidates if point.low > floor]),
        "worst": line([(point.share, point.worst_precision) for point in candidates]),
        "worst_class": classes.get(candidates[-1].worst_class, "") if candidates[-1].worst_class is not None else "",
        "chosen": [
            (*place(each["share"], by_share[each["share"]].precision), f"{each['precision']:.0%}") for each in chosen
        ],
    }


def in_words(result: FitResult, label: str | None = None) -> list[str]:
    """What it answers at the usual precision; `label`: words after `g4i label`, for images on disk."""
    known = {decision["precision"]: decision for decision in result.decisions}
    usual = known.get(0.95)
    if usual is None:
        return []
    more = ""
    if not usual["certain"] and usual["gold"]:
        how = f": g4i label {label} --pick gold --n {usual['gold']}" if label else ""
        more = f" {usual['gold']:,} gold answers would make it certain{how}."
    if usual["threshold"] is None:
        return [f"No threshold is known above which 95% of its answers are right.{more}"]
    low, high = (f"{100 * end:.0f}" for end in usual["interval"])
    sentence = f"At 95% it answers {usual['share']:.0%} of images like yours ({low} to {high})"
    unreviewed = "" if usual["certain"] else " Unreviewed: by probabilities alone."
    return [f"{sentence}, {1 - usual['share']:.0%} are left to you: g4i predict.{unreviewed}{more}"]
