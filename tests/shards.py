"""A small dataset in shards: Parquet files and WebDataset archives."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import make
import numpy as np
from datasets import Dataset

CLASSES, DIM, SIDE = ["a", "b", "c"], 8, 32


def example_rows(number: int) -> Dataset:
    """Images of noise with captions, two rows a caption; each fifth row has none, and each seventh no label."""
    embeds = make.unit(np.random.default_rng(0).normal(size=(number, DIM)))
    labels = [None if row % 7 == 6 else row % len(CLASSES) for row in range(number)]
    columns = {"label": labels, "caption": [f"caption {row // 2}" if row % 5 else None for row in range(number)]}
    columns["text_embeds"] = [embeds[row // 2] if row % 5 else None for row in range(number)]
    return make.rows(number, CLASSES, lambda row: make.noise(row, SIDE), **columns)


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
            label = -1 if row["label"] is None else row["label"]
            parts = {"png": row["image"]["bytes"], "cls": str(label).encode(), "txt": (row["caption"] or "").encode()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{row['image_id']}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
