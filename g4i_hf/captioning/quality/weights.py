"""
How much each caption should teach: `caption_weight`, a product of factors that are 1 where nothing speaks against it.

| factor | of caption i | value |
|---|---|---|
| cut | the model was cut off, or ran in a loop | [`CUT_OFF`], [`LOOPED`] (both: their product) |
| label | does not name its class, which a share p of the captions of that class names | 1 - [`UNNAMED`] p |
| margin | m_i, nearness to its own class minus nearness to the nearest other one | sigmoid((m_i - t) / T) |
| duplicate | rows of its class among all labelled rows that have the same caption | the share of them |
| score | s_i, image-text score | sigmoid((s_i - t) / T) |

T = spread / 3 and t = median - 2 spread of the values measured (for margins at most 0: a caption nearer to its own
class than to any other is not doubted), where spread is the interquartile range / 1.349, a standard deviation that
outliers do not move. So at the median a factor is above 0.99, a usual value is hardly touched, and what lies far
outside on the wrong side comes near 0. The margin of a caption that names its class counts for [`NAMED_AT_LEAST`] or
more: it may tell of a rare view. What was not measured has the factor 1; no caption has the weight 0.

The constants are judgements and not tuned on any data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .centroids import class_margins
from .label_names import NAMED, NOT_NAMED, UNKNOWN, names_label

CUT_OFF, LOOPED = 0.9, 0.7
UNNAMED = 0.2
NAMED_AT_LEAST = 0.5
LEAST_MEASURED = 10  # fewer values have no spread to speak of
FACTORS = {
    "cut": "cut off or in a loop",
    "label": "does not name its class, as others of the class do",
    "margin": "nearer to another class than to its own",
    "duplicate": "the same caption is given to other classes",
    "score": "image and caption fit badly",
}
_BINS = 24
_SHOWN_DUPLICATES = 20


@dataclass
class Quality:
    """
    Of N captions.

    Attributes:
        weights: (N,) float32 in [0, 1].
        factors: (N,) float32 each, by the names of [`FACTORS`].
        named: (N,) int8, 1 where the class is named, 0 where it is not, -1 where that cannot be said.
        margins: (N,) float32, NaN where not measured; None without an encoder.
        nearest: (N,) the nearest other class, -1 where not measured; None without an encoder.
        scores: (N,) as given.
        copies: (N,) how many have the same caption, this one included; 0 without a caption.
        figures: counts, shares and histograms, as JSON values.
    """

    weights: np.ndarray
    factors: dict[str, np.ndarray]
    named: np.ndarray
    margins: np.ndarray | None
    nearest: np.ndarray | None
    scores: np.ndarray | None
    copies: np.ndarray
    figures: dict[str, Any] = field(default_factory=dict)

    def doubts(self, position: int) -> list[str]:
        """Why a caption has less than full weight, the strongest reason first."""
        found = [(float(values[position]), FACTORS[name]) for name, values in self.factors.items()]
        return [reason for value, reason in sorted(found) if value < 0.9]


def judge(
    captions: Sequence[str | None],
    labels: np.ndarray | Sequence[int | None] | None = None,
    names: Sequence[str] | None = None,
    *,
    applied: Sequence[Sequence[str]] | None = None,
    cut_off: Sequence[bool] | None = None,
    synonyms: dict[str, list[str]] | None = None,
    encode: Callable[[list[str]], np.ndarray] | None = None,
    scores: np.ndarray | None = None,
) -> Quality:
    """
    Args:
        captions: N cleaned ones; None where there is none.
        labels: (N,) classes; None or negative where a row is not labelled, and what needs a label is left out.
        names: of the classes.
        applied: names of the cleaning steps that changed each.
        cut_off: whether the model was, where that is known.
        synonyms: other words for classes, see [`~g4i_hf.captioning.quality.label_names.read_synonyms`].
        encode: gives unit vectors (n, D) of n texts.
        scores: (N,) image-text scores, NaN where there is none.
    """
    captions = [caption if caption else None for caption in captions]
    count = len(captions)
    given = [-1] * count if labels is None else [-1 if label is None else label for label in labels]
    classes = np.asarray(given, dtype=np.int64)
    classes = np.where(classes < 0, -1, classes)
    present = np.asarray([caption is not None for caption in captions], dtype=bool)
    named = np.full(count, UNKNOWN, dtype=np.int8)
    if names is not None:
        named = names_label(captions, classes, names, synonyms)
    margins = nearest = None
    if encode is not None and len(np.unique(classes[classes >= 0])) > 1:
        margins, nearest = class_margins(captions, classes, encode)
    copies, duplicate = duplicate_shares(captions, classes)
    factors = {
        "cut": cut_factor(count, applied, cut_off),
        "label": label_factor(named, classes),
        "margin": doubt_factor(margins, named, highest=0.0) if margins is not None else np.ones(count),
        "duplicate": duplicate,
        "score": doubt_factor(np.asarray(scores, dtype=np.float64)) if scores is not None else np.ones(count),
    }
    factors = {name: np.where(present, values, 1.0).astype(np.float32) for name, values in factors.items()}
    weights = np.where(present, np.prod(list(factors.values()), axis=0), 0.0).astype(np.float32)
    quality = Quality(weights, factors, named, margins, nearest, scores, copies)
    quality.figures = _figures(quality, captions, classes)
    return quality


def cut_factor(
    count: int, applied: Sequence[Sequence[str]] | None = None, cut_off: Sequence[bool] | None = None
) -> np.ndarray:
    """(count,): less for captions that were cut off in the middle, and for those that had run in a loop."""
    factor = np.ones(count)
    steps = applied if applied is not None else [()] * count
    for row, (done, cut) in enumerate(zip(steps, cut_off if cut_off is not None else [False] * count, strict=True)):
        factor[row] *= CUT_OFF if cut or "unfinished" in done else 1.0
        factor[row] *= LOOPED if "repetitions" in done else 1.0
    return factor


def label_factor(named: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    (N,) from 1 - [`UNNAMED`] to 1. Not to name the class means little by itself, since a plain prompt does not ask for
    it, and something where the other captions of the class do.
    """
    known = named != UNKNOWN
    size = max(int(labels.max(initial=-1)) + 1, 1)
    total = np.bincount(labels[known], minlength=size)
    naming = np.bincount(labels[named == NAMED], minlength=size)
    share = naming / np.maximum(total, 1)
    return np.where(named == NOT_NAMED, 1.0 - UNNAMED * share[np.maximum(labels, 0)], 1.0)


