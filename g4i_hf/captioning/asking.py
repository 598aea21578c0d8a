"""Asks the captioner what the journal does not know yet, and writes every answer down at once."""

import contextlib
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from .answers import OK, Answer, Captioner, Question
from .bar import caption_bar
from .journal.reader import Entry, Journal, JournalWriter, answer_of
from .projection import Budget
from .questions import SplitQuestions
from .sharing import Heartbeat, Share
from .stream_questions import StreamQuestions

logger = logging.getLogger(__name__)

PASSING = {"rejected", "timeout", "failed"}  # a dry run that meets these leaves nothing behind
POLL = 2.0  # seconds between two looks at the other processes


@dataclass
class Outcome:
    """
    What became of the questions of this process.

    Attributes:
        asked: by status, answers of this run.
        known: questions that the journal answered already.
        seconds: that asking took.
        answers: of this run, as long as they were asked to be kept.
        failures: then also, by image and prompt, those that another try may mend; they are not written down.
    """

    asked: Counter = field(default_factory=Counter)
    known: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    failures: dict[tuple[str, str], Answer] = field(default_factory=dict)

    def as_text(self) -> str:
        """A line for the terminal."""
        count = sum(self.asked.values())
        if not count:
            return f"All {self.known:,} answers were there already." if self.known else "Nothing was left to ask."
        failed = ", ".join(f"{number:,} {status}" for status, number in self.asked.items() if status != OK)
        tokens = (
            f", {self.prompt_tokens:,} tokens read and {self.completion_tokens:,} written"
            if self.prompt_tokens
            else ""
        )
        return (
            f"{count:,} answers in {self.seconds:,.0f} s ({count / max(self.seconds, 1e-9):,.1f} a second{tokens})"
            + (f"; {failed}" if failed else "")
            + (f"; {self.known:,} were there already." if self.known else ".")
        )


