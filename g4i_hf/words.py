"""What was estimated from labels and views, in sentences: for the terminal, for reports and for cards."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import priors
from .files import some
from .views.kinds import CAPTION, IMAGE, view_in_words

MOST_ANNOTATORS = 20  # in a sentence
CLEARLY_NONE = 0.02  # share of unlabelled rows that belong to no class, below which nothing is reported


# --- Labels ----------------------------------------------------------------------------------------------------------


def labels_summary(images: int, labels: int) -> str:
    """For the card of a student."""
    return f"Of its {images:,} training images, {labels:,} had a label."


def few_labels_in_words(labels: np.ndarray, names: Sequence[str]) -> str:
    """A line on the classes with no label or one, with up to three names each; "" if all have two or none has any."""
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    if not counts.any():
        return ""
    parts = []
    for number, what in enumerate(("no label", "one label")):
        few = [repr(name) for name, count in zip(names, counts, strict=True) if count == number]
        if few:
            parts.append(f"{what} for {len(few):,} of the {len(names):,} classes ({some(few)})")
    return f"Labels: {'; '.join(parts)}." if parts else ""


def annotators_in_words(
    annotators: Mapping[str, Mapping[str, Any]] | None, agreement: float | None, with_names: bool = True
) -> list[str]:
    """What several annotators agree on, and how accurate each is, the one with most labels first."""
    if not annotators:
        return []
    agree = f"where two label an image, they agree in {agreement:.0%}" if agreement is not None else "no image has two"
    lines = [f"Labels of {len(annotators):,} annotators: {agree}."]
    shown = sorted(annotators.items(), key=lambda item: (-item[1]["labels"], item[0]))
    parts = []
    for name, line in shown[:MOST_ANNOTATORS]:
        of = f"{name!r} " if with_names else ""
        right, ends = f"{line['accuracy']:.0%}", "{:.0%} to {:.0%}".format(*line["interval"])
        parts.append(f"{of}{right} ({ends}) of {line['labels']:,}")
    more = f", and {len(shown) - MOST_ANNOTATORS:,} more" if len(shown) > MOST_ANNOTATORS else ""
    return [*lines, f"Estimated share of right labels of each: {', '.join(parts)}{more}."]


# --- Estimates of a label model --------------------------------------------------------------------------------------


def estimates_in_words(estimates: Mapping[str, Any], labels: np.ndarray) -> list[str]:
    """
    Lines that report how accurate each view is, and what is missing. `estimates`: see
    [`~g4i_hf.training.supervision.estimates_of`]; `labels` (n,), negative where there is none.
    """
    lines, rows, views = [], len(labels), estimates["views"]
    for name, line in views.items():
        if line["accuracy"] is not None:
            interval = "" if line["interval"] is None else " (95% interval {:.0%} to {:.0%})".format(*line["interval"])
            sentence = view_in_words(name, line["accuracy"])
            lines.append(f"{sentence[0].upper()}{sentence[1:]}{interval}.")
        if line["rows"] < rows:
            lines.append(f"{rows - line['rows']:,} of {rows:,} images have no {name}.")
    if len(views) > 1 and estimates["views_accuracy_estimate"] is not None:
        lines.append(f"All views together tell that of {estimates['views_accuracy_estimate']:.0%}.")
    if (noise := estimates["label_noise_interval"]) is not None:
        lines.append(f"About {noise_in_words(estimates['label_noise_estimate'], noise)}.")
        if len(views) == 1 and estimates["label_noise_estimate"] >= priors.FEW_WRONG_LABELS:
            (name,) = views
            what = "captions" if name == CAPTION else f"values of {name}"
            lines.append(
                f"That holds if the {what} belong to their images: one view alone cannot tell wrong labels from wrong "
                f"{what}; a second one can, such as {'captions' if name == IMAGE else 'image features'}."
            )
    else:
        judged = sum(line["accuracy"] is not None for line in views.values())
        if not (labels >= 0).any():
            lines.append("No image has a label: nothing has checked this.")
        else:
            how = "; views judge each other" if judged > 1 else ""
            lines.append(f"No class has two labels, so that none could be held out to check this{how}.")
        if any(line.get("unclear") for line in views.values()):
            lines.append("The views agree too rarely to tell which are right: four labels of each class decide.")
    return [*lines, *left_out_in_words(views), *none_in_words(estimates["none_of_these_interval"])]


def left_out_in_words(views: Mapping[str, Mapping[str, Any]]) -> list[str]:
    know = [
        f"The view {name} is much surer of labelled images than of others: it has learned these labels"
        + (", so it is left out." if line.get("left_out") else ", or most images are of no class. Nothing can judge.")
        for name, line in views.items()
        if line.get("knows_labels")
    ]
    return know + [
        f"The view {name} tells nothing about the classes: left out, as it agrees with labels and other views no more "
        "than by chance. Check that it belongs to these images."
        for name, line in views.items()
        if line.get("left_out") and not line.get("knows_labels")
    ]


def noise_in_words(share: float, interval: Sequence[float]) -> str:
    low, high = interval
    if high < priors.NEGLIGIBLE_WRONG_LABELS:
        return "fewer than 1% of the labels are wrong"
    if low < priors.NEGLIGIBLE_WRONG_LABELS:
        return f"{low:.0%} to {high:.0%} of the labels are wrong (95% interval)"
    return f"{share:.0%} of the labels are wrong (95% interval {low:.0%} to {high:.0%})"


def is_clearly_none(interval: Sequence[float] | None) -> bool:
    """By the interval of the share of unlabelled images that belong to no class, which may be unknown."""
    return interval is not None and interval[0] >= CLEARLY_NONE


def none_in_words(interval: Sequence[float] | None) -> list[str]:
    """A line if some images clearly belong to no class."""
    if not is_clearly_none(interval):
        return []
    share = f"{interval[0]:.0%} or more"
    return [f"{share} of the images without a label seem to belong to none of the classes; they count less."]


# --- Numbers and lists -----------------------------------------------------------------------------------------------


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def ends_in_words(ends: tuple[float, float], sign: str = "") -> str:
    """Both ends of an interval in percent; `sign` is `+` for differences."""
    digits = 0 if ends[1] - ends[0] > 0.1 else 1
    return " to ".join(f"{100 * end:{sign}z.{digits}f}" for end in ends)
