"""What `g4i fit` found, as data."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..evaluation.estimate import Judgement
from ..evaluation.metrics import read_results
from ..inference.command import predict
from ..names import CLASSIFIER, LABELS_ONLY, WITH_VIEWS
from ..pages import page
from . import words
from .folder import CONFIG

Interval = tuple[float, float] | list[float] | None


@dataclass(repr=False)
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
    judged_on: str  # `gold`, `validation`, `cross_fitting`, `holdout` or `cross_validation`
    judged_images: int
    gold_of_no_class: int  # gold images beside these that belong to no class
    released: str | None  # `labels_only` or `with_views`
    finetuned: bool  # whether it has all layers trained
    images: int  # for training
    labels: int  # of them
    suspicious_labels: int  # labels that all views together contradict
    doubtful_labels: int  # others that are not the likeliest class, but may be right
    views: dict[str, dict[str, Any]]  # by name, see `LabelModel.report_`; `class_names`: see `names_classes`
    num_labels: int  # classes
    reviewed: int | None = None  # `labels` that a person gave or confirmed
    sampled_from: int | None = None  # training images, of which `images` are a sample; None: these are all
    groups: dict[str, int] | None = None  # `images` for training, of how many `groups`, of which some were `found`
    judged_groups: int | None = None  # of the images that judged
    # The accuracies above are on new scenes where there are groups. These are on images like those without a label;
    # None without groups, or where too few labelled images share their scene with another
    labels_only_accuracy_on_these_images: float | None = None
    labels_only_interval_on_these_images: Interval = None
    with_views_accuracy_on_these_images: float | None = None
    with_views_interval_on_these_images: Interval = None
    difference_on_these_images: float | None = None
    difference_interval_on_these_images: Interval = None
    label_noise_estimate: float | None = None  # share of wrong labels
    label_noise_interval: Interval = None
    # By name of each of several annotators: `labels`, the estimated `accuracy` of them and its `interval`
    annotators: dict[str, dict[str, Any]] | None = None
    annotator_agreement: float | None = None  # share of pairs of labels of one image that agree; None without pairs
    none_of_these_interval: Interval = None  # share of the unlabelled images that belong to no class
    # By class, its `share` of the unlabelled images with an `interval`, and its share `of_labels`. None where no label
    # can be held out, or all images have one
    pool_shares: dict[str, dict[str, Any]] | None = None
    finds_none_of_these: bool = False  # whether `predict` recognises new images that show no class
    # Where all layers were trained: whether they are `kept`, which `classifier` that is, `minutes`, `epochs`, and the
    # `accuracy`, beside `last_layer_accuracy`, with the `gain_interval` of the difference
    all_layers: dict[str, Any] | None = None
    # Of the released classifier, for each `precision`: the `threshold` above which it answers, the `share` of images
    # above it with its `interval`, and whether that is `certain`. Otherwise `gold` images would make it certain
    decisions: Sequence[dict[str, Any]] = ()
    unjudged_classes: Sequence[str] = ()  # without an image among the labelled ones that judge
    next_step: str = ""  # with a command

    @classmethod
    def read(cls, folder: str | Path) -> "FitResult":
        """The result in a folder of `fit`, which is finished: else a FileNotFoundError."""
        folder, results = Path(folder), read_results(folder)
        if "judged_on" not in results:
            raise FileNotFoundError(f"{folder} holds a g4i fit that is not finished. Run its command again.")
        kept = {each.name: results[each.name] for each in fields(cls) if each.name in results}
        return cls(classifier=folder / CLASSIFIER, config=folder / CONFIG, **kept)

    def lines(self) -> list[str]:
        """The verdict and what follows, in plain words."""
        return words.lines(self)

    def predict(self, images: Any, **options: Any) -> Dataset:
        """[`~g4i_hf.predict`] with this classifier."""
        return predict(self.classifier, images, **options)

    def __repr__(self) -> str:
        names = ("classifier", "released", "verdict", "difference", "difference_interval")
        first = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return "\n".join([f"FitResult({first}, ...)", words.verdict_in_words(self), self.next_step]).rstrip()

    def _repr_html_(self) -> str:
        """For notebooks."""
        shown = {
            "verdict": words.verdict_in_words(self),
            "bars": words.accuracy_bars(self),
            "next_step": self.next_step,
        }
        return page("fit_result.html.j2", **shown)


def judgement_in_results(judgement: Judgement) -> dict[str, Any]:
    return estimates_in_results(judgement) | {"verdict": judgement.verdict}


def estimates_in_results(judgement: Judgement | None, where: str = "") -> dict[str, Any]:
    """`where` is at the end of each name."""
    judgement = judgement or Judgement({})
    given = {f"{name}_accuracy": judgement.accuracies.get(name) for name in (LABELS_ONLY, WITH_VIEWS)}
    results: dict[str, Any] = {}
    for name, estimate in (given | {"difference": judgement.difference}).items():
        interval = f"{name.removesuffix('_accuracy')}_interval{where}"
        results |= {f"{name}{where}": estimate and estimate.share, interval: estimate and estimate.interval}
    return results
