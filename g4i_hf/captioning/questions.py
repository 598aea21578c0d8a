"""The questions about the rows of a split, and the keys and places by which their answers are found."""

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from .. import columns
from ..data.images import why_unreadable
from ..data.joining import content_id, image_id_of, made_unique
from .answers import Question
from .images import content_of
from .prompts import MissingValue, Prompts
from .store import AnswerStore, Keys, Record, image_digest

logger = logging.getLogger(__name__)

BATCH = 10_000  # rows whose columns are read together


@dataclass
class Row:
    """A row of a split. `image` gives `{"bytes", "path"}`, or None."""

    number: int
    image_id: str
    prompts: list[str]
    places: list[str]  # of the prompts; empty texts where only the image's bytes can tell
    image: Callable[[], dict[str, Any] | None]


class Questions:
    """
    The questions about a split: one for each row and prompt. Rows have `image` (not decoded), `image_id` and the
    columns that the prompts name; the keys are those of the captioner that is asked.
    """

    looked_up = 500  # rows whose answers are looked up together

    def __init__(self, split: Dataset, name: str, prompts: Prompts, keys: Keys):
        self.split, self.name, self.prompts, self.keys = split, name, prompts, keys
        self.keys_of_row: dict[int, list[str]] = {}  # of rows without places, once their image has been read

    def __len__(self) -> int:
        """TypeError for a stream, whose length is unknown."""
        return len(self.split) * len(self.prompts.templates)

    def part(self, rows: list[int]) -> "Questions":
        """The questions about some of the rows."""
        return Questions(self.split.select(rows), self.name, self.prompts, self.keys)

    def image_ids(self) -> Dataset:
        """The column `image_id` alone."""
        return self.split.select_columns([columns.IMAGE_ID])

    def rows(self) -> Iterator[Row]:
        """All rows; no image is opened."""
        light = self.split.select_columns(list(dict.fromkeys([columns.IMAGE_ID, *self.prompts.columns])))
        images = self.split.select_columns([columns.IMAGE])
        for start in range(0, len(light), BATCH):
            batch = light[start : start + BATCH]
            known = sizes_and_times(images.with_format("arrow")[start : start + BATCH][columns.IMAGE])
            for inside, (image_id, (size, mtime)) in enumerate(zip(batch[columns.IMAGE_ID], known, strict=True)):
                prompts = self.prompts.prompts_of({name: batch[name][inside] for name in self.prompts.columns})
                # A file has a time of change of its own; bytes in a table change with the table
                table = self.name if mtime is not None else None if size is None else self.split._fingerprint
                places = [self.keys.place(image_id, size, mtime, prompt, table) for prompt in prompts]
                number = start + inside
                yield Row(number, image_id, prompts, places, lambda number=number: images[number][columns.IMAGE])

    def batches(self) -> Iterator[list[Row]]:
        rows = self.rows()
        while batch := list(itertools.islice(rows, self.looked_up)):
            yield batch

    def of_row(self, row: Row) -> list[Question]:
        """Reads the image, once: the bytes of the key are the bytes that the captioner gets."""
        image = row.image()
        try:
            image = {"bytes": content_of(image), "path": (image or {}).get("path")}
            digest = image_digest(image["bytes"])
        except (OSError, ValueError) as error:  # the captioner will answer `undecodable`
            image, digest = {"bytes": None, "path": None, "why": why_unreadable(error)}, f"unreadable {row.image_id}"
        keys = [self.keys.key(digest, prompt) for prompt in row.prompts]
        if not all(row.places):
            self.keys_of_row[row.number] = keys
        asked = zip(row.prompts, keys, row.places, strict=True)
        return [Question(row.image_id, image, prompt, key, place) for prompt, key, place in asked]

    def records(self, store: AnswerStore, look_closer: bool = False) -> Iterator[list[Record | None]]:
        """
        For each row, the stored answers to its prompts. `look_closer` opens an image whose place is unknown, as its
        file may have been moved or touched; images without a place are opened in any case.
        """
        for batch in self.batches():
            found = store.find_many([place for row in batch for place in row.places])
            for row in batch:
                records = [found.get(place) for place in row.places]
                if not all(row.places) or (look_closer and not all(records)):
                    keys = self.keys_of_row.get(row.number) or [question.key for question in self.of_row(row)]
                    records = [store.find(key) for key in keys]
                yield records


