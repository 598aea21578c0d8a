"""What `g4i fit` leaves and says: how right both classifiers are, whether views helped, and what to do next."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..label_model.supervise import CAPTION
from ..names import LABELS_ONLY, WITH_VIEWS
from ..training.judged_heads import IN_TURN, KEPT
from ..training.judging import CANNOT_TELL, HELPED, Judgement

CONFIG, RESULTS, CLASSIFIER = "fit.yaml", "all_results.json", "classifier"
FEW_LABELS = 10  # a class: more of them are worth more than anything else
Interval = tuple[float, float] | list[float] | None


@dataclass
class FitResult:
    """What `fit` leaves; accuracies are shares of images like those of `train`, with 95% intervals."""

    classifier: Path  # folder of the released student
    config: Path  # `fit.yaml`, for `g4i fit --config`
    labels_only_accuracy: float | None  # None without labels
    labels_only_interval: Interval
    with_views_accuracy: float | None
    with_views_interval: Interval
    difference: float | None
    difference_interval: Interval
    verdict: str | None  # `helped`, `hurt` or `cannot tell`
    judged_on: str  # `validation`, `kept` or `folds`
    judged_images: int
    released: str  # `labels_only` or `with_views`
    finetuned: bool
    labels: int  # labelled training images
    suspicious_labels: int  # of them, those of which all views together say something else
    views: dict[str, dict[str, Any]]  # by name, see `LabelModel.report_`
    num_labels: int  # classes

    @classmethod
    def read(cls, folder: Path) -> "FitResult":
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        kept = {each.name: results[each.name] for each in fields(cls) if each.name in results}
        return cls(classifier=folder / CLASSIFIER, config=folder / CONFIG, **kept)

    @property
    def of_views(self) -> str:
        return self.words(WITH_VIEWS).removeprefix("with ")

    def words(self, name: str) -> str:
        """What a user calls a classifier."""
        return in_words(name, CAPTION in self.views)

    def lines(self) -> list[str]:
        """The verdict, in plain words."""
        said = [self.verdict_in_words()]
        if how := self._how_judged():
            said.append(how)
        said.append(f"{CLASSIFIER}/ holds the one {self._released_in_words()}.")
        if following := self._next():
            said.append(f"Next: {following}.")
        return said

    def verdict_in_words(self) -> str:
        if self.with_views_accuracy is None:
            return "Its accuracy is unknown: there is no image to judge by."
        said = (
            f"With {self.of_views} the classifier is right for about "
            f"{_percent(self.with_views_accuracy)} of images like yours {_range(self.with_views_interval)}"
        )
        if self.labels_only_accuracy is None:
            return f"{said}."
        labels_only = f"{_percent(self.labels_only_accuracy)} {_range(self.labels_only_interval)}"
        return f"{said}, with your {self.labels:,} labels alone for about {labels_only}. {self._difference_in_words()}"

    def _difference_in_words(self) -> str:
        points, ends = 100 * self.difference, [100 * end for end in self.difference_interval]
        if self.verdict == CANNOT_TELL:
            told = f"{points:+z.0f} points ({ends[0]:+z.0f} to {ends[1]:+z.0f})"
            return f"It is unclear whether {self.of_views} helped: {told}."
        low, high = ends if self.verdict == HELPED else (-ends[1], -ends[0])
        subject = self.of_views[0].upper() + self.of_views[1:]
        return f"{subject} {self.verdict} by {abs(points):.0f} points ({low:.0f} to {high:.0f})."

    def _how_judged(self) -> str:
        number = f"{self.judged_images:,}"
        if not self.judged_images:
            return ""
        if self.judged_on == IN_TURN:
            return f"Judged on {number} labels left out in turn, so that fewer taught: it is better than this says."
        if self.judged_on != KEPT:
            return f"Judged on {number} validation images."
        said = f"Judged on {number} unlabelled images that it did not learn from, by what the views say of them"
        is_checked = any(line["interval"] for line in self.views.values())
        return (
            f"{said}, checked by your labels." if is_checked else f"{said}; no class has two labels to check that by."
        )

    def _released_in_words(self) -> str:
        return self.words(self.released) if self.released == WITH_VIEWS else "that learned from labels only"

    def _next(self) -> str:
        if self.suspicious_labels:
            return f"look at the {self.suspicious_labels:,} labels that look wrong, in the report"
        if self.labels < FEW_LABELS * self.num_labels:
            return "label more images, or check the pictures in the report"
        return ""


def in_words(name: str, has_captions: bool) -> str:
    with_views = "with captions" if has_captions else "with image features of all images"
    return {LABELS_ONLY: "labels only", WITH_VIEWS: with_views}[name]


def judgement_in_results(found: Judgement) -> dict[str, Any]:
    """For `all_results.json`."""
    results: dict[str, Any] = {}
    for name in (LABELS_ONLY, WITH_VIEWS):
        of_name = found.accuracies.get(name)
        results |= {f"{name}_accuracy": of_name and of_name.share, f"{name}_interval": of_name and of_name.interval}
    difference = found.difference and found.difference.share
    interval = found.difference and found.difference.interval
    return results | {"difference": difference, "difference_interval": interval, "verdict": found.verdict}


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _range(interval: Interval) -> str:
    low, high = interval or (0, 1)
    return f"({100 * low:.0f} to {100 * high:.0f})"