class Asking:
    """
    Args:
        captioner: what answers.
        questions: of each split.
        journal_dir: where answers are kept; shared by all processes.
        share: which of the rows this process asks about.
        budget: how much may still be asked.
        heartbeat: of this process, already beating; needed where there are several.
        ask_again: which answers of earlier runs do not count.
        keep_answers: whether `Outcome.answers` is wanted.
    """

    def __init__(
        self,
        captioner: Captioner,
        questions: dict[str, SplitQuestions | StreamQuestions],
        journal_dir: str,
        *,
        share: Share | None = None,
        budget: Budget | None = None,
        heartbeat: Heartbeat | None = None,
        ask_again: Callable[[Journal, Entry], bool] | None = None,
        keep_answers: bool = False,
    ):
        self.captioner, self.questions, self.share = captioner, questions, share or Share()
        self.budget, self.heartbeat = budget or Budget(), heartbeat
        self.journal_dir, self.keep_answers = journal_dir, keep_answers
        self.journal = Journal.load(journal_dir)
        self._ask_again = self._remembering(ask_again)
        self.outcome = Outcome()
        self._asked: set[bytes] = set()
        self._counting = threading.Lock()

    def run(self) -> Outcome:
        """
        Asks about the rows of this process and, if it is the first, about those that lost processes left.

        Raises:
            CaptionerError: when the captioner as a whole does not work. What was answered by then is kept.
            OSError: when the journal cannot be written.
            KeyboardInterrupt: also on SIGTERM; what was answered by then is kept.
        """
        started = time.time()
        with _interrupted_once():
            known = self._ask(self.share.is_mine)
            self.outcome.known += known
            if self.share.processes > 1 and self.share.is_first:
                self._wait_for_others()
                self.journal.refresh()
                again = self._ask_again
                # What the others have asked again themselves counts
                self._ask_again = lambda entry: again(entry) and self.journal.read(entry)["time"] < started
                self._ask(lambda row: not self.share.is_mine(row))
        return self.outcome

    def _wait_for_others(self) -> None:
        others, waiting = set(range(1, self.share.processes)), set()
        while left := others - self.heartbeat.gone():
            if left != waiting:
                waiting = left
                logger.info("Waiting for the processes %s.", ", ".join(map(str, sorted(left))))
            time.sleep(POLL)

    def _remembering(self, ask_again: Callable[[Journal, Entry], bool] | None) -> Callable[[Entry], bool]:
        """Each answer is judged once: they are looked through twice, and judging reads and cleans them."""
        if ask_again is None:
            return lambda entry: False
        verdicts: dict[tuple[int, int], bool] = {}

        def judged(entry: Entry) -> bool:
            place = entry.segment, entry.offset
            if place not in verdicts:
                verdicts[place] = ask_again(self.journal, entry)
            return verdicts[place]

        return judged

    def _ask(self, is_mine: Callable[[int], bool]) -> int:
        """Returns the number of questions that were answered before."""
        splits = self.questions.values()
        counts = [split.count(is_mine) for split in splits]
        total = None if None in counts else sum(counts)  # nobody knows how long a stream is
        known = sum(split.count_answered(self.journal, is_mine, self._ask_again) for split in splits)
        if known == total:
            return known
        if hasattr(self.captioner, "prepare"):  # what is not part of its speed
            self.captioner.prepare()
        label = f"Captions, process {self.share.rank}" if self.share.processes > 1 else "Captions"
        self._twins: list[Question] = []
        with (
            JournalWriter(self.journal_dir) as writer,
            caption_bar(total, known, label, self.share.local_rank) as self._bar,
        ):
            start = time.monotonic()
            self.captioner.run(self._pending(is_mine, writer), self._deliver(writer), self._allow)
            writer.flush()
            self.outcome.seconds += time.monotonic() - start
            self.journal.refresh()
            self._note_twins(writer)
        self.journal.refresh()
        return known

    def _pending(self, is_mine: Callable[[int], bool], writer: JournalWriter) -> Iterator[Question]:
        """Each question once, also where two rows show the same image."""

        def moved(question: Question, entry: Entry) -> None:
            self.outcome.known += 1
            if question.place:
                writer.append(question, answer_of(self.journal.read(entry)))
            self._advance()

        for split in self.questions.values():
            for question in split.unanswered(self.journal, is_mine, self._ask_again, moved):
                digest = bytes.fromhex(question.key)
                if digest in self._asked:
                    self._twins.append(replace(question, image={}))
                    self._advance()
                    continue
                self._asked.add(digest)
                yield question

    def _note_twins(self, writer: JournalWriter) -> None:
        """Rows with the same image get its answer at their own place too, so that it is found without their bytes."""
        for question in self._twins:
            entry = self.journal.find(question.key)
            if question.place and entry is not None:
                writer.append(question, answer_of(self.journal.read(entry)))

    def _allow(self) -> bool:
        allowed = self.budget.allow()
        self.outcome.requests += allowed
        return allowed

    def _deliver(self, writer: JournalWriter) -> Callable[[Question, Answer], None]:
        def deliver(question: Question, answer: Answer) -> None:
            self.budget.spent(answer)
            outcome = self.outcome
            with self._counting:
                outcome.asked[answer.status] += 1
            outcome.prompt_tokens += answer.prompt_tokens or 0
            outcome.completion_tokens += answer.completion_tokens or 0
            if self.keep_answers:
                outcome.answers.append(answer)
                if answer.status in PASSING:
                    outcome.failures[question.image_id, question.prompt] = answer
                    self._advance()
                    return
            writer.append(question, answer, self._advance)

        return deliver

    def _advance(self) -> None:
        """An answer is on the disk: only now it counts."""
        with self._counting:
            failed = sum(self.outcome.asked.values()) - self.outcome.asked[OK]
            if failed:
                self._bar.set_postfix_str(f"{failed:,} failed", refresh=False)
            self._bar.update()


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """
    SIGTERM, which launchers and schedulers send, ends like Ctrl-C: with what was answered on the disk. Both can come
    twice, from the terminal and from the launcher: the second is ignored, a third ends at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    received = 0

    def interrupt(number, frame):
        nonlocal received
        received += 1
        if received != 2:
            raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
