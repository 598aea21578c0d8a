"""HTML pages, each a single file with its images. Text of a model or a user is escaped."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from .. import columns
from ..data.images import UndecodableImage, data_uri

SIDE = 240  # pixels of an image on a page


@dataclass
class Shown:
    """A card: one image, and lines of a kind: plain (``), `soft`, `right` in green or `wrong` in red."""

    picture: str | None  # a data URI; None for an image that cannot be read
    title: str
    lines: Sequence[tuple[str, str]]
    raw: str | None = None  # the unedited answer, if it differs


def thumbnail(images: Any, row: int) -> str | None:
    """The `image` of a row, upright and small, as a data URI; None if it is unreadable."""
    try:
        return data_uri(images[row][columns.IMAGE], SIDE)
    except UndecodableImage:
        return None


def page(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    """Keeps the templates that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
    return environment


def write_page(path: str | Path, title: str, template: str = "page.html.j2", **values: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page(template, title=title, **values), encoding="utf-8", errors="replace")
