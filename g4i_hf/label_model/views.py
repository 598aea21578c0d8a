"""What a label model reads: views, the space in which each is learned, and rows in their folds."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import priors

MOST_SAMPLED = 20_000  # rows from which mean and components are computed
BLOCK = 8192  # rows processed at once
IMAGE_FEATURES = "image features"  # source of self-training views that name none: image encoders make similar errors
NEEDS = (
    "A label model needs captions, image features or another view, and labels or names of at least two classes. Label "
    "some images; or give the names of the classes, embedded by the text encoder of the captions."
)


def array_of(values: Any) -> np.ndarray:
    """An array of a list, a table or a tensor, also of bfloat16; a memory-mapped array stays one."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.element_size() < 4 and values.is_floating_point() else values
    return np.asanyarray(values)


@dataclass
class View:
    """
    One source of evidence about the class of each image: embedded captions, answers, image features.

    Args:
        values: (N, D) of any float type, in memory or memory-mapped. A row of NaN has no value.
        class_values: (C, D) embeddings of the class names in the same space, by the encoder of the captions for
            example. Each is one more labelled example. A row of zeros or NaN is a class without a name.
        source: what made the values, such as the name of a captioner. Views of one source share one vote where views
            judge each other. None: no other view has this source; but self-training views without class_values share
            the source `image features`, as image encoders make similar errors.
        self_trains: whether the view takes part in self-training (pseudo-labels): it also learns the predictions of
            all views for unlabelled rows, as image features do. None: if it has no class_values.
    """

    values: np.ndarray
    class_values: np.ndarray | None = None
    source: str | None = None
    self_trains: bool | None = None

    def __post_init__(self):
        self.values = array_of(self.values)
        if self.class_values is not None:
            self.class_values = array_of(self.class_values)

    @classmethod
    def answers(cls, answers: np.ndarray, num_labels: int, source: str | None = None) -> View:
        """
        A view of a model's answers when it was asked for the class.

        Args:
            answers: (N,) class indices; negative where there is none.
            num_labels: C.
        """
        answers = class_indices(answers, num_labels, "answers", any_negative=True)
        values = np.eye(num_labels, dtype=np.float32)[np.maximum(answers, 0)]
        values[answers < 0] = np.nan
        return cls(values, np.eye(num_labels, dtype=np.float32), source)

    @property
    def is_named(self) -> np.ndarray:
        """(C,) of which classes the name says something; none without `class_values`."""
        if self.class_values is None:
            return np.zeros(0, dtype=bool)
        class_values = np.asarray(self.class_values, dtype=np.float32)
        return np.isfinite(class_values).all(1) & class_values.any(1)

    def names_classes_of(self, rows: np.ndarray) -> bool:
        """Whether it names all classes, and has values of almost all of these rows (N,)."""
        if not (self.is_named.any() and self.is_named.all() and rows.any()):
            return False
        return bool(has_value(self.values)[rows].mean() >= 1 - priors.MANY_WITHOUT_VIEW)

    def with_another_class(self) -> View:
        """Of one class more, whose name says nothing."""
        if self.class_values is None:
            return self
        return replace(self, class_values=np.pad(self.class_values, ((0, 1), (0, 0))))

    def digest(self) -> str:
        """Of its values and names."""
        digest = hashlib.blake2b(
            str((self.values.shape, self.values.dtype, self.self_trains)).encode(), digest_size=16
        )
        for start in range(0, len(self.values), BLOCK):
            digest.update(np.ascontiguousarray(self.values[start : start + BLOCK]))
        if self.class_values is not None:
            digest.update(np.ascontiguousarray(self.class_values))
        return digest.hexdigest()


