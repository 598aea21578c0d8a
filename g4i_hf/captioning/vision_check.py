"""
Whether images reach the model of a server. Some servers drop them without an error, and the model invents captions.
Some mix up concurrent requests. Four generated images show both. A weak model passes, as long as its answers differ.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw

from ..files import brief
from .answers import Keys, Question
from .cleaning import clean

SHAPES = {"red": "circle", "blue": "square", "green": "triangle", "yellow": "diamond"}
FILLS = {"red": "#d81e1e", "blue": "#1e46d8", "green": "#1e9632", "yellow": "#ffdc00"}
SIDE = 448  # pixels, as of a photograph: some models say little about tiny images
QUESTION = "Which colour and shape do you see? Answer in a few words."
REFUSED = "refused"


def image_of(colour: str) -> bytes:
    """A PNG of a large shape on white."""
    image, buffer = Image.new("RGB", (SIDE, SIDE), "white"), io.BytesIO()
    draw, low, middle, high = ImageDraw.Draw(image), SIDE // 8, SIDE // 2, SIDE * 7 // 8
    match SHAPES[colour]:
        case "circle":
            draw.ellipse((low, low, high, high), FILLS[colour])
        case "square":
            draw.rectangle((low, low, high, high), FILLS[colour])
        case "triangle":
            draw.polygon([(middle, low), (high, high), (low, high)], FILLS[colour])
        case "diamond":
            draw.polygon([(middle, low), (high, middle), (middle, high), (low, middle)], FILLS[colour])
    image.save(buffer, "PNG")
    return buffer.getvalue()


def questions_to(address: str, provenance: dict[str, Any]) -> list[Question]:
    """One about each image, with its colour as `image_id`. Their keys are those of this server and model."""
    keys = Keys(provenance | {"address": address})
    return [
        Question(colour, {"bytes": image_of(colour), "path": None}, QUESTION, keys.key(colour, QUESTION))
        for colour in SHAPES
    ]


def fault_in(texts: Mapping[str, str]) -> str | None:
    """What is wrong with the answers, by the colour of their image, and the remedy. None unless all four are there."""
    if len(texts) < len(SHAPES):
        return None
    named = {colour: _colours_in(texts[colour]) for colour in SHAPES}
    if len({named[colour] or _words_of(texts[colour]) for colour in SHAPES}) == 1:
        return (
            f"images do not reach the model: it gives the answer {brief(texts['red'])} to four images of different "
            "colours and shapes. Is it a vision model, was it started with its vision part (llama.cpp: --mmproj) and "
            "chat template, and does the server take data URIs in image_url? If it should caption nevertheless, use "
            "g4i caption --check_vision false."
        )
    swapped = [colour for colour, colours in named.items() if colours and colour not in colours]
    is_permutation = sorted(map(sorted, named.values())) == sorted([colour] for colour in SHAPES)
    if len(swapped) == len(SHAPES) or (swapped and is_permutation):
        colour = swapped[0]
        return (
            f"images sent at the same time are mixed up: that of a {colour} {SHAPES[colour]} gets the answer "
            f"{brief(texts[colour])}. Try another version of the server, or g4i caption --max_concurrency 1."
        )
    return None


def _colours_in(text: str) -> frozenset[str]:
    """Those of [`SHAPES`] that it names."""
    return frozenset(SHAPES) & frozenset(re.findall(r"\w+", text.casefold()))


def _words_of(text: str) -> str:
    """Without case and punctuation. All refusals are the same: models without an image often word them differently."""
    return REFUSED if clean(text).status == REFUSED else " ".join(re.findall(r"\w+", text.casefold())) or text
