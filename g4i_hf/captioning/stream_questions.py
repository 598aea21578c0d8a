"""The questions about a data set that is read from start to end."""

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from datasets import Dataset, IterableDataset

from .. import columns
from ..data.image_ids import content_id, image_id_of, told_apart
from .answers import Question
from .journal.keys import Keys, source_digest
from .journal.reader import Entry, Journal
from .prompts import MissingValue, Prompts

logger = logging.getLogger(__name__)


class StreamQuestions:
    """
    As [`~g4i_hf.captioning.questions.SplitQuestions`], for a stream. Its images come by whether they were described or
    not, so each is known by the digest of its bytes, and nothing but ids and digests is kept of them. Where the data
    has no `image_id`, it is the file's name, or a digest.

    Every process reads the whole stream, and asks about its own rows.

    Args:
        stream: rows with `image` (not decoded) and the columns that prompts name.
        name: of the split.
        prompts, keys: as there.
    """

    def __init__(self, stream: IterableDataset | list[dict[str, Any]], name: str, prompts: Prompts, keys: Keys):
        self.stream, self.name, self.prompts, self.keys = stream, name, prompts, keys
        self._image_ids: list[str] = []
        self._contents: list[str] | None = []  # None where the data has ids of its own
        self._row_keys: list[list[str]] = []

    def part(self, rows: list[int]) -> "StreamQuestions":
        """The questions about the first rows, as many as there are numbers."""
        return StreamQuestions(list(self.stream.take(len(rows))), self.name, self.prompts, self.keys)

    def image(self, row: int) -> dict[str, Any]:
        """Of a part."""
        return self.stream[row][columns.IMAGE]

    def count(self, is_mine: Callable[[int], bool]) -> None:
        """Not known before the end."""
        return None

    def count_answered(
        self, journal: Journal, is_mine: Callable[[int], bool], ask_again: Callable[[Entry], bool]
    ) -> int:
        return 0

    def unanswered(
        self,
        journal: Journal,
        is_mine: Callable[[int], bool] = lambda row: True,
        ask_again: Callable[[Entry], bool] = lambda entry: False,
        moved: Callable[[Question, Entry], None] | None = None,
    ) -> Iterator[Question]:
        """
        Raises:
            ValueError: for an `image_id` of the data that is null or occurs twice, as soon as it is met.
        """
        self._image_ids, self._contents, self._row_keys = [], [], []
        seen: set[str] = set()
        for row, item in enumerate(self.stream):
            self._note_id(row, item, seen)
            questions = self._questions(row, item)
            self._row_keys.append([question.key for question in questions])
            for question in questions if is_mine(row) else []:
                entry = journal.find(question.key)
                if entry is None or ask_again(entry):
                    yield question
        self.__dict__.pop("light", None)

    @cached_property
    def light(self) -> Dataset:
        """`image_id` and keys of the rows, once the stream was read."""
        contents = self._contents
        image_ids = self._image_ids if contents is None else told_apart(self._image_ids, contents.__getitem__)
        return Dataset.from_dict({columns.IMAGE_ID: image_ids, "keys": self._row_keys})

    def records(
        self, journal: Journal, batch: dict[str, list], numbers: Any, look_closer: bool = True
    ) -> Iterator[list[dict[str, Any] | None]]:
        """The journal's records of some rows, one a prompt, None where there is no answer."""
        for keys in batch["keys"]:
            entries = [journal.find(key) for key in keys] or [None] * len(self.prompts.templates)
            yield [None if entry is None else journal.read(entry) for entry in entries]

    def _note_id(self, row: int, item: dict[str, Any], seen: set[str]) -> None:
        if columns.IMAGE_ID not in item:
            self._image_ids.append(_by_itself(item[columns.IMAGE], image_id_of, row))
            self._contents.append(_by_itself(item[columns.IMAGE], content_id, row))
            return
        self._contents = None
        image_id = item[columns.IMAGE_ID]
        if image_id is None or str(image_id) in seen:
            what = "null" if image_id is None else f"{image_id!r}, which an earlier row has too"
            raise ValueError(
                f"Split {self.name!r}, column 'image_id', row {row}: {what}. Name a column of unique ids with "
                "--image_id_column."
            )
        seen.add(str(image_id))
        self._image_ids.append(str(image_id))

    def _questions(self, row: int, item: dict[str, Any]) -> list[Question]:
        image = item[columns.IMAGE]
        try:
            prompts = self.prompts.prompts_of(item)
        except MissingValue as error:
            logger.warning("Split %r, row %d has no caption: %s", self.name, row, error)
            return []
        try:
            source, size, mtime = source_digest(image)
        except (OSError, ValueError):  # the captioner will say so of this row
            source, size, mtime = f"unreadable {row}", -1, None
        keys = [self.keys.key(source, prompt) for prompt in prompts]
        image = image or {"bytes": None, "path": None}
        return [
            Question(self._image_ids[row], image, prompt, key, "", source, size, mtime)
            for prompt, key in zip(prompts, keys, strict=True)
        ]


def _by_itself(image: dict[str, Any] | None, kind: Callable[[dict[str, Any]], str], row: int) -> str:
    try:
        return kind(image)
    except (OSError, TypeError):  # null, or its file is gone
        return f"unreadable-{row}"