@dataclass
class Space:
    """
    Values minus their mean, divided by their root mean square length, along their principal components. This is a
    rotation for views of up to `priors.MAX_COMPONENTS` dimensions, to which logistic regression is invariant.
    """

    mean: np.ndarray  # (D,)
    rotation: np.ndarray  # (D, K), divided by the length
    variances: np.ndarray  # (K,) along the components

    @classmethod
    def of(cls, sample: np.ndarray, num_labels: int = 0) -> Space:
        """
        The space of a sample (n, D) float32, with at most `priors.MAX_COMPONENTS` components, or `num_labels` if these
        are more. Raises ValueError for values that are infinite, partly NaN, or the same in all rows.
        """
        if not len(sample):
            raise ValueError("has no value in any row.")
        mean = sample.mean(0)
        sample = sample - mean
        length = float(np.sqrt((sample**2).sum(1).mean()))
        if length <= 1e-6 * max(float(np.abs(mean).max()), 1e-30):
            raise ValueError("has the same values in all rows, so that it predicts nothing. Leave it out.")
        sample /= length
        variances, components = np.linalg.eigh((sample.T @ sample).astype(np.float64) / len(sample))
        most = max(priors.MAX_COMPONENTS, num_labels)
        kept = slice(max(len(variances) - most, 0), None)
        return cls(mean, (components[:, kept] / length).astype(np.float32), np.maximum(variances[kept], 1e-9))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, K) float32; zeros for rows of NaN."""
        projected = np.empty((len(values), self.rotation.shape[1]), dtype=np.float32)
        for start in range(0, len(values), BLOCK):
            block = np.asarray(values[start : start + BLOCK], dtype=np.float32)
            projected[start : start + BLOCK] = np.nan_to_num((block - self.mean) @ self.rotation)
        return projected


@dataclass
class Values:
    """The values of one view, as a label model reads them."""

    name: str
    space: Space
    x: np.ndarray  # (N, K) float32, zeros for a row without a value
    has: np.ndarray  # (N,) whether a row has a value
    names: np.ndarray  # (C, K), zeros for a class without a name; `is_named` (C,) says which have one
    is_named: np.ndarray
    source: str  # of the view
    self_trains: bool = False  # whether it learns the predictions of all views

    @classmethod
    def of(cls, name: str, view: View, order: np.ndarray, num_labels: int, space: Space | None = None) -> Values:
        """Rows are put into this order, whose first ones are the sample for the space, unless it is known."""
        try:
            has = has_value(view.values)[order]
            sample = order[has][:MOST_SAMPLED]
            # To tell C classes can take C dimensions
            space = space or Space.of(np.asarray(view.values[sample], dtype=np.float32), num_labels)
        except ValueError as error:
            raise ValueError(f"The view {name!r} {error}") from None
        names = np.zeros((num_labels, space.rotation.shape[1]), dtype=np.float32)
        is_named = np.zeros(num_labels, dtype=bool)
        if view.class_values is not None:
            is_named = view.is_named
            names[is_named] = space(np.asarray(view.class_values, dtype=np.float32)[is_named])
        self_trains = not is_named.any() if view.self_trains is None else view.self_trains
        source = view.source or (IMAGE_FEATURES if self_trains and not is_named.any() else name)
        return cls(name, space, space(view.values)[order], has, names, is_named, source, self_trains)

    @classmethod
    def without_names(cls, name: str, values: np.ndarray, space: Space) -> Values:
        none = np.zeros(0)
        return cls(name, space, space(values), has_value(values), none, none, "")

    def examples(self, labels: np.ndarray) -> np.ndarray:
        """(C,) number of examples of each class: labelled rows (N,) with a value, and names."""
        counts = self.is_named.astype(np.int64)
        np.add.at(counts, labels[self.has & (labels >= 0)], 1)
        return counts

    def trusts(self, labels: np.ndarray) -> np.ndarray:
        """(1, C) those of a calibration of this view alone: 1 for a class with an example."""
        return (self.examples(labels) > 0).astype(np.float64)[None]


def copies_among(views: Mapping[str, View]) -> dict[str, str]:
    """Views with the values and names of an earlier view, each with the name of that one."""
    seen: dict[str, str] = {}
    firsts = {name: seen.setdefault(view.digest(), name) for name, view in views.items()}
    return {name: first for name, first in firsts.items() if first != name}


def rows_with_a_view(views: Mapping[str, View]) -> np.ndarray:
    """(N,) of which rows any view says something."""
    return np.any([has_value(view.values) for view in views.values()], axis=0)


def has_value(values: np.ndarray) -> np.ndarray:
    """(N,) which rows are not NaN. Raises ValueError for a row that is partly NaN or infinite."""
    has_values = np.zeros(len(values), dtype=bool)
    for start in range(0, len(values), BLOCK):
        block = np.asarray(values[start : start + BLOCK])
        has_values[start : start + BLOCK] = has = ~np.isnan(block).all(1)
        if not np.isfinite(block[has]).all():
            raise ValueError("has values that are NaN or infinite: the model that made them is broken.")
    return has_values


def class_indices(given: Any, num_labels: int, name: str, any_negative: bool = False) -> np.ndarray:
    """
    (N,) int64, -1 for None, NaN, -1 and -100, which torch's losses ignore, or for `any_negative`. Raises ValueError
    for anything else but whole numbers from 0 and below `num_labels`.
    """
    numbers = array_of(given)
    if numbers.dtype == object:
        with contextlib.suppress(TypeError, ValueError):  # of anything but numbers and None
            numbers = np.array([np.nan if label is None else label for label in numbers], dtype=np.float64)
    is_numeric = numbers.ndim == 1 and numbers.dtype.kind in "biuf"
    if is_numeric and numbers.dtype.kind == "f":
        numbers = np.where(np.isnan(numbers), -1, numbers)
    if not is_numeric or np.isinf(numbers).any() or (numbers != np.trunc(numbers)).any():
        what = f"{name} of type {numbers.dtype} and shape {numbers.shape}"
        raise ValueError(f"{what}: give a class index, a whole number, for each row, and -1 where it is unknown.")
    indices = numbers.astype(np.int64)
    indices[(indices < 0) if any_negative else (indices == -100)] = -1
    if len(wrong := indices[(indices < -1) | (indices >= num_labels)]):
        remedy = f"give a class index, 0 to {num_labels - 1}, or -1 where it is unknown"
        raise ValueError(f"{name} hold {wrong[0]}: {remedy}.")
    return indices


def check_by_name(views: Any) -> None:
    if not isinstance(views, Mapping):
        what = f"views is a {type(views).__name__}: give a dict of them by name"
        raise TypeError(f"{what}, such as {{'caption': View(values)}}.")


def with_rows(views: Mapping[str, View], rows: np.ndarray, number: int) -> dict[str, View]:
    """The views with these of so many rows; one of another number stays, for [`check_shapes`]."""
    return {
        name: replace(view, values=view.values[rows]) if len(view.values) == number else view
        for name, view in views.items()
    }


def check_shapes(views: Mapping[str, View], labels: np.ndarray, num_labels: int, arrays: dict) -> None:
    check_by_name(views)
    if num_labels < 2:
        raise ValueError(f"A label model needs at least two classes, not {num_labels}.")
    if not views or not len(labels):
        raise ValueError(NEEDS)
    for name, array in arrays.items():
        if array is not None and len(array) != len(labels):
            raise ValueError(f"{name} has {len(array)} entries, but there are {len(labels)} labels.")
    for name, view in views.items():
        if not isinstance(view, View):
            raise TypeError(f"The view {name!r} is a {type(view).__name__}: give View(values).")
        if view.values.ndim != 2 or len(view.values) != len(labels) or view.values.dtype.kind not in "biuf":
            raise ValueError(
                f"The view {name!r} has values of shape {view.values.shape} and type {view.values.dtype}, but there "
                f"are {len(labels)} labels: give a row for each image, of numbers, or of NaN where it has no value."
            )
        expected = (num_labels, view.values.shape[1])
        if view.class_values is not None and np.shape(view.class_values) != expected:
            raise ValueError(
                f"The view {name!r} has class_values of shape {np.shape(view.class_values)}, not {expected}: a row "
                "for each class, zeros for one without a name."
            )


def arrays_of(views: Any, spaces: Mapping[str, Space], report: Mapping[str, dict]) -> dict[str, np.ndarray]:
    """(n, D) each, of the same n rows, of views that were fitted. Raises ValueError for others, or other shapes."""
    check_by_name(views)
    views = {report.get(name, {}).get("copy_of", name): view for name, view in views.items()}
    unknown = sorted(set(views) - set(spaces))
    if unknown or not views:
        raise ValueError(f"The label model was fitted with the views {list(report)}, not with {unknown}.")
    arrays = {name: view.values if isinstance(view, View) else array_of(view) for name, view in views.items()}
    for name, array in arrays.items():
        dim = len(spaces[name].mean)
        if array.shape[1:] != (dim,):
            raise ValueError(f"The view {name!r} has values of shape {array.shape}, not (rows, {dim}).")
    lengths = [f"{name!r} has {len(array)}" for name, array in arrays.items()]
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError(f"Give as many rows of each view, NaN where it has no value: {', '.join(lengths)}.")
    return arrays


# --- Rows ------------------------------------------------------------------------------------------------------------


FOLDS = 5
MOST_CALIBRATED = 10_000  # held-out rows that the calibration is fitted on
WHOLE = -1  # in place of a fold: the model of rows that it need not leave out
KEPT = -3  # fold of an unlabelled row that no view learns from
ALONE = -2  # fold of the only labelled row of a class, which is never held out


@dataclass
class Rows:
    """N rows, in an order that depends on their ids alone."""

    order: np.ndarray  # (N,) number of each row in the caller's order
    labels: np.ndarray  # (N,) class indices; negative without a label
    folds: np.ndarray  # (N,) stratified by class, or `ALONE`. Unlabelled rows have other folds, from `FOLDS` on
    judged: np.ndarray  # numbers of the rows whose label is held out for calibration
    reviewed: np.ndarray  # (N,) whether the label is known to be right
    groups: np.ndarray  # (N,) equal for rows that are held out together

    @classmethod
    def of(
        cls,
        views: Mapping[str, View],
        labels: np.ndarray,
        seed: int,
        ids: Sequence | None,
        groups: Sequence | None,
        reviewed: np.ndarray | None,
        kept: np.ndarray | None = None,
    ) -> Rows:
        keys = _keys(ids if ids is not None else _contents(views), seed)
        order = np.lexsort((labels, keys))
        folds, group = _folds(labels[order], keys[order]), np.arange(len(labels))
        if groups is not None:
            group = np.asarray(groups)[order]
            for rows in (np.flatnonzero(labels[order] >= 0), np.flatnonzero(labels[order] < 0)):
                folds[rows] = _of_whole_groups(folds[rows], labels[order][rows], group[rows])
        sure = np.zeros(len(labels), dtype=bool) if reviewed is None else np.asarray(reviewed, dtype=bool)
        rows = cls(order, labels[order], folds, np.zeros(0, dtype=np.int64), sure[order], group)
        return rows if kept is None else rows.keeping(kept)

    def keeping(self, kept: np.ndarray) -> Rows:
        """No view learns from the unlabelled ones of these rows (N,), in the order of the caller."""
        is_kept = np.asarray(kept, dtype=bool)[self.order] & (self.labels < 0)
        return replace(self, folds=np.where(is_kept, KEPT, self.folds))

    @property
    def known(self) -> np.ndarray:
        return np.flatnonzero(self.labels >= 0)

    @property
    def unlabelled(self) -> np.ndarray:
        """Numbers of the rows without a label, except those that are kept."""
        return np.flatnonzero((self.labels < 0) & (self.folds != KEPT))

    def hold_out(self, is_named: np.ndarray, has_value: np.ndarray) -> None:
        """
        Args:
            is_named: (C,) whether every view has a name of the class, so that its only label can be held out.
            has_value: (N,) whether any view has a value of the row.
        """
        known = self.known
        with_value = known[has_value[known]]
        of_folds = np.unique(np.stack([self.labels[with_value], self.folds[with_value]]), axis=1)[0]
        can_be_held_out = is_named | (np.bincount(of_folds, minlength=len(is_named)) > 1)
        alone = ~can_be_held_out[self.labels[known]]
        self.folds[known[alone]] = ALONE
        self.judged = np.sort(known[~alone & has_value[known]][:MOST_CALIBRATED])

    def in_order_of_caller(self, values: np.ndarray) -> np.ndarray:
        ordered = np.empty_like(values)
        ordered[self.order] = values
        return ordered


def _contents(views: Mapping[str, View]) -> list[bytes]:
    """A digest of the values of each row."""
    digests = [hashlib.blake2b(digest_size=8) for _ in next(iter(views.values())).values]
    for name in sorted(views):
        for digest, value in zip(digests, views[name].values, strict=True):
            digest.update(np.asarray(value, dtype=np.float32).tobytes())
    return [digest.digest() for digest in digests]


def _keys(ids: Sequence, seed: int) -> np.ndarray:
    """(N,) pseudo-random numbers that depend on the id and the seed alone."""
    salt = int(seed).to_bytes(8, "little", signed=True)
    keys = np.empty(len(ids), dtype=np.uint64)
    for row, name in enumerate(ids):
        content = name if isinstance(name, bytes) else str(name).encode()
        keys[row] = int.from_bytes(hashlib.blake2b(content, digest_size=8, salt=salt).digest(), "little")
    return keys


def _folds(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(N,) in turn along the rows of each class, from a fold that the first row decides."""
    folds = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label) if label >= 0 else np.flatnonzero(labels < 0)
        folds[rows] = (np.arange(len(rows)) + int(keys[rows[0]] % FOLDS)) % FOLDS + (0 if label >= 0 else FOLDS)
    return folds


def _of_whole_groups(folds: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """
    (n,) folds in which no group is divided. They are the same where each group is one row; else whole groups follow in
    turn, in the order of the class of their first row.
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    if len(first) == len(folds):
        return folds
    places = np.argsort(np.lexsort((first, labels[first])))
    start = folds[first[places == 0]] % FOLDS
    return (start + places)[inverse] % FOLDS + (folds // FOLDS) * FOLDS