class StreamQuestions(Questions):
    """
    The questions about a stream. Nothing but ids and keys is kept of it, so answers are found by the image's bytes.
    Without a column `image_id`, the id is the file's name, or a digest. Every process reads the whole stream and asks
    about its own rows.
    """

    split: IterableDataset | list[dict[str, Any]]
    looked_up = 1  # their images are in memory

    def __init__(self, split: IterableDataset | list[dict[str, Any]], name: str, prompts: Prompts, keys: Keys):
        super().__init__(split, name, prompts, keys)
        self._image_ids: list[str] = []
        self._contents: list[str] = []  # empty where the data has ids of its own

    def part(self, rows: list[int]) -> Questions:
        """The first rows, as many as there are numbers."""
        return StreamQuestions(list(self.split.take(len(rows))), self.name, self.prompts, self.keys)

    def image_ids(self) -> Dataset:
        """Known once the stream was read."""
        return Dataset.from_dict({columns.IMAGE_ID: made_unique(self._image_ids, self._contents.__getitem__)})

    def rows(self) -> Iterator[Row]:
        """ValueError for an `image_id` of the data that is null or occurs twice, as soon as it is met."""
        self._image_ids, self._contents = [], []
        seen: set[str] = set()
        for number, item in enumerate(self.split):
            self._note_id(number, item, seen)
            try:
                prompts = self.prompts.prompts_of(item)
            except MissingValue as error:
                logger.warning("Split %r, row %d has no caption: %s", self.name, number, error)
                prompts = []
            image = item[columns.IMAGE]
            yield Row(number, self._image_ids[number], prompts, [""] * len(prompts), lambda image=image: image)

    def records(self, store: AnswerStore, look_closer: bool = False) -> Iterator[list[Record | None]]:
        """Known once the stream was read."""
        for number in range(len(self._image_ids)):
            keys = self.keys_of_row.get(number)
            yield [store.find(key) for key in keys] if keys else [None] * len(self.prompts.templates)

    def _note_id(self, row: int, item: dict[str, Any], seen: set[str]) -> None:
        if columns.IMAGE_ID not in item:
            self._image_ids.append(_by_itself(item[columns.IMAGE], image_id_of, row))
            self._contents.append(_by_itself(item[columns.IMAGE], content_id, row))
            return
        image_id = item[columns.IMAGE_ID]
        if image_id is None or str(image_id) in seen:
            what = "null" if image_id is None else f"{image_id!r}, which an earlier row has too"
            raise ValueError(
                f"Split {self.name!r}, column 'image_id', row {row}: {what}. Name a column of unique ids with "
                "--image_id_column."
            )
        seen.add(str(image_id))
        self._image_ids.append(str(image_id))


def _by_itself(image: dict[str, Any] | None, kind: Callable[[dict[str, Any]], str], row: int) -> str:
    try:
        return kind(image)
    except (OSError, TypeError):  # null, or its file is gone
        return f"unreadable-{row}"


def sizes_and_times(images: Any) -> list[tuple[int | None, int | None]]:
    """
    The size in bytes of each image of an Arrow column, and its file's time of change in nanoseconds; None for what is
    unknown. Bytes in a table are not read, files not opened.
    """
    lengths = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
    paths = pc.struct_field(images, "path").to_pylist()
    known: list[tuple[int | None, int | None]] = []
    for length, path in zip(lengths, paths, strict=True):
        try:
            file = os.stat(path or "") if length is None else None
            known.append((file.st_size, file.st_mtime_ns) if file else (length, None))
        except OSError:  # it is gone, or an address
            known.append((None, None))
    return known
