"""Asks a captioner the questions that have no stored answer, and stores every answer as it comes."""

import itertools
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from ..output import progress_bar
from .answers import OK, TRANSIENT, Answer, AnswerStore, Captioner, Question
from .questions import Questions

NOT_KEPT = {"rejected", *TRANSIENT}  # by a dry run: another option may be the remedy
FEW = 4  # requests for each server: for no more than these they are not checked, which takes as many
MILLION = 1_000_000
SECONDS_IN_A_FILE = 30.0  # between two lines of the progress bar, where the output is no terminal


@dataclass(frozen=True)
class Share:
    """The rows that process `rank` (from 0) of `processes` asks about."""

    rank: int = 0
    processes: int = 1

    @classmethod
    def from_environment(cls) -> "Share":
        """As a launcher has set them."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def is_mine(self, row: int) -> bool:
        return row % self.processes == self.rank

    def part_of(self, number: int) -> int:
        """This process's part of a number that all of them share."""
        return number // self.processes + (self.rank < number % self.processes)


def cost_of(answer: Answer, prices: tuple[float, float]) -> float | None:
    """The cost of an answer, in the currency of the prices; None where its tokens are unknown."""
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return None
    return (answer.prompt_tokens * prices[0] + answer.completion_tokens * prices[1]) / MILLION


class Budget:
    """
    Limits requests, retries included, and cost of one process; safe for threads. Prices are those of a million tokens.
    Requests in flight count with the mean cost of the answers so far. Before the first, only the number is limited.
    """

    def __init__(
        self,
        max_requests: int | None = None,
        max_cost: float | None = None,
        price_input: float | None = None,
        price_output: float | None = None,
    ):
        self.max_requests, self.max_cost = max_requests, max_cost
        self._prices = (price_input or 0.0, price_output or 0.0)
        self.requests, self.cost = 0, 0.0  # allowed, and of the answers, so far
        self.reason: str | None = None  # why it stopped, in a sentence
        self._ended = self._priced = 0  # requests whose answer came; answers whose cost is known
        self._lock = threading.Lock()

    def allow(self) -> bool:
        """Whether one more request may be sent, which then counts as sent. Once False, it stays False."""
        with self._lock:
            self.reason = self.reason or self._why_not()
            self.requests += self.reason is None
            return self.reason is None

    def spent(self, answer: Answer) -> None:
        """Counts the tokens of an answer, and its attempts as requests that are no longer in flight."""
        cost = cost_of(answer, self._prices)
        with self._lock:
            self._ended += answer.attempts
            if cost is not None:
                self.cost += cost
                self._priced += 1
            elif answer.status == OK and self.max_cost is not None and self.reason is None:
                self.reason = (
                    f"The captioner does not say how many tokens an answer took, so max_cost ({self.max_cost:g}) "
                    "cannot be kept. Limit the run with max_requests instead."
                )

    def _why_not(self) -> str | None:
        if self.max_requests is not None and self.requests >= self.max_requests:
            return f"max_requests is reached: {self.requests:,} requests were sent."
        if self.max_cost is None or not self.requests:
            return None
        in_flight = max(self.requests - self._ended, 0)
        mean = self.cost / self._priced if self._priced else 0.0
        expected = self.cost + (in_flight + 1) * mean
        if expected <= self.max_cost:
            return None
        return (
            f"max_cost ({self.max_cost:g}) is reached: {self.requests:,} requests were sent, {self.cost:.4g} is "
            f"spent, and one more with the {in_flight:,} in flight would make {expected:.4g}."
        )


@dataclass
class Outcome:
    """Counts of one process's questions and answers."""

    statuses: Counter = field(default_factory=Counter)  # of new answers
    known: int = 0  # answered before, or by another row with the same image
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    answers: list[tuple[Question, Answer]] = field(default_factory=list)  # of a dry run only

    @property
    def per_second(self) -> float:
        return sum(self.statuses.values()) / max(self.seconds, 1e-9)

    def as_text(self) -> str:
        count = sum(self.statuses.values())
        if not count:
            return f"{self.known:,} answers were there already." if self.known else "Nothing was answered."
        text = f"{count:,} answers in {self.seconds:,.0f} s ({self.per_second:,.1f} a second"
        if self.prompt_tokens:
            text += f", {self.prompt_tokens:,} tokens read and {self.completion_tokens:,} written"
        text += "".join(f"; {number:,} {status}" for status, number in self.statuses.items() if status != OK)
        return f"{text}){f'; {self.known:,} were there already' if self.known else ''}."


