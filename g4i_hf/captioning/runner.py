"""Asks the captioner what the store does not know yet, and keeps every answer at once."""

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from tqdm import tqdm

from .. import columns
from ..data.bad_images import why_unreadable
from ..data.image_ids import content_id, image_id_of, told_apart
from .answers import OK, TRANSIENT, Answer, Captioner, Question
from .images import content_of
from .projection import Budget
from .prompts import MissingValue, Prompts
from .store import AnswerStore, Keys, image_digest

logger = logging.getLogger(__name__)

BATCH = 10_000  # rows whose columns are read together
LOOKED_UP = 500  # rows whose answers are
NOT_KEPT = {"rejected", *TRANSIENT}  # of a trial
SECONDS_IN_A_FILE = 30.0  # between two lines of the progress bar, where nobody watches

Record = dict[str, Any]


# --- Questions -------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """
    Attributes:
        number: in its split.
        image_id: of the row.
        prompts: about its image.
        places: of the prompts; empty texts where only the image's bytes can tell.
        image: gives `{"bytes", "path"}`, or None.
    """

    number: int
    image_id: str
    prompts: list[str]
    places: list[str]
    image: Callable[[], dict[str, Any] | None]


class Questions:
    """
    What is asked about a split: every row has as many questions as there are prompts.

    Args:
        split: rows with `image` (not decoded), `image_id` and the columns that prompts name.
        name: of the split.
        prompts: what is asked.
        keys: of the captioner.
    """

    def __init__(self, split: Dataset, name: str, prompts: Prompts, keys: Keys):
        self.split, self.name, self.prompts, self.keys = split, name, prompts, keys
        self.keys_of_row: dict[int, list[str]] = {}  # of rows that have been read and have no place

    def __len__(self) -> int:
        """TypeError of a stream, whose length nobody knows."""
        return len(self.split) * len(self.prompts.templates)

    def part(self, rows: list[int]) -> "Questions":
        """The questions about some of the rows."""
        return Questions(self.split.select(rows), self.name, self.prompts, self.keys)

    def image_ids(self) -> Dataset:
        """The column `image_id` alone."""
        return self.split.select_columns([columns.IMAGE_ID])

    def rows(self) -> Iterator[Row]:
        """All rows. No image is opened."""
        light = self.split.select_columns(list(dict.fromkeys([columns.IMAGE_ID, *self.prompts.columns])))
        images = self.split.select_columns([columns.IMAGE])
        for start in range(0, len(light), BATCH):
            batch = light[start : start + BATCH]
            facts = facts_of(images.with_format("arrow")[start : start + BATCH][columns.IMAGE])
            for inside, (image_id, (size, mtime)) in enumerate(zip(batch[columns.IMAGE_ID], facts, strict=True)):
                prompts = self.prompts.prompts_of({name: batch[name][inside] for name in self.prompts.columns})
                # Files change by themselves, bytes in a table with the table
                table = self.name if mtime is not None else None if size is None else self.split._fingerprint
                places = [self.keys.place(image_id, size, mtime, prompt, table) for prompt in prompts]
                number = start + inside
                yield Row(number, image_id, prompts, places, lambda number=number: images[number][columns.IMAGE])

    def batches(self) -> Iterator[list[Row]]:
        """The rows, as many as are looked up together."""
        rows = self.rows()
        while batch := list(itertools.islice(rows, LOOKED_UP)):
            yield batch

    def of_row(self, row: Row) -> list[Question]:
        """Reads the image, once: the bytes that are digested are those that are described."""
        image = row.image()
        try:
            image = {"bytes": content_of(image), "path": (image or {}).get("path")}
            digest = image_digest(image["bytes"])
        except (OSError, ValueError) as error:  # the captioner says so of this row
            image, digest = {"bytes": None, "path": None, "why": why_unreadable(error)}, f"unreadable {row.image_id}"
        keys = [self.keys.key(digest, prompt) for prompt in row.prompts]
        if not all(row.places):
            self.keys_of_row[row.number] = keys
        asked = zip(row.prompts, keys, row.places, strict=True)
        return [Question(row.image_id, image, prompt, key, place) for prompt, key, place in asked]

    def records(self, store: AnswerStore, look_closer: bool = False) -> Iterator[list[Record | None]]:
        """
        Of each row what the store has of its prompts. Images are opened only where there is no place, or, if one is to
        `look_closer`, where nothing is known of it: the file may have been touched meanwhile.
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
    The same for a stream, of which nothing but ids and digests is kept: an answer is found by the image's bytes. Where
    the data has no `image_id`, it is the file's name, or a digest. Every process reads the whole stream, and asks
    about its own rows.
    """

    split: IterableDataset | list[dict[str, Any]]

    def __init__(self, split: IterableDataset | list[dict[str, Any]], name: str, prompts: Prompts, keys: Keys):
        super().__init__(split, name, prompts, keys)
        self._image_ids: list[str] = []
        self._contents: list[str] = []  # empty where the data has ids of its own

    def part(self, rows: list[int]) -> Questions:
        """The first rows, as many as there are numbers."""
        return StreamQuestions(list(self.split.take(len(rows))), self.name, self.prompts, self.keys)

    def image_ids(self) -> Dataset:
        """Once the stream was read."""
        return Dataset.from_dict({columns.IMAGE_ID: told_apart(self._image_ids, self._contents.__getitem__)})

    def rows(self) -> Iterator[Row]:
        """
        Raises:
            ValueError: for an `image_id` of the data that is null or occurs twice, as soon as it is met.
        """
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

    def batches(self) -> Iterator[list[Row]]:
        """One by one: their images are in memory, and have no places to be looked up by."""
        yield from ([row] for row in self.rows())

    def records(self, store: AnswerStore, look_closer: bool = False) -> Iterator[list[Record | None]]:
        """Once the stream was read."""
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


def facts_of(images: Any) -> list[tuple[int | None, int | None]]:
    """
    Size in bytes of each image of an Arrow column, and the time of its file in nanoseconds; None for what is not
    known. Bytes in a table are not read, files not opened.
    """
    lengths = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
    paths = pc.struct_field(images, "path").to_pylist()
    return [
        (length, None) if length is not None else _facts_of_file(path)
        for length, path in zip(lengths, paths, strict=True)
    ]


def _facts_of_file(path: str | None) -> tuple[int | None, int | None]:
    try:
        found = os.stat(path or "")
        return found.st_size, found.st_mtime_ns
    except OSError:  # it is gone, or an address
        return None, None


# --- Asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """The rows of the process `rank`, counted from 0, of so many."""

    rank: int = 0
    processes: int = 1

    @classmethod
    def from_environment(cls) -> "Share":
        """
        Raises:
            ValueError: when RANK is no process of WORLD_SIZE, or nobody says where these meet.
        """
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if not 0 <= rank < processes or (processes > 1 and "MASTER_ADDR" not in os.environ):
            raise ValueError(
                f"RANK is {rank} and WORLD_SIZE is {processes}, which no launcher has set. Start several processes "
                "with --num_processes, or many tasks with recipes/scale."
            )
        return cls(rank, processes)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def is_mine(self, row: int) -> bool:
        return row % self.processes == self.rank

    def part_of(self, number: int) -> int:
        """The own part of a number that all processes share."""
        return number // self.processes + (self.rank < number % self.processes)


@dataclass
class Outcome:
    """
    What became of the questions of this process.

    Attributes:
        asked: by status, answers of this run.
        known: questions that were answered before, or by the answer about the same image.
        seconds: that asking took.
        answers: of a trial.
    """

    asked: Counter = field(default_factory=Counter)
    known: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    answers: list[tuple[Question, Answer]] = field(default_factory=list)

    def as_text(self) -> str:
        """A line for the terminal."""
        count = sum(self.asked.values())
        if not count:
            return f"All {self.known:,} answers were there already." if self.known else "Nothing was left to ask."
        text = f"{count:,} answers in {self.seconds:,.0f} s ({count / max(self.seconds, 1e-9):,.1f} a second"
        if self.prompt_tokens:
            text += f", {self.prompt_tokens:,} tokens read and {self.completion_tokens:,} written"
        text += "".join(f"; {number:,} {status}" for status, number in self.asked.items() if status != OK)
        return f"{text}){f'; {self.known:,} were there already' if self.known else ''}."


class Asking:
    """
    Args:
        captioner: what answers.
        questions: of each split.
        store: where answers are kept.
        share: which of the rows this process asks about.
        budget: how much may still be asked.
        ask_again: which answers of earlier runs do not count.
        is_trial: fills `Outcome.answers`; failures that may be a matter of the options are not kept in the store.
    """

    def __init__(
        self,
        captioner: Captioner,
        questions: Iterable[Questions],
        store: AnswerStore,
        *,
        share: Share | None = None,
        budget: Budget | None = None,
        ask_again: Callable[[Record], bool] | None = None,
        is_trial: bool = False,
    ):
        self.captioner, self.questions, self.store = captioner, list(questions), store
        self.share, self.budget = share or Share(), budget or Budget()
        self.ask_again = ask_again or (lambda record: False)
        self.is_trial = is_trial
        self.outcome = Outcome()
        self._asked: set[str] = set()
        self._places: deque[tuple[str, str]] = deque()  # not written yet; filled by another thread
        self._began: float | None = None

    def run(self) -> Outcome:
        """
        Raises:
            CaptionerError: when the captioner as a whole does not work. What was answered by then is kept.
            OSError: when the answers cannot be written.
            KeyboardInterrupt: also on SIGTERM; what was answered by then is kept.
        """
        with _interrupted_once(), self._bar() as self._progress:
            try:
                self.captioner.run(self._pending(), self._deliver, self._allow)
            finally:
                if self._began is not None:
                    self.outcome.seconds = time.monotonic() - self._began
                self._keep([])
        return self.outcome

    def _bar(self) -> tqdm:
        try:
            total = sum(map(len, self.questions)) // self.share.processes
        except TypeError:  # of a stream
            total = None
        is_watched = sys.stderr.isatty()
        return tqdm(
            total=total,
            desc=f"Captions, process {self.share.rank}" if self.share.processes > 1 else "Captions",
            unit="caption",
            position=self.share.rank if is_watched else 0,
            mininterval=0.1 if is_watched else SECONDS_IN_A_FILE,
        )

    def _pending(self) -> Iterator[Question]:
        """Each question without an answer once, also where two rows show the same image."""
        for split in self.questions:
            for batch in split.batches():
                # Rows of others whose place is not known are read too: the columns need their keys
                batch = [row for row in batch if self.share.is_mine(row.number) or not all(row.places)]
                found = self.store.find_many([place for row in batch for place in row.places])
                for row in batch:
                    known = [self._is_enough(found.get(place)) for place in row.places]
                    if known and all(known):
                        self._were_known(len(known))
                        continue
                    questions = split.of_row(row)
                    if self.share.is_mine(row.number):
                        yield from filter(self._is_new, questions)

    def _is_new(self, question: Question) -> bool:
        if question.key not in self._asked and not self._is_enough(self.store.find(question.key)):
            self._asked.add(question.key)
            return True
        if question.place:
            self._places.append((question.place, question.key))
        self._were_known(1)
        return False

    def _is_enough(self, record: Record | None) -> bool:
        return record is not None and not self.ask_again(record)

    def _were_known(self, number: int) -> None:
        self.outcome.known += number
        self._progress.update(number)

    def _allow(self) -> bool:
        self._began = self._began or time.monotonic()
        return self.budget.allow()

    def _deliver(self, pairs: list[tuple[Question, Answer]]) -> None:
        for _, answer in pairs:
            self.budget.spent(answer)
            self.outcome.asked[answer.status] += 1
            self.outcome.prompt_tokens += answer.prompt_tokens or 0
            self.outcome.completion_tokens += answer.completion_tokens or 0
        kept = pairs
        if self.is_trial:
            self.outcome.answers += pairs
            kept = [(question, answer) for question, answer in pairs if answer.status not in NOT_KEPT]
        try:
            self._keep(kept)
        except KeyboardInterrupt:  # they are paid for
            self._keep(kept)
            raise
        self._progress.set_postfix(self.outcome.asked, refresh=False)
        self._progress.update(len(pairs))  # they are on the disk: only now they count

    def _keep(self, answers: list[tuple[Question, Answer]]) -> None:
        places = [self._places.popleft() for _ in range(len(self._places))]
        self.store.put(answers, places)


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """
    SIGTERM, which launchers and schedulers send, ends like Ctrl-C: with what was answered on the disk. Both may come
    again, from the terminal and from the launcher, and are ignored while that is written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number, frame):
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
