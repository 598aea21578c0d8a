"""
Images of one scene, found by features and thumbnails: frames of a burst, and copies that were encoded, resized or
flipped.

The distance of two images is sqrt((1 - s) (1 - t)): s is the cosine of their centred features, and t that of their
thumbnails, as they are or mirrored. Thumbnails tell frames of a scene from other images of a class, whose features can
be as near. Single linkage makes a tree of nested groups. A group is a scene where it stands apart: any other image is
`APART` times as far from it as its own images are from each other. No number of scenes and no size is assumed, and as
this is a ratio of distances in the same data, it holds for encoders of any scale.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from ..priors import NEAR_COPIES_APART as APART
from ..priors import NEAR_COPIES_DISTANCE as NEAR

LEAST = 0.02  # a smaller 1 - s or 1 - t counts as this
SIDE = 8  # pixels of a thumbnail
ROWS, COLUMNS = 512, 4096  # compared at once
ALL_COMPARED, ROWS_A_CELL = 50_000, 5_000
MOST_COMPARED = 500  # images of a group, for their mean distance
MOST_PAIRS = 2_000_000  # kept at once, besides those of one comparison
LARGEST = 0.5  # share of all images


def scenes(features: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """
    (N,) numbers, the same for images of one scene, and for all others the number of the row.

    Args:
        features: (N, F); a row of NaN has none.
        thumbnails: (N, SIDE, SIDE, 3) pixels.
    """
    images = _Images.of(features, thumbnails)
    numbers = np.arange(len(features))
    rows, columns, distances = images.near_forest()
    if not len(rows):
        return numbers
    forest = coo_array((distances, (rows, columns)), (len(numbers), len(numbers)))
    _, component = connected_components(forest, directed=False)
    linked = np.flatnonzero(np.bincount(component)[component] > 1)
    outside = np.full(len(numbers), np.inf)
    np.minimum.at(outside, component[linked], images.nearest_of_others(linked, component))
    for members in _apart(images, rows, columns, distances, outside[component]):
        numbers[members] = members.min()
    return numbers


@dataclass
class _Images:
    features: np.ndarray  # (N, F) of unit norm
    even: np.ndarray  # (N, 3 SIDE^2 / 2), the part of the thumbnail that a mirror leaves as it is
    odd: np.ndarray  # the part whose sign changes; both together are of unit norm

    @classmethod
    def of(cls, features: np.ndarray, thumbnails: np.ndarray) -> "_Images":
        values = np.nan_to_num(np.asarray(features, dtype=np.float32))
        pixels = np.asarray(thumbnails, dtype=np.float32)
        pixels = _unit((pixels - pixels.mean((1, 2), keepdims=True)).reshape(len(pixels), -1)).reshape(pixels.shape)
        halves = [pixels[:, :, : SIDE // 2], pixels[:, :, : SIDE // 2 - 1 : -1]]
        even, odd = ((halves[0] + sign * halves[1]).reshape(len(pixels), -1) / np.sqrt(2) for sign in (1, -1))
        even = even - even.mean(0)  # the mean of all thumbnails and their mirror images
        norm = np.maximum(np.sqrt((even**2).sum(1) + (odd**2).sum(1)), 1e-6)[:, None]
        return cls(_unit(values - values.mean(0)), even / norm, odd / norm)

    def squared(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(r, c) squared distances."""
        pixels = np.abs(self.odd[rows] @ self.odd[columns].T)
        pixels += self.even[rows] @ self.even[columns].T
        distances = self.features[rows] @ self.features[columns].T
        for each in (pixels, distances):
            np.subtract(1, each, out=each)
            np.maximum(each, LEAST, out=each)
        return np.multiply(distances, pixels, out=distances)

    def blocks(self, of_rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """
        Rows, of these, and rows to compare them with: all others; of large data those in the cells of the two nearest
        of some random images, as an image of a scene has the neighbours of another one.
        """
        number = len(self.features)
        if number <= ALL_COMPARED:
            yield from _tiles(of_rows, np.arange(number))
            return
        centres = self.features[np.random.default_rng(0).choice(number, number // ROWS_A_CELL, replace=False)]
        nearest = np.concatenate(
            [
                np.argpartition(-(self.features[start : start + COLUMNS] @ centres.T), 1, axis=1)[:, :2]
                for start in range(0, number, COLUMNS)
            ]
        )
        is_wanted = np.zeros(number, dtype=bool)
        is_wanted[of_rows] = True
        for cell in range(len(centres)):
            members = np.flatnonzero((nearest == cell).any(1))
            yield from _tiles(members[is_wanted[members]], members)

    def near_forest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Rows, columns and distances of a minimum spanning forest of the pairs nearer than `NEAR`. Single linkage needs
        no other pairs, and those of many frames of one scene would not fit in memory.
        """
        number = len(self.features)
        pairs = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
        for some, others in self.blocks(np.arange(number)):
            if others[-1] < some[0]:  # each pair once
                continue
            squared = self.squared(some, others)
            rows, columns = np.nonzero((squared < NEAR**2) & (some[:, None] < others))
            pairs.append((some[rows], others[columns], np.sqrt(squared[rows, columns])))
            if sum(len(each) for each, *_ in pairs) > MOST_PAIRS + number:
                pairs = [_forest(pairs, number)]
        return _forest(pairs, number)

    def nearest_of_others(self, rows: np.ndarray, component: np.ndarray) -> np.ndarray:
        """(n,) the distance of each of these rows to the nearest one of another component (N,)."""
        nearest = np.full(len(self.features), np.inf)
        for some, others in self.blocks(rows):
            squared = self.squared(some, others)
            squared[component[some][:, None] == component[others]] = np.inf
            nearest[some] = np.minimum(nearest[some], squared.min(1))
        return np.sqrt(nearest[rows])

    def mean_distance(self, members: np.ndarray) -> float:
        """Of two of these rows."""
        some = members[np.linspace(0, len(members) - 1, min(len(members), MOST_COMPARED)).astype(int)]
        between = np.sqrt(self.squared(some, some))
        return float(between[~np.eye(len(some), dtype=bool)].mean())


def _tiles(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(rows), ROWS):
        for first in range(0, len(columns), COLUMNS):
            yield rows[start : start + ROWS], columns[first : first + COLUMNS]


def _forest(
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of a minimum spanning forest of so many rows. No distance is 0, which would be no pair."""
    rows, columns, distances = map(np.concatenate, zip(*pairs, strict=True))
    _, first = np.unique(rows * number + columns, return_index=True)  # some are in two cells
    places = rows[first].astype(np.int32), columns[first].astype(np.int32)  # SciPy 1.13 takes no other
    graph = coo_array((distances[first], places), (number, number))
    forest = minimum_spanning_tree(graph).tocoo()
    return forest.row.astype(int), forest.col.astype(int), forest.data


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _apart(
    images: _Images, rows: np.ndarray, columns: np.ndarray, distances: np.ndarray, outside: np.ndarray
) -> Iterator[np.ndarray]:
    """
    The largest groups that stand apart, of the tree of merged groups that a spanning tree gives. `outside` (N,) is the
    distance of the component of a row to the nearest other one. A chain, whose images are on average farther from each
    other than from an image outside, is no group.
    """
    number = len(outside)
    order = np.argsort(distances, kind="stable")
    rows, columns, births = rows[order], columns[order], distances[order]
    top = np.arange(2 * number)  # of each group, a group that holds it, at last the largest so far
    sizes = [1] * number
    children: list[tuple[int, int]] = []
    for row, column in zip(rows, columns, strict=True):
        pair = _top(top, row), _top(top, column)
        top[[*pair]] = number + len(children)
        children.append(pair)
        sizes.append(sizes[pair[0]] + sizes[pair[1]])
    roots = [place for place in range(len(children)) if top[number + place] == number + place]
    todo = [(number + root, float(outside[rows[root]])) for root in roots]
    while todo:
        group, death = todo.pop()
        if group < number:
            continue
        birth = float(births[group - number])
        if death >= APART * birth and sizes[group] <= max(LARGEST * number, 2):
            members = np.array(rows_of(group, children, number))  # here only: of all groups of a chain it is quadratic
            if len(members) == 2 or images.mean_distance(members) <= death:
                yield members
                continue
        todo += [(child, birth) for child in children[group - number]]


def _top(top: np.ndarray, group: int) -> int:
    while top[group] != group:
        top[group] = top[top[group]]
        group = int(top[group])
    return group


def rows_of(group: int, children: list[tuple[int, int]], number: int) -> list[int]:
    """The rows in a group."""
    rows, todo = [], [group]
    while todo:
        each = todo.pop()
        if each < number:
            rows.append(each)
        else:
            todo += children[each - number]
    return rows
