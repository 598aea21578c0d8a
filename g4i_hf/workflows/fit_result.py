"""
What `g4i fit` leaves and says: its folder, how right both classifiers are, whether views helped, and what to do next.
Only the first of several processes writes.
"""

import itertools
import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data.labels import GOLD
from ..data.record import RECORD_FILE, Record, differences
from ..evaluation.metrics import read_results
from ..files import replace_text, some
from ..label_model.plan import left_out_in_words, none_in_words
from ..names import (
    CLASSIFIER,
    FIT_FILE,
    IN_MEMORY,
    LABELS_ONLY,
    RESULTS_FILE,
    WITH_VIEWS,
    changed_in_words,
    changed_since_fit,
    is_shipped,
)
from ..options import DataArguments, FitArguments, LabelArguments, names_of
from ..training.judged_heads import IN_TURN, KEPT, VALIDATION
from ..training.judging import CANNOT_TELL, HELPED, HURT, Judgement
from ..views.kinds import taught_by

REPORT, CONFIG = "report.html", "fit.yaml"
FINETUNED = "finetuned_"  # prefix of a run with all layers, until it is known whether it is better
FINISHED, ALTERED, OTHER, UNFINISHED = "finished", "altered", "other", "unfinished"
FORMAT = 2  # of what is written here. Raise it where a change of the code changes results

Result = TypeVar("Result")


def by_first(compute: Callable[[], Result]) -> Result:
    """The result of the first of several processes, in all of them."""
    return broadcast_object_list([compute() if PartialState().is_main_process else None])[0]


