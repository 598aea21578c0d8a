"""How many requests at a time, which errors are tried again, and when it is over: without any server."""

import heapq
import random
import time
from email.utils import formatdate

import pytest

from g4i_hf.captioning.endpoint.concurrency import AdaptiveLimit
from g4i_hf.captioning.endpoint.retries import (
    LONGEST_BACKOFF,
    Breaker,
    Refusal,
    backoff,
    exhausted_for,
    retry_after,
    seconds_of,
    server_message,
)


class Simulation:
    """
    A client with a limit, always with a question at hand, and a server in simulated time.

    Args:
        service: (requests in service, random generator) -> seconds that a request takes from the start of its service.
        capacity: requests beyond it queue.
        refuse_above: requests beyond it are refused with a 429.
        failing: share of requests that fail with a 500.
    """

    def __init__(self, service, capacity=10**9, refuse_above=10**9, failing=0.0, most=256):
        self.service, self.capacity, self.refuse_above, self.failing = service, capacity, refuse_above, failing
        self.limit = AdaptiveLimit(most)
        self.random = random.Random(0)
        self.now, self.answered, self.limits = 0.0, [], []

    def run(self, seconds: float) -> "Simulation":
        events, queued, serving, count = [], [], 0, 0
        while self.now < seconds:
            while self.limit.free:
                self.limit.sent(self.now)
                count += 1
                if self.limit.in_flight > self.refuse_above:
                    heapq.heappush(events, (self.now + 0.01, count, self.now, "refused"))
                else:
                    queued.append((count, self.now))
            while queued and serving < self.capacity:
                number, sent = queued.pop(0)
                serving += 1
                kind = "failed" if self.random.random() < self.failing else "answered"
                heapq.heappush(events, (self.now + self.service(serving, self.random), number, sent, kind))
            self.now, _, sent, kind = heapq.heappop(events)
            serving -= kind != "refused"
            if kind == "answered":
                self.limit.answered(sent, self.now)
                self.answered.append(self.now)
            else:
                self.limit.failed(sent, self.now, overload=kind == "refused")
            self.limits.append(self.limit.limit)
        return self

    def rate(self, start: float = 0.0) -> float:
        return sum(moment >= start for moment in self.answered) / (self.now - start)


