"""Check what rows of a Hub dataset name in place of images: no file of this machine, and no address."""

import os
from pathlib import Path

from datasets import Dataset
from datasets.config import DOWNLOADED_DATASETS_PATH, HF_CACHE_HOME, HF_DATASETS_CACHE
from datasets.features.features import require_storage_embed
from huggingface_hub.constants import HF_HUB_CACHE

from .. import columns
from .images import image_paths


def check_files(split: Dataset, split_name: str, hub_id: str) -> None:
    """
    Raises a ValueError for the first image of a split of the Hub that is a local file or an address. Files in the
    caches of `datasets` and `huggingface_hub` are allowed: the dataset itself lies there.
    """
    caches = [os.path.abspath(cache) for cache in (HF_CACHE_HOME, HF_DATASETS_CACHE, DOWNLOADED_DATASETS_PATH)]
    caches.append(os.path.abspath(HF_HUB_CACHE))
    for row, (path, has_bytes) in enumerate(image_paths(split)):
        if has_bytes or not path:
            continue
        if "://" in path or not any(Path(os.path.abspath(path)).is_relative_to(cache) for cache in caches):
            where = f"{hub_id}, split {split_name!r}, column {columns.IMAGE!r}, row {row}"
            what = f"{where}: names the file {path!r} in place of an image, which is not part of the dataset"
            raise ValueError(f"{what}. If you trust it, download the images into a folder and open that.")


def file_columns(split: Dataset) -> list[str]:
    """Columns of images, sound or other files, which `datasets` opens with any row."""
    return [column for column, feature in split.features.items() if require_storage_embed(feature)]
