"""What replies of servers say: waits, errors in a line, and answers."""

import json
import time
from email.utils import formatdate

import pytest

from g4i_hf.captioning.replies import (
    UselessReply,
    answer_in,
    error_message,
    exhausted_for,
    seconds_of,
    wait_asked_for,
)
from g4i_hf.captioning.servers import LONGEST_BACKOFF, backoff


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
    assert wait_asked_for({"retry-after": "7"}) == 7
    assert wait_asked_for({"retry-after": "7", "retry-after-ms": "250"}) == 0.25
    assert wait_asked_for({"retry-after": formatdate(now + 90, usegmt=True)}) == pytest.approx(90, abs=5)
    assert wait_asked_for({"retry-after": formatdate(now - 90, usegmt=True)}) == 0
    assert wait_asked_for({}) == wait_asked_for({"retry-after": "later"}) == 0
    limited = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}
    assert wait_asked_for(limited) == exhausted_for(limited) == 90
    assert exhausted_for({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}) == 90
    assert exhausted_for({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}) == 0.12
    assert exhausted_for({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m30s"}) == 0
    assert exhausted_for({"ratelimit": '"api";r=0;t=55'}) == 55
    assert exhausted_for({"ratelimit": '"api";r=10;t=55'}) == 0


def test_backoff_doubles_with_full_jitter_up_to_a_minute():
    for attempt, bound in ((1, 0.5), (2, 1), (5, 8), (8, LONGEST_BACKOFF), (30, LONGEST_BACKOFF)):
        waits = [backoff(attempt) for _ in range(2000)]
        assert 0 <= min(waits) < 0.02 * bound and 0.98 * bound < max(waits) <= bound


def test_backoff_has_an_end():
    assert backoff(5000) <= LONGEST_BACKOFF


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
    assert error_message(body, "sk-secret") == message


def test_long_messages_are_cut():
    assert len(error_message(b"x" * 10_000)) == 300


@pytest.mark.parametrize(
    "reply",
    [b"", b"[]", b"null", b"1e999", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"message": "a cat"}]}',
     b'{"choices": {"0": 1}}', b'{"choices": [{"message": {"content": [1]}}]}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_completion_is_no_answer(reply):
    with pytest.raises(UselessReply, match="no chat completion"):
        answer_in(reply)


def test_an_error_with_status_200_is_told():
    with pytest.raises(UselessReply, match="overloaded"):
        answer_in(b'{"error": {"message": "overloaded"}}')


def test_odd_counts_of_tokens_are_unknown():
    message = {"message": {"content": "a cat"}, "finish_reason": "stop"}
    answer = answer_in(json.dumps({"choices": [message], "usage": {"prompt_tokens": "7"}}).encode())
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("a cat", None, None)
