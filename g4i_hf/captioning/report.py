"""
What people look at, before they pay and after: the page and the picture of a dry run, `caption_report.html` and
`caption_report.json`. Everything that was written by a model or a user is escaped.
"""

import base64
import functools
import io
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from ..data.images import to_rgb
from .answers import FAILURES, OK
from .cleaning import STEPS, count_words
from .label_names import NAMED, UNKNOWN
from .quality import FACTORS, CaptionedSplit, histogram

HTML, JSON = "caption_report.html", "caption_report.json"
EXAMPLES = 12
SHOWN_CLASSES = 60
KEPT_DROPPED = 1000  # rows without caption that the JSON file lists
SIDE, MARGIN = 240, 16  # pixels: width of a picture on a page, and what is around it


@dataclass
class Shown:
    """
    One image beside its caption.

    Attributes:
        image: None where it cannot be read.
        caption: None where there is none.
        title: above the caption: id and class.
        notes, doubts: in a few words, below it; doubts are red.
        raw: the answer as it came, where it differs.
    """

    image: PILImage.Image | None
    caption: str | None
    title: str = ""
    notes: Sequence[str] = ()
    doubts: Sequence[str] = ()
    raw: str | None = None

    @property
    def uri(self) -> str | None:
        """The image as a part of a page."""
        if self.image is None:
            return None
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def opened(image_of: Callable[[int], PILImage.Image], position: int) -> PILImage.Image | None:
    """An upright RGB picture of an image, [`SIDE`] wide or high; None where it cannot be read."""
    try:
        image = image_of(position)
        image.draft("RGB", (2 * SIDE, 2 * SIDE))  # a large JPEG is decoded small
        image = to_rgb(image)
        scale = SIDE / max(image.size)
        return image.resize([max(1, round(scale * side)) for side in image.size])  # also a row of pixels
    except Exception:  # whatever a broken file makes of Pillow: the page is more important
        return None


# --- Dry run ---------------------------------------------------------------------------------------------------------


