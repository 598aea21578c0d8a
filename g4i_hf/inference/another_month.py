"""What `g4i predict` says of new images as a whole: whether they differ, their classes, and the accuracy there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import priors
from ..evaluation.class_shares import class_shares, share_intervals
from ..evaluation.estimate import Estimate
from ..evaluation.new_images import Comparison, compared, expected_accuracy
from ..files import printable
from .fitted_on import FittedOn

MOST_SAMPLED = 2_000  # new images: those who judge a difference need no more, and memory stays as it is
NAMED, SHOWN_CLASSES = 5, 5  # images that differ most, and classes, in the terminal
DIFFER = "the images differ"
CANNOT_COMPARE = (
    "Cannot compare these images with those that it was fitted on: only a classifier of g4i fit holds numbers of them."
)


def sampled_rows(total: int) -> set[int]:
    """Those that are compared, the same at each start."""
    if total <= MOST_SAMPLED:
        return set(range(total))
    return set(np.random.default_rng(0).choice(total, MOST_SAMPLED, replace=False).tolist())


@dataclass
class NewImages:
    """A sample of new images, as far as none was a training image."""

    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # among all images
    values: list[np.ndarray] = field(default_factory=list)  # (K + C,) each: what is compared, and probabilities

    def add(self, name: str, row: int, values: np.ndarray) -> None:
        if np.isfinite(values).all():
            self.names.append(name)
            self.rows.append(row)
            self.values.append(values)


@dataclass
class Summary:
    """None for what is unknown."""

    classes: Sequence[str]
    images: int  # that were compared
    of_fitted: np.ndarray | None = None  # (C,) shares of the classes among the images that it was fitted on
    shares: np.ndarray | None = None  # (C,) among the new images, with 95% `intervals` (C, 2)
    intervals: np.ndarray | None = None
    comparison: Comparison | None = None
    most: list[int] = field(default_factory=list)  # places of compared images, those that differ most first
    accuracy: Estimate | None = None
    why: str = ""  # the accuracy is unknown

    @classmethod
    def of(cls, fitted: FittedOn | None, new: NewImages, classes: Sequence[str]) -> "Summary":
        if fitted is None:
            return cls(classes, 0, why="nothing to compare with")
        summary = cls(classes, len(new.values), fitted.classes.astype(np.float64).mean(0))
        if summary.images < priors.MIN_NEW_IMAGES:
            summary.why = f"fewer than {priors.MIN_NEW_IMAGES} new images"
            return summary
        values, probabilities = np.split(np.stack(new.values), [fitted.values.shape[1]], axis=1)
        judged = fitted.predicted.astype(np.float64), fitted.truth.astype(np.float64), fitted.counts
        if not len(judged[0]):
            summary.why = "no image has judged the classifier"
            return summary
        shares = class_shares(probabilities.mean(0), *judged)
        comparison = summary.comparison = compared(fitted.values, fitted.classes, values, shares)
        of_shares = share_intervals(probabilities, *judged, 0, differ=comparison.differs)
        summary.shares, summary.intervals = of_shares
        known = Estimate(float(fitted.accuracy[0]), (float(fitted.accuracy[1]), float(fitted.accuracy[2])))
        if comparison.differs:
            summary.why = DIFFER
            summary.most = np.argsort(-comparison.scores, kind="stable").tolist()
        elif np.isnan(known.share):
            summary.why = "that of the classifier is unknown"
        else:
            of_new = summary.shares, summary.intervals, summary.images
            summary.accuracy = expected_accuracy(known, *judged, *of_new)
        return summary

    def as_json(self, names: Sequence[str], label: str | None) -> dict[str, Any]:
        """For `summary.json`; `label` is the command that measures the accuracy."""
        accuracy, test = self.accuracy, self.comparison
        differs: dict[str, Any] | None = None
        if test is not None:
            most = [names[place] for place in self.most[:NAMED]]
            differs = {"differs": test.differs, "p_value": test.p_value, "most": most}
        shares = None
        if self.shares is not None:
            lines = zip(self.classes, self.shares, self.intervals, self.of_fitted, strict=True)
            shares = {
                name: {"share": float(share), "interval": ends.tolist(), "of_fitted": float(before)}
                for name, share, ends, before in lines
            }
        expected: dict[str, Any] = {
            "share": accuracy and accuracy.share,
            "interval": accuracy and list(accuracy.interval),
        }
        expected |= {"reviewed": False} if accuracy else {"why": self.why, "label": label}
        return {"compared": self.images, "pool_shares": shares, "differs": differs, "expected_accuracy": expected}

    def lines(self, names: Sequence[str], label: str | None) -> Iterator[str]:
        """For the terminal."""
        if self.of_fitted is None:
            yield CANNOT_COMPARE
            return
        if self.images < priors.MIN_NEW_IMAGES:
            least = f"it takes {priors.MIN_NEW_IMAGES}"
            yield f"Too few new images to compare with those it was fitted on: {self.images}, and {least}."
            return
        if self.comparison is None:
            yield f"Compared with the images it was fitted on: unknown, as {self.why}."
        else:
            yield from self._of_comparison(names)
            yield self._of_classes()
        if self.accuracy is not None:
            low, high = self.accuracy.interval
            yield (
                f"Expected there: about {self.accuracy.share:.0%} right ({100 * low:.0f} to {100 * high:.0f}). "
                "Unreviewed: estimated without a label of these images."
            )
        else:
            how = f": {label}" if label else " of them"
            yield f"Accuracy there: unknown, as {self.why}. Label {priors.MIN_NEW_IMAGES}{how}"

    def _of_comparison(self, names: Sequence[str]) -> Iterator[str]:
        if self.comparison.differs:
            yield "They differ from those it was fitted on, and not in their mix of classes alone."
            yield f"Those that differ most: {', '.join(printable(names[place]) for place in self.most[:NAMED])}."
        else:
            what = "they differ from those it was fitted on in their mix of classes at most"
            yield f"As far as {self.images:,} images tell, {what}."

    def _of_classes(self) -> str:
        order = np.argsort(-self.shares, kind="stable")[:SHOWN_CLASSES]
        shown = [
            f"{self.classes[label]!r} {self.shares[label]:.0%} ({100 * self.intervals[label][0]:.0f} to "
            f"{100 * self.intervals[label][1]:.0f}), was {self.of_fitted[label]:.0%}"
            for label in order
        ]
        more = f"; {len(self.classes) - len(order):,} more in summary.json" if len(self.classes) > len(order) else ""
        doubt = " These intervals are wide, as the images differ." if self.why == DIFFER else ""
        return f"Classes among them: {printable('; '.join(shown))}{more}.{doubt}"
