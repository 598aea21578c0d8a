"""What tests are made of: images of noise, rows of a dataset, folders of images."""

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage


def noise(seed: int = 0, width: int = 8, height: int | None = None) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height or width, width, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


def content(image: PILImage.Image, kind: str = "PNG", **options) -> bytes:
    """A file of the image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def stored(image: PILImage.Image, kind: str = "PNG", **options) -> dict:
    """The image as a table holds it."""
    return {"bytes": content(image, kind, **options), "path": None}


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def rows(
    count: int, classes: Iterable[str] = ("a", "b"), draw: Callable[[int], PILImage.Image] = noise, **columns
) -> Dataset:
    """
    Images of noise, labels in turn, and the ids `id-0`, `id-1`, ...

    Args:
        classes: names of the labels; none for numbers.
        draw: makes the image of a row.
        columns: in place of these columns or beside them; None leaves one out. Captions are texts or lists of them,
            text_embeds vectors or lists of them.
    """
    given = {"image": lambda row: stored(draw(row)), "label": lambda row: row % max(len([*classes]), 1)}
    given |= {"image_id": lambda row: f"id-{row}"}
    values = {name: [value(row) for row in range(count)] for name, value in given.items() if name not in columns}
    values |= {name: value for name, value in columns.items() if value is not None}
    features = {name: _feature(name, values[name], classes) for name in values}
    return Dataset.from_dict(values, features=Features(features))


def _feature(name: str, values: list, classes: Iterable[str]):
    known = {"image": Image(decode=False), "image_id": Value("string")}
    known |= {"label": ClassLabel(names=[*classes])} if classes else {}
    first = next((value for value in values if value is not None and np.size(value)), None)
    if name in known:
        return known[name]
    if first is None and any(isinstance(value, list) for value in values):
        return List(Value("string"))
    if name == "text_embeds":
        vector = List(Value("float16"), length=np.shape(first)[-1])
        return List(vector) if np.ndim(first) > 1 else vector
    text = Value("string") if name == "caption" or isinstance(np.ravel(first)[0], str) else Value("int64")
    return List(text) if np.ndim(first) else text


def folder(
    place: Path, files: Iterable[str], captions_in: str | None = None, captions: Iterable[str] | None = None
) -> Path:
    """Files of noise; with `captions_in`, a metadata.jsonl in that folder of it, by default with the files' names."""
    files = list(files)
    for seed, file in enumerate(files):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        noise(seed).save(place / file)
    if captions_in is not None:
        root, lines = place / captions_in, []
        for file, text in zip(files, captions or [None] * len(files), strict=True):
            if root in (place / file).parents:
                name = (place / file).relative_to(root).as_posix()
                lines.append({"file_name": name, "caption": text or f"that of {name}"})
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (root / "metadata.jsonl").write_text(text, encoding="utf-8")
    return place