class FitFolder:
    """`options`: those that a result depends on; `say`: prints a line for the user."""

    def __init__(self, folder: str | Path, options: dict[str, Any], say: Callable[[str], object]):
        self.folder, self.options, self.say = Path(folder), options, say

    def noted(self) -> dict[str, Any]:
        file = self.folder / FIT_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def note(self, **decided: Any) -> None:
        """
        Record options, decisions and digests of the files of a finished `result`; `chosen` are the options as `fit`
        resolved them. Earlier ones stay while the options do.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self.noted()
        kept = earlier if earlier.get("options") == self.options else {}
        noted = kept | {"format": FORMAT, "options": self.options} | decided
        replace_text(self.folder / FIT_FILE, json.dumps(noted, indent=1) + "\n")

    def holds(self, record: Record) -> str:
        """
        `finished`: the result of this data and these options; `altered`: the same, but `classifier/` is not what was
        written; `other`: a result of other data or options, or with other runs than were written; `unfinished`: a part
        of this result, or nothing. With a line on what has changed.
        """
        if self._is_other(record):
            return OTHER
        noted = self.noted().get("result", ())
        files = [*(file for file in noted if not is_shipped(file)), RESULTS_FILE, CONFIG]
        if not noted or not all((self.folder / file).is_file() for file in files):
            return UNFINISHED
        changed = changed_since_fit(self.folder)
        are_shipped = all(map(is_shipped, changed))
        if are_shipped and not (changed and read_results(self.folder)["released"]):  # else a release was interrupted
            return FINISHED
        self.say(f"{changed_in_words(self.folder, changed)}.")
        return ALTERED if are_shipped else OTHER

    def _is_other(self, record: Record) -> bool:
        earlier, noted = Record.read(self.folder), self.noted()
        if not self._earlier():
            return False
        if earlier is None or not noted:
            self.say(f"{self.folder} holds results, and it is not known of what data.")
            return True
        options, given, chosen = self.options, noted["options"], noted.get("chosen", {})
        names = [name for name in options if options[name] not in (given.get(name), chosen.get(name, given.get(name)))]
        changes = [*differences(earlier, record).values(), *(f"the option {name}" for name in names)]
        changes += ["how g4i fit works"] if noted.get("format") != FORMAT else []
        if changes:
            self.say(f"Changed since the last run in {self.folder}: {', '.join(changes)}.")
        return bool(changes)

    def _earlier(self) -> list[Path]:
        places = [self.folder / name for name in (LABELS_ONLY, WITH_VIEWS, CLASSIFIER, REPORT, RESULTS_FILE)]
        others = [*self.folder.glob(f"{FINETUNED}*"), *self.folder.glob("*_results.json")]  # and of g4i evaluate
        return [place for place in dict.fromkeys([*places, *others]) if place.exists()]

    def clear(self) -> None:
        (self.folder / FIT_FILE).unlink(missing_ok=True)
        for path in self._earlier():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def set_classifier_aside(self) -> None:
        """For the next release to make it again, also after an interruption."""
        if (self.folder / CLASSIFIER).exists():
            self._move([self.folder / CLASSIFIER])
        unreleased = read_results(self.folder) | {"released": None}
        replace_text(self.folder / RESULTS_FILE, json.dumps(unreleased, indent=2) + "\n")
        self.say(f"{self.folder / CLASSIFIER} is made again from the run beside it.")

    def set_aside(self) -> None:
        """Move an earlier result into a new folder; after an interruption, the next start continues."""
        records = [self.folder / name for name in (CONFIG, FIT_FILE, RECORD_FILE)]  # last, as they show what to move
        self._move([*self._earlier(), *(path for path in records if path.exists())])

    def _move(self, moved: list[Path]) -> None:
        """Into the first of `earlier-1`, `earlier-2` ... that has none of them."""
        numbered = (self.folder / f"earlier-{number}" for number in itertools.count(1))
        place = next(place for place in numbered if not any((place / path.name).exists() for path in moved))
        place.mkdir(exist_ok=True)
        for path in moved:
            path.rename(place / path.name)
        self.say(f"The earlier result is kept in {place}.")


FEW_LABELS = 10  # a class: with fewer, more labels help most
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
    judged_on: str  # `gold`, `validation`, `kept` or `folds`
    judged_images: int
    gold_of_no_class: int  # gold images beside these that belong to no class
    released: str | None  # `labels_only` or `with_views`
    finetuned: bool
    images: int  # for training
    labels: int  # of them
    suspicious_labels: int  # labels that all views together contradict
    doubtful_labels: int  # others that are not the likeliest class, but may be right
    views: dict[str, dict[str, Any]]  # by name, see `LabelModel.report_`; and whether it has `class_names`
    num_labels: int  # classes
    label_noise_estimate: float | None = None  # share of wrong labels
    label_noise_interval: Interval = None
    none_of_these_interval: Interval = None  # share of the unlabelled images that belong to no class
    unjudged_classes: Sequence[str] = ()  # without an image among the labelled ones that judge

    @classmethod
    def read(cls, folder: Path) -> "FitResult":
        results = read_results(folder)
        kept = {each.name: results[each.name] for each in fields(cls) if each.name in results}
        return cls(classifier=folder / CLASSIFIER, config=folder / CONFIG, **kept)

    @property
    def of_views(self) -> str:
        return self.words(WITH_VIEWS).removeprefix("with ")

    def words(self, name: str) -> str:
        return in_words(name, self.views)

    def lines(self) -> list[str]:
        """The verdict and what follows, in plain words."""
        first, *rest = self.judgement_lines()
        return [first, self.released_in_words(), *rest]

    def released_in_words(self, is_complete: bool = False) -> str:
        """Which classifier ships, and why; what switches it where views have not helped, or if it `is_complete`."""
        if self.released is None:  # another start of fit is changing it
            return f"{CLASSIFIER}/ is not finished. Run g4i fit --config {self.config} to finish it."
        names = {WITH_VIEWS: f"with {self.of_views}", LABELS_ONLY: "that learned from labels only"}
        auto, why = ships(self.verdict), ""
        if self.released != auto:
            why = ", as --release asks for"
        elif self.verdict in (CANNOT_TELL, HURT):
            why = f", as {self.of_views} hurt" if self.verdict == HURT else ", which ships unless it is clearly worse"
        sentence = f"{CLASSIFIER}/ holds the one {names[self.released]}{why}."
        other = LABELS_ONLY if self.released == WITH_VIEWS else WITH_VIEWS
        if not (why or is_complete) or not (self.classifier.parent / other).is_dir():
            return sentence
        return f"{sentence} For the one {names[other]}: {self._switch(other)}"

    def _switch(self, other: str) -> str:
        """How to ship the other classifier, without fitting again."""
        chosen = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        if chosen.get("dataset_name") == IN_MEMORY:
            return f'call fit with the same dataset and release="{other}"'
        return shlex.join(["g4i", "fit", "--config", str(self.config), "--release", other])

    def judgement_lines(self) -> list[str]:
        """The same without what is released."""
        how = self._how_judged()
        unreviewed = " Unreviewed: no random sample was labelled by a person."
        judged = [how if self.judged_on == GOLD else how + unreviewed] if how else []
        more = [*left_out_in_words(self.views), *none_in_words(self.none_of_these_interval)]
        return [self.verdict_in_words(), *judged, *more]

    def of_card(self, name: str) -> str:
        """A sentence for the card of a classifier, whose reader has other images."""
        share, interval = getattr(self, f"{name}_accuracy"), getattr(self, f"{name}_interval")
        if share is None:
            return ""
        by_views = [*taught_by(self.views), "image features"]
        how = {
            GOLD: f"reviewed on {self.judged_images:,} images that a person labelled and it did not learn from"
            f"{self._of_no_class()}",
            VALIDATION: f"measured on {self.judged_images:,} labelled images that it did not learn from",
            KEPT: f"estimated without true labels, by what {listed([*by_views, 'the given labels'])} tell",
            IN_TURN: "estimated by labels that were left out in turn",
        }
        right = f"It is right for about {_percent(share)} of images like those that it was made for"
        unreviewed = "" if self.judged_on == GOLD else " (unreviewed)"
        ends = f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}"
        return f"{right}, 95% interval {ends}, {how[self.judged_on]}{unreviewed}."

    def verdict_in_words(self) -> str:
        if self.with_views_accuracy is None:
            if not self.judged_images:
                return "Its accuracy is unknown: there is no image to judge by."
            return (
                "Its accuracy is unknown: no class has two labels, and no second view confirms the first. Label two "
                "images of some classes."
            )
        sentence = (
            f"With {self.of_views} the classifier is right for about "
            f"{_percent(self.with_views_accuracy)} of images like yours {_range(self.with_views_interval)}"
        )
        if self.labels_only_accuracy is None:
            return f"{sentence}."
        labels_only = f"{_percent(self.labels_only_accuracy)} {_range(self.labels_only_interval)}"
        sentence += f", with your {self.labels:,} labels alone for about {labels_only}."
        return f"{sentence} {self._difference_in_words()}"

    def _difference_in_words(self) -> str:
        points, ends = 100 * self.difference, [100 * end for end in self.difference_interval]
        digits = 1 if ends[1] - ends[0] < 3 or min(map(abs, ends)) < 0.5 else 0
        what, kinds = self.of_views, taught_by(self.views)
        if self.labels < self.images and kinds:
            what = listed([*kinds, "unlabelled images"])
        if self.verdict == CANNOT_TELL:
            points_in_words = f"{points:+z.{digits}f} points ({ends[0]:+z.{digits}f} to {ends[1]:+z.{digits}f})"
            return f"It is unclear whether {what} helped: {points_in_words}."
        low, high = ends if self.verdict == HELPED else (-ends[1], -ends[0])
        points_in_words = f"{abs(points):.{digits}f} points ({low:.{digits}f} to {high:.{digits}f})"
        return f"{what[0].upper()}{what[1:]} {self.verdict} by {points_in_words}."

    def _how_judged(self) -> str:
        number = f"{self.judged_images:,}"
        if not self.judged_images or self.with_views_accuracy is None:
            return ""
        if self.judged_on == IN_TURN:
            return (
                f"Judged on {number} labels that were left out in turn. So each classifier had fewer labels to learn "
                "from: with all of them both are more accurate, and the difference is often smaller."
            )
        if self.judged_on == GOLD:
            sample = f"Reviewed on {number} images, a random sample that a person labelled{self._of_no_class()}."
            return sample + self._unjudged()
        if self.judged_on == VALIDATION:
            return f"Judged on {number} validation images.{self._unjudged()}"
        kinds = taught_by(self.views)
        by = listed([*kinds, "features"]) if kinds else "image features"
        sentence = f"Estimated on {number} unlabelled images that were kept out of training, by {by}"
        if self.finetuned:
            return f"{sentence}. As they also chose to keep all layers, the estimate is a little too good."
        has_labels = any(line["interval"] for line in self.views.values())
        corrected = "Your labels correct the estimate" if has_labels else "No class has two labels to correct it by"
        return f"{sentence}. {corrected}."

    def _of_no_class(self) -> str:
        left = self.gold_of_no_class
        if not left:
            return ""
        share = left / (left + self.judged_images)
        return f"; {left:,} more ({share:.0%} of the sample) belong to none of the classes and are not counted"

    def _unjudged(self) -> str:
        if not self.unjudged_classes:
            return ""
        few = f"{len(self.unjudged_classes):,} of the {self.num_labels:,} classes"
        named = some([repr(name) for name in self.unjudged_classes])
        return f" None of them shows {few} ({named}), so these were not checked."

    def since(self, before: "FitResult") -> str:
        """What changed; `before` is of the same classes. Both accuracies are with views."""
        how = {GOLD: " (reviewed)", VALIDATION: " (measured)"}
        differ = before.judged_on != self.judged_on
        accuracies = " -> ".join(
            _percent(each.with_views_accuracy) + how.get(each.judged_on, " (estimated)") * differ
            for each in (before, self)
        )
        noises = " -> ".join(_range(each.label_noise_interval, "%") for each in (before, self))
        labels = f"labels {before.labels:,} -> {self.labels:,}"
        return f"Since the last run: {labels}; accuracy {accuracies}; wrong labels {noises}."

    def next_command(self, data: str | None, has_test: bool = False) -> str:
        """What to do next; `data` are the words after `g4i label`, None for images that it cannot open."""
        few = self.labels < min(FEW_LABELS * self.num_labels, self.images)
        why = {}
        if self.suspicious_labels:
            less = f", and {self.doubtful_labels:,} that may be right" if self.doubtful_labels else ""
            why["wrong"] = f"look at the labels that look wrong ({self.suspicious_labels:,}{less})"
        elif few:
            why["next"] = "label the images that teach most"
        elif self.judged_on != GOLD:
            why["gold"] = "label a random sample, which alone tells the true accuracy"
        if self.doubtful_labels and "wrong" not in why:
            why["wrong"] = f"look at labels that differ from the likeliest class ({self.doubtful_labels:,})"
        commands = [f"{what}: g4i label {data} --pick {pick}" for pick, what in why.items()] if data else []
        if not commands:
            folder = shlex.quote(str(self.classifier.parent))
            test = "measure it once on images that it has never seen: g4i evaluate"
            commands = [f"{test} {folder} --splits test" if has_test else f"publish it: g4i release --run {folder}"]
        return f"Next: {'; or '.join(commands)}"


def options_of_label(args: FitArguments, data: DataArguments) -> str:
    """The data, and those options of a fit that `g4i label` takes too, as words after it."""
    words = [data.dataset_name, *(["-o", args.output_dir] if args.output_dir else [])]
    for given, takes in ((args, LabelArguments), (data, DataArguments)):
        fields_of_given = names_of(type(given))
        for name in names_of(takes):
            if name in fields_of_given and name not in ("dataset_name", "output_dir"):
                value = getattr(given, name)
                if value != fields_of_given[name].default:
                    words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def ships(verdict: str | None) -> str:
    """The classifier that `classifier/` holds where `--release` names none: with views, unless they hurt."""
    return LABELS_ONLY if verdict == HURT else WITH_VIEWS


def in_words(name: str, views: Mapping[str, Mapping[str, Any]]) -> str:
    with_views = listed(taught_by(views)) or "image features of all images"
    return {LABELS_ONLY: "labels only", WITH_VIEWS: f"with {with_views}"}[name]


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def judgement_in_results(judgement: Judgement) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name in (LABELS_ONLY, WITH_VIEWS):
        of_name = judgement.accuracies.get(name)
        results |= {f"{name}_accuracy": of_name and of_name.share, f"{name}_interval": of_name and of_name.interval}
    difference = judgement.difference and judgement.difference.share
    interval = judgement.difference and judgement.difference.interval
    return results | {"difference": difference, "difference_interval": interval, "verdict": judgement.verdict}


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f}%"


def _range(interval: Interval, unit: str = "") -> str:
    low, high = interval or (0, 1)
    ends = f"{100 * low:.0f} to {100 * high:.0f}{unit}"
    return ends if unit else f"({ends})"
