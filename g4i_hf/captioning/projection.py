"""What captioning the whole set will take, from a few answers; and limits that a run keeps while it asks."""

import math
import threading
from dataclasses import asdict, dataclass
from typing import Any

from .answers import OK, Answer

MILLION = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, as wide as the few answers differ; equal bounds when that is unknown."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Projection:
    """
    What is still to come, after the answers that there are.

    Attributes:
        answered: measured answers.
        failed: those without a text.
        remaining: questions without an answer.
        requests: to be sent for them, repeated ones included.
        input_tokens, output_tokens: None where the captioner does not say how many it used.
        hours: at the measured rate.
        cost: None without prices or tokens.
        processes: that share the work.
        latency: seconds from question to answer, mean; None where nothing was measured.
    """

    answered: int
    failed: int
    remaining: int
    requests: Estimate | None
    input_tokens: Estimate | None
    output_tokens: Estimate | None
    hours: Estimate | None
    cost: Estimate | None
    processes: int = 1
    latency: float | None = None
    has_prices: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def as_text(self) -> str:
        """Some lines for the terminal and the page of a dry run."""
        failed = f", {self.failed:,} of them without a caption" if self.failed else ""
        lines = [f"{self.answered:,} answers were measured{failed}; {self.remaining:,} are still to come."]
        if self.requests is None:
            return "\n".join([*lines, "Nothing can be projected without an answer."])
        if self.remaining:
            tokens = self.input_tokens is not None and self.output_tokens is not None
            lines += [
                f"Requests: {_spread(self.requests)}",
                f"Tokens read: {_tokens(self.input_tokens)}" if tokens else "Tokens: the captioner does not say.",
                *([f"Tokens written: {_tokens(self.output_tokens)}"] if tokens else []),
                f"Time: {_duration(self.hours)}, at the measured rate"
                + (f" in each of {self.processes} processes" if self.processes > 1 else ""),
                f"Cost: {_money(self.cost)}" if self.cost is not None else f"Cost: unknown, {self._no_cost()}.",
            ]
        return "\n".join(lines)

    def _no_cost(self) -> str:
        if not self.has_prices:
            return "no prices were given (--price_input, --price_output)"
        return "the captioner does not say how many tokens it used"


def project(
    measured: list[Answer],
    num_answered: int,
    num_total: int,
    seconds: float,
    processes: int = 1,
    prices: tuple[float | None, float | None] | None = None,
) -> Projection:
    """
    Args:
        measured: answers of this run; not those that a journal gave for nothing.
        num_answered: questions that have an answer by now, whenever it was given.
        num_total: questions of the whole set.
        seconds: from the first request to the last answer, in one process.
        processes: that will share the work, each as fast as this one.
        prices: of a million tokens read and written.
    """
    remaining, count = max(num_total - num_answered, 0), len(measured)
    prices = prices if prices is not None and None not in prices else None
    common = {"answered": count, "remaining": remaining, "processes": processes, "has_prices": prices is not None}
    failed = sum(answer.status != OK for answer in measured)
    if not measured:
        return Projection(
            failed=0, requests=None, input_tokens=None, output_tokens=None, hours=None, cost=None, **common
        )

    def total(values: list[float | None]) -> Estimate | None:
        known = [value for value in values if value is not None]
        return _times(known, remaining) if known else None

    latencies = [answer.seconds for answer in measured if answer.seconds is not None]
    # The rate is one number; how unsure it is shows in how different the answers' own times are
    spread = _times(latencies, 1) if len(latencies) > 1 and sum(latencies) else Estimate(1.0, 1.0, 1.0)
    hours = seconds / count * remaining / processes / 3600
    return Projection(
        failed=failed,
        requests=total([answer.attempts for answer in measured]),
        input_tokens=total([answer.prompt_tokens for answer in measured]),
        output_tokens=total([answer.completion_tokens for answer in measured]),
        hours=Estimate(hours, hours * spread.low / spread.value, hours * spread.high / spread.value),
        cost=total([cost_of(answer, prices) for answer in measured]) if prices else None,
        latency=sum(latencies) / len(latencies) if latencies else None,
        **common,
    )


def cost_of(answer: Answer, prices: tuple[float, float]) -> float | None:
    """In the currency of the prices; None where the tokens are not known."""
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return None
    return (answer.prompt_tokens * prices[0] + answer.completion_tokens * prices[1]) / MILLION


class Budget:
    """
    How much may be asked. What is in flight is expected to cost what the answers have cost on average, so the cost
    ends below its limit unless the last answers are dearer than those before. Until the first answer the cost of a
    request is unknown, and as many may be sent as the captioner sends at once. Safe for threads; every process has a
    budget of its own.

    Args:
        max_requests: never more, repeated ones included.
        max_cost: in the currency of the prices.
        price_input, price_output: of a million tokens.

    Attributes:
        requests: allowed so far.
        cost: of the answers so far.
        reason: why it stopped, in a sentence; None as long as it did not.

    Raises:
        ValueError: for a cost without both prices, or a negative number.
    """

    def __init__(
        self,
        max_requests: int | None = None,
        max_cost: float | None = None,
        price_input: float | None = None,
        price_output: float | None = None,
    ):
        numbers = {"max_requests": max_requests, "max_cost": max_cost}
        for name, value in (numbers | {"price_input": price_input, "price_output": price_output}).items():
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be a number of at least 0.")
        if max_cost is not None and (price_input is None or price_output is None):
            raise ValueError("max_cost needs the prices of a million tokens: give price_input and price_output.")
        self.max_requests, self.max_cost = max_requests, max_cost
        self._prices = (price_input or 0.0, price_output or 0.0)
        self.requests, self.cost = 0, 0.0
        self.reason: str | None = None
        self._ended = self._priced = 0  # requests whose answer came; answers whose cost is known
        self._lock = threading.Lock()

    def allow(self) -> bool:
        """Whether one more request may be sent, which then counts as sent. After one False there are only more."""
        with self._lock:
            if self.reason is None:
                self.reason = self._why_not()
            if self.reason is None:
                self.requests += 1
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


def _times(values: list[float], factor: int) -> Estimate:
    """`factor` times the mean, with the interval of the mean by Student's t (normal beyond 30 values)."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Estimate(factor * mean, factor * mean, factor * mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = _quantile(count - 1) * deviation / math.sqrt(count)
    return Estimate(factor * mean, factor * max(mean - half, 0.0), factor * (mean + half))


def _quantile(freedom: int) -> float:
    """97.5% of Student's t, to about 1%, without SciPy."""
    exact = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
    return exact.get(freedom, 1.96 + 2.5 / freedom)


def _spread(estimate: Estimate, digits: int = 0) -> str:
    value, low, high = (f"{number:,.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return value if low == high else f"{value} ({low} to {high})"


def _tokens(estimate: Estimate) -> str:
    if estimate.value < 10 * MILLION:
        return _spread(estimate)
    low, value, high = (number / MILLION for number in (estimate.low, estimate.value, estimate.high))
    return f"{_spread(Estimate(value, low, high), 1)} million"


def _money(estimate: Estimate) -> str:
    return _spread(estimate, 2 if estimate.value >= 1 else 4)


def _duration(hours: Estimate) -> str:
    for unit, of_hour, least in (("hours", 1, 2), ("minutes", 60, 2), ("seconds", 3600, 0)):
        if hours.value * of_hour >= least:
            scaled = Estimate(hours.value * of_hour, hours.low * of_hour, hours.high * of_hour)
            return f"{_spread(scaled, 1 if scaled.value < 100 else 0)} {unit}"
    return "no time"
