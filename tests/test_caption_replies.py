"""What replies of OpenAI-compatible servers say: answers, waits, and errors in a line."""

import json
import time
from email.utils import formatdate

import pytest

from g4i_hf.captioning.servers import UselessReply, answer_in, error_message, wait_asked_for


@pytest.mark.parametrize(
    "message, finish_reason, status, said",
    [
        ({"content": None}, "stop", "empty", "without text"),
        ({"content": None, "reasoning": "hm"}, "length", "empty", "max_new_tokens"),
        ({"content": None, "refusal": "I must \ud83d"}, "stop", "refused", "I must \ufffd"),
        ({"content": ""}, "content_filter", "refused", "filter"),
        ({"content": [{"type": "text", "text": part} for part in ("a \ud83d", "\ude00")]}, "stop", "ok", "a 😀"),
    ],
)  # fmt: skip
def test_kinds_of_messages(message, finish_reason, status, said):
    choice = {"message": message, "finish_reason": finish_reason}
    answer = answer_in(json.dumps({"choices": [choice], "usage": {"prompt_tokens": "7"}}).encode())
    assert (answer.status, answer.finish_reason, answer.prompt_tokens) == (status, finish_reason, None)
    assert answer.text == said if status == "ok" else said in answer.reason


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"message": "a cat"}]}',
        b"[" * 100_000,
        b'{"error": {"a": "b"}}',
    ],
)
def test_what_is_no_completion_is_no_answer(reply):
    with pytest.raises(UselessReply, match="no chat completion"):
        answer_in(reply)


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "7"}, 7),
        *(({"retry-after": odd}, 0) for odd in ("later", "-3", "inf")),
        ({}, 0),
    ],
)
def test_waits_that_servers_ask_for(headers, seconds):
    assert wait_asked_for(headers) == pytest.approx(seconds)


def test_a_wait_until_a_time_of_day():
    date = formatdate(time.time() + 900, usegmt=True)
    assert wait_asked_for({"retry-after": date}) == pytest.approx(900, abs=60)


@pytest.mark.parametrize(
    "body, message",
    [
        (b'{"error": {"message": "too many\\n images", "type": "x"}}', "too many images"),
        (b"<html><style>a{}</style><h1>502 Bad Gateway</h1></html>", "502 Bad Gateway"),
        (b'{"error": "wrong key sk-secret"}', "wrong key ***"),
        (b'{"detail": {"input": "data:image/jpeg;base64,' + b"A" * 5000 + b'"}}', '{"input": "(image)"}'),
        (b"x" * 1000, "x" * 297 + "..."),
    ],
)
def test_messages_of_servers_are_a_line_without_secrets_and_images(body, message):
    assert error_message(body, "sk-secret") == message
