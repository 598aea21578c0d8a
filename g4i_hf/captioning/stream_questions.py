"""The questions about a data set that is read from start to end."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any

from datasets import Dataset, IterableDataset

from .. import columns
from ..data.image_ids import image_id_of
from .answers import Question
from .journal import Entry, Journal
from .keys import Keys, source_digest
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

    def __init__(self, stream: IterableDataset, name: str, prompts: Prompts, keys: Keys):
        self.stream, self.name, self.prompts, self.keys = stream, name, prompts, keys
        self._image_ids: list[str] = []
        self._row_keys: list[list[str]] = []

    def part(self, rows: list[int]) -> "StreamQuestions":
        """The questions about the first rows, as many as there are numbers."""
        return StreamQuestions(self.stream.take(len(rows)), self.name, self.prompts, self.keys)

    def image(self, row: int) -> dict[str, Any]:
        return next(islice(self.stream, row, None))[columns.IMAGE]

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
            ValueError: for an `image_id` that occurs twice, when the stream has been read to its end.
        """
        self._image_ids, self._row_keys = [], []
        for row, item in enumerate(self.stream):
            questions = self._questions(row, item)
            self._image_ids.append(questions[0].image_id if questions else str(item.get(columns.IMAGE_ID, row)))
            self._row_keys.append([question.key for question in questions])
            for question in questions if is_mine(row) else []:
                entry = journal.find(question.key)
                if entry is None or ask_again(entry):
                    yield question
        if len(set(self._image_ids)) < len(self._image_ids):
            twice = Counter(self._image_ids).most_common(1)[0][0]
            raise ValueError(
                f"Split {self.name!r}: the image_id {twice!r} occurs more than once. Name a column of unique ids with "
                "--image_id_column."
            )
        self.__dict__.pop("light", None)

    @cached_property
    def light(self) -> Dataset:
        """`image_id` and keys of the rows, once the stream was read."""
        return Dataset.from_dict({columns.IMAGE_ID: self._image_ids, "keys": self._row_keys})

    def records(self, journal: Journal, batch: dict[str, list], numbers: Any) -> Iterator[list[dict | None]]:
        for keys in batch["keys"]:
            entries = [journal.find(key) for key in keys] or [None] * len(self.prompts.templates)
            yield [None if entry is None else journal.read(entry) for entry in entries]

    def _questions(self, row: int, item: dict[str, Any]) -> list[Question]:
        image = item[columns.IMAGE]
        try:
            prompts = self.prompts.prompts_of(item)
            source, size, mtime = source_digest(image)
        except MissingValue as error:
            logger.warning("Split %r, row %d has no caption: %s", self.name, row, error)
            return []
        except (OSError, ValueError):  # the captioner will say so of this row
            source, size, mtime = f"unreadable {row}", -1, None
        image_id = item.get(columns.IMAGE_ID)
        image_id = image_id_of(image) if image_id is None else str(image_id)
        keys = [self.keys.key(source, prompt) for prompt in prompts]
        return [
            Question(image_id, image, prompt, key, "", source, size, mtime)
            for prompt, key in zip(prompts, keys, strict=True)
        ]
