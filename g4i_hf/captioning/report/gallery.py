"""Images beside their captions: HTML fragments, a page, and a picture of them all. Needs no matplotlib."""

import base64
import io
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from ...data.images import to_rgb

SIDE = 240  # pixels of a picture on a page
INK, GREY, RED, LINE, PAPER = "#222222", "#6b7280", "#b3261e", "#e2e4e8", "#f6f7f9"

STYLE = Markup("""
  body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 3rem; } h3 { font-size: 1.05rem; margin-top: 2rem; }
  p.note { color: #555; max-width: 48rem; } pre.text { font: inherit; white-space: pre-wrap; }
  .cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
  .card { border: 1px solid #e2e4e8; border-radius: .6rem; overflow: hidden; font-size: .88rem; line-height: 1.4; }
  .card .picture { background: #f6f7f9; height: 11rem; display: flex; align-items: center; justify-content: center; }
  .card img { max-width: 100%; max-height: 11rem; image-rendering: auto; } .card .none { color: #6b7280; }
  .card .words { padding: .6rem .8rem .8rem; overflow-wrap: anywhere; }
  .card .title { color: #6b7280; font-size: .8rem; } .card .missing { color: #b3261e; }
  .card details { margin-top: .4rem; color: #555; }
  .card summary { cursor: pointer; color: #6b7280; font-size: .8rem; }
  .card .raw { white-space: pre-wrap; }
  .chip { display: inline-block; background: #eef1f4; border-radius: 1rem; padding: 0 .6rem; margin: .4rem .3rem 0 0;
    font-size: .78rem; } .chip.doubt { background: #fbe9e7; color: #8c1d18; }
""")
_CARDS = """<div class="cards">
{% for one in shown %}
<div class="card"><div class="picture">{% if one.uri %}<img src="{{ one.uri }}" alt="">{% else %}
<span class="none">cannot be shown</span>{% endif %}</div>
<div class="words">{% if one.title %}<div class="title">{{ one.title }}</div>{% endif %}
{% if one.caption %}<div class="caption" dir="auto">{{ one.caption }}</div>{% else %}
<div class="missing">no caption</div>{% endif %}
{% for note in one.notes %}<span class="chip">{{ note }}</span>{% endfor %}
{% for doubt in one.doubts %}<span class="chip doubt">{{ doubt }}</span>{% endfor %}
{% if one.raw %}<details{% if open_raw %} open{% endif %}><summary>the answer as it came</summary>
<div class="raw" dir="auto">{{ one.raw }}</div></details>{% endif %}</div></div>
{% endfor %}
</div>
"""
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head>
<body>
<h1>{{ title }}</h1>
{% for paragraph in paragraphs %}<pre class="text">{{ paragraph }}</pre>{% endfor %}
{{ cards }}
</body>
</html>
"""
_ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


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


def cards(shown: Sequence[Shown], open_raw: bool = False) -> Markup:
    """
    HTML of images beside captions. Everything that was written by a model or a user is escaped.

    Args:
        shown: the images, small.
        open_raw: whether the answers as they came can be read at once.
    """
    values = [
        {
            "uri": None if one.image is None else _data_uri(one.image),
            **{name: getattr(one, name) for name in ("caption", "title", "notes", "doubts", "raw")},
        }
        for one in shown
    ]
    return Markup(_ENVIRONMENT.from_string(_CARDS).render(shown=values, open_raw=open_raw))


def write_page(path: str | Path, shown: Sequence[Shown], title: str, paragraphs: Sequence[str] = ()) -> None:
    """
    Args:
        path: the HTML file; its pictures are in it.
        shown: the images, small.
        title, paragraphs: above them, as plain text.
    """
    page = _ENVIRONMENT.from_string(_PAGE).render(
        title=title, style=STYLE, paragraphs=paragraphs, cards=cards(shown, open_raw=True)
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def draw_grid(path: str | Path, shown: Sequence[Shown], across: int = 4, most_lines: int = 9) -> None:
    """
    Args:
        path: PNG file.
        shown: the images, small.
        across: images a row.
        most_lines: of a caption; what is longer ends in an ellipsis.
    """
    margin, height, step = 16, 180, 19
    across = max(1, min(across, len(shown)))
    rows = [shown[start : start + across] for start in range(0, len(shown), across)]
    texts = [[_lines(one, most_lines) for one in row] for row in rows]
    heights = [height + 12 + step * max(map(len, lines)) + margin for lines in texts]
    size = (margin + across * (SIDE + margin), margin + sum(heights) + margin * max(len(rows) - 1, 0))
    picture = PILImage.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    top = margin
    for row, lines_of_row, row_height in zip(rows, texts, heights, strict=True):
        for column, (one, lines) in enumerate(zip(row, lines_of_row, strict=True)):
            left = margin + column * (SIDE + margin)
            draw.rectangle((left, top, left + SIDE - 1, top + height - 1), fill=PAPER, outline=LINE)
            if one.image is not None:
                image = one.image.copy()
                image.thumbnail((SIDE, height))
                place = left + (SIDE - image.width) // 2, top + (height - image.height) // 2
                picture.paste(image, place)
            else:
                middle = left + SIDE // 2, top + height // 2
                draw.text(middle, "cannot be shown", fill=GREY, font=_font(""), anchor="mm")
            for number, (line, color) in enumerate(lines):
                draw.text((left, top + height + 8 + number * step), line, fill=color, font=_font(line))
        top += row_height + margin
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _lines(one: Shown, most: int) -> list[tuple[str, str]]:
    """The lines below a picture, each with its colour."""
    title = [(line, GREY) for line in wrapped(one.title, 1)]
    if one.caption is None:
        return title + [(line, RED) for line in wrapped(", ".join(["no caption", *one.doubts]), 3)]
    return title + [(line, INK) for line in wrapped(one.caption, most)]


def wrapped(text: str, most: int, width: int = SIDE) -> list[str]:
    """Lines of at most `width` pixels; the last of `most` ends in an ellipsis where there are more."""
    text = text[: most * width]  # no letter is narrower than a pixel
    font = _font(text)
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        while font.getlength(longer) > width and len(lines) <= most:  # a long word, or a script without spaces
            fitting = max(1, bisect(range(1, len(longer) + 1), width, key=lambda end: font.getlength(longer[:end])))
            lines.append(longer[:fitting])
            longer = longer[fitting:]
        line = longer
        if len(lines) > most:
            break
    lines += [line] if line else []
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last.rstrip()}…"]
    return lines


def _font(text: str, size: int = 14) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; for scripts that it lacks, the first of the system's that is found."""
    names = (
        ["DejaVuSans.ttf"] if text.isascii() else ["NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf"]
    )
    for name in names:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _data_uri(image: PILImage.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
