"""Projected requests, tokens, time and cost of captioning a whole dataset; and the limits of a run."""

import threading

from .answers import OK, Answer

MILLION = 1_000_000


def project(
    measured: list[Answer],
    num_answered: int,
    num_total: int,
    seconds: float,
    processes: int = 1,
    prices: tuple[float | None, float | None] = (None, None),
) -> list[str]:
    """
    Projects what remains from the answers that were measured, as lines of text.

    Args:
        measured: the answers of this run, at least one, which took so many `seconds` in one process.
        num_answered, num_total: questions with an answer by now, and of the whole dataset.
        processes: that will share the work, each as fast as this one.
        prices: of a million prompt tokens and of a million completion tokens.
    """
    remaining = max(num_total - num_answered, 0)

    def total(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return remaining * sum(known) / len(known) if known else None

    lines = [
        f"{len(measured):,} answers were measured; {remaining:,} are still to come.",
        f"Requests: {total([answer.attempts for answer in measured]):,.0f}",
    ]
    tokens_read = total([answer.prompt_tokens for answer in measured])
    tokens_written = total([answer.completion_tokens for answer in measured])
    if tokens_read is None or tokens_written is None:
        lines.append("Tokens: the captioner does not say.")
    else:
        lines += [f"Tokens read: {tokens_read:,.0f}", f"Tokens written: {tokens_written:,.0f}"]
    hours = seconds / len(measured) * remaining / processes / 3600
    time = f"{hours:,.1f} hours" if hours >= 2 else f"{60 * hours:,.1f} minutes"
    lines.append(f"Time: {time}, at the measured rate in every process")
    cost = None if None in prices else total([cost_of(answer, prices) for answer in measured])
    if cost is None:
        lines.append("Cost: unknown; it takes --price_input, --price_output and the numbers of tokens.")
    else:
        lines.append(f"Cost: {cost:,.2f}" if cost >= 1 else f"Cost: {cost:.4f}")
    return lines


def cost_of(answer: Answer, prices: tuple[float, float]) -> float | None:
    """The cost of an answer, in the currency of the prices; None where its tokens are unknown."""
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return None
    return (answer.prompt_tokens * prices[0] + answer.completion_tokens * prices[1]) / MILLION


class Budget:
    """
    Limits the requests and the cost of one process; safe for threads. Requests in flight count with the mean cost of
    the answers so far, so the cost stays below its limit unless the last answers cost more. Before the first answer
    only the limit of requests holds. Prices are those of a million tokens; `max_requests` includes retries.
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
