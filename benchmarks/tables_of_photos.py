"""Tables and figures of photographs, from results/photos_*.json."""

from collections.abc import Sequence
from typing import Any

from provenance import read_result

NAMES = {"cifar10": "CIFAR-10", "caltech101": "Caltech-101", "flowers102": "Flowers-102"}
FROZEN, SCRATCH = "efficientnet_lite0, last layer", "small resnet, from scratch"
TITLES = {FROZEN: "frozen EfficientNet-Lite0", SCRATCH: "small ResNet from scratch"}
# Variants of a table in their order, and what they are called there
WRONG_LABELS = {
    "baseline": "baseline",
    "auto": "**captions**",
    "auto, captions alone": "captions, without image features",
    "relabel, both views": "captions: relabelled",
    "soft labels": "captions: soft labels beside labels",
    "alignment": "captions: alignment alone",
    "label smoothing": "label smoothing",
    "GCE": "generalised cross entropy",
    "small-loss filter": "small-loss filter, told the share",
    "cleanlab": "cleanlab's filter",
}
FEW_LABELS = {
    "baseline": "baseline",
    "auto": "**captions**",
    "auto, captions alone": "captions, without image features",
    "auto and alignment": "captions and alignment",
    "pseudo-labels": "captions: pseudo-labels",
    "pseudo-labels, both views": "captions and image features: pseudo-labels",
    "self-training": "self-training",
    "Tip-Adapter": "Tip-Adapter's cache",
    "captions at inference": "a caption of every test image",
}
LONG_TAIL = {
    "baseline": "baseline",
    "auto": "**captions**",
    "soft labels, both views": "captions and image features: soft labels",
    "balanced": "balanced classes",
    "logit adjustment": "logit adjustment",
}
ALL_LABELS = {
    "baseline": "baseline",
    "auto": "**captions**",
    "alignment": "captions: alignment alone",
    "soft labels, both views": "captions and image features: soft labels",
    "captions at inference": "a caption of every test image",
}
SETTINGS = {
    "wrong_labels": ("20% symmetric", "40% symmetric", "60% symmetric", "20% confusable", "40% confusable"),
    "few_labels": ("1 a class", "4 a class", "16 a class", "10%"),
    "long_tail": ("factor 20", "factor 100"),
    "all_labels": ("all",),
}


def summary(grid: str) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """(data, student, setting, variant) -> accuracy, seeds and the paired difference to the baseline."""
    found = read_result(f"photos_{grid}.json")["summary"]
    return {(row["data"], row["student"], row["setting"], row["variant"]): row for row in found}


def cell(row: dict[str, Any] | None, with_difference: bool) -> str:
    if row is None:
        return ""
    accuracy = f"{100 * row['accuracy']:.1f}"
    if not with_difference or "difference" not in row:
        return accuracy
    difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    return f"{accuracy}, {difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def table(grid: str, variants: dict[str, str], students: Sequence[str] = (FROZEN, SCRATCH)) -> str:
    found, settings = summary(grid), SETTINGS[grid]
    lines = [
        f"| accuracy on `test` | {' | '.join(settings)} |",
        f"|---|{'---:|' * len(settings)}",
    ]
    for student in students:
        for data, name in NAMES.items():
            rows = {variant: [found.get((data, student, each, variant)) for each in settings] for variant in variants}
            if not any(rows["baseline"]):
                continue
            lines.append(f"| *{name}, {TITLES[student]}* |{' |' * len(settings)}")
            for variant, title in variants.items():
                if any(rows[variant]):
                    cells = [cell(row, with_difference=variant == "auto") for row in rows[variant]]
                    lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def wrong_labels() -> str:
    return table("wrong_labels", WRONG_LABELS)


def few_labels() -> str:
    return table("few_labels", FEW_LABELS)


def long_tail() -> str:
    return table("long_tail", LONG_TAIL)


def all_labels() -> str:
    return table("all_labels", ALL_LABELS)
