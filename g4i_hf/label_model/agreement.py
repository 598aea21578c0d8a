"""Views that judge each other: their accuracies without held-out labels, and labels that two views contradict."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import binomtest

from .. import priors
from ..linear import balanced_regression, one_hot
from .likelihood import calibrate
from .views import Rows, Values


def learned_by(view: Values, rows: np.ndarray, predicted: np.ndarray, num_labels: int) -> np.ndarray:
    """(n, C) logits of these rows, by a view that learns the predicted classes (n,) of the other half."""
    x, half = view.x[rows], np.arange(len(rows)) % 2
    learned = np.empty((len(rows), num_labels), dtype=np.float32)
    for part in (0, 1):
        taught, left = half != part, half == part
        weight, bias = balanced_regression(
            x[taught], one_hot(predicted[taught], num_labels), priors.AUXILIARY_C, view.space.variances
        )
        learned[left] = x[left] @ weight + bias
    return learned


def mean_recall(predicted: np.ndarray, learned: np.ndarray, num_labels: int) -> float:
    hits, counts = (np.bincount(of, minlength=num_labels) for of in (predicted[learned == predicted], predicted))
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def chance_of(first: np.ndarray, second: np.ndarray, num_labels: int) -> float:
    """Probability that two predictions (n,) are equal if they are independent."""
    shares = [np.bincount(of, minlength=num_labels) / len(of) for of in (first, second)]
    return min(float(shares[0] @ shares[1]), 1.0)


def by_chance(first: np.ndarray, second: np.ndarray, num_labels: int) -> float:
    """Probability that two predictions (n,) are equal as often as they are, or more often, if they are independent."""
    expected = chance_of(first, second, num_labels)
    return float(binomtest(int((first == second).sum()), len(first), expected, alternative="greater").pvalue)


def cohens_kappa(first: np.ndarray, second: np.ndarray, chance: float) -> float:
    """From the share of equal predictions (n,): 0 if that is by chance, 1 if all are equal."""
    return float(((first == second).mean() - chance) / max(1 - chance, 1e-6))


def accuracies_by_each_other(
    logits: list[np.ndarray], views: list[Values], learners: list[Values], sample: np.ndarray, rows: Rows
) -> tuple[list[float], dict[tuple[int, int], bool]]:
    """
    Where another view is sure of what it learned from a view, it is right, and contradicts the view where that errs
    (anchor points: Patrini et al., arXiv 1609.03683). So each view learns the predictions of each other one on half of
    the rows, image features too. It is asked about the quarter of the others of which it is surest: the share of equal
    predictions estimates the accuracy of the view that taught. The highest of the estimates by several views counts.
    It is too high where errors follow a rule that can be learned as well, as in models of another field. But these
    agree too rarely with other views; see [`_likeliest`]. Views of the same source do not judge each other.

    Args:
        logits: (n, C) of each view, for the rows of the sample.
        views: their values.
        learners: the values of all views, also of those without an example of a class.
        sample: (n,) numbers of the rows to compare.
        rows: all of them, with the labels.

    Returns:
        The accuracy of each view; and for each pair of a view with names of classes and one without, by their numbers,
        whether either learns anything of the other. Captions of other images and image features do not. Pairs with too
        few rows are missing.
    """
    number, num_labels = len(views), logits[0].shape[1]
    of_classes = priors.MIN_ROWS_IN_COMMON_A_CLASS * num_labels
    enough = min(max(priors.MIN_ROWS_IN_COMMON, of_classes), priors.ENOUGH_ROWS_IN_COMMON)
    predicted, in_common = [of_view.argmax(1) for of_view in logits], dict[tuple[int, int], bool]()
    places, is_named = {view.name: place for place, view in enumerate(views)}, [view.is_named.any() for view in views]
    surest = np.full(number, np.nan)
    for teacher, learner in product(range(number), learners):
        both = np.flatnonzero(views[teacher].has[sample] & learner.has[sample])
        if views[teacher].source == learner.source or len(both) < 2:
            continue
        taught = predicted[teacher][both]
        learned = learned_by(learner, sample[both], taught, num_labels)
        other = places.get(learner.name)
        if other is not None and len(both) >= enough and is_named[teacher] != is_named[other]:
            pair = (teacher, other) if is_named[teacher] else (other, teacher)
            chance = by_chance(taught, learned.argmax(1), num_labels)
            in_common[pair] = in_common.get(pair, False) or chance < priors.ALPHA_IN_COMMON
        sure = _surest_of(learned)
        equal = cohens_kappa(taught[sure], learned[sure].argmax(1), chance_of(taught, taught, num_labels))
        surest[teacher] = np.nanmax([surest[teacher], equal])
    recognised = np.clip(np.nan_to_num(surest, nan=0.5), 0.01, 0.99)
    judges = np.flatnonzero(is_named) if any(is_named) else np.arange(number)
    kappas, hits = np.full((number, number), np.nan), np.array([hits_of_names(view, rows) for view in views])
    for first, second in permutations(range(number), 2):
        both = views[first].has[sample] & views[second].has[sample]
        if both.sum() > 1 and views[first].source != views[second].source:
            of_first, of_second = predicted[first][both], predicted[second][both]
            kappas[first, second] = cohens_kappa(of_first, of_second, chance_of(of_first, of_second, num_labels))
    recognised[judges] = _likeliest(recognised[judges], kappas[np.ix_(judges, judges)], hits[judges], num_labels)
    best = judges[recognised[judges].argmax()]
    others = np.setdiff1d(np.arange(number), judges)
    of_others = kappas[others, best] / max(recognised[best], 0.5)  # a view that tells less says nothing of others
    recognised[others] = np.clip(np.nan_to_num(of_others, nan=0.5), 0.01, 0.99)
    return list(recognised + (1 - recognised) / num_labels), in_common


def _likeliest(surest: np.ndarray, kappas: np.ndarray, hits: np.ndarray, num_labels: int) -> np.ndarray:
    """
    (V,) shares of the rows whose class each view recognises; of the others it draws one. If errors are independent,
    Cohen's kappa of two views is the product of their shares. The shares are the likeliest by this, labels, and what
    other views learned, which says less of a view, the more these contradict it.

    Args:
        surest: (V,) shares as other views learned them.
        kappas: (V, V) Cohen's kappas, NaN where two views have no row in common.
        hits: (V, 2) labels that the nearest name predicts, and all.
    """
    first, second = np.nonzero(np.triu(np.isfinite(kappas), 1))
    spread = priors.STD_OF_AGREEMENT + 1 - surest
    right, wrong = hits[:, 0], hits[:, 1] - hits[:, 0]

    def loss(log_odds: np.ndarray) -> float:
        recognised = expit(log_odds)
        misfits = (recognised[first] * recognised[second] - kappas[first, second]) / priors.STD_OF_AGREEMENT
        accuracies = recognised + (1 - recognised) / num_labels
        of_labels = right * np.log(accuracies) + wrong * np.log(1 - accuracies)
        # Cauchy's distribution: errors that can be learned may be any number
        of_surest = np.log1p(((recognised - surest) / spread) ** 2)
        return float((misfits**2).sum() / 2 + of_surest.sum() - of_labels.sum())

    # Either of two views that contradict each other may be the one that errs
    starts = [surest, *(np.where(np.arange(len(surest)) == view, surest, 0.1) for view in range(len(surest)))]
    bounds = [(logit(0.01), logit(0.995))] * len(surest)
    results = [minimize(loss, logit(start), bounds=bounds, method="L-BFGS-B") for start in starts]
    return expit(min(results, key=lambda result: result.fun).x)


def hits_of_names(view: Values, rows: Rows) -> tuple[int, int]:
    """How many labelled rows have the class of the nearest name, and how many have a label with a name."""
    known = rows.known[view.has[rows.known]]
    known = known[view.is_named[rows.labels[known]]]
    return int(((view.x[known] @ view.names.T).argmax(1) == rows.labels[known]).sum()), len(known)


def names_tell_labels(view: Values, rows: Rows) -> bool | None:
    """Whether the nearest name is the label of more rows than by chance; None if too few rows have a label."""
    known = rows.known[view.has[rows.known]]
    labels, nearest = rows.labels[known], (view.x[known] @ view.names.T).argmax(1)
    if not len(known) or by_chance(labels, labels, len(view.names)) >= priors.ALPHA_OF_NAMES:
        return None
    return by_chance(nearest, labels, len(view.names)) < priors.ALPHA_OF_NAMES


def contradicted(views: list[Values], in_common: Mapping[tuple[int, int], bool], rows: Rows) -> list[str]:
    """
    Views to leave out. Where a view with names of classes and one without have nothing in common, labels decide. The
    former is left out if its names do not tell the labels, the latter if they do. `in_common` is that of
    [`accuracies_by_each_other`].
    """
    confirmed = {number for pair, shared in in_common.items() for number in pair if shared}
    named, nameless = ({pair[place] for pair in in_common} - confirmed for place in (0, 1))
    tell = {number: names_tell_labels(views[number], rows) for number in sorted(named)}
    left_out = [number for number, tells in tell.items() if tells is False]
    left_out += sorted(nameless) if True in tell.values() else []
    return [views[number].name for number in left_out]


def able_to_learn(
    views: Mapping[str, Values], rows: np.ndarray, predicted: np.ndarray, num_labels: int
) -> tuple[str, ...]:
    """Names of the views whose recall of the predicted classes (n,) is at least half of the best."""
    recalls = {}
    for name, view in views.items():
        has = view.has[rows]
        learned = learned_by(view, rows[has], predicted[has], num_labels) if has.sum() > 1 else None
        recalls[name] = 0.0 if learned is None else mean_recall(predicted[has], learned.argmax(1), num_labels)
    return tuple(name for name, recall in recalls.items() if recall >= priors.MIN_RECALL * max(recalls.values()))


def label_errors_follow_ambiguity(
    held_out: list[np.ndarray], views: list[Values], rows: np.ndarray, labels: np.ndarray
) -> bool | None:
    """
    Whether labels that a view contradicts are wrong. In the clearest fifth of the contradictions, another view prefers
    the class of the first one to the label more often than not. If the view erred, the other would prefer the label,
    unless both err alike: two image encoders do, and so do texts of one model. So only a view that self-trains and
    one that does not are compared. None where too few rows decide.

    Args:
        held_out: (n, C) logits of each view.
        views: their values; `rows` (n,) are the numbers of the rows to compare.
        labels: (n,) class indices.
    """
    decided: bool | None = False
    for view, other in permutations(range(len(views)), 2):
        if views[view].self_trains == views[other].self_trains:
            continue
        predicted = held_out[view].argmax(1)
        places = np.flatnonzero((predicted != labels) & views[view].has[rows] & views[other].has[rows])
        lead = held_out[view][places, predicted[places]] - held_out[view][places, labels[places]]
        clearest = places[np.argsort(lead)[len(places) - int(priors.CLEAREST_CONTRADICTIONS * len(places)) :]]
        if not len(clearest):
            continue
        sides = held_out[other][clearest, predicted[clearest]] > held_out[other][clearest, labels[clearest]]
        if binomtest(int(sides.sum()), len(sides)).proportion_ci(method="wilson").low > 0.5:
            return True
        if sides.mean() > 0.5:
            decided = None
    return decided


def noise_of_anchors(
    held_out: list[np.ndarray], views: list[Values], rows: Rows, log_prior: np.ndarray
) -> tuple[float, tuple[float, float]] | None:
    """
    The share of wrong labels by anchors, rows that two views of different sources are sure of. Two classes with
    swapped labels look like two classes that a view confuses. But where two views are sure, they do not confuse the
    classes, while labels are swapped there too (Patrini et al., arXiv 1609.03683).

    Args:
        held_out: (judged, C) logits of each view.

    Returns:
        The mean share over all pairs of views, in both orders, and the union of their 95% intervals. None if anchors
        have clearly fewer contradictions than all rows, are too few, or no pair of views tells the classes.
    """
    pairs = [
        _noise_of_pair(held_out[first], views[first], views[second], rows, log_prior)
        for first, second in permutations(range(len(views)), 2)
        if views[first].source != views[second].source
    ]
    estimates = [pair for pair in pairs if pair is not None]
    if not estimates:
        return None
    shares, lows, highs = zip(*estimates, strict=True)
    may_be_wrong = float((~rows.reviewed[rows.judged]).mean())
    return may_be_wrong * float(np.mean(shares)), (may_be_wrong * min(lows), may_be_wrong * max(highs))


def _noise_of_pair(
    first_logits: np.ndarray, first: Values, other: Values, rows: Rows, log_prior: np.ndarray
) -> tuple[float, float, float] | None:
    """`other` learns in two halves the judged rows whose label the first view confirms."""
    judged, num_labels = rows.judged, first_logits.shape[1]
    labels, has = rows.labels[judged], first.has[judged] & other.has[judged] & ~rows.reviewed[judged]
    calibration = calibrate([first_logits], labels, log_prior, first.trusts(rows.labels), quick=True)
    predicted = calibration.probabilities([first_logits]).argmax(1)
    agree, half = predicted == labels, rows.folds[judged] % 2
    learned = np.zeros(first_logits.shape, dtype=np.float32)
    for part in (0, 1):
        taught = judged[agree & has & (half != part)]
        if len(np.unique(rows.labels[taught])) < 2:
            return None
        weight, bias = balanced_regression(
            other.x[taught], one_hot(rows.labels[taught], num_labels), priors.AUXILIARY_C, other.space.variances
        )
        learned[half == part] = other.x[judged[half == part]] @ weight + bias
    if (learned.argmax(1) == labels)[agree & has].mean() < 1 / num_labels + priors.MIN_SKILL * (1 - 1 / num_labels):
        return None  # the other view is less than halfway from chance to always right
    sure = np.zeros(len(labels), dtype=bool)
    for label in np.unique(predicted):
        agreed = np.flatnonzero((predicted == label) & (learned.argmax(1) == label) & has)
        ranks = [_lead(logits[agreed]).argsort().argsort() for logits in (first_logits, learned)]
        sure[agreed[np.minimum(*ranks).argsort()[len(agreed) - int(priors.SUREST_ROWS * len(agreed)) :]]] = True
    if sure.sum() < priors.MIN_ANCHORS:
        return None
    share = float((~agree[sure]).mean())
    if share <= priors.MIN_SHARE_OF_ANCHORS * (~agree[has]).mean():
        return None
    low, high = binomtest(int((~agree[sure]).sum()), int(sure.sum())).proportion_ci(method="wilson")
    return share, float(low), float(high)


def _surest_of(logits: np.ndarray) -> np.ndarray:
    """(m,) numbers of the rows: of each predicted class, the quarter of which these logits (n, C) are surest."""
    predicted, lead = logits.argmax(1), _lead(logits)
    ordered = [
        rows[np.argsort(-lead[rows])] for rows in map(np.flatnonzero, predicted == np.unique(predicted)[:, None])
    ]
    return np.concatenate([rows[: max(1, int(priors.SUREST_ROWS * len(rows)))] for rows in ordered])


def _lead(logits: np.ndarray) -> np.ndarray:
    """(n,) the largest logit minus the second."""
    second, first = np.partition(logits, -2, axis=1)[:, -2:].T
    return first - second
