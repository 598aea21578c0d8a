"""The questions about a split: which of them the journal answers, and which are still to be asked."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from datasets import Dataset

from .. import columns
from .answers import Question
from .journal.keys import Keys, source_digest
from .journal.reader import Entry, Journal
from .prompts import Prompts
from .rows import BATCH, NONE, ImageFacts


class SplitQuestions:
    """
    Every row has as many questions as there are prompts. Looking through answered ones opens no image.

    Args:
        split: rows with `image`, `image_id` and the columns that prompts name.
        name: of the split.
        prompts: what is asked.
        keys: of the captioner.
    """

    def __init__(self, split: Dataset, name: str, prompts: Prompts, keys: Keys):
        self.split, self.name, self.prompts, self.keys = split, name, prompts, keys
        self.facts = ImageFacts.of(split)
        self.light = split.select_columns(list(dict.fromkeys([columns.IMAGE_ID, *prompts.columns])))
        self._fingerprint = split._fingerprint
        self._digested: tuple[int, Any, Any] = (NONE, None, None)

    def part(self, rows: list[int]) -> "SplitQuestions":
        """The questions about some of the rows."""
        return SplitQuestions(self.split.select(rows), self.name, self.prompts, self.keys)

    def image(self, row: int) -> dict[str, Any] | None:
        return self.split[row][columns.IMAGE]

    def count(self, is_mine: Callable[[int], bool]) -> int:
        """Questions of this process, answered or not."""
        return sum(map(is_mine, range(len(self.split)))) * len(self.prompts.templates)

    def places(self, row: int, image_id: str, prompts: list[str]) -> list[str]:
        """Where the journal may know the answers of a row; empty texts where only the image's bytes can tell."""
        size, mtime = self.facts.of_row(row)
        return [self._place(image_id, size, mtime, prompt) for prompt in prompts]

    def _place(self, image_id: str, size: int | None, mtime: int | None, prompt: str) -> str:
        table = self.name if mtime is not None else None if size is None else self._fingerprint
        return self.keys.place(image_id, size, mtime, prompt, table)

    def rows(self, batch: dict[str, list], numbers: Iterable[int]) -> Iterator[tuple[int, str, list[str], list[str]]]:
        """Number, `image_id`, prompts and places of some rows, given as columns of `light`."""
        names = self.prompts.columns
        for inside, row in enumerate(numbers):
            image_id = batch[columns.IMAGE_ID][inside]
            prompts = self.prompts.prompts_of({name: batch[name][inside] for name in names})
            yield row, image_id, prompts, self.places(row, image_id, prompts)

    def all_rows(self, is_mine: Callable[[int], bool]) -> Iterator[tuple[int, str, list[str], list[str]]]:
        """The same of all rows that this process asks about."""
        for start in range(0, len(self.light), BATCH):
            batch = self.light[start : start + BATCH]
            mine = [row for row in range(start, start + len(batch[columns.IMAGE_ID])) if is_mine(row)]
            own = {name: [values[row - start] for row in mine] for name, values in batch.items()}
            yield from self.rows(own, mine)

    def count_answered(
        self, journal: Journal, is_mine: Callable[[int], bool], ask_again: Callable[[Entry], bool]
    ) -> int:
        """Questions of this process whose answer is found without reading an image."""
        found = (journal.find(place) for _, _, _, places in self.all_rows(is_mine) for place in places if place)
        return sum(entry is not None and not ask_again(entry) for entry in found)

    def unanswered(
        self,
        journal: Journal,
        is_mine: Callable[[int], bool] = lambda row: True,
        ask_again: Callable[[Entry], bool] = lambda entry: False,
        moved: Callable[[Question, Entry], None] | None = None,
    ) -> Iterator[Question]:
        """
        Args:
            journal: the answers so far.
            is_mine: which rows this process asks about.
            ask_again: which answers do not count.
            moved: takes a question whose image was described under another name or place, and that answer.
        """
        for row, image_id, prompts, places in self.all_rows(is_mine):
            yield from self._of_row(row, image_id, prompts, places, journal, ask_again, moved)

    def question(self, row: int, image_id: str, prompt: str) -> Question:
        """Reads the image's bytes, as they are now, to digest them, but does not decode them."""
        if row != self._digested[0]:  # several prompts about one image read it once
            image = self.image(row)
            self._digested = row, image, _digest_of(image, image_id)
        _, image, (source, size, mtime) = self._digested
        return Question(
            image_id=image_id,
            image=image or {"bytes": None, "path": None},
            prompt=prompt,
            key=self.keys.key(source, prompt),
            place="" if size == NONE else self._place(image_id, size, mtime, prompt),
            source=source,
            size=size,
            mtime=mtime,
        )

    def _of_row(
        self,
        row: int,
        image_id: str,
        prompts: list[str],
        places: list[str],
        journal: Journal,
        ask_again: Callable[[Entry], bool],
        moved: Callable[[Question, Entry], None] | None,
    ) -> Iterator[Question]:
        for prompt, place in zip(prompts, places, strict=True):
            entry = journal.find(place) if place else None
            if entry is not None and not ask_again(entry):
                continue
            question = self.question(row, image_id, prompt)
            known = journal.find(question.key)
            if known is None or ask_again(known):
                yield question
            elif moved is not None:
                moved(question, known)

    def records(
        self, journal: Journal, batch: dict[str, list], numbers: Iterable[int], look_closer: bool = True
    ) -> Iterator[list[dict[str, Any] | None]]:
        """
        The journal's records of some rows, one a prompt, None where there is no answer. Rows that are not found by
        their place are read and looked up by their bytes if one is to `look_closer`, as when all should be there.
        """
        for row, image_id, prompts, places in self.rows(batch, numbers):
            found = []
            for prompt, place in zip(prompts, places, strict=True):
                entry = journal.find(place) if place else None
                if entry is None and (look_closer or not place):
                    entry = journal.find(self.question(row, image_id, prompt).key)
                found.append(None if entry is None else journal.read(entry))
            yield found


def _digest_of(image: dict[str, Any] | None, image_id: str) -> tuple[str, int, int | None]:
    """Digest of the bytes, their number and the file's time; another one of each image that cannot be read."""
    try:
        return source_digest(image)
    except (OSError, ValueError):  # the captioner will say so of this row
        return f"unreadable {image_id}", NONE, None