def doubt_factor(values: np.ndarray, named: np.ndarray | None = None, highest: float = np.inf) -> np.ndarray:
    """
    (N,) in (0, 1]: sigmoid((v - t) / T), see the head of this file; 1 where v is NaN.

    Args:
        values: (N,) the higher the better.
        named: (N,) of [`names_label`]; those that name their class keep [`NAMED_AT_LEAST`].
        highest: bound of t, the value that halves the weight.
    """
    measured = np.isfinite(values)
    factor = np.ones(len(values))
    if measured.sum() >= LEAST_MEASURED:
        low, median, high = np.percentile(values[measured], [25, 50, 75])
        spread = (high - low) / 1.349
        if spread > 0:
            middle = min(highest, median - 2 * spread)
            away = np.clip((values[measured] - middle) / (spread / 3), -50, 50)
            factor[measured] = 1 / (1 + np.exp(-away))
    return factor if named is None else np.where(named == NAMED, np.maximum(factor, NAMED_AT_LEAST), factor)


def duplicate_shares(captions: Sequence[str | None], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns:
        (N,) how many have the same caption, apart from case and the last full stop; and (N,) of those with a label,
        the share that has the label of this one: 1 where there is no label.
    """
    numbers: dict[str, int] = {}
    keys = np.asarray(
        [-1 if caption is None else numbers.setdefault(_key(caption), len(numbers)) for caption in captions],
        dtype=np.int64,
    )
    there, labelled = keys >= 0, (keys >= 0) & (labels >= 0)
    copies = np.where(there, np.bincount(keys[there], minlength=1)[np.maximum(keys, 0)], 0)
    share = np.ones(len(keys))
    if labelled.any():
        total = np.bincount(keys[labelled])
        pairs = keys[labelled] * (labels.max() + 1) + labels[labelled]
        _, inverse, same = np.unique(pairs, return_inverse=True, return_counts=True)
        share[labelled] = same[inverse] / total[keys[labelled]]
    return copies, share


def weights_of_rows(weights: np.ndarray, owners: np.ndarray, num_rows: int) -> np.ndarray:
    """
    (num_rows,) float32: the mean weight of the captions that a row has; 0 for a row without any.

    Args:
        weights: (N,) of captions, 0 where there is none.
        owners: (N,) row of each.
        num_rows: of the split.
    """
    there = weights > 0
    total = np.bincount(owners[there], weights[there], minlength=num_rows)
    return (total / np.maximum(np.bincount(owners[there], minlength=num_rows), 1)).astype(np.float32)


def histogram(values: np.ndarray, low: float | None = None, high: float | None = None) -> dict[str, Any] | None:
    """Edges, counts, mean and quantiles of the finite values, as JSON values; None without any."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    bounds = (values.min() if low is None else low, values.max() if high is None else high)
    counts, edges = np.histogram(values, bins=_BINS, range=bounds)
    quantiles = np.percentile(values, [5, 25, 50, 75, 95])
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "quantiles": {
            name: float(value) for name, value in zip(("5", "25", "50", "75", "95"), quantiles, strict=True)
        },
        "edges": [float(edge) for edge in edges],
        "counts": [int(number) for number in counts],
    }


