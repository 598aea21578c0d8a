"""`caption_report.html` and `caption_report.json`: what the captions are like, and what became of the others."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image as PILImage

from ..answers import FAILURES, OK
from ..cleaning import STEPS, count_words
from ..quality.histograms import draw_histogram, require_matplotlib
from ..quality.label_names import NAMED, UNKNOWN
from ..quality.weights import FACTORS, Quality, histogram
from .gallery import STYLE, Shown, cards, opened

HTML, JSON = "caption_report.html", "caption_report.json"
EXAMPLES = 12
_SHOWN_CLASSES = 60
_KEPT_DROPPED = 1000  # rows without caption that the JSON file lists


@dataclass
class CaptionedSplit:
    """
    N captions of a split; a row with several prompts has several.

    Attributes:
        image_ids: of the row of each.
        image_of: opens the image of the caption at a position; called for those that are shown.
        captions: cleaned; None where there is none.
        raw: the answers as they came.
        statuses: `ok`, one of [`FAILURES`], or `missing`.
        reasons: of failures.
        applied: names of the cleaning steps that changed each, as a sequence or with commas between.
        labels: (N,) classes, None or negative where there is none.
        label_names: of the classes.
        quality: what [`~g4i_hf.captioning.quality.weights.judge`] said.
    """

    image_ids: Sequence[str]
    image_of: Callable[[int], PILImage.Image]
    captions: Sequence[str | None]
    raw: Sequence[str | None]
    statuses: Sequence[str]
    reasons: Sequence[str | None]
    applied: Sequence[Sequence[str] | str]
    labels: Sequence[int | None] | np.ndarray | None = None
    label_names: Sequence[str] | None = None
    quality: Quality | None = None

    def __post_init__(self):
        lengths = {
            len(self.image_ids),
            *map(len, (self.captions, self.raw, self.statuses, self.reasons, self.applied)),
        }
        if len(lengths) > 1:
            raise ValueError(f"The columns of a captioned split have different lengths: {sorted(lengths)}.")
        self.applied = [_steps(steps) for steps in self.applied]
        labels = [-1] * len(self.captions) if self.labels is None else self.labels
        self.labels = np.asarray([-1 if label is None else label for label in labels], dtype=np.int64)

    def class_of(self, position: int) -> str:
        """Name of its class, or nothing."""
        label = int(self.labels[position])
        return "" if label < 0 else str(self.label_names[label]) if self.label_names is not None else str(label)


def write_report(
    folder: str | Path,
    splits: dict[str, CaptionedSplit],
    figures: dict[str, Any] | None = None,
    title: str = "Captions",
) -> Path:
    """
    Writes both files, and the pictures of the page into the folder `caption_report`.

    Args:
        folder: of the captions.
        splits: by name.
        figures: what else is to be told, as JSON values: model, prompts, decoding, dates. Text, numbers and lists of
            them are shown as a table.
        title: of the page.

    Returns:
        The page.

    Raises:
        ImportError: without matplotlib. The JSON file is written before.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: split_figures(split) for name, split in splits.items()}
    told = {"about": figures or {}, "splits": numbers}
    (folder / JSON).write_text(
        json.dumps(told, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8", errors="replace"
    )
    require_matplotlib()
    pictures = folder / Path(HTML).stem
    pictures.mkdir(exist_ok=True)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("g4i_hf", "captioning/report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(f"{HTML}.j2").render(
        title=title,
        style=STYLE,
        about=figures or {},
        splits=[
            numbers[name]
            | {
                "name": name,
                "pictures": _draw(numbers[name], f"split{number}", pictures),
                "examples": _examples(split),
            }
            for number, (name, split) in enumerate(splits.items())
        ],
        steps=STEPS,
        failures=FAILURES | {"missing": "nobody was asked, or nobody wrote one"},
        shown_classes=_SHOWN_CLASSES,
        percent=lambda value: "–" if value is None else f"{100 * value:.1f} %",
        number=lambda value, digits=2: "–" if value is None else f"{value:,.{digits}f}",
    )
    (folder / HTML).write_text(page, encoding="utf-8", errors="replace")
    return folder / HTML


def split_figures(split: CaptionedSplit) -> dict[str, Any]:
    """Counts and distributions of a split, as JSON values."""
    statuses = Counter(split.statuses)
    steps = Counter(step for applied in split.applied for step in applied)
    words = np.asarray([count_words(caption) if caption else 0 for caption in split.captions], dtype=np.int64)
    dropped = [position for position, caption in enumerate(split.captions) if not caption]
    return {
        "captions": len(split.captions),
        "status": {
            status: statuses[status] for status in sorted(statuses, key=lambda one: (one != OK, -statuses[one]))
        },
        "cleaning": {step: steps[step] for step in STEPS},
        "words": histogram(words[words > 0]),
        "quality": split.quality.figures if split.quality is not None else None,
        "classes": _classes(split, words),
        "dropped": [
            {
                "image_id": split.image_ids[position],
                "status": split.statuses[position],
                "reason": split.reasons[position],
                "raw": split.raw[position],
            }
            for position in dropped[:_KEPT_DROPPED]
        ],
        "dropped_count": len(dropped),
    }


def _classes(split: CaptionedSplit, words: np.ndarray) -> list[dict[str, Any]]:
    """A line a class that occurs, the ones with the lowest weights first."""
    lines: list[dict[str, Any]] = []
    if not len(split.labels):
        return lines
    order = np.argsort(split.labels, kind="stable")
    labels, starts = np.unique(split.labels[order], return_index=True)
    for label, rows in zip(labels, np.split(order, starts[1:]), strict=True):
        if label < 0:
            continue
        there = rows[words[rows] > 0]
        quality = split.quality
        known = there[quality.named[there] != UNKNOWN] if quality is not None else there[:0]
        lines.append(
            {
                "class": split.class_of(rows[0]),
                "captions": len(there),
                "failures": len(rows) - len(there),
                "mean_words": float(words[there].mean()) if len(there) else None,
                "names_label": float((quality.named[known] == NAMED).mean()) if len(known) else None,
                "mean_weight": float(quality.weights[there].mean()) if quality is not None and len(there) else None,
            }
        )
    return sorted(lines, key=lambda line: (line["mean_weight"] or 0.0, -line["failures"]))


def _draw(numbers: dict[str, Any], name: str, folder: Path) -> list[dict[str, str]]:
    """Draws what was measured; file names beside the page, with their titles."""
    quality = numbers["quality"] or {}
    wanted = {
        "words": (numbers["words"], "Length", "words"),
        "weight": (quality.get("weight"), "Weight", "caption_weight"),
        "margin": (quality.get("margin"), "Nearness to the own class", "margin over the nearest other class"),
        "score": (quality.get("score"), "Image and caption", "image-text score"),
    }
    pictures = []
    for kind, (values, heading, axis) in wanted.items():
        if values is not None:
            draw_histogram(values, axis, folder / f"{name}_{kind}.png")
            pictures.append({"file": f"{folder.name}/{name}_{kind}.png", "title": heading})
    return pictures


def _examples(split: CaptionedSplit) -> dict[str, Any]:
    there = [position for position, caption in enumerate(split.captions) if caption]
    dropped = [position for position, caption in enumerate(split.captions) if not caption]
    changed = [position for position in there if split.applied[position]]
    quality = split.quality
    if quality is None:
        some = np.random.default_rng(0).permutation(len(there))[:EXAMPLES]
        best, worst = [there[number] for number in sorted(some)], []
    else:
        tie = quality.margins if quality.margins is not None else np.zeros(len(split.captions))
        ranked = sorted(there, key=lambda position: (quality.weights[position], np.nan_to_num(tie[position])))
        worst = [position for position in ranked[:EXAMPLES] if quality.weights[position] < 0.9]
        best = _spread(ranked[::-1], split.labels.tolist())
    groups = {
        "worst": worst,
        "best": best,
        "dropped": _spread(dropped, split.statuses),
        "cleaned": _spread(changed, split.applied),
    }
    found = {
        name: cards([_shown(split, position, name) for position in group], open_raw=name in ("dropped", "cleaned"))
        for name, group in groups.items()
        if group
    }
    return found | {"judged": quality is not None}


def _spread(positions: list[int], kinds: Sequence[Any]) -> list[int]:
    """The first [`EXAMPLES`], as even among the kinds of all positions as they come, in their order."""
    seen: Counter = Counter()
    rounds = []
    for position in positions:
        rounds.append((seen[kinds[position]], position))
        seen[kinds[position]] += 1
    chosen = {position for _, position in sorted(rounds, key=lambda one: one[0])[:EXAMPLES]}
    return [position for position in positions if position in chosen]


def _shown(split: CaptionedSplit, position: int, group: str) -> Shown:
    caption, raw, quality = split.captions[position], split.raw[position], split.quality
    notes: list[str] = []
    doubts: list[str] = []
    if caption is None:
        doubts = list(filter(None, [split.statuses[position], split.reasons[position]]))
    elif group == "cleaned":
        notes = list(split.applied[position])
    elif quality is not None:
        notes, doubts = _measured(quality, position), quality.doubts(position)
        if FACTORS["margin"] in doubts and split.label_names is not None:
            other = split.label_names[int(quality.nearest[position])]
            doubts = [f"nearer to {other}" if doubt == FACTORS["margin"] else doubt for doubt in doubts]
    title = " · ".join(filter(None, [split.image_ids[position], split.class_of(position)]))
    differs = raw is not None and raw.strip() and raw != caption
    return Shown(opened(split.image_of, position), caption, title, notes, doubts, raw if differs else None)


def _measured(quality: Quality, position: int) -> list[str]:
    notes = [f"weight {quality.weights[position]:.2f}"]
    if quality.margins is not None and np.isfinite(quality.margins[position]):
        notes.append(f"margin {quality.margins[position]:+.3f}")
    if quality.scores is not None and np.isfinite(quality.scores[position]):
        notes.append(f"score {quality.scores[position]:.3f}")
    return notes


def _steps(applied: Sequence[str] | str | None) -> tuple[str, ...]:
    return tuple(filter(None, applied.split(","))) if isinstance(applied, str) else tuple(applied or ())
