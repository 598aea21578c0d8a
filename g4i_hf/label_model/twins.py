"""Labels of almost the same image as other labels, which tell nothing of unlabelled rows that have no such twin."""

from __future__ import annotations

import numpy as np

from .. import priors
from .views import Rows, Values

MOST = 1_000  # rows of a class that others are compared with, and unlabelled rows that are compared


def typical_rows(values: dict[str, Values], rows: Rows) -> np.ndarray:
    """
    (N,) all rows but held-out labels with a twin, where more of them have one than unlabelled rows do. A twin is a
    label of another fold that is far nearer, by image features, than labels of a class are to each other. Such
    rows are frames of a clip whose other frames were learned, where unlabelled rows are of new clips.
    """
    typical, judged, unlabelled = np.ones(len(rows.labels), dtype=bool), rows.judged, np.flatnonzero(rows.labels < 0)
    for view in (each for each in values.values() if each.self_trains):
        places = judged[view.has[judged]]
        nearest, usual = _nearest_of_class(view, rows, places)
        has_twin = nearest < priors.NEAR_TWIN * usual
        sample = unlabelled[view.has[unlabelled]][:MOST]
        if not len(sample) or not has_twin.any():
            continue
        to_labels = np.concatenate(
            [_distances(view.x[sample], view.x[part]).min(1)[None] for part in _parts(places)]
        ).min(0)
        share = float((to_labels < priors.NEAR_TWIN * usual).mean())
        twins = places[has_twin]
        expected = np.ceil(share / max(1 - share, 1e-9) * (len(places) - len(twins)))
        typical[twins[int(min(expected, len(twins))) :]] = False
    return typical


def _nearest_of_class(view: Values, rows: Rows, places: np.ndarray) -> tuple[np.ndarray, float]:
    """(n,) of these rows, the distance to the nearest one of its class in another fold, and the median of all such."""
    nearest, medians = np.full(len(places), np.inf), []
    for label in np.unique(rows.labels[places]):
        of_class = np.flatnonzero(rows.labels[places] == label)
        some, others = places[of_class], places[of_class[:MOST]]
        distances = _distances(view.x[some], view.x[others])
        is_other = rows.folds[some][:, None] != rows.folds[others]
        nearest[of_class] = np.where(is_other, distances, np.inf).min(1)
        medians += [np.median(distances[is_other])] if is_other.any() else []
    return nearest, float(np.median(medians)) if medians else 0.0


def _parts(places: np.ndarray) -> list[np.ndarray]:
    return [places[start : start + MOST] for start in range(0, len(places), MOST)]


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    squared = (some**2).sum(1)[:, None] + (others**2).sum(1) - 2 * some @ others.T
    return np.sqrt(np.maximum(squared, 0))