@pytest.mark.parametrize("capacity, latency", [(1, 0.2), (5, 3.0), (64, 0.5), (200, 1.0)])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_queueing_server_is_filled_and_not_flooded(capacity, latency, spread):
    def service(serving, generator):
        return latency * generator.uniform(1 - spread, 1 + spread)

    seconds = 160 * max(1, latency)
    found = Simulation(service, capacity).run(seconds)
    assert found.rate() > 0.95 * capacity / latency, "ramp-up included"
    later = found.limits[len(found.limits) // 2 :]
    assert capacity <= max(later) <= max(3 * capacity, 20)


def test_growth_follows_throughput_where_latency_rises_gently():
    """As with vLLM: every request slows the others a little, and more of them still give more captions a second."""

    def service(serving, generator):
        return 1 + serving / 64

    found = Simulation(service).run(120)
    at_most = 256 / (1 + 256 / 64)
    assert found.rate(start=60) > 0.9 * at_most
    assert max(found.limits) > 150, "latency beyond twice the lowest alone would stop at 64"


def test_the_limit_stays_below_what_is_refused_and_below_the_given_one():
    found = Simulation(lambda serving, generator: 0.5, refuse_above=40).run(200)
    assert found.rate(start=50) > 0.7 * 40 / 0.5
    assert max(Simulation(lambda serving, generator: 0.5, most=10).run(50).limits) == 10


def test_a_few_failures_among_many_requests_do_not_slow_a_healthy_server():
    found = Simulation(lambda serving, generator: 0.5, capacity=64, failing=0.01).run(160)
    assert found.rate() > 0.9 * 64 / 0.5
    troubled = Simulation(lambda serving, generator: 0.5, capacity=64, failing=0.5).run(160)
    assert max(troubled.limits[len(troubled.limits) // 2 :]) < 20


def test_refusals_of_one_burst_halve_once():
    limit = AdaptiveLimit(64, start=32)
    for _ in range(32):
        limit.sent(0.0)
    for _ in range(31):
        limit.failed(0.0, 1.0, overload=True)
    assert (limit.limit, limit.in_flight) == (16, 1)
    limit.sent(2.0)
    limit.failed(2.0, 3.0, overload=True)
    assert limit.limit == 8
    limit.failed(0.0, 4.0, load=True)
    assert (limit.limit, limit.in_flight) == (8, 0)


def test_the_limit_does_not_grow_where_questions_are_lacking():
    limit = AdaptiveLimit(64)
    for moment in range(200):
        limit.sent(moment)
        limit.answered(moment, moment + 0.5)
    assert limit.limit == 8


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("20", 20), (" 0.25 ", 0.25), ("1d", 86400),
        ("", None), (None, None), ("soon", None), ("-3", None), ("nan", None), ("inf", None), ("6m later", None),
    ],
)  # fmt: skip
def test_durations_of_headers(text, seconds):
    assert seconds_of(text) == pytest.approx(seconds)


def test_waits_that_servers_ask_for():
    now = time.time()
    assert seconds_of(str(now + 50)) == pytest.approx(50, abs=5), "seconds since 1970"
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "7", "retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": formatdate(now + 90, usegmt=True)}) == pytest.approx(90, abs=5)
    skewed = {"retry-after": formatdate(now - 910, usegmt=True), "date": formatdate(now - 1000, usegmt=True)}
    assert retry_after(skewed) == pytest.approx(90, abs=1), "by the clock of the server"
    assert retry_after({"retry-after": formatdate(now - 90, usegmt=True)}) == 0
    assert retry_after({}) is None and retry_after({"retry-after": "later"}) is None
    assert exhausted_for({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}) == 90
    assert exhausted_for({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}) == 0.12
    assert exhausted_for({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m30s"}) == 0
    assert exhausted_for({"ratelimit": '"api";r=0;t=55'}) == 55
    assert exhausted_for({"ratelimit": '"api";r=10;t=55'}) == 0


def test_backoff_doubles_with_full_jitter_up_to_a_minute():
    generator = random.Random(0)
    for attempt, bound in ((1, 0.5), (2, 1), (5, 8), (8, LONGEST_BACKOFF), (30, LONGEST_BACKOFF)):
        waits = [backoff(attempt, generator) for _ in range(2000)]
        assert 0 <= min(waits) < 0.02 * bound and 0.98 * bound < max(waits) <= bound


@pytest.mark.parametrize(
    "status, treatment",
    [
        *((status, "retry") for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *((status, "rejected") for status in (400, 413, 415, 422, 451)),
        *((status, "fatal") for status in (301, 307, 401, 402, 403, 404, 405, 410)),
    ],
)
def test_what_becomes_of_a_status(status, treatment):
    assert Refusal(status, {}, "", "").treatment == treatment


@pytest.mark.parametrize(
    "body, message",
    [
        (b'{"error": {"message": "too many\\n images", "type": "x"}}', "too many images"),
        (b'{"error": "plain"}', "plain"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"message": "busy", "code": 3}', "busy"),
        (b"<html><style>a{}</style><h1>502 Bad Gateway</h1></html>", "502 Bad Gateway"),
        (b"\xff\xfe oops", "\ufffd\ufffd oops"),
        (b'{"error": "half \\ud83d"}', "half \ufffd"),
        (b"", ""),
        (b"[]", "[]"),
        (b'{"error": "wrong key sk-secret"}', "wrong key ***"),
        (b'{"detail": [{"msg": "no", "input": "data:image/jpeg;base64,' + b"A" * 5000 + b'"}]}',
         '[{"msg": "no", "input": "(image)"}]'),
    ],
)  # fmt: skip
def test_messages_of_servers_in_a_line(body, message):
    assert server_message(body, ("sk-secret",)) == message


def test_long_messages_are_cut():
    assert len(server_message(b"x" * 10_000)) == 300


def fail(breaker: Breaker, questions: int, attempts: int, now: float, unreachable: bool = False) -> None:
    for number in range(attempts):
        breaker.failed(str(number % questions), "no connection", now, unreachable)


def test_the_breaker_opens_when_nothing_works_for_long_enough():
    breaker = Breaker()
    fail(breaker, 15, 30, now=100)
    assert not breaker.open(129) and breaker.hopeless and breaker.open(130)
    breaker.answered()
    assert not breaker.open(1000)
    fail(breaker, 15, 19, now=1000)
    assert not breaker.open(2000), "19 are not 20"


def test_the_breaker_does_not_take_a_few_bad_images_for_a_bad_server():
    breaker = Breaker()
    fail(breaker, 3, 100, now=0)
    assert not breaker.open(100)
    unreachable = Breaker()
    fail(unreachable, 1, 3, now=0, unreachable=True)
    assert unreachable.hopeless and not unreachable.open(100), "but it may come back"
    fail(unreachable, 1, 17, now=0, unreachable=True)
    assert unreachable.open(100)
    dying = Breaker()
    fail(dying, 3, 5, now=0)
    fail(dying, 3, 15, now=0, unreachable=True)
    assert dying.open(100), "connections that were lost first do not speak for it"


def test_the_breaker_opens_when_every_question_is_rejected():
    breaker = Breaker()
    for _ in range(20):
        assert not breaker.open(0)
        breaker.rejected("400")
    assert breaker.open(0)
    breaker = Breaker()
    breaker.answered()
    for _ in range(50):
        breaker.rejected("400")
    assert not breaker.open(1000)
