"""Asks the captioner what the journal does not know yet, and writes every answer down at once."""

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from .answers import OK, Answer, Captioner, Question
from .journal import Entry, Journal, JournalWriter, answer_of
from .projection import Budget
from .questions import SplitQuestions
from .sharing import Heartbeat, Share
from .stream_questions import StreamQuestions

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
    """

    asked: Counter = field(default_factory=Counter)
    known: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    def as_text(self) -> str:
        """A line for the terminal."""
        count = sum(self.asked.values())
        if not count:
            return f"All {self.known:,} answers were there already."
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
        ask_again: Callable[[Journal, Entry], bool] | None = None,
        keep_answers: bool = False,
    ):
        self.captioner, self.questions, self.share = captioner, questions, share or Share()
        self.budget = budget or Budget()
        self.journal_dir, self.keep_answers = journal_dir, keep_answers
        self.journal = Journal.load(journal_dir)
        self._ask_again = lambda entry: ask_again is not None and ask_again(self.journal, entry)
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
        with Heartbeat(self.journal_dir, self.share) as heartbeat, _terminated_as_interrupted():
            self._ask(self.share.is_mine)
            if self.share.processes > 1 and self.share.is_first:
                others = set(range(self.share.processes)) - {self.share.rank}
                while heartbeat.gone() != others and self.budget.reason is None:
                    time.sleep(POLL)
                self.journal.refresh()
                self._ask_again = lambda entry: False  # they have asked again themselves
                self._ask(lambda row: not self.share.is_mine(row))
        return self.outcome

    def _ask(self, is_mine: Callable[[int], bool]) -> None:
        splits = self.questions.values()
        counts = [split.count(is_mine) for split in splits]
        total = None if None in counts else sum(counts)  # nobody knows how long a stream is
        known = sum(split.count_answered(self.journal, is_mine, self._ask_again) for split in splits)
        self.outcome.known += known
        if known == total:
            return
        label = f"Captions, process {self.share.rank}" if self.share.processes > 1 else "Captions"
        with (
            JournalWriter(self.journal_dir) as writer,
            tqdm(total=total, initial=known, desc=label, unit="caption", position=self.share.rank) as bar,
        ):
            self._bar = bar
            start = time.monotonic()
            self.captioner.run(self._pending(is_mine, writer), self._deliver(writer), self._allow)
            writer.flush()
            self.outcome.seconds += time.monotonic() - start
        self.journal.refresh()

    def _pending(self, is_mine: Callable[[int], bool], writer: JournalWriter) -> Iterator[Question]:
        """Each question once, also where two rows show the same image."""

        def moved(question: Question, entry: Entry) -> None:
            self.outcome.known += 1
            writer.append(question, answer_of(self.journal.read(entry)), self._advance)

        for split in self.questions.values():
            for question in split.unanswered(self.journal, is_mine, self._ask_again, moved):
                digest = bytes.fromhex(question.key)
                if digest in self._asked:
                    self._advance()
                    continue
                self._asked.add(digest)
                yield question

    def _allow(self) -> bool:
        allowed = self.budget.allow()
        self.outcome.requests += allowed
        return allowed

    def _deliver(self, writer: JournalWriter) -> Callable[[Question, Answer], None]:
        def deliver(question: Question, answer: Answer) -> None:
            self.budget.spent(answer)
            outcome = self.outcome
            outcome.asked[answer.status] += 1
            outcome.prompt_tokens += answer.prompt_tokens or 0
            outcome.completion_tokens += answer.completion_tokens or 0
            if self.keep_answers:
                outcome.answers.append(answer)
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
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, which launchers and schedulers send, ends like Ctrl-C: with what was answered on the disk."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
