"""What captioning the whole set will take, from a few answers; and limits that a run keeps while it asks."""

import threading
from dataclasses import dataclass

from .answers import OK, Answer

MILLION = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval (Student's t); equal bounds where fewer than two values were measured."""

    value: float
    low: float
    high: float

    @classmethod
    def of_mean(cls, values: list[float]) -> "Estimate":
        """The mean of some values that are not negative."""
        from scipy import stats

        mean, reach = sum(values) / len(values), 0.0
        if len(values) > 1:
            reach = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
        return cls(mean, max(mean - reach, 0.0), mean + reach)

    def times(self, factor: float) -> "Estimate":
        return Estimate(factor * self.value, factor * self.low, factor * self.high)

    def as_text(self, digits: int = 0) -> str:
        value, low, high = (f"{number:,.{digits}f}" for number in (self.value, self.low, self.high))
        return value if low == high else f"{value} ({low} to {high})"


@dataclass(frozen=True)
class Projection:
    """
    What is still to come, after the answers that there are.

    Attributes:
        answered: measured answers.
        remaining: questions without an answer.
        requests: to be sent for those, repeated ones included.
        input_tokens, output_tokens: None where the captioner does not say how many it used.
        hours: at the measured rate.
        cost: None without prices or tokens.
        processes: that share the work.
    """

    answered: int
    remaining: int
    requests: Estimate | None = None
    input_tokens: Estimate | None = None
    output_tokens: Estimate | None = None
    hours: Estimate | None = None
    cost: Estimate | None = None
    processes: int = 1

    def as_text(self) -> str:
        """Some lines for the terminal and the page of a dry run."""
        lines = [f"{self.answered:,} answers were measured; {self.remaining:,} are still to come."]
        if self.requests is None:
            return "\n".join([*lines, "Nothing can be projected without an answer."])
        if not self.remaining:
            return lines[0]
        lines.append(f"Requests: {self.requests.as_text()}")
        if self.input_tokens is None or self.output_tokens is None:
            lines.append("Tokens: the captioner does not say.")
        else:
            lines.append(f"Tokens read: {_tokens(self.input_tokens)}")
            lines.append(f"Tokens written: {_tokens(self.output_tokens)}")
        shared = f" in each of {self.processes} processes" if self.processes > 1 else ""
        lines.append(f"Time: {_duration(self.hours)}, at the measured rate{shared}")
        if self.cost is not None:
            lines.append(f"Cost: {self.cost.as_text(2 if self.cost.value >= 1 else 4)}")
        else:
            lines.append("Cost: unknown; it takes --price_input, --price_output and the numbers of tokens.")
        return "\n".join(lines)


def project(
    measured: list[Answer],
    num_answered: int,
    num_total: int,
    seconds: float,
    processes: int = 1,
    prices: tuple[float | None, float | None] = (None, None),
) -> Projection:
    """
    Args:
        measured: answers of this run; not those that were there already.
        num_answered: questions that have an answer by now, whenever it was given.
        num_total: questions of the whole set.
        seconds: from the first request to the last answer, in one process.
        processes: that will share the work, each as fast as this one.
        prices: of a million tokens read and written.
    """
    remaining = max(num_total - num_answered, 0)
    if not measured:
        return Projection(0, remaining)

    def total(values: list[float | None]) -> Estimate | None:
        known = [value for value in values if value is not None]
        return Estimate.of_mean(known).times(remaining) if known else None

    hours = Estimate(*[seconds / len(measured) * remaining / processes / 3600] * 3)
    latencies = [answer.seconds for answer in measured if answer.seconds is not None]
    if sum(latencies):
        # The rate is one number; how unsure it is shows in how different the answers' own times are
        latency = Estimate.of_mean(latencies)
        hours = latency.times(hours.value / latency.value)
    return Projection(
        answered=len(measured),
        remaining=remaining,
        requests=total([answer.attempts for answer in measured]),
        input_tokens=total([answer.prompt_tokens for answer in measured]),
        output_tokens=total([answer.completion_tokens for answer in measured]),
        hours=hours,
        cost=total([cost_of(answer, prices) for answer in measured]) if None not in prices else None,
        processes=processes,
    )


def cost_of(answer: Answer, prices: tuple[float, float]) -> float | None:
    """In the currency of the prices, of a million tokens read and written; None where the tokens are not known."""
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return None
    return (answer.prompt_tokens * prices[0] + answer.completion_tokens * prices[1]) / MILLION


def _tokens(estimate: Estimate) -> str:
    if estimate.value < 10 * MILLION:
        return estimate.as_text()
    return f"{estimate.times(1 / MILLION).as_text(1)} million"


def _duration(hours: Estimate) -> str:
    unit, in_an_hour = "seconds", 3600
    if hours.value >= 2:
        unit, in_an_hour = "hours", 1
    elif hours.value >= 2 / 60:
        unit, in_an_hour = "minutes", 60
    scaled = hours.times(in_an_hour)
    return f"{scaled.as_text(1 if scaled.value < 100 else 0)} {unit}"


class Budget:
    """
    How much may be asked. What is in flight is expected to cost what the answers have cost on average, so the cost
    ends below its limit unless the last answers are dearer than those before. Until the first answer the cost of a
    request is unknown, and as many may be sent as the captioner sends at once. Safe for threads; every process has a
    budget of its own.

    Args:
        max_requests: never more, repeated ones included.
        max_cost: in the currency of the prices.
        price_input, price_output: of a million tokens; a limit of the cost needs both.

    Attributes:
        requests: allowed so far.
        cost: of the answers so far.
        reason: why it stopped, in a sentence; None as long as it did not.
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
        self.requests, self.cost = 0, 0.0
        self.reason: str | None = None
        self._ended = self._priced = 0  # requests whose answer came; answers whose cost is known
        self._lock = threading.Lock()

    def allow(self) -> bool:
        """Whether one more request may be sent, which then counts as sent. After one False there are only more."""
        with self._lock:
            self.reason = self.reason or self._why_not()
            self.requests += self.reason is None
            return self.reason is None

    def spent(self, answer: Answer) -> None:
        """Counts an answer: its tokens, and its attempts as so many requests that are no longer in flight."""
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