def _figures(quality: Quality, captions: Sequence[str | None], labels: np.ndarray) -> dict[str, Any]:
    there = quality.copies > 0
    known = quality.named != UNKNOWN
    weights = quality.weights[there]
    return {
        "captions": int(there.sum()),
        "without_caption": int((~there).sum()),
        "unlabelled": int((labels < 0).sum()),
        "weight": histogram(weights, 0.0, 1.0),
        "below_half": int((weights < 0.5).sum()),
        "names_label": float((quality.named[known] == NAMED).mean()) if known.any() else None,
        "margin": histogram(quality.margins) if quality.margins is not None else None,
        "nearer_to_another_class": _share_below_zero(quality.margins),
        "score": histogram(quality.scores) if quality.scores is not None else None,
        "mean_factor": {
            name: float(values[there].mean()) if there.any() else None for name, values in quality.factors.items()
        },
        "duplicates": _duplicates(captions, labels, quality),
    }


def _share_below_zero(margins: np.ndarray | None) -> float | None:
    measured = margins[np.isfinite(margins)] if margins is not None else np.empty(0)
    return float((measured < 0).mean()) if len(measured) else None


def _duplicates(captions: Sequence[str | None], labels: np.ndarray, quality: Quality) -> dict[str, Any]:
    found: dict[str, list[int]] = {}
    for row in np.flatnonzero(quality.copies > 1):
        found.setdefault(_key(captions[row]), []).append(int(row))
    common = sorted(found.values(), key=len, reverse=True)
    there = max(int((quality.copies > 0).sum()), 1)
    return {
        "captions": len(found),
        "rows": sum(map(len, common)),
        "share": sum(map(len, common)) / there,
        "rows_across_classes": int((quality.factors["duplicate"] < 1).sum()),
        "most_common": [
            {
                "caption": captions[rows[0]],
                "rows": len(rows),
                "classes": len({int(labels[row]) for row in rows if labels[row] >= 0}),
            }
            for rows in common[:_SHOWN_DUPLICATES]
        ],
    }


def _key(caption: str) -> str:
    return caption.strip().rstrip(".").casefold()
