"""A small dataset in shards: Parquet files and WebDataset archives."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

CLASSES, DIM, SIDE = ["a", "b", "c"], 8, 32
FEATURES = Features(
    image=Image(),
    label=ClassLabel(names=CLASSES),
    image_id=Value("string"),
    caption=Value("string"),
    text_embeds=List(Value("float16"), length=DIM),
)


def example_rows(number: int) -> Dataset:
    """Random pictures with captions, two rows a caption; each fifth row has none, and each seventh no label."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)
    embeds = rng.normal(size=(number, DIM))
    embeds = (embeds / np.linalg.norm(embeds, axis=1, keepdims=True)).astype(np.float16)
    has_caption = [row % 5 > 0 for row in range(number)]
    columns = {
        "image": [PILImage.fromarray(picture) for picture in pictures],
        "label": [None if row % 7 == 6 else row % len(CLASSES) for row in range(number)],
        "image_id": [f"id-{row}" for row in range(number)],
        "caption": [f"caption {row // 2}" if has_caption[row] else None for row in range(number)],
        "text_embeds": [embeds[row // 2] if has_caption[row] else None for row in range(number)],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def save_parquet(folder: Path, sizes: Sequence[int]) -> Dataset:
    """Shards of these sizes of a split `train`; the first rows are the split `validation` as well."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, first = example_rows(sum(sizes)), 0
    for number, size in enumerate(sizes):
        path = folder / f"train-{number:05d}-of-{len(sizes):05d}.parquet"
        rows.select(range(first, first + size)).to_parquet(path)
        first += size
    rows.select(range(min(6, len(rows)))).to_parquet(folder / "validation.parquet")
    return rows


def save_webdataset(folder: Path, sizes: Sequence[int]) -> Dataset:
    """Archives `train-00000.tar` of png, cls and txt; `validation-00000.tar` holds the first rows as well."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, first = example_rows(sum(sizes)), 0
    for number, size in enumerate(sizes):
        _archive(folder / f"train-{number:05d}.tar", rows.select(range(first, first + size)))
        first += size
    _archive(folder / "validation-00000.tar", rows.select(range(min(6, len(rows)))))
    return rows


def _archive(path: Path, rows: Dataset) -> None:
    with tarfile.open(path, "w") as archive:
        for row in rows:
            png = io.BytesIO()
            row["image"].save(png, "png")
            label = -1 if row["label"] is None else row["label"]
            parts = {"png": png.getvalue(), "cls": str(label).encode(), "txt": (row["caption"] or "").encode()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{row['image_id']}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