class Asking:
    """
    One run over the questions about the rows of this process. `ask_again`: whether to repeat a question with a stored
    answer. `is_trial`, for a dry run, fills `Outcome.answers` and stores no failures that other options
    may avoid.
    """

    def __init__(
        self,
        captioner: Captioner,
        questions: Iterable[Questions],
        store: AnswerStore,
        *,
        share: Share | None = None,
        budget: Budget | None = None,
        ask_again: Callable[[Answer], bool] | None = None,
        is_trial: bool = False,
    ):
        self.captioner, self.questions, self.store = captioner, list(questions), store
        self.share, self.budget = share or Share(), budget or Budget()
        self.ask_again = ask_again or (lambda answer: False)
        self.is_trial = is_trial
        self.outcome = Outcome()
        self._asked: set[str] = set()
        self._places: deque[tuple[str, str]] = deque()  # not written yet; filled by another thread
        self._began: float | None = None

    def run(self) -> Outcome:
        """CaptionerError or OSError where asking or writing fails."""
        with self._bar() as self._progress:
            try:
                questions = self._pending()
                if (first := next(questions, None)) is not None:
                    few, most = FEW * len(self.captioner.hosts), self.budget.max_requests
                    if most is None or most > few:
                        self.captioner.check(self.store, self._spent, self.budget.allow)
                    questions = itertools.chain([first], questions)
                self.captioner.run(questions, self._deliver, self._allow)
            finally:
                if self._began is not None:
                    self.outcome.seconds = time.monotonic() - self._began
                self._keep([])
        return self.outcome

    def _bar(self) -> tqdm:
        return progress_bar(
            total=sum(map(len, self.questions)) // self.share.processes,
            desc=f"Captions, process {self.share.rank}" if self.share.processes > 1 else "Captions",
            unit="caption",
            mininterval=0.1 if sys.stderr.isatty() else SECONDS_IN_A_FILE,
        )

    def _pending(self) -> Iterator[Question]:
        """Each question without an answer once, also where two rows show the same image."""
        for split in self.questions:
            for batch in split.batches():
                batch = [row for row in batch if self.share.is_mine(row.number)]
                stored = self.store.find_many([place for row in batch for place in row.places])
                for row in batch:
                    if all(self._is_enough(stored.get(place)) for place in row.places):
                        self._were_known(len(row.places))
                        continue
                    yield from filter(self._is_new, split.of_row(row))

    def _is_new(self, question: Question) -> bool:
        if question.key not in self._asked and not self._is_enough(self.store.find(question.key)):
            self._asked.add(question.key)
            return True
        self._places.append((question.place, question.key))
        self._were_known(1)
        return False

    def _is_enough(self, answer: Answer | None) -> bool:
        return answer is not None and not self.ask_again(answer)

    def _were_known(self, number: int) -> None:
        self.outcome.known += number
        self._progress.update(number)

    def _allow(self) -> bool:
        self._began = self._began or time.monotonic()
        return self.budget.allow()

    def _spent(self, pairs: list[tuple[Question, Answer]]) -> None:
        for _, answer in pairs:
            self.budget.spent(answer)

    def _deliver(self, pairs: list[tuple[Question, Answer]]) -> None:
        self._spent(pairs)
        for _, answer in pairs:
            self.outcome.statuses[answer.status] += 1
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
        self._progress.set_postfix(self.outcome.statuses, refresh=False)
        self._progress.update(len(pairs))  # they are on disk: only now they count

    def _keep(self, answers: list[tuple[Question, Answer]]) -> None:
        places = [self._places.popleft() for _ in range(len(self._places))]
        self.store.put(answers, places)
