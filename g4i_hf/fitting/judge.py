"""
Images that judge both last layers of `g4i fit`: gold, `validation`, unlabelled ones, in turn or kept out, or labelled
ones by cross-validation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .. import priors
from ..data.labels import GOLD
from ..evaluation.estimate import (
    Estimate,
    Expected,
    HeldOut,
    Judgement,
    judged_by_labels,
    judged_by_probabilities,
    judged_in_turn,
)
from ..label_model.calibration import inverse_temperature
from ..linear import one_hot
from ..names import ALL_LAYERS, WITH_VIEWS
from ..views.kinds import IMAGE
from .evidence import VALIDATION, Evidence
from .heads import Head, Sample, cross_validated, expected_right, last_layers, on_all, on_rows, rows_that_judge
from .targets import Targets

FACTORS = (0.02, 50.0)  # of logits, the least and the largest
FOLDS_OF_LOOKS = 5


@dataclass
class Judge:
    """Images on which neither classifier is fitted. Its kinds differ in how they predict and estimate."""

    rows: np.ndarray  # (n,) of `split`
    features: np.ndarray  # (n, F)
    probabilities: np.ndarray  # (n, C) of their classes; one-hot for labelled images
    is_checked: bool = True  # whether labels or another view have calibrated `probabilities`
    logits: dict[str, np.ndarray] = field(default_factory=dict)  # (n, C) by name of the classifier, once it is fitted
    heads: dict[str, Head] = field(default_factory=dict)  # by name, the last layers with these logits
    factors: dict[str, float] = field(default_factory=dict)  # of confidence, by name, that `logits` have
    weights: np.ndarray | None = None  # (n,) of the rows; None: they are equal
    groups: np.ndarray | None = None  # (n,) the same for images of one scene; None: each is one

    name: ClassVar[str]
    split: ClassVar[str] = "train"
    has_labels: ClassVar[bool] = True

    def predict(self, heads: dict[str, Head]) -> None:
        """Sets the logits."""
        self.logits = {name: head.logits(self.features) for name, head in heads.items()}

    def estimate(self) -> Judgement:
        """From the predictions of at least one row, whether or not anything has checked the probabilities."""
        raise NotImplementedError

    def judgement(self) -> Judgement:
        judgement = self.estimate() if len(self.rows) else Judgement({})
        return judgement if self.is_checked else Judgement({}, judges=judgement.judges)

    @property
    def predicted(self) -> dict[str, np.ndarray]:
        return {name: logits.argmax(1) for name, logits in self.logits.items()}

    @property
    def can_choose_layers(self) -> bool:
        """Whether it can tell if all layers are better than the last one."""
        return self.is_checked

    @property
    def choosing_layers(self) -> np.ndarray:
        """(n, C) probabilities that tell whether all layers are better than the last one."""
        return self.probabilities

    def right(self, predicted: np.ndarray) -> np.ndarray:
        """(..., n) how likely these classes are right, as far as this tells all layers from the last one."""
        return self.choosing_layers[np.arange(predicted.shape[-1]), predicted].astype(np.float64)

    def gain(self, name: str, looks: np.ndarray) -> Estimate:
        """
        How many more images all layers get right than this last layer, as a share, where one of several looks (k, n)
        at their classes is kept. The look that counts for an image is chosen by images of other groups: what is best
        for the image itself is so by chance in part.
        """
        groups = np.arange(looks.shape[1]) if self.groups is None else self.groups
        folds, right = np.unique(groups, return_inverse=True)[1] % FOLDS_OF_LOOKS, self.right(looks)
        best = np.array([chosen_look(right[:, folds != fold]) for fold in range(FOLDS_OF_LOOKS)])
        classes = {name: self.logits[name].argmax(1), ALL_LAYERS: looks[best[folds], np.arange(looks.shape[1])]}
        return self.compared(classes).difference

    def compared(self, predicted: Mapping[str, np.ndarray]) -> Judgement:
        """Of two classifiers by name, with (n,) predicted classes each, of which one has all layers trained."""
        raise NotImplementedError

    def factors_of_confidence(self) -> dict[str, float]:
        """Of the logits by name."""
        factors = dict.fromkeys(self.logits, 1.0)
        for name, estimate in (self.estimate().accuracies if len(self.rows) else {}).items():
            factors[name] = self.factor_of_confidence(self.logits[name], estimate.share)
        return factors

    def factor_of_confidence(self, logits: np.ndarray, accuracy: float) -> float:
        """Of logits (n, C) of these images. Few images change little, and no accuracy counts as 0 or 1."""
        number = len(self.rows)
        least, trust = 1 / (number + 2), number / (number + priors.HALF_CONFIDENCE_IMAGES)
        share = float(np.clip(accuracy, least, 1 - least))
        return inverse_temperature(logits, 0.0, share, self.weights, FACTORS, xtol=1e-3) ** trust

    def __getstate__(self) -> dict[str, Any]:
        """What other processes get, which do not judge."""
        return {"rows": self.rows, "heads": self.heads, "is_checked": self.is_checked}


def chosen_look(right: np.ndarray) -> int:
    """
    Of looks (k, n), in their order: the latest that is worse than the best by no more than the standard error of their
    difference. But for noise, weights become better as the learning rate falls.
    """
    lost = right[right.mean(1).argmax()] - right
    return int(np.flatnonzero(lost.mean(1) <= lost.std(1) / np.sqrt(right.shape[1]))[-1])


class OfSplit(Judge):
    """Images of a split for judging, whose labels are right."""

    def estimate(self) -> Judgement:
        return self.compared(self.predicted)

    def compared(self, predicted: Mapping[str, np.ndarray]) -> Judgement:
        return judged_by_labels(predicted, self.probabilities.argmax(1), groups=self.groups)


class Gold(OfSplit):
    """A random sample that a person labelled. What views say of the other training images narrows intervals."""

    name = split = GOLD
    others: tuple[Targets, np.ndarray, Sample] | None = None
    expected: dict[str, Expected] | None = None  # by name, how likely each classifier is right

    def compare_with(self, targets: Targets, features: np.ndarray, views: Mapping[str, np.ndarray]) -> None:
        """The other training images, with their features (N, F); `views` are values (n, D) of the sample."""
        if len(self.rows) >= priors.MIN_POWER_TUNED:
            self.others = targets, features, Sample(self.features, views)

    def predict(self, heads: dict[str, Head]) -> None:
        super().predict(heads)
        self.expected = self.others and expected_right(*self.others, heads)

    def estimate(self) -> Judgement:
        return judged_by_labels(self.predicted, self.probabilities.argmax(1), self.expected, self.groups)


class Validation(OfSplit):
    name = split = VALIDATION


class Unlabelled(Judge):
    """Training images without a label, by their class probabilities; labelled rows correct the estimates."""

    has_labels = False

    def __init__(self, targets: Targets, features: np.ndarray, turns: Sequence[Evidence]):
        """In each of these turns the holdout judges."""
        rows = np.concatenate([evidence.holdout for evidence in turns])
        probabilities = np.concatenate([evidence.model.probabilities_[evidence.holdout] for evidence in turns])
        labelled = rows_that_judge(targets.evidence, features)
        is_typical = targets.evidence.model.typical_[labelled]
        # Otherwise labels of almost the same images have calibrated the probabilities to look too good
        is_checked = is_typical.all() or is_typical.sum() >= priors.MIN_JUDGES
        is_checked &= targets.evidence.model.accuracy_ is not None and not targets.evidence.student_has_learned
        super().__init__(
            rows,
            features[rows],
            probabilities.astype(np.float32),
            bool(is_checked),
            groups=targets.evidence.groups[rows],
        )
        self.targets, self.all_features, self.turns = targets, features, turns
        self.rectifying = labelled[is_typical]
        self.held_out: HeldOut | None = None  # labelled rows; None: no class has labels of two images
        self.logits_of_held_out: dict[str, np.ndarray] = {}  # (m, C) by name of the classifier, without its factor

    def predict(self, heads: dict[str, Head]) -> None:
        super().predict(heads)
        of_rows = self.rectifying, heads, self.rows
        self.logits_of_held_out, self.held_out = cross_validated(self.targets, self.all_features, *of_rows)

    def estimate(self) -> Judgement:
        rows = self.held_out, {name: each.argmax(1) for name, each in self.logits_of_held_out.items()}
        return judged_by_probabilities(self.predicted, self.probabilities, *rows, self.groups)

    def compared(self, predicted: Mapping[str, np.ndarray]) -> Judgement:
        return judged_by_probabilities(predicted, self.choosing_layers, groups=self.groups)

    @cached_property
    def choosing_layers(self) -> np.ndarray:
        """
        Without the features of the student: the last layer predicts by them, so that it shares their errors, and a
        network that has left them behind would lose.
        """
        evidence = self.targets.evidence
        return evidence.model.predict({name: evidence.views[name].values[self.rows] for name in self._other_views})

    @property
    def can_choose_layers(self) -> bool:
        return self.is_checked and bool(self._other_views)

    @property
    def _other_views(self) -> list[str]:
        model = self.targets.evidence.model
        return [name for name in self.targets.evidence.views if name != IMAGE and model.report_[name]["weight"] > 0]


class Holdout(Unlabelled):
    """Images on which no layer is fitted, so that they can also judge all layers."""

    name = "holdout"

    def __init__(self, targets: Targets, features: np.ndarray):
        super().__init__(targets, features, [targets.evidence])


class CrossFitting(Unlabelled):
    """
    All of them, in turn: each by a layer, and by class probabilities, that were fitted without its turn (Zrnic and
    Candes, arXiv 2309.16598). Only the strength of the regularisation is that of all rows.
    """

    name = "cross_fitting"

    def predict(self, heads: dict[str, Head]) -> None:
        super().predict(heads)
        logits = []
        for evidence in self.turns:
            targets = replace(self.targets, evidence=evidence)
            layer = on_rows(targets, self.all_features, heads, targets.rows)[WITH_VIEWS]
            logits.append(layer.logits(self.all_features[evidence.holdout]))
        self.logits[WITH_VIEWS] = np.concatenate(logits)


class CrossValidation(Judge):
    """Labelled training images, which may have wrong labels, each by layers that have not learned its fold."""

    name = "cross_validation"
    can_choose_layers = False

    def __init__(self, targets: Targets, features: np.ndarray):
        evidence, rows = targets.evidence, rows_that_judge(targets.evidence, features)
        super().__init__(rows, features[rows], one_hot(evidence.labels[rows], evidence.num_labels))
        # Of few scenes with several labels each, a fold leaves a class too few to learn from
        scenes = len(np.unique(evidence.groups[rows]))
        self.is_checked = scenes >= priors.MIN_JUDGES or len(rows) < 2 * scenes
        self.is_checked &= not evidence.student_has_learned
        self.targets, self.all_features = targets, features

    def predict(self, heads: dict[str, Head]) -> None:
        self.logits, self.held_out = cross_validated(self.targets, self.all_features, self.rows, heads)
        self.weights = self.held_out and self.held_out.weights

    def estimate(self) -> Judgement:
        return judged_in_turn(self.predicted, self.held_out)


def judge_in_training(targets: Targets, features: np.ndarray) -> Judge:
    """Without such a split: the holdout, otherwise unlabelled rows in turn, or labelled ones if those are too few."""
    if len(targets.evidence.holdout):
        return Holdout(targets, features)
    turns = targets.evidence.turns()
    return CrossFitting(targets, features, turns) if turns else CrossValidation(targets, features)


def judged_heads(targets: Targets, features: np.ndarray, judge: Judge) -> dict[str, Head]:
    """
    The last layers by name, at the end also fitted on the holdout, and as sure on average as they are judged to be
    right. Sets the logits of the judge, and its heads.
    """
    heads = last_layers(targets, features)
    judge.predict(heads)
    factors = judge.factors = judge.factors_of_confidence()
    judge.logits = {name: logits * factors[name] for name, logits in judge.logits.items()}
    judge.heads = {name: head.times(factors[name]) for name, head in heads.items()}
    heads = on_all(targets, features, heads) if len(targets.evidence.holdout) else heads
    return {name: head.times(factors[name]) for name, head in heads.items()}


# --- On these images, beside new scenes ------------------------------------------------------------------------------


def on_these_images(
    targets: Targets, features: np.ndarray, heads: Mapping[str, Head], on_new: Judgement
) -> Judgement | None:
    """
    Of images like those without a label. Labelled rows judge the part that shows scenes with a label, each by layers
    that have learned other images of its scene. The rest is judged as new scenes are. None where no group has several
    images, or fewer than `MIN_JUDGES` rows can judge.
    """
    evidence = targets.evidence
    is_labelled = evidence.labels >= 0
    if len(np.unique(evidence.groups)) == len(np.unique(evidence.images)) or evidence.student_has_learned:
        return None
    is_seen = np.isin(evidence.groups, evidence.groups[is_labelled])[~is_labelled]
    share = float(is_seen.mean()) if len(is_seen) else 1.0
    if share == 0:
        return on_new
    weights = _weights_in_scenes(evidence)
    by_image = replace(targets, evidence=evidence.by_image())
    rows = rows_that_judge(by_image.evidence, features)
    rows = rows[weights[rows] > 0]
    if len(rows) < priors.MIN_JUDGES or (share < 1 and not on_new.accuracies):
        return None
    logits, held_out = cross_validated(by_image, features, rows, heads)
    of_rows = held_out.weights * weights[rows]
    held_out = replace(held_out, weights=of_rows / of_rows.sum(), groups=evidence.groups[rows])
    on_seen = judged_in_turn({name: each.argmax(1) for name, each in logits.items()}, held_out)
    accuracies = {name: _mixed(each, on_new.accuracies.get(name), share) for name, each in on_seen.accuracies.items()}
    return Judgement(accuracies, on_seen.difference and _mixed(on_seen.difference, on_new.difference, share))


def _weights_in_scenes(evidence: Evidence) -> np.ndarray:
    """
    (N,) of labelled rows whose scene has another labelled image: together, as much as there are unlabelled rows in the
    scene; 1 where all rows have a label. 0 of others.
    """
    is_labelled = evidence.labels >= 0
    _, scene = np.unique(evidence.groups, return_inverse=True)
    number = scene.max() + 1
    _, first = np.unique(np.where(is_labelled, evidence.images, -1), return_index=True)
    images = np.bincount(scene[first[is_labelled[first]]], minlength=number)
    labelled, unlabelled = (np.bincount(scene[rows], minlength=number) for rows in (is_labelled, ~is_labelled))
    of_row = unlabelled / np.maximum(labelled, 1) if unlabelled.any() else np.ones(number)
    return np.where(is_labelled & (images[scene] > 1), of_row[scene], 0.0)


def _mixed(seen: Estimate, new: Estimate | None, share: float) -> Estimate:
    """Of a mixture, in which so large a share is as `seen`; the intervals may err together."""
    if new is None:
        return seen
    ends = zip((seen.share, *seen.interval), (new.share, *new.interval), strict=True)
    middle, low, high = (share * one + (1 - share) * other for one, other in ends)
    return Estimate(middle, (low, high))
