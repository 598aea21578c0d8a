"""`supervision: auto`: choose how captions are used, from estimates made before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .model import LabelModel
from .views import View, rows_with_a_view

# Judgement (research/LOG.md): views that are less accurate count less than labels
TELLS_CLASSES = 0.5
MAYBE_WRONG = 0.05  # share of wrong labels that cannot be ruled out, below which doubtful ones are not worth a look
LOW_END, UNKNOWN = 0.005, 0.1  # below the one and above the other, the likeliest share of wrong labels says little
CLEARLY_NONE = 0.02  # share of unlabelled rows that belong to no class, below which nothing is reported
SURELY_WRONG = 0.05  # share of labels, which the lower end of the 95% interval must exceed


def facts_of(model: LabelModel) -> dict[str, Any]:
    """The estimates of a fitted model, for `all_results.json`; None where it could not estimate one."""
    noise, none = model.label_noise_interval_, model.none_share_
    return {
        "views": model.report_,
        "views_accuracy_estimate": model.accuracy_.share if model.accuracy_ else None,
        "label_noise_estimate": model.label_noise_,
        "label_noise_interval": noise and list(noise),
        "none_of_these_estimate": none.share if none else None,
        "none_of_these_interval": list(none.interval) if none else None,
    }


@dataclass
class Plan:
    softens: bool = False  # whether labels become probabilities of the true class, given label and caption
    unlabelled_weight: float = 1.0  # of an unlabelled row, which learns from class probabilities; a label has 1
    soft_label_weight: float = 0.0  # 0 without soft labels
    reasons: tuple[str, ...] = ()  # lines for the user


def choose(model: LabelModel, labels: np.ndarray) -> Plan:
    """
    By what a fitted model estimates, for the labels (n,) of rows with a view:

    - Images without a label learn from class probabilities. Each has the weight of a label if the views are accurate
      or no image has a label; otherwise all of them together have the weight of all labels.
    - Labels are softened if some are wrong.
    """
    plan, parts, unlabelled = Plan(), [], float((labels < 0).mean())
    if unlabelled == 1:
        parts.append("no image with a caption has a label: all learn soft labels")
    elif unlabelled > 0:
        tells = model.accuracy_ is not None and model.accuracy_.share >= TELLS_CLASSES
        plan.unlabelled_weight = 1.0 if tells else min(1.0, (1 - unlabelled) / unlabelled)
        weight = "each counts as a label" if tells else "together they count as the labels do"
        parts.append(f"{unlabelled:.0%} of the captioned images have no label and learn soft labels; {weight}")
    noise = model.label_noise_interval_
    if noise is not None and noise[0] > SURELY_WRONG:
        plan.softens = True
        parts.append("labels are softened where captions contradict them")
    elif unlabelled < 1:
        parts.append(f"labels are kept, as it is not sure that more than {SURELY_WRONG:.0%} are wrong")
    plan.reasons = (f"Estimates: {' '.join(estimates_in_words(model, labels))}", f"supervision: {'; '.join(parts)}.")
    return plan


def view_in_words(name: str, share: float) -> str:
    kind, _, what = name.partition(":")
    own = {"caption": "captions tell", "answer": "answers tell", "image": "image features tell"}
    of_others = {"scores": f"scores in {what} tell", "image": f"features of {what} tell"}
    subject = own.get(name) or of_others.get(kind, f"the view {name!r} tells")
    return f"{subject} the class of {share:.0%} of the images"


def estimates_in_words(model: LabelModel, labels: np.ndarray) -> list[str]:
    """Lines that report the accuracy of each view, and what is missing; see [`choose`]."""
    lines, rows, views, noise = [], len(labels), model.report_, model.label_noise_interval_
    for name, line in views.items():
        if line["accuracy"] is not None:
            interval = "" if line["interval"] is None else " (95% interval {:.0%} to {:.0%})".format(*line["interval"])
            sentence = view_in_words(name, line["accuracy"])
            lines.append(f"{sentence[0].upper()}{sentence[1:]}{interval}.")
        if line["rows"] < rows:
            lines.append(f"{rows - line['rows']:,} of {rows:,} images have no {name}.")
    if len(views) > 1 and model.accuracy_ is not None:
        lines.append(f"All views together tell that of {model.accuracy_.share:.0%}.")
    if noise is not None:
        lines.append(f"About {noise_in_words(model.label_noise_, noise)}.")
        if len(views) == 1 and noise[0] > SURELY_WRONG:
            (name,) = views
            what = "captions" if name == "caption" else f"values of {name}"
            lines.append(
                f"That holds if the {what} belong to their images: one view alone cannot tell wrong labels from wrong "
                f"{what}; a second one can, such as image features."
            )
    elif not (labels >= 0).any():
        lines.append("No image has a label: nothing has checked this.")
    else:
        judged = "; views judge each other" if sum(line["accuracy"] is not None for line in views.values()) > 1 else ""
        lines.append(f"No class has two labels, so that none could be held out to check this{judged}.")
    return lines + none_in_words(model.none_share_ and model.none_share_.interval)


def noise_in_words(share: float, interval: Sequence[float]) -> str:
    low, high = interval
    if high < LOW_END:
        return "fewer than 1% of the labels are wrong"
    if low < LOW_END and high > UNKNOWN:
        return f"{low:.0%} to {high:.0%} of the labels are wrong (95% interval)"
    return f"{share:.0%} of the labels are wrong (95% interval {low:.0%} to {high:.0%})"


def none_in_words(interval: Sequence[float] | None) -> list[str]:
    """A line if some images clearly belong to no class."""
    if interval is None or interval[0] < CLEARLY_NONE:
        return []
    share = f"{interval[0]:.0%} or more"
    return [f"{share} of the images without a label seem to belong to none of the classes; they count less."]


def doubtful_labels(model: LabelModel, views: Mapping[str, View], labels: np.ndarray) -> int:
    """Number of labels (N,) that are not the likeliest class without them; 0 if hardly any can be wrong."""
    if (model.label_noise_interval_ or (0, 0))[1] <= MAYBE_WRONG:
        return 0
    return int(((labels >= 0) & rows_with_a_view(views) & (model.probabilities_.argmax(1) != labels)).sum())