def write_page(path: str | Path, shown: Sequence[Shown], title: str, paragraphs: Sequence[str] = ()) -> None:
    """
    Args:
        path: the HTML file; its pictures are in it.
        shown: the images, small.
        title, paragraphs: above them, as plain text.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _render(Path(path), title=title, paragraphs=paragraphs, shown=shown)


def draw_grid(path: str | Path, shown: Sequence[Shown], across: int = 4, most_lines: int = 9) -> None:
    """
    Args:
        path: PNG file.
        shown: the images, small.
        across: images a row.
        most_lines: of a caption; what is longer ends in an ellipsis.
    """
    cards = [_card(one, most_lines) for one in shown]
    across = max(1, min(across, len(cards)))
    rows = [cards[start : start + across] for start in range(0, len(cards), across)]
    heights = [max(card.height for card in row) + MARGIN for row in rows]
    grid = PILImage.new("RGB", (MARGIN + across * (SIDE + MARGIN), MARGIN + sum(heights)), "white")
    for number, row in enumerate(rows):
        for column, card in enumerate(row):
            grid.paste(card, (MARGIN + column * (SIDE + MARGIN), MARGIN + sum(heights[:number])))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    grid.save(path)


def _card(one: Shown, most_lines: int) -> PILImage.Image:
    """The picture of an image above its title and caption."""
    height, step, grey = 180, 19, "#6b7280"
    missing = ", ".join(["no caption", *one.doubts])
    texts = [(one.title, 1, grey), (one.caption or missing, most_lines, "#222222" if one.caption else "#b3261e")]
    lines = [(line, color) for text, most, color in texts for line in wrapped(text, most)]
    card = PILImage.new("RGB", (SIDE, height + 12 + step * len(lines)), "white")
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, 0, SIDE - 1, height - 1), fill="#f6f7f9", outline="#e2e4e8")
    if one.image is not None:
        image = one.image.copy()
        image.thumbnail((SIDE, height))
        card.paste(image, ((SIDE - image.width) // 2, (height - image.height) // 2))
    else:
        draw.text((SIDE // 2, height // 2), "cannot be shown", fill=grey, font=_font(True), anchor="mm")
    for number, (line, color) in enumerate(lines):
        draw.text((0, height + 8 + number * step), line, fill=color, font=_font(line.isascii()))
    return card


def wrapped(text: str, most: int) -> list[str]:
    """Lines of the width of a picture; the last of `most` ends in an ellipsis where there are more."""
    width = 32 if text.isascii() else 17  # letters; those of Chinese are twice as wide
    return textwrap.wrap(text[: 2 * width * most], width, max_lines=most, placeholder="…")


@functools.cache
def _font(is_ascii: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """For scripts that Pillow's own font lacks, the first of the system's that is found."""
    others = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf")
    for name in ("DejaVuSans.ttf",) if is_ascii else others:
        try:
            return ImageFont.truetype(name, 14)
        except OSError:
            continue
    return ImageFont.load_default(14)


# --- Report ----------------------------------------------------------------------------------------------------------


def write_report(
    folder: str | Path,
    splits: dict[str, CaptionedSplit],
    figures: dict[str, Any] | None = None,
    title: str = "Captions",
) -> Path:
    """
    Args:
        folder: of the captions; both files are written into it.
        splits: by name.
        figures: what else is to be told, as JSON values: model, prompts, decoding, dates. Text, numbers and lists of
            them are shown as a table.
        title: of the page.

    Returns:
        The page, with its pictures in it.
    """
    folder, about = Path(folder), figures or {}
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: split_figures(split) for name, split in splits.items()}
    told = json.dumps({"about": about, "splits": numbers}, indent=2, ensure_ascii=False, default=str)
    (folder / JSON).write_text(told + "\n", encoding="utf-8", errors="replace")
    parts = []
    for name, found in numbers.items():
        quality = found["quality"] or {}
        charts = {
            "Length": (found["words"], "words"),
            "Weight": (quality.get("weight"), "caption_weight"),
            "Nearness to the own class": (quality.get("margin"), "margin over the nearest other class"),
            "Image and caption": (quality.get("score"), "image-text score"),
        }
        charts = {heading: chart for heading, chart in charts.items() if chart[0] is not None}
        parts.append(found | {"name": name, "charts": charts, "examples": _examples(splits[name])})
    _render(
        folder / HTML,
        title=title,
        about=about,
        splits=parts,
        steps=STEPS,
        failures=FAILURES | {"missing": "nobody was asked, or nobody wrote one"},
        shown_classes=SHOWN_CLASSES,
        percent=lambda value: "–" if value is None else f"{100 * value:.1f} %",
        number=lambda value, digits=2: "–" if value is None else f"{value:,.{digits}f}",
    )
    return folder / HTML


def _render(path: Path, **values: Any) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(**values)
    path.write_text(page, encoding="utf-8", errors="replace")


def split_figures(split: CaptionedSplit) -> dict[str, Any]:
    """Counts and distributions of a split, as JSON values."""
    statuses = Counter(split.statuses)
    steps = Counter(step for applied in split.applied for step in applied)
    words = np.array([count_words(caption or "") for caption in split.captions], dtype=np.int64)
    dropped = [position for position, caption in enumerate(split.captions) if not caption]
    listed = {"image_id": split.image_ids, "status": split.statuses, "reason": split.reasons, "raw": split.raw}
    return {
        "captions": len(split.captions),
        "status": dict(sorted(statuses.items(), key=lambda one: (one[0] != OK, -one[1]))),
        "cleaning": {step: steps[step] for step in STEPS},
        "words": histogram(words[words > 0]),
        "quality": split.quality.figures if split.quality is not None else None,
        "classes": _classes(split, words),
        "dropped": [
            {name: values[position] for name, values in listed.items()} for position in dropped[:KEPT_DROPPED]
        ],
        "dropped_count": len(dropped),
    }


def _classes(split: CaptionedSplit, words: np.ndarray) -> list[dict[str, Any]]:
    """A line a class that occurs, the ones with the lowest weights first."""
    quality, lines = split.quality, []
    order = np.argsort(split.labels, kind="stable")
    labels, starts = np.unique(split.labels[order], return_index=True)
    for label, rows in zip(labels, np.split(order, starts)[1:], strict=True):
        if label < 0:
            continue
        there = rows[words[rows] > 0]
        line = {
            "class": split.class_of(rows[0]),
            "captions": len(there),
            "failures": len(rows) - len(there),
            "mean_words": float(words[there].mean()) if len(there) else None,
            "names_label": None,
            "mean_weight": None,
        }
        if quality is not None and len(there):
            known = quality.named[there][quality.named[there] != UNKNOWN]
            line["names_label"] = float((known == NAMED).mean()) if len(known) else None
            line["mean_weight"] = float(quality.weights[there].mean())
        lines.append(line)
    return sorted(lines, key=lambda line: (line["mean_weight"] or 0.0, -line["failures"]))


def _examples(split: CaptionedSplit) -> dict[str, list[Shown]]:
    """The most and the least doubtful captions, or some where none is judged; the missing and the changed ones."""
    there = [position for position, caption in enumerate(split.captions) if caption]
    dropped = [position for position, caption in enumerate(split.captions) if not caption]
    changed = [position for position in there if split.applied[position]]
    quality, found = split.quality, {}
    if quality is None:
        found["some"] = sorted(np.random.default_rng(0).permutation(there)[:EXAMPLES].tolist())
    else:
        tie = np.zeros(len(split.captions)) if quality.margins is None else np.nan_to_num(quality.margins)
        ranked = sorted(there, key=lambda position: (quality.weights[position], tie[position]))
        found["worst"] = [position for position in ranked[:EXAMPLES] if quality.weights[position] < 0.9]
        found["best"] = _spread(ranked[::-1], split.labels.tolist())
    found["dropped"] = _spread(dropped, split.statuses)
    found["cleaned"] = _spread(changed, split.applied)
    return {name: [_shown(split, position, name) for position in positions] for name, positions in found.items()}


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
    notes, doubts = [], []
    if caption is None:
        doubts = list(filter(None, [split.statuses[position], split.reasons[position]]))
    elif group == "cleaned":
        notes = list(split.applied[position])
    elif quality is not None:
        notes, doubts = [f"weight {quality.weights[position]:.2f}"], quality.doubts(position)
        for name, values in (("margin", quality.margins), ("score", quality.scores)):
            if values is not None and np.isfinite(values[position]):
                notes.append(f"{name} {values[position]:.3f}")
        if FACTORS["margin"] in doubts and split.label_names is not None:
            doubts[doubts.index(FACTORS["margin"])] = f"nearer to {split.label_names[int(quality.nearest[position])]}"
    title = " · ".join(filter(None, [split.image_ids[position], split.class_of(position)]))
    differs = raw is not None and raw.strip() and raw != caption
    return Shown(opened(split.image_of, position), caption, title, notes, doubts, raw if differs else None)
