"""Images to predict, one at a time: of a folder, a list of files, a dataset on disk or the Hub, or in memory."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image

from .. import columns
from ..data.images import IMAGE_SUFFIXES, TURNS, content_of, open_image, to_rgb, why_unreadable
from ..data.loading import check_has_split, open_images, standardise
from ..data.opening import is_image_folder
from ..data.record import content_digest
from ..data.stage import Source
from ..names import check_dataset_exists
from ..zero_shot.search import files_in

AHEAD = 96  # images that threads decode before the network takes them, or three batches


@dataclass
class Images:
    """`stored` are paths or PIL images, or the rows of a `Dataset`."""

    stored: Sequence[Any]
    root: Path | None = None  # of the names of files

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def digest(self) -> str:
        """Of files by name; each has a digest of its content too."""
        if isinstance(self.stored, Dataset):
            return self.stored._fingerprint
        return content_digest("\n".join(map(str, self.stored)).encode())

    def digest_of(self, row: int) -> str | None:
        """Of the bytes of an image, None of a file that is not there."""
        return read_image(self[row][1])[1]

    def rows(self, start: int = 0) -> Iterator[tuple[str, Any]]:
        """The name of each image, and what [`~g4i_hf.data.images.open_image`] takes."""
        for row in range(start, len(self)):
            yield self[row]

    def __getitem__(self, row: int) -> tuple[str, Any]:
        stored = self.stored[row]
        if isinstance(self.stored, Dataset):
            return stored[columns.IMAGE_ID], stored[columns.IMAGE]
        if isinstance(stored, (str, Path)):
            name = Path(stored).relative_to(self.root) if self.root else Path(stored)
            return name.as_posix(), {"bytes": None, "path": str(stored)}
        return str(row), stored


def images_of(given: Any, split: str | None = None, column: str | None = None) -> Images:
    """
    `column`: of the images, if it has another name. FileNotFoundError for what is not there, ValueError for data
    without an image, and without the split.
    """
    named = {columns.IMAGE: column} if column else {}
    opened = _opened(given, split, named)
    if column and not isinstance(opened.stored, Dataset):
        raise ValueError(f"Files have no columns such as {column!r}. Leave out --image_column.")
    return opened


def _opened(given: Any, split: str | None, named: dict[str, str]) -> Images:
    if isinstance(given, (str, Path)):
        return _named(str(given), split, named)
    if isinstance(given, Mapping):
        return Images(standardise(_split_of(given, split), split or "", named))
    if isinstance(given, Dataset):
        return Images(standardise(given, split or "", named))
    given = [given] if isinstance(given, Image.Image) else list(given)
    for image in given:
        if not isinstance(image, (str, Path, Image.Image)):
            raise TypeError(f"images holds a {type(image).__name__}; give paths, PIL images or a dataset.")
    return Images(_not_empty(given, "images"))


def _named(name: str, split: str | None, columns_named: dict[str, str]) -> Images:
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return Images([name])
        if path.suffix != ".txt":
            raise ValueError(f"images is {name!r}: name a folder, a .txt file with a path per line, or a dataset.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return Images(_not_empty([line.strip() for line in lines if line.strip()], name))
    if path.suffix == ".txt":
        raise FileNotFoundError(f"images is {name!r}, but there is no such file.")
    check_dataset_exists(name, "images")
    if path.is_dir() and is_image_folder(name):
        folder = path / split if split else path
        if not folder.is_dir():
            raise FileNotFoundError(f"{name} has no folder {split!r}. Leave split out, or name one of its folders.")
        return Images(files_in(folder), path)
    return Images(_split_of(open_images(replace(Source.of(name), columns=columns_named)), split))


def _split_of(splits: Mapping[str, Dataset], split: str | None) -> Dataset:
    if split is None and len(splits) > 1:
        raise ValueError(f"The data has the splits {', '.join(splits)}. Choose one with --split.")
    split = split or next(iter(splits))
    check_has_split(splits, split, "split")
    return splits[split]


def _not_empty(images: list[Any], what: str) -> list[Any]:
    if not images:
        raise ValueError(f"{what} is empty: give at least one image.")
    return images


def read_image(stored: Any) -> tuple[Any, str | None]:
    """What [`~g4i_hf.data.images.open_image`] takes, read once, and a digest of its bytes, None without any."""
    if isinstance(stored, Image.Image):
        return stored, None
    try:
        content = content_of(stored)
    except (OSError, ValueError):  # which opening says too
        return stored, None
    return {"bytes": content, "path": None}, content_digest(content)


def decoded(
    images: Iterable[tuple[str, Any]], transform: Callable[[Image.Image], torch.Tensor], batch_size: int
) -> Iterator[list[tuple[str, tuple[torch.Tensor | str, str | None]]]]:
    """Batches of names and what [`pixels_of`] says, which threads compute ahead."""
    waiting: deque[tuple[str, Future]] = deque()
    images = iter(images)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        try:
            while True:
                for name, stored in itertools.islice(images, max(AHEAD, 3 * batch_size) - len(waiting)):
                    waiting.append((name, pool.submit(pixels_of, stored, transform)))
                if not waiting:
                    return
                batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                yield [(name, future.result()) for name, future in batch]
        finally:
            pool.shutdown(cancel_futures=True)


def pixels_of(stored: Any, transform: Callable[[Image.Image], torch.Tensor]) -> tuple[torch.Tensor | str, str | None]:
    """Of an image, or why there are none; and its digest."""
    image, digest = read_image(stored)
    try:
        opened = open_image(image)
        with TURNS.of(opened):
            return transform(to_rgb(opened)), digest
    except Exception as error:  # Pillow's readers raise almost anything for a damaged file
        return why_unreadable(error), digest
