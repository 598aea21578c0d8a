"""The report on each view: its weight in the decision, and how accurate it is alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..evaluation.estimate import Estimate, accuracy_of
from .calibration import Calibration, margins_of
from .likelihood import calibrate
from .view_model import ViewModel
from .views import Rows, Values


def weights_of(
    calibration: Calibration, logits: Sequence[np.ndarray], models: Sequence[ViewModel], names: Iterable[str]
) -> dict[str, float]:
    """By name of the view, its share of the scaled margins of all models, which gave these `logits` (n, C)."""
    margins = [
        margins_of(calibration.of_view(number, each)).mean() if len(each) else 0.0
        for number, each in enumerate(logits)
    ]
    weights = {}
    for name in names:
        pairs = zip(margins, models, strict=True)
        own = [margin / len(model.inputs) for margin, model in pairs if name in model.inputs]
        weights[name] = float(sum(own) / max(sum(margins), 1e-9))
    return weights


def accuracies_alone(
    models: Sequence[ViewModel],
    values: dict[str, Values],
    rows: Rows,
    of_rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    calibration: Calibration,
    log_prior: np.ndarray,
) -> dict[str, Estimate]:
    """
    By name of the view, for those with a held-out label.

    Args:
        of_rows: rows to estimate on; held-out rows (m,), their probabilities (m, C) given the label, and labels of
            each class (C,).
        calibration: of all views, for the share of wrong labels.
    """
    sample, judged, posterior, counts = of_rows
    labels, reviewed, estimates = rows.labels[judged], rows.reviewed[judged], {}
    for model in models:
        has, can_judge = (values[model.name].has[places] for places in (sample, judged))
        if not can_judge.any():
            continue
        in_all, in_judged = ([model.logits(values, places, rows.folds)] for places in (sample[has], judged[can_judge]))
        trusts = values[model.name].trusts(rows.labels)
        alone = calibrate(in_judged, labels[can_judge], log_prior, trusts, quick=True)
        probabilities = alone.probabilities(in_all)
        alone = replace(alone, share=calibration.share, interval=calibration.interval)
        of_view = posterior[can_judge], labels[can_judge], reviewed[can_judge], counts, probabilities
        held_out = alone.held_out(alone.probabilities(in_judged), *of_view)
        groups = rows.groups[judged[can_judge]]
        estimates[model.name] = accuracy_of(probabilities, replace(held_out, groups=groups))
    return estimates
