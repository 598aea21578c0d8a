"""Which images a person should look at: wrong labels, what teaches most, a random sample, and images of no class."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier

from .. import priors
from .model import LabelModel
from .views import MOST_SAMPLED, Space, View, has_value, rows_with_a_view

ROUND = 20  # images that are picked together; then their labels are learned
MOST_CLUSTERED = 20_000


def suspicious_rows(labels: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """Rows whose label (N,), if any, is not the most probable class (N, C); the least probable labels first."""
    rows = np.flatnonzero((labels >= 0) & (posterior.argmax(1) != labels))
    return rows[np.argsort(posterior[rows, labels[rows]], kind="stable")]


def doubtful_labels(model: LabelModel, views: Mapping[str, View], labels: np.ndarray) -> int:
    """Number of labels (N,) that are not the likeliest class without them; 0 if hardly any can be wrong."""
    if (model.label_noise_interval_ or (0, 0))[1] <= priors.FEW_WRONG_LABELS:
        return 0
    return int(((labels >= 0) & rows_with_a_view(views) & (model.probabilities_.argmax(1) != labels)).sum())


def pick_wrong(
    probabilities: np.ndarray,
    labels: np.ndarray,
    contents: np.ndarray | None = None,
    has_view: np.ndarray | None = None,
) -> np.ndarray:
    """
    Labelled rows whose label is not the likeliest class by probabilities (N, C) that were estimated without it, the
    most suspicious first. Before them images of equal `contents` (N,) with different labels. Rows of which no view
    says anything (`has_view`, (N,)) are left out.
    """
    rows = np.flatnonzero(labels >= 0)
    of_rows = probabilities[rows].astype(np.float32)
    given = of_rows[np.arange(len(rows)), labels[rows]]
    doubt = of_rows.max(1) - given
    if has_view is not None:
        doubt[~has_view[rows]] = 0
    if contents is not None:
        pairs = np.unique(np.stack([contents[rows], labels[rows]]), axis=1)
        images, numbers = np.unique(pairs[0], return_counts=True)
        doubt[np.isin(contents[rows], images[numbers > 1])] += 1
    order = np.lexsort((given, -doubt))
    return rows[order[doubt[order] > 0]]


def pick_next(
    probabilities: np.ndarray,
    labels: np.ndarray,
    none: np.ndarray,
    is_none: np.ndarray,
    values: Sequence[np.ndarray],
    number: int = ROUND,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """
    Unlabelled rows that are uncertain and differ from each other: of the uncertain ones, the nearest to the centre of
    each of as many clusters. Before them the surest row of each class without a label.

    Images of no class are uncertain too, and teach nothing. Left out are rows that more likely belong to no class, and
    those that are nearer to an image of which a person said so than to any labelled one.

    Args:
        none: (N,) the probability that a row belongs to no class; 1 for a row that is not to be picked.
        is_none: (N,) whether a person said so.
        values: (N, D) each, such as image features; a row of NaN has none.
        groups: (N,) the same for images of one scene, of which one is picked.
    """
    rows = np.flatnonzero((labels < 0) & ~is_none & (none <= 0.5))
    of_rows = probabilities[rows].astype(np.float32)
    likeliest, share = of_rows.argmax(1), of_rows.max(1)
    first = []
    for label in np.setdiff1d(np.unique(likeliest), labels):
        of_class = np.flatnonzero(likeliest == label)
        first.append(of_class[share[of_class].argmax()])
    first = sorted(first, key=lambda place: -share[place])[:number]
    rest = np.setdiff1d(np.arange(len(rows)), first)
    second, largest = np.partition(of_rows[rest], -2, axis=1)[:, -2:].T
    candidates = rows[rest[np.argsort(largest - second, kind="stable")]]
    if groups is not None:
        candidates = candidates[~np.isin(groups[candidates], groups[rows[np.array(first, dtype=np.int64)]])]
        candidates = candidates[np.sort(np.unique(groups[candidates], return_index=True)[1])]
    first, most = rows[np.array(first, dtype=np.int64)], max(int(priors.UNCERTAIN_ROWS * len(candidates)), number)
    candidates = candidates[:MOST_CLUSTERED]
    if len(candidates) and is_none.any() and (labels >= 0).any():
        reviewed = np.flatnonzero(is_none | (labels >= 0))
        points = _points(values, np.concatenate([candidates, reviewed]))
        nearest = KNeighborsClassifier(1).fit(points[len(candidates) :], is_none[reviewed])
        candidates = candidates[~nearest.predict(points[: len(candidates)])]
    candidates = candidates[:most]
    wanted = min(number - len(first), len(candidates))
    if not wanted:
        return first
    points = _points(values, candidates)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer of them differ
        clusters = KMeans(wanted, n_init=2, random_state=seed).fit(points)
    distances = clusters.transform(points)
    distances[clusters.labels_[:, None] != np.arange(wanted)] = np.inf  # a row stands for its own cluster
    central = list(dict.fromkeys([*candidates[distances.argmin(0)], *candidates]))[:wanted]
    return np.array([*first, *central], dtype=np.int64)


def _points(values: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    return np.concatenate([_directions(each, rows) for each in values], axis=1)


def _directions(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n, K) of unit norm, zeros for rows without a value."""
    sample = rows[has_value(values[rows])][:MOST_SAMPLED]
    if len(sample) < 2 or np.ptp(values[sample], axis=0).max() == 0:
        return np.zeros((len(rows), 1), dtype=np.float32)
    directions = Space.of(np.asarray(values[sample], dtype=np.float32))(values[rows])
    return directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)


def pick_gold(groups: np.ndarray, number: int) -> np.ndarray:
    """A random sample of images, one of each group (N,), by a hash of its number: it stays where images are added."""
    _, first = np.unique(groups, return_index=True)
    digests = [hashlib.blake2b(f"0 {groups[row]}".encode(), digest_size=8).hexdigest() for row in first]
    return first[np.argsort(digests)][:number]


def pick_none(none: np.ndarray, explained: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Unlabelled rows, or where there are none all rows, by the probability `none` (N,) that no class explains them;
    where that is the same, the ones that the classes explain least by `explained` (N,) first.
    """
    rows = np.flatnonzero(labels < 0) if (labels < 0).any() else np.arange(len(labels))
    return rows[np.lexsort((explained[rows], -none[rows]))]
