"""How many requests a server gets at the same time: found by trying, and halved when it says that it is too much."""

import math
import statistics

START = 8
SAMPLE = 8  # replies, at least, from which a latency is judged
# Latency up to these multiples of the lowest one: more requests are surely worked on, or probably
FLAT, RAISED = 1.25, 2.0
# Part of its own growth that a larger limit must bring in replies per second once latency is beyond that
WORTH = 0.25
# Single errors among many requests are accidents, and retried; more than this part of the limit is a server in trouble
ACCIDENTS = 0.05
STEP = 8  # after doubling ends, a limit grows by this fraction of itself, at least by one
PATIENCE = 16  # rounds until a growth that did not pay is tried again


class AdaptiveLimit:
    """
    Limit on the requests in flight at one server. No clock of its own and no lock: times in seconds are passed in.

    At first the limit doubles with each round trip while latency stays flat, then it grows by an eighth while latency
    is below twice the lowest. Beyond that, requests may only queue: replies per second are counted before and after,
    and a growth that did not pay is taken back. Errors that speak of load halve the limit, once per round trip.

    Args:
        most: the limit never exceeds this.
        start: first limit.

    Attributes:
        limit: requests that may be in flight.
        in_flight: requests that are.
    """

    def __init__(self, most: int, start: int = START):
        self.most = most
        self.limit = min(start, most)
        self.in_flight = 0
        self._doubling = True
        self._lowest = math.inf
        self._halved_at = -math.inf
        self._grown_from: tuple[int, float] | None = None  # limit and rate before the last growth
        self._waiting = 0  # rounds until the next growth
        self._open(-math.inf)

    @property
    def free(self) -> int:
        """Requests that may be sent now."""
        return max(0, self.limit - self.in_flight)

    def sent(self, now: float) -> None:
        """A request leaves."""
        self.in_flight += 1
        self._filled = self._filled or self.in_flight >= self.limit

    def answered(self, sent: float, now: float) -> None:
        """A good reply came at `now` to the request of time `sent`."""
        self.in_flight -= 1
        if sent >= self._opened:
            self._latencies.append(now - sent)
        self._answered += 1
        # The first round after a change holds requests of before
        if self._answered == self.limit:
            self._settled = now
        enough = max(SAMPLE, self.limit)
        if len(self._latencies) == enough:
            self._judge_latency(now)
        elif self._answered >= max(2 * self.limit, self.limit + SAMPLE) and len(self._latencies) > enough:
            self._judge_rate(now)

    def failed(self, sent: float, now: float, overload: bool = False, load: bool = True) -> None:
        """
        The request of time `sent` failed at `now`.

        Args:
            overload: the server said that it is too much (429, 503): halves at once.
            load: the error may come from load (5xx, time-out, lost connection): halves when there are several.
        """
        self.in_flight -= 1
        if not load or sent < self._halved_at:
            return
        self._failed += 1
        if overload or self._failed > ACCIDENTS * self.limit:
            self.limit = max(1, self.limit // 2)
            self._halved_at = now
            self._doubling, self._grown_from, self._waiting = False, None, 0
            self._open(now)

    def dropped(self) -> None:
        """The request was given up; nothing is learnt from it."""
        self.in_flight -= 1

    def _open(self, now: float) -> None:
        """Begins to watch anew."""
        self._opened = self._settled = now
        self._latencies: list[float] = []
        self._answered = self._failed = 0
        self._filled = self.in_flight >= self.limit

    def _judge_latency(self, now: float) -> None:
        # The mean, not the median: a queue shows at once in it, and limit / mean is the rate
        latency = statistics.fmean(self._latencies)
        if not self._filled:  # questions come too slowly for the limit to matter
            self._open(now)
            return
        self._lowest = min(self._lowest, latency)
        if self._waiting:
            self._waiting -= 1
            self._open(now)
        elif latency <= (FLAT if self._doubling else RAISED) * self._lowest:
            self._grow(self.limit / latency if latency > 0 else math.inf, now)
        # Otherwise the rate decides, a round later

    def _judge_rate(self, now: float) -> None:
        before, self._grown_from = self._grown_from, None
        rate = (self._answered - self.limit) / (now - self._settled) if now > self._settled else math.inf
        paid = before is None or rate >= before[1] * (1 + WORTH * (self.limit / before[0] - 1))
        if paid:
            self._grow(rate, now)
            return
        self.limit = (before[0] + self.limit) // 2 if self._doubling else before[0]
        self._waiting = 0 if self._doubling else PATIENCE
        self._doubling = False
        self._open(now)

    def _grow(self, rate: float, now: float) -> None:
        limit = min(self.most, 2 * self.limit if self._doubling else self.limit + max(1, self.limit // STEP))
        if limit > self.limit:
            self._grown_from = (self.limit, rate)
            self.limit = limit
        self._open(now)
