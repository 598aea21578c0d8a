"""What `g4i fit` says of its result: how right both classifiers are, whether views helped, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import priors
from ..data.labels import GOLD
from ..evaluation.estimate import CANNOT_TELL, HELPED
from ..files import some
from ..names import ALL_LAYERS, CLASSIFIER, IN_MEMORY, LABELS_ONLY, WITH_VIEWS
from ..options import DataArguments, FitArguments, LabelArguments, names_of
from ..views.kinds import taught_by
from ..words import annotators_in_words, left_out_in_words, listed, none_in_words
from .decide import ASKED, EXPECTED, NOT_CLEARLY_WORSE, VIEWS_HURT, decide
from .evidence import VALIDATION
from .folder import read_config
from .judge import CrossFitting, CrossValidation, Holdout

if TYPE_CHECKING:
    from .result import FitResult

ON_THESE_IMAGES = "_on_these_images"  # at the end of names of accuracies that are not on new scenes
FINDS_NONE = "g4i predict says `none` where a new image seems to show none of the classes."
FEW_LABELS = 10  # a class: with fewer, more labels help most
SHOWN_CLASSES = 3  # of those whose share is another one than among the labels
FEW_LABELS_OF_CLASS, UNEVEN = 4, 5  # with fewer, and so many times as many labels of another class


def lines(result: FitResult) -> list[str]:
    """The verdict and what follows."""
    first, *rest = judgement_lines(result)
    return [first, released_in_words(result), *rest]


def judgement_lines(result: FitResult) -> list[str]:
    """The same without what is released."""
    how = _how_judged(result)
    unreviewed = " Unreviewed: no random sample judges."
    judged = [how if result.judged_on == GOLD else how + unreviewed] if how else []
    judged += filter(None, [_few_judges_in_words(result), "" if result.finetuned else all_layers_in_words(result)])
    more = [
        *_groups_in_words(result),
        *_class_mix_in_words(result),
        *annotators_in_words(result.annotators, result.annotator_agreement),
        *left_out_in_words(result.views),
        *none_in_words(result.none_of_these_interval),
    ]
    more += [FINDS_NONE] if result.finds_none_of_these else []
    return [verdict_in_words(result), *judged, *more]


def has_scenes(result: FitResult) -> bool:
    """Whether training images form groups, so that its accuracies are on new scenes."""
    return bool(result.groups) and result.groups["groups"] != result.groups["different"]


def _groups_in_words(result: FitResult) -> list[str]:
    if not has_scenes(result):
        return []
    counts = f"Trained on {result.groups['images']:,} images of {result.groups['groups']:,} scenes"
    if not result.groups["found"]:
        held_out = "Each scene is held out whole."
    else:
        counts += ", as features and pixels tell"
        held_out = (
            "Each scene that was found is held out whole, but a scene can be found in parts: then the accuracies on "
            "new scenes are too high. Name scenes by --group_by folder, time or a regular expression, if you can."
        )
    return [f"{counts}. {held_out}", *_on_these_images_in_words(result)]


def _on_these_images_in_words(result: FitResult) -> list[str]:
    share, interval = accuracy_of(result, WITH_VIEWS, ON_THESE_IMAGES)
    if share is None:
        if result.with_views_accuracy is None:
            return []
        few = f"fewer than {priors.MIN_JUDGES} labelled images show a scene of another one"
        return [f"How right it is on more images of the same scenes is unknown: {few}."]
    if share == result.with_views_accuracy:
        return ["None of the images without a label shows a scene with a label, so all of them count as new scenes."]
    of, (labels_only, of_labels_only) = "", accuracy_of(result, LABELS_ONLY, ON_THESE_IMAGES)
    if labels_only is not None:
        of = f", with labels alone for about {_percent(labels_only)} {_range(of_labels_only)}"
    images = "more images of these scenes" if result.labels == result.images else "your images without a label"
    return [f"On these images, not new scenes: right for about {_percent(share)} of {images} {_range(interval)}{of}."]


def _few_judges_in_words(result: FitResult) -> str:
    number = result.judged_groups
    if result.difference is None or number is None or number >= priors.MIN_JUDGES:
        return ""
    what = "scenes" if has_scenes(result) else "images"
    return f"No verdict: {number:,} {what} judge, and it takes {priors.MIN_JUDGES}."


def classifier_in_words(name: str, views: Mapping[str, Mapping[str, Any]]) -> str:
    return "labels only" if name == LABELS_ONLY else f"with {_of_views(views)}"


def _of_views(views: Mapping[str, Mapping[str, Any]]) -> str:
    return listed(taught_by(views)) or "image features of all images"


# --- Which is released -----------------------------------------------------------------------------------------------


def released_in_words(result: FitResult, is_complete: bool = False) -> str:
    """Which classifier ships, and why; what switches it where views have not helped, or if it `is_complete`."""
    if result.released is None:  # another start of fit is changing it
        return f"{CLASSIFIER}/ is not finished. Run g4i fit --config {result.config} to finish it."
    # The classifier in the folder as the option `release`: the reason is ASKED if the verdict would have another one
    views, why = _of_views(result.views), decide(result.verdict, result.released).why
    names = {WITH_VIEWS: f"with {views}", LABELS_ONLY: "that learned from labels only"}
    because = {
        ASKED: ", as --release asks for",
        VIEWS_HURT: f", as {views} hurt",
        NOT_CLEARLY_WORSE: ", which ships unless it is clearly worse",
        EXPECTED: "",
    }
    layers = ", with all layers trained" if result.finetuned else ""
    sentence = f"{CLASSIFIER}/ holds the one {names[result.released]}{layers}{because[why]}."
    other = LABELS_ONLY if result.released == WITH_VIEWS else WITH_VIEWS
    if (why == EXPECTED and not is_complete) or not (result.classifier.parent / other).is_dir():
        return sentence
    return f"{sentence} For the one {names[other]}: {_switch(result, other)}"


def _switch(result: FitResult, other: str) -> str:
    """How to ship the other classifier, without fitting again."""
    if read_config(result.config.parent).get("dataset_name") == IN_MEMORY:
        return f'call fit with the same dataset and release="{other}"'
    return shlex.join(["g4i", "fit", "--config", str(result.config), "--release", other])


# --- How right they are ----------------------------------------------------------------------------------------------


def verdict_in_words(result: FitResult) -> str:
    """How right both classifiers are; where all layers ship, they come first."""
    if result.finetuned:
        return f"{all_layers_in_words(result)} {_of_last_layers(result)}"
    return _of_last_layers(result)


def _of_last_layers(result: FitResult) -> str:
    if result.with_views_accuracy is None:
        if not result.judged_images:
            return "Its accuracy is unknown: there is no image to judge by."
        if has_scenes(result) and (result.judged_groups or 0) < priors.MIN_JUDGES:
            return (
                f"Its accuracy on new scenes is unknown: {result.judged_groups or 0:,} scenes have labels that can be "
                f"held out, and it takes {priors.MIN_JUDGES}. Label images of other scenes."
            )
        if any(line.get("knows_labels") for line in result.views.values()):
            return (
                "Its accuracy is unknown: what would judge it has learned these labels. Name the network that the "
                "student started from, or leave out the view."
            )
        if any(line["interval"] for line in result.views.values()):
            return (
                "Its accuracy is unknown: most labelled images are almost the same as others, as frames of a scene "
                "are, and most of those without a label are not. Name scenes by --group_by, or label other images."
            )
        return (
            "Its accuracy is unknown: no class has two labels, and no second view confirms the first. Label two "
            "images of some classes."
        )
    like = "of new scenes" if has_scenes(result) else "like yours"
    sentence = (
        f"With {_of_views(result.views)} the {'last layer' if result.finetuned else 'classifier'} is right for about "
        f"{_percent(result.with_views_accuracy)} of images {like} {_range(result.with_views_interval)}"
    )
    if result.labels_only_accuracy is None:
        return f"{sentence}."
    labels_only = f"{_percent(result.labels_only_accuracy)} {_range(result.labels_only_interval)}"
    sentence += f", with your {result.labels:,} labels alone for about {labels_only}."
    return f"{sentence} {_difference_in_words(result)}"


def all_layers_in_words(result: FitResult) -> str:
    """Whether they ship, and their accuracy beside that of the last layer; "" where they were not trained."""
    trained = result.all_layers
    if not trained:
        return ""
    if trained["accuracy"] is None:
        return "All layers were never judged, so the last layer alone ships."
    before, after = (f"{trained[name]:.1%}" for name in ("last_layer_accuracy", "accuracy"))
    gain = 100 * (trained["accuracy"] - trained["last_layer_accuracy"])
    ends = " to ".join(f"{100 * end:z.1f}" for end in trained["gain_interval"])
    figures = f"{after} where the last layer alone has {before} (gain {gain:z.1f} points, {ends})"
    sentence = f"All layers, {trained['minutes']:g} minutes: {figures}"
    if not trained["kept"]:
        return f"{sentence}, so they are left out."
    return f"{sentence}." if gain > 0 else f"{sentence}: no clear loss, so they ship."


def accuracy_of(result: FitResult, name: str, where: str = "") -> tuple[float | None, Sequence[float] | None]:
    """Of `labels_only` or `with_views`, and its interval; `where` may be `ON_THESE_IMAGES`."""
    return getattr(result, f"{name}_accuracy{where}"), getattr(result, f"{name}_interval{where}")


def accuracy_bars(result: FitResult) -> list[dict[str, Any]]:
    """For a template: the accuracy of each classifier, if it is known, and the ends of its interval."""
    return [
        {"name": classifier_in_words(name, result.views), "share": share, "low": interval[0], "high": interval[1]}
        for name in (LABELS_ONLY, WITH_VIEWS)
        for share, interval in [accuracy_of(result, name)]
        if share is not None
    ]


def _difference_in_words(result: FitResult) -> str:
    points, ends = 100 * result.difference, [100 * end for end in result.difference_interval]
    digits = 1 if ends[1] - ends[0] < 3 or min(map(abs, ends)) < 0.5 else 0
    what, kinds = _of_views(result.views), taught_by(result.views)
    if result.labels < result.images and kinds:
        what = listed([*kinds, "unlabelled images"])
    if result.verdict == CANNOT_TELL:
        points_in_words = f"{points:+z.{digits}f} points ({ends[0]:+z.{digits}f} to {ends[1]:+z.{digits}f})"
        return f"It is unclear whether {what} helped: {points_in_words}."
    low, high = ends if result.verdict == HELPED else (-ends[1], -ends[0])
    points_in_words = f"{abs(points):.{digits}f} points ({low:.{digits}f} to {high:.{digits}f})"
    return f"{what[0].upper()}{what[1:]} {result.verdict} by {points_in_words}."


def _how_judged(result: FitResult) -> str:
    number = f"{result.judged_images:,}"
    if not result.judged_images or result.with_views_accuracy is None:
        return ""
    if result.judged_on == CrossValidation.name:
        return (
            f"Judged on {number} labels that were left out in turn. So each classifier had fewer labels to learn "
            "from: with all of them both are more accurate, and the difference is often smaller."
        )
    if result.judged_on == GOLD:
        sample = f"Reviewed on {number} images, a random sample that a person labelled{_of_no_class(result)}."
        return sample + _unjudged(result)
    if result.judged_on == VALIDATION:
        return f"Judged on {number} validation images.{_unjudged(result)}"
    kinds = taught_by(result.views)
    by = listed([*kinds, "features"]) if kinds else "image features"
    left_out = "left out of training in turn" if result.judged_on == CrossFitting.name else "kept out of training"
    sentence = f"Estimated on {number} unlabelled images that were {left_out}, by {by}"
    has_labels = any(line["interval"] for line in result.views.values())
    corrected = "Your labels correct the estimate" if has_labels else "No class has two labels to correct it by"
    return f"{sentence}. {corrected}."


def not_new_in_words(split: str, labelled: int, of_new_scenes: int) -> str:
    """Of the labelled images of a split that judges, those that show scenes of training images do not count."""
    others = (
        f"{labelled - of_new_scenes:,} of {labelled:,} labelled images of {split!r} show scenes of training images"
    )
    if of_new_scenes:
        return f"Groups: {others}, so they are left out of judging."
    return f"Groups: {others}, so they cannot judge: training images do, whole scenes left out in turn."


def _of_no_class(result: FitResult) -> str:
    left = result.gold_of_no_class
    if not left:
        return ""
    share = left / (left + result.judged_images)
    return f"; {left:,} more ({share:.0%} of the sample) belong to none of the classes and are not counted"


def _unjudged(result: FitResult) -> str:
    if not result.unjudged_classes:
        return ""
    few = f"{len(result.unjudged_classes):,} of the {result.num_labels:,} classes"
    named = some([repr(name) for name in result.unjudged_classes])
    return f" None of them shows {few} ({named}), so these were not checked."


def sentence_for_card(result: FitResult, name: str) -> str:
    """On a classifier, or on `all_layers`; the reader has other images."""
    trained = result.all_layers if name == ALL_LAYERS else None
    share, interval = accuracy_of(result, trained["classifier"] if trained else name)
    if share is None:
        return ""
    by_views = [*taught_by(result.views), "image features"]
    unlabelled = f"estimated without true labels, by what {listed([*by_views, 'the given labels'])} tell"
    how = {
        GOLD: f"reviewed on {result.judged_images:,} images that a person labelled and it did not learn from"
        f"{_of_no_class(result)}",
        VALIDATION: f"measured on {result.judged_images:,} labelled images that it did not learn from",
        CrossFitting.name: unlabelled,
        Holdout.name: unlabelled,
        CrossValidation.name: "estimated by labels that were left out in turn",
    }
    known = trained["accuracy"] if trained else share
    like = "of new scenes, which it has not seen" if has_scenes(result) else "like those that it was made for"
    right = f"It is right for about {_percent(known)} of images {like}"
    unreviewed = "" if result.judged_on == GOLD else " (unreviewed)"
    ends = f"95% interval {100 * interval[0]:.0f} to {100 * interval[1]:.0f}"
    if trained:
        ends = f"with the last layer alone for about {_percent(share)} ({ends})"
    sentence = f"{right}, {ends}, {how[result.judged_on]}{unreviewed}."
    on_these, interval = (None, None) if trained else accuracy_of(result, name, ON_THESE_IMAGES)
    if on_these in (None, share):
        return sentence
    ends = f"95% interval {100 * interval[0]:.0f} to {100 * interval[1]:.0f}"
    return f"{sentence} On more images of the scenes that it was trained on: for about {_percent(on_these)}, {ends}."


def _class_mix_in_words(result: FitResult) -> list[str]:
    """Where unlabelled images are of another mix than the labels, and where it cannot be known whether they are."""
    shares, lines = result.pool_shares or {}, []
    apart = {
        name: line["share"] - line["of_labels"]
        for name, line in shares.items()
        if not line["interval"][0] <= line["of_labels"] <= line["interval"][1]
    }
    if apart:
        shown = sorted(apart, key=lambda name: -abs(apart[name]))[:SHOWN_CLASSES]
        listing = "; ".join(
            f"{name!r} {_percent(shares[name]['share'])} {_range(shares[name]['interval'])}, "
            f"{_percent(shares[name]['of_labels'])} of the labels"
            for name in shown
        )
        more = ", for example" if len(apart) > len(shown) else ""
        lines.append(f"The images without a label are of another mix of classes than the labels{more}: {listing}.")
    few = [name for name, line in shares.items() if line["of_labels"] * result.labels < FEW_LABELS_OF_CLASS]
    most = max((line["of_labels"] for line in shares.values()), default=0) * result.labels
    is_uneven = bool(few) and most >= UNEVEN * FEW_LABELS_OF_CLASS
    is_assumed = result.judged_on not in (GOLD, VALIDATION) and result.with_views_accuracy is not None
    if is_uneven and is_assumed and not any(view["class_names"] for view in result.views.values()):
        holds = "" if result.judged_on == CrossValidation.name else "; its interval holds that of even classes"
        lines.append(
            f"Some classes have fewer than {FEW_LABELS_OF_CLASS} labels, such as {few[0]!r}, and others up to "
            f"{most:,.0f}. If they are not as rare among your other images, the accuracy is too high{holds}. To know, "
            "label a random sample (--pick gold)."
        )
    return lines


# --- What changed, and what is next ----------------------------------------------------------------------------------


def changes_since(before: FitResult, result: FitResult) -> str:
    """`before` is of the same classes. Both accuracies are with views."""
    how = {GOLD: " (reviewed)", VALIDATION: " (measured)"}
    differ = before.judged_on != result.judged_on
    accuracies = " -> ".join(
        _percent(each.with_views_accuracy) + how.get(each.judged_on, " (estimated)") * differ
        for each in (before, result)
    )
    noises = " -> ".join(_range(each.label_noise_interval, "%") for each in (before, result))
    labels = f"labels {before.labels:,} -> {result.labels:,}"
    return f"Since the last run: {labels}; accuracy {accuracies}; wrong labels {noises}."


def next_command(result: FitResult, data: str | None, has_test: bool = False) -> str:
    """What to do next; `data` are the words after `g4i label`, None for images that it cannot open."""
    few = result.labels < min(FEW_LABELS * result.num_labels, result.images)
    why = {}
    if result.suspicious_labels:
        less = f", and {result.doubtful_labels:,} that may be right" if result.doubtful_labels else ""
        why["wrong"] = f"look at the labels that look wrong ({result.suspicious_labels:,}{less})"
    elif few:
        why["next"] = "label the images that teach most"
    elif result.judged_on != GOLD:
        why["gold"] = "label a random sample, which alone tells the true accuracy"
    if result.doubtful_labels and "wrong" not in why:
        why["wrong"] = f"look at labels that differ from the likeliest class ({result.doubtful_labels:,})"
    commands = [f"{what}: g4i label {data} --pick {pick}" for pick, what in why.items()] if data else []
    if not commands:
        folder = shlex.quote(str(result.classifier.parent))
        test = "measure it once on images that it has never seen: g4i evaluate"
        commands = [f"{test} {folder} --splits test" if has_test else f"publish it: g4i release --run {folder}"]
    return "; or ".join(commands)


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


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f}%"


def _range(interval: Sequence[float] | None, unit: str = "") -> str:
    low, high = interval or (0, 1)
    ends = f"{100 * low:.0f} to {100 * high:.0f}{unit}"
    return ends if unit else f"({ends})"
