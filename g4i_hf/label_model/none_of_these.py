"""Images that none of the classes explains: how many there are among the unlabelled, and which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import priors
from ..evaluation.estimate import Estimate
from ..linear import balanced_regression, has_vote, one_hot
from .view_model import ViewModel
from .views import BLOCK, FOLDS, Rows, Values

SAMPLES = 50  # bootstrap samples of the labelled rows, for the interval of the share
STEPS = 100  # of expectation maximisation
MOST_COMPARED = 20_000  # rows of each kind


def weights_of_unlabelled(none: np.ndarray) -> np.ndarray:
    """(n,) how much a student learns from rows with these probabilities of no class; squared, it learns better."""
    return (1 - none.astype(np.float32)) ** priors.POWER_OF_KNOWN


def explained(logits: np.ndarray, without: np.ndarray | None = None) -> np.ndarray:
    """
    (n,) how well the most probable class explains a row: by how much its logit (n, C) of a view exceeds the mean of
    all classes. `without` (n,) is a class of each row that is left out. NaN for a row without a value, of which all
    logits are 0.
    """
    known = has_vote(logits)
    has_value = logits.any(1)
    if without is not None:
        known[np.arange(len(logits)), without] = False
    highest = np.where(known, logits, -np.inf).max(1)
    excess = highest - np.where(known, logits, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(has_value & np.isfinite(highest), excess, np.nan)


def explained_by_all(explained: np.ndarray) -> np.ndarray:
    """(n,) of what [`explained`] says of each view (n, V), in comparison with the other rows; 0 is the mean."""
    has = np.isfinite(explained)
    number = np.maximum(has.sum(0), 1)
    from_mean = np.where(has, explained, 0) - has * np.where(has, explained, 0).sum(0) / number
    deviation = np.sqrt((from_mean**2).sum(0) / number)
    return (from_mean / np.maximum(deviation, 1e-9)).sum(1)


def how_explained(
    models: Sequence[ViewModel], values: dict[str, Values], rows: Rows, judged: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    What [`none_of_these`] takes, of these `judged` rows. A model of a fold predicts unlabelled rows: it has seen as
    many labels as that of a held-out row.
    """
    unlabelled = np.flatnonzero(rows.labels < 0)
    model_of = np.where(rows.labels < 0, np.arange(len(rows.labels)) % FOLDS, rows.folds)
    labelled, hidden, unknown = [], [], []
    for model in models:
        logits = model.logits(values, judged, model_of)
        labelled.append(explained(logits))
        hidden.append(explained(logits, rows.labels[judged]))
        blocks = (unlabelled[start : start + BLOCK] for start in range(0, len(unlabelled), BLOCK))
        unknown.append(np.concatenate([explained(model.logits(values, block, model_of)) for block in blocks]))
    return np.stack(labelled, 1), np.stack(hidden, 1), rows.labels[judged], np.stack(unknown, 1)


def none_of_these(
    labelled: np.ndarray, hidden: np.ndarray, classes: np.ndarray, unlabelled: np.ndarray, seed: int
) -> tuple[np.ndarray, Estimate]:
    """
    What belongs to no class looks like a labelled row whose own class is hidden. A logistic regression separates these
    from the same rows with their class; the share of such rows among the unlabelled is the likeliest one (expectation
    maximisation for a shift of the prior: Saerens et al., Neural Computation 14, 2002).

    Args:
        labelled: (m, V) how well each view explains labelled rows, by models that were not fitted on their label; a
            view that no labelled row has is ignored.
        hidden: (m, V) the same rows without their class.
        classes: (m,) that class. Classes are sampled, as rows of some look explained by another class that is like it.
        unlabelled: (n, V), by models that were fitted on as many labels.
        seed: of the bootstrap samples of the labelled rows.

    Returns:
        (n,) the probability that no class explains an unlabelled row, by the lower end of the interval; the share of
            such rows, and its 95% interval by other draws of the labels. It is rather too low: a class that is hidden
            has still taught the others to keep away from it.
    """
    has_view = np.isfinite(labelled).any(axis=0)
    mean, deviation = np.nanmean(labelled[:, has_view], axis=0), np.nanstd(labelled[:, has_view], axis=0) + 1e-6
    labelled, hidden, unlabelled = (
        np.nan_to_num((each[:, has_view] - mean) / deviation).astype(np.float32)
        for each in (labelled, hidden, unlabelled)
    )
    generator = np.random.default_rng(seed)
    sample = unlabelled[:: -(-len(unlabelled) // MOST_COMPARED)]
    shares = []
    for drawn in range(SAMPLES + 1):
        rows = np.arange(len(labelled)) if not drawn else _of_some_classes(classes, generator)
        log_odds = _log_odds_of_none(labelled[rows[:MOST_COMPARED]], hidden[rows[:MOST_COMPARED]])
        shares.append(_share(log_odds(sample)))
        if not drawn:
            of_all = log_odds(unlabelled)
    low, high = np.quantile(shares[1:], [0.025, 0.975])
    share = float(np.clip(shares[0], low, high))
    return _posterior(_odds(of_all), low), Estimate(share, (float(low), float(high)))


def _of_some_classes(classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A bootstrap sample of the classes, and of the rows in each."""
    of_class = [np.flatnonzero(classes == label) for label in np.unique(classes)]
    chosen = [of_class[place] for place in generator.integers(len(of_class), size=len(of_class))]
    return np.concatenate([generator.choice(rows, len(rows)) for rows in chosen])


def _log_odds_of_none(labelled: np.ndarray, hidden: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(n, V) -> (n,) log odds that a row is of no class, where as many are as are not."""
    x, y = np.concatenate([labelled, hidden]), np.repeat([0, 1], len(labelled))
    weight, bias = balanced_regression(x, one_hot(y, 2), priors.AUXILIARY_C, np.ones(x.shape[1], dtype=np.float32))
    return lambda rows: rows @ (weight[:, 1] - weight[:, 0]) + bias[1] - bias[0]


def _odds(log_odds: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(log_odds, -30, 30))


def _posterior(odds: np.ndarray, share: float) -> np.ndarray:
    """`odds`: where as many are of no class as are not."""
    odds = odds * share / max(1 - share, 1e-9)
    return odds / (1 + odds)


def _share(log_odds: np.ndarray) -> float:
    odds, share = _odds(log_odds), 0.5
    for _ in range(STEPS):
        share = float(_posterior(odds, share).mean())
    return share
