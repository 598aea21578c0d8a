"""What a few answers say about the whole, and limits that hold while many requests are in flight."""

import math
import random
import threading
import time

import pytest

from g4i_hf.captioning.answers import Answer
from g4i_hf.captioning.projection import Budget, project


def answer(prompt_tokens: int | None = 1000, completion_tokens: int | None = 100, **more) -> Answer:
    return Answer("ok", "A dog.", prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, **more)


# --- Projection -----------------------------------------------------------------------------------------------------


def test_projection_against_numbers_worked_out_by_hand():
    """4 answers in 8 s, two processes; 10,000 - 6 are left; a mean of 100 tokens written, so 0.003 an answer."""
    measured = [answer(completion_tokens=tokens) for tokens in (90, 110, 80, 120)]
    assert project(measured, 6, 10_000, seconds=8.0, processes=2, prices=(2.0, 10.0)) == [
        "4 answers were measured; 9,994 are still to come.",
        "Requests: 9,994",
        "Tokens read: 9,994,000",
        "Tokens written: 999,400",
        "Time: 2.8 hours, at the measured rate in every process",
        "Cost: 29.98",
    ]
    small = project(measured[:2], 2, 22, seconds=3.0, prices=(2.0, 10.0))
    assert small[-2:] == ["Time: 0.5 minutes, at the measured rate in every process", "Cost: 0.0600"]


def test_repeated_requests_and_failures_count():
    measured = [answer(attempts=3), answer(), Answer("timeout", reason="no answer", attempts=8)]
    lines = project(measured, 3, 103, 3.0)
    assert lines[:2] == ["3 answers were measured; 100 are still to come.", "Requests: 400"]
    assert lines[2] == "Tokens read: 100,000", "of those that say it"


def test_what_is_unknown_is_said_to_be():
    unknown = "Cost: unknown; it takes --price_input, --price_output and the numbers of tokens."
    no_tokens = project([answer(None, None)] * 3, 3, 100, 3.0, prices=(1.0, 1.0))
    assert "Tokens: the captioner does not say." in no_tokens and unknown in no_tokens
    for prices in ((None, None), (1.0, None)):
        assert unknown in project([answer()] * 3, 3, 100, 3.0, prices=prices)


# --- Budget ---------------------------------------------------------------------------------------------------------


def test_without_limits_everything_is_allowed():
    budget = Budget()
    for _ in range(1000):
        assert budget.allow()
        budget.spent(Answer("failed"))
    assert budget.reason is None and budget.requests == 1000


def test_requests_never_overshoot_from_many_threads():
    budget = Budget(max_requests=500)
    allowed, why_not = [], budget._why_not

    def slowly():
        reason = why_not()
        time.sleep(1e-5)  # other threads may come in between
        return reason

    budget._why_not = slowly

    def work():
        while budget.allow():
            allowed.append(1)
            budget.spent(answer())

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(allowed) == budget.requests == 500
    assert budget.reason == "max_requests is reached: 500 requests were sent."
    assert not budget.allow()


@pytest.mark.parametrize("in_flight", [1, 10, 64])
def test_cost_counts_what_is_in_flight(in_flight):
    """An answer costs 0.003 on average, give or take; `in_flight` requests are open at any time."""
    rng = random.Random(in_flight)
    budget = Budget(max_cost=1.0, price_input=1.0, price_output=10.0)
    open_requests = 0
    while True:
        while open_requests < in_flight and budget.allow():
            open_requests += 1
        if not open_requests:
            break
        budget.spent(answer(1000, rng.randint(150, 250)))
        open_requests -= 1
    assert 0.95 <= budget.cost <= 1.0 + 3 * 0.0003 * math.sqrt(in_flight)
    assert budget.reason.startswith("max_cost (1) is reached: ")


def test_the_first_request_is_always_allowed_and_the_second_is_not_if_it_cost_too_much():
    budget = Budget(max_cost=0.001, price_input=1.0, price_output=10.0)
    assert budget.allow()
    budget.spent(answer(1000, 200))
    assert not budget.allow()
    assert "0.003 is spent" in budget.reason and "one more with the 0 in flight would make 0.006" in budget.reason


def test_repeated_requests_are_not_in_flight_for_ever():
    """Each question takes three requests, of which the last is answered: all of the budget is used."""
    budget = Budget(max_cost=1.0, price_input=1.0, price_output=0.0)
    questions = 0
    while budget.allow() and budget.allow() and budget.allow():
        budget.spent(answer(1000, 100, attempts=3))
        questions += 1
    assert 995 <= questions <= 1000


def test_a_cost_that_cannot_be_known_ends_the_run():
    budget = Budget(max_cost=1.0, price_input=1.0, price_output=1.0)
    assert budget.allow()
    budget.spent(Answer("timeout"))  # says nothing about the captioner
    assert budget.allow()
    budget.spent(answer(None, None))
    assert not budget.allow() and "does not say how many tokens" in budget.reason
    no_limit = Budget(max_requests=5)
    no_limit.allow()
    no_limit.spent(answer(None, None))
    assert no_limit.allow()


def test_no_request_means_none():
    assert not Budget(max_requests=0).allow()
