"""The files of a stream: what each is known by, and how many rows it holds."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
from datasets.utils.file_utils import xopen
from huggingface_hub import HfFileSystem

READERS = 16  # files asked for at once


def known_by(files: list[str], folder: str | Path) -> list[str]:
    """
    What tells each file from one that took its place, without opening it: of one on this machine the name in the
    folder and the size; of one on the Hub the name in the data set and git's hash, which a commit that only changes
    other files leaves alone; of any other its address.
    """
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda file: _known_by(str(file), folder), files))


def _known_by(file: str, folder: str | Path) -> str:
    if file.startswith("hf://"):
        hub = HfFileSystem()
        found = hub.info(file)
        return f"{hub.resolve_path(file).path_in_repo} {found.get('blob_id') or found['size']}"
    return file if "://" in file else f"{os.path.relpath(file, folder)} {os.path.getsize(file)}"


def row_groups(files: list[str]) -> list[list[int]]:
    """Rows of each row group of each Parquet file, from their last bytes."""

    def read(file: str) -> list[int]:
        with xopen(file, "rb") as opened:
            footer = pq.ParquetFile(opened).metadata
        return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(read, map(str, files)))
