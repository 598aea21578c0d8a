"""The page of `g4i predict`: the least certain images first, with corrections to download as `labels.jsonl`."""

import heapq
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from .. import columns
from ..names import ANSWER
from ..pages import thumbnail, write_page
from .images import Images
from .writing import DIGEST

SHOWN = 500  # images
LIKELIEST = 5  # classes with a button
MOST = 20  # images that differ most, before the others


def write_predictions_page(
    file: str | Path,
    images: Images,
    rows: Iterator[dict[str, Any]],
    classes: list[str],
    title: str,
    most: Sequence[int] = (),
) -> None:
    """
    A single file that needs no other and works offline. What it offers to download are lines as those of `g4i label`.

    Args:
        rows: of all images in their order, with their `digest`.
        classes: of the classifier.
        most: rows that differ most from what the classifier was fitted on; the first `MOST` of them come first.
    """
    rank = {row: place for place, row in enumerate(most[:MOST])}
    readable = (
        (rank.get(number, MOST), row["decision"] == ANSWER, row["probability"], number, row)
        for number, row in enumerate(rows)
    )
    least_certain = heapq.nsmallest(SHOWN, (each for each in readable if not each[-1]["reason"]))
    shown = []
    for place, _, share, number, row in least_certain:
        others = [row[f"label_{place}"] for place in range(2, LIKELIEST + 1) if f"label_{place}" in row]
        given = {"name": row["file_name"], "label": row["label"], "decision": row["decision"], "share": share}
        given |= {"differs": place < MOST}
        picture = thumbnail([{columns.IMAGE: images[number][1]}], 0)
        shown.append(given | {"digest": row[DIGEST], "others": others, "picture": picture})
    write_page(
        file,
        title,
        "predictions.html.j2",
        shown=shown,
        total=len(images),
        classes=classes,
        by_name=columns.IMAGE_ID if isinstance(images.stored, Dataset) else "file_name",
        nonce=secrets.token_urlsafe(16),
    )
