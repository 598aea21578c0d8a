"""The endpoint captioner against a server on loopback, with whatever can go wrong on the way."""

import contextlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from g4i_hf.captioning.answers import Answer, CaptionerError, Decoding, Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.options import EndpointArguments

WORKERS = Path(__file__).parent / "workers"
sys.path.insert(0, str(WORKERS))
from caption_server import number_in, picture_of  # noqa: E402

FAULTS = ["429", "429-wait", "503", "500", "slow", "cut", "cut-body", "garbage", "no-choices"]


def mostly_slow(values: list, fast: set) -> list:
    """Of a few kinds of the same, the fast tests try some."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


class Worker:
    """A server or a proxy in a process of its own."""

    def __init__(self, script: str, *options: object):
        command = [sys.executable, str(WORKERS / script), *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def stats(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/stats") as reply:
            return json.load(reply)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve():
    """Starts workers, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(*options: object, script: str = "caption_server.py") -> Worker:
            worker = Worker(script, *options)
            stack.callback(worker.stop)
            return worker

        yield start


@pytest.fixture
def quick(monkeypatch):
    """Waits are a twentieth, so that tests take seconds."""
    monkeypatch.setattr("g4i_hf.captioning.servers.FIRST_BACKOFF", 0.02)
    monkeypatch.setattr("g4i_hf.captioning.servers.LONGEST_BACKOFF", 0.5)
    monkeypatch.setattr("g4i_hf.captioning.endpoint.GIVE_UP_SECONDS", 1.0)
    monkeypatch.setattr("g4i_hf.captioning.endpoint.WAIT_SECONDS", 1.5)


def question(number: int, data: bytes | None = None) -> Question:
    buffer = io.BytesIO()
    picture_of(number).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue() if data is None else data, "path": None}
    return Question(str(number), image, "What is it?", f"key {number}")


def questions(count: int, start: int = 0) -> Iterator[Question]:
    return (question(number) for number in range(start, start + count))


def captioner(*workers: Worker, **options) -> EndpointCaptioner:
    own = {"model": "tiny", "base_url": ",".join(f"{worker.url}/v1" for worker in workers)}
    decoding = Decoding(**{each.name: options.pop(each.name) for each in fields(Decoding) if each.name in options})
    own |= {name: options.pop(name) for name in ("model", "base_url", "revision") if name in options}
    endpoint = EndpointArguments(**{"request_timeout": 5.0} | options)
    return EndpointCaptioner(**own, decoding=decoding, endpoint=endpoint)


def ask(asked: EndpointCaptioner, rows, allow=lambda: True) -> list[tuple[Question, Answer]]:
    found = []
    asked.run(rows, found.extend, allow)
    return found


def assert_all_right(found: list[tuple[Question, Answer]], count: int) -> None:
    """Each question once, each with the text of its own image."""
    assert sorted(int(question.image_id) for question, _ in found) == list(range(count))
    for question_, answer in found:
        assert (answer.status, answer.text) == ("ok", f"number {question_.image_id}"), answer


def test_the_pictures_of_the_tests_tell_their_number():
    assert [number_in(picture_of(number, side)) for number, side in ((0, 32), (999, 32), (65_535, 64))] == [
        0,
        999,
        65_535,
    ]


# --- Answers --------------------------------------------------------------------------------------------------------


def test_every_question_is_answered_in_its_own_row(serve):
    server = serve("--latency", 0.02)
    found = ask(captioner(server), questions(300))
    assert_all_right(found, 300)
    stats = server.stats()
    assert (stats["requests"], stats["whole"], stats["asked_again"]) == (300, 300, 0)
    assert stats["connections"] < 200, "connections are used again"
    answer = found[0][1]
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens, answer.attempts) == ("stop", 7, 3, 1)
    assert 0.02 <= answer.seconds < 5


def test_prompt_and_decoding_are_sent_and_are_part_of_the_provenance(serve):
    server = serve("--echo")
    asked = captioner(server, max_new_tokens=9, temperature=0.5, top_p=0.9, revision="v2", max_side=99)
    [(_, answer)] = ask(asked, questions(1))
    sent = {"max_tokens": 9, "model": "tiny", "seed": 0, "temperature": 0.5, "top_p": 0.9}
    assert answer.text == f"number 0 What is it? {sent}"
    assert asked.provenance == {
        "captioner": "endpoint", "model": "tiny", "revision": "v2", "max_new_tokens": 9, "temperature": 0.5,
        "top_p": 0.9, "seed": 0, "image_max_side": 99, "jpeg_quality": 90,
    }  # fmt: skip
    greedy = captioner(server, top_p=0.9)
    [(_, answer)] = ask(greedy, questions(1))
    assert "seed" not in answer.text and "top_p" not in answer.text and "'temperature': 0.0" in answer.text
    assert greedy.provenance == captioner(server).provenance, "what does not matter is not part of the key"
    assert captioner(server, model="/home/me/tiny").provenance["model"] == "tiny"
    assert str(server.port) not in json.dumps(asked.provenance)
    assert asked.hosts == [f"127.0.0.1:{server.port}"]
    assert captioner(base_url=f"http://127.0.0.1:{server.port}").addresses == asked.addresses


@pytest.mark.parametrize(
    "message, finish_reason, status, said",
    [
        ('{"content": null}', "stop", "empty", "without text"),
        ('{"content": " \\n"}', "stop", "empty", "without text"),
        ('{"content": null, "reasoning": "hm"}', "length", "empty", "max_new_tokens"),
        ('{"content": "", "reasoning_content": "hm"}', "length", "empty", "max_new_tokens"),
        ('{"content": null, "refusal": "I must not"}', "stop", "refused", "I must not"),
        ('{"content": ""}', "content_filter", "refused", "filter"),
        ('{"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]}', "stop", "ok", None),
        ('{"content": "a cat", "reasoning": "hm"}', "length", "ok", None),
        (r'{"content": null, "refusal": "I must \ud83d"}', "stop", "refused", "I must \ufffd"),
    ],
)
def test_kinds_of_messages(serve, message, finish_reason, status, said):
    [(_, answer)] = ask(captioner(serve("--message", message, "--finish_reason", finish_reason)), questions(1))
    assert (answer.status, answer.finish_reason, answer.attempts) == (status, finish_reason, 1)
    assert answer.text == "a cat" if status == "ok" else said in answer.reason


@pytest.mark.parametrize(
    "content, text",
    [(r'"a cat \ud83d"', "a cat \ufffd"), (r'"\ude00\ud83d!"', "\ufffd\ufffd!"), (r'"a \ud83d\ude00"', "a 😀")]
    + [(r'[{"type": "text", "text": "a \ud83d"}, {"type": "text", "text": "\ude00"}]', "a 😀")],
)
def test_half_a_character_is_replaced(serve, content, text):
    [(_, answer)] = ask(captioner(serve("--message", f'{{"content": {content}}}')), questions(1))
    assert answer.text == text


def test_half_a_character_in_an_error_is_replaced(serve):
    server = serve("--reject", 0, "--say", r"bad \ud83d half")
    found = {question.image_id: answer for question, answer in ask(captioner(server), questions(2))}
    assert (found["0"].status, found["0"].reason) == ("rejected", "400: bad \ufffd half")
    assert found["1"].status == "ok"


def test_an_image_that_cannot_be_read_ends_no_run(serve):
    server = serve()
    rows = [question(0), question(1, b"no image"), question(2)]
    found = {question.image_id: answer for question, answer in ask(captioner(server), rows)}
    assert {name: answer.status for name, answer in found.items()} == {"0": "ok", "1": "undecodable", "2": "ok"}
    assert "format" in found["1"].reason
    assert server.stats()["requests"] == 2


def test_several_servers_share(serve):
    servers = [serve("--latency", 0.02) for _ in range(2)]
    assert_all_right(ask(captioner(*servers), questions(200)), 200)
    assert all(server.stats()["requests"] > 20 for server in servers)


def test_questions_are_read_only_as_fast_as_they_are_asked(serve):
    server = serve("--latency", 0.05, "--capacity", 4)
    read, furthest, answered = 0, 0, 0

    def rows() -> Iterator[Question]:
        nonlocal read
        for row in questions(150):
            read += 1
            yield row

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        nonlocal furthest, answered
        furthest, answered = max(furthest, read - answered), answered + len(pairs)

    captioner(server, max_concurrency=6).run(rows(), deliver, lambda: True)
    assert answered == read == 150
    assert furthest <= 6 + 8, "in flight, and a few that are on their way here"
    assert server.stats()["peak_in_flight"] <= 6


def test_threads_are_as_promised_also_inside_a_running_loop(serve):
    import asyncio

    server, threads = serve(), {"questions": set(), "deliver": set(), "allow": set()}

    def note(kind: str, value=None):
        threads[kind].add(threading.get_ident())
        return value

    def run() -> None:
        rows = (note("questions", row) for row in questions(30))
        captioner(server).run(rows, lambda pairs: note("deliver"), lambda: note("allow", True))

    async def notebook() -> None:
        run()

    asyncio.run(notebook())
    assert threads["deliver"] == {threading.get_ident()}
    assert len(threads["questions"]) == len(threads["allow"]) == 1


# --- Faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", mostly_slow(FAULTS, {"429-wait", "cut-body", "garbage"}))
def test_each_fault_is_survived(serve, quick, kind):
    options = ("--latency", 0.005, "--fault_rate", 0.2, "--faults", kind, "--slow_seconds", 3)
    server = serve(*options, "--retry_after", 0.2, "--seed", 5)
    found = ask(captioner(server, request_timeout=0.5, max_attempts=12), questions(60))
    assert_all_right(found, 60)
    stats = server.stats()
    assert stats["faults"][kind] > 5 and stats["requests"] == 60 + stats["faults"][kind]
    assert (stats["whole"], stats["asked_again"]) == (60, 0)
    assert max(answer.attempts for _, answer in found) > 1


@pytest.mark.slow
@pytest.mark.parametrize("script", ["caption_server.py", "fault_proxy.py"])
def test_all_faults_at_once(serve, script):
    """As they come, with the waits of real life; also through the proxy."""
    faults = ("--fault_rate", 0.2, "--slow_seconds", 0.5, "--seed", 11)
    if script == "fault_proxy.py":
        worker = serve("--upstream", serve("--latency", 0.02).url, *faults, script=script)
    else:
        worker = serve("--latency", 0.02, *faults)
    assert_all_right(ask(captioner(worker), questions(400)), 400)
    stats = worker.stats()
    assert sum(stats["faults"].values()) > 50 and set(stats["faults"]) == set(FAULTS)
    assert (stats["whole"], stats["distinct"], stats["asked_again"]) == (400, 400, 0)


@pytest.mark.parametrize("kind", ["endless", "packed"])
def test_a_reply_that_would_fill_the_memory_is_not_read(serve, quick, kind):
    server = serve("--fault_rate", 0.3, "--faults", kind, "--seed", 5)
    assert_all_right(ask(captioner(server), questions(20)), 20)
    stats = server.stats()
    assert stats["faults"][kind] > 2 and stats["endless_bytes"] < 64 << 20, "some MB, and what lies in buffers"


def test_retry_after_is_honoured(serve, quick):
    server = serve("--fault_rate", 0.5, "--faults", "429-wait", "--retry_after", 1, "--seed", 1)
    start = time.monotonic()
    assert_all_right(ask(captioner(server), questions(4)), 4)
    waits = server.stats()["faults"]["429-wait"]
    assert waits and time.monotonic() - start > 1, "back-off alone would be over in a moment"


@pytest.mark.slow
def test_while_a_server_wants_a_pause_it_gets_no_other_question_either(serve, quick):
    server = serve("--fault_rate", 1, "--faults", "429-wait", "--retry_after", 2)
    end = time.monotonic() + 1.5
    ask(captioner(server), questions(300), lambda: time.monotonic() < end)
    assert server.stats()["requests"] <= 8, "those that were in flight when it said so"


@pytest.mark.slow
def test_other_errors_may_ask_for_a_wait_too(serve, quick):
    server = serve("--always", 500, "--retry_after", 0.6)
    start = time.monotonic()
    [(_, answer)] = ask(captioner(server, max_attempts=3), questions(1))
    assert answer.status == "failed" and time.monotonic() - start > 2 * 0.6


def test_an_exhausted_rate_limit_is_waited_for(serve):
    headers = ("--header", "x-ratelimit-remaining-requests", "0", "--header", "x-ratelimit-reset-requests", "400ms")
    server = serve(*headers)
    start = time.monotonic()
    assert_all_right(ask(captioner(server, max_concurrency=1), questions(4)), 4)
    assert time.monotonic() - start > 3 * 0.4


def test_a_server_that_asks_for_hours_ends_the_run(serve):
    server = serve("--always", 429, "--retry_after", 7200)
    with pytest.raises(CaptionerError, match=r"left alone for 2\.0 hours.*start the same command again"):
        ask(captioner(server), questions(50))


def test_a_question_that_always_fails_is_told_apart_from_a_server_that_does(serve, quick):
    server = serve("--crash", 3, 5, "--reject", 7)
    found = {question.image_id: answer for question, answer in ask(captioner(server, max_attempts=4), questions(30))}
    assert len(found) == 30
    statuses = {name: answer.status for name, answer in found.items() if answer.status != "ok"}
    assert statuses == {"3": "failed", "5": "failed", "7": "rejected"}
    assert "breaks the model" in found["3"].reason and found["3"].attempts == 4
    assert "not allowed: (image)" in found["7"].reason and found["7"].attempts == 1
    assert server.stats()["requests"] == 28 + 2 * 4


def test_bad_images_alone_do_not_look_like_a_bad_server(serve, quick):
    """When the few that failed are asked again there is nobody else whose answer could show that the server works."""
    server = serve("--crash", 0, 1, 2)
    found = ask(captioner(server, max_attempts=8), questions(3))
    assert [answer.status for _, answer in found] == ["failed"] * 3


def test_no_answer_in_time(serve, quick):
    server = serve("--fault_rate", 1, "--faults", "slow", "--slow_seconds", 30)
    found = ask(captioner(server, max_attempts=2, request_timeout=0.3), questions(2))
    assert [answer.status for _, answer in found] == ["timeout"] * 2
    assert "0.3 s" in found[0][1].reason


# --- The end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", mostly_slow(["cut", "500", "garbage", "429", "slow"], {"500"}))
def test_a_server_that_answers_nothing_ends_the_run_and_marks_no_row(serve, quick, kind):
    server = serve("--fault_rate", 1, "--faults", kind, "--slow_seconds", 30)
    found = []
    with pytest.raises(CaptionerError, match="has answered nothing.*will be asked again"):
        captioner(server, max_attempts=3, request_timeout=0.2).run(questions(2000), found.extend, lambda: True)
    assert not found


@pytest.mark.slow
def test_a_dead_server_marks_no_row_either_when_few_are_asked_at_a_time(serve, quick):
    server, found = serve("--always", 500), []
    with pytest.raises(CaptionerError, match="has answered nothing"):
        captioner(server, max_attempts=2, max_concurrency=2).run(questions(500), found.extend, lambda: True)
    assert not found


def test_what_is_under_way_is_delivered_when_a_server_is_given_up(serve):
    server, found = serve("--latency", 0.5, "--fault_rate", 0.01, "--faults", "429-wait", "--retry_after", 86400), []
    with pytest.raises(CaptionerError, match="left alone for 24.0 hours"):
        captioner(server, max_concurrency=50).run(questions(2000), found.extend, lambda: True)
    assert len(found) == server.stats()["whole"] > 8


def test_a_limit_that_is_used_up_for_hours_ends_the_run(serve):
    headers = ("--header", "x-ratelimit-remaining-requests", "0", "--header", "x-ratelimit-reset-requests", "24h")
    with pytest.raises(CaptionerError, match="left alone for 24.0 hours"):
        ask(captioner(serve(*headers)), questions(4))


def test_being_told_to_wait_uses_up_no_attempt(serve, quick, monkeypatch):
    monkeypatch.setattr("g4i_hf.captioning.endpoint.WAIT_SECONDS", 60.0)
    monkeypatch.setattr("g4i_hf.captioning.endpoint.GIVE_UP_SECONDS", 60.0)
    server = serve("--fault_rate", 0.6, "--faults", "429", "--seed", 2)
    assert_all_right(ask(captioner(server, max_attempts=2), questions(40)), 40)


def test_what_one_server_rejects_is_asked_of_the_other(serve, quick):
    servers = [serve("--always", 400, "--say", "at most 0 images"), serve("--latency", 0.05)]
    assert_all_right(ask(captioner(*servers), questions(300)), 300)


@pytest.mark.parametrize("count", [2, 500])
def test_a_server_that_is_not_there(quick, count):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = captioner(base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(CaptionerError, match=f"127.0.0.1:{port} has answered nothing.*no connection.*Is it running"):
        ask(asked, questions(count))


@pytest.mark.parametrize("latency", mostly_slow([0.02, 0.2], {0.02}))
def test_a_server_that_dies_in_the_middle(serve, quick, latency):
    """Also questions that were asked before the last answer came are left for the next run."""
    server, found = serve("--latency", latency), []

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        found.extend(pairs)
        if len(found) >= 50:
            server.stop()

    with pytest.raises(CaptionerError, match="answers nothing any more"):
        captioner(server).run(questions(5000), deliver, lambda: True)
    assert len(found) >= 50 and {answer.status for _, answer in found} == {"ok"}


def test_one_of_two_servers_dies(serve, quick, monkeypatch):
    """It fails faster than the other one answers, and must not use up the attempts of all questions."""
    monkeypatch.setattr("g4i_hf.captioning.endpoint.WAIT_SECONDS", 3.0)
    servers = [serve("--latency", 0.1, "--capacity", 16) for _ in range(2)]
    found = []

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        found.extend(pairs)
        if len(found) >= 50:
            servers[0].stop()

    captioner(*servers, max_concurrency=32).run(questions(700), deliver, lambda: True)
    assert_all_right(found, 700)
    assert sum(answer.attempts for _, answer in found) < 800


@pytest.mark.slow
def test_one_of_two_servers_never_works(serve, quick, monkeypatch, caplog):
    servers = [serve("--always", 500, "--retry_after", 0), serve("--latency", 0.1, "--capacity", 16)]
    given_up, asked = f"127.0.0.1:{servers[0].port} has answered nothing", []

    def until_given_up() -> Iterator[Question]:
        for number in range(5000):
            asked.append(number)
            yield question(number)
            if given_up in caplog.text:
                return

    with caplog.at_level(logging.WARNING):
        answers = ask(captioner(*servers), until_given_up())
    assert_all_right(answers, len(asked))
    assert given_up in caplog.text and "The other servers go on" in caplog.text
    assert servers[0].stats()["requests"] < 100


@pytest.mark.parametrize(
    "status, says",
    [
        (401, "wants a token.*api_key_env"),
        (403, "Access to tiny is not allowed"),
        (404, "There is no model tiny.*It has tiny, another"),
        (402, "credit"),
        (307, "Give that address as base_url"),
    ],
)
def test_errors_that_all_would_meet_end_the_run_at_once(serve, status, says):
    server = serve("--always", status, "--say", "because")
    with pytest.raises(CaptionerError, match=says):
        ask(captioner(server), questions(1000))
    assert server.stats()["requests"] <= 8, "those that were in flight at the beginning"


def test_a_wrong_model_and_a_wrong_address_are_told(serve):
    server = serve()
    with pytest.raises(CaptionerError, match="no model large.*It has tiny, another"):
        ask(captioner(server, model="large"), questions(1))
    with pytest.raises(CaptionerError, match="/v2/chat/completions"):
        ask(captioner(base_url=f"{server.url}/v2"), questions(1))


def test_a_model_that_takes_no_images(serve):
    server = serve("--always", 400, "--say", "at most 0 images")
    found = []
    with pytest.raises(CaptionerError, match="at most 0 images.*does that model take images"):
        captioner(server).run(questions(1000), found.extend, lambda: True)
    assert not found and server.stats()["requests"] < 40


def test_no_more_is_sent_once_it_is_not_allowed(serve):
    server, left = serve("--latency", 0.05), 25

    def allow() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    found = ask(captioner(server), questions(1000), allow)
    assert len(found) == server.stats()["requests"] == 25, "what was sent is delivered"
    assert {answer.status for _, answer in found} == {"ok"}


def test_errors_of_the_caller_come_back(serve):
    server = serve("--latency", 0.5)

    def broken_rows() -> Iterator[Question]:
        yield from questions(5)
        while server.stats()["requests"] < 5:
            time.sleep(0.05)
        raise OSError("disk gone")

    found = []
    with pytest.raises(OSError, match="disk gone"):
        captioner(server).run(broken_rows(), found.extend, lambda: True)
    assert_all_right(found, 5)  # what was in flight is paid for
    with pytest.raises(OSError, match="journal full"):
        captioner(server).run(
            questions(50), lambda pairs: (_ for _ in ()).throw(OSError("journal full")), lambda: True
        )
    with pytest.raises(ZeroDivisionError):
        captioner(server).run(questions(50), lambda pairs: None, lambda: 1 / 0)


INTERRUPTED = """
import json, signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell started in the background
sys.path[:0] = {path!r}
from test_caption_endpoint import captioner, questions
found = []
server = types.SimpleNamespace(url=sys.argv[1])
try:
    print("ready", flush=True)
    deliver = lambda pairs: found.extend(question.image_id for question, _ in pairs)
    captioner(server, request_timeout=60).run(questions(60000), deliver, lambda: True)
except KeyboardInterrupt:
    print(json.dumps(found), flush=True)
"""


def test_ctrl_c_ends_the_run_and_what_came_is_delivered(serve):
    server = serve("--latency", 0.1)
    code = INTERRUPTED.format(path=[str(WORKERS.parent), str(WORKERS.parent.parent)])
    client = subprocess.Popen([sys.executable, "-c", code, server.url], stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "ready\n"
    while server.stats()["whole"] < 40:
        time.sleep(0.1)
    client.send_signal(signal.SIGINT)
    output, _ = client.communicate(timeout=120)  # all of the questions would take six minutes
    assert client.returncode == 0
    delivered, stats = json.loads(output), server.stats()
    assert len(set(delivered)) == len(delivered)
    assert stats["whole"] - len(delivered) <= 16, "at most what was just on its way"


def test_answers_that_have_come_are_delivered_after_ctrl_c(serve):
    server, found = serve(), []

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        found.extend(pairs)
        if len(found) <= len(pairs):
            while server.stats()["whole"] < 8:
                time.sleep(0.05)
            time.sleep(0.3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        captioner(server).run(questions(8), deliver, lambda: True)
    assert_all_right(found, 8)


# --- Secrets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hf_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary_of_the_user")
    return "hf_canary_of_the_user"


def test_the_token_of_hugging_face_goes_nowhere_else(serve, hf_token, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")  # nor does that of OpenAI
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    server = serve()
    ask(captioner(server), questions(3))
    assert server.stats()["authorization"] == []


def test_the_token_of_hugging_face_goes_to_its_own_hosts(hf_token):
    from g4i_hf.captioning.servers import token_for

    own = ["https://huggingface.co", "https://router.huggingface.co/v1", "https://x.endpoints.huggingface.cloud/v1"]
    assert {token_for(address, None) for address in own} == {hf_token}
    others = [
        "http://router.huggingface.co/v1", "https://huggingface.co.evil.com/v1", "https://evilhuggingface.co/v1",
        "https://evil.com/huggingface.co", "https://huggingface.co@evil.com/v1", "http://127.0.0.1:8000/v1",
        "https://api.openai.com/v1", "https://evil.com?.huggingface.co", "https://evil.com#.hf.space",
    ]  # fmt: skip
    assert {token_for(address, None) for address in others} == {None}


def test_a_token_is_sent_to_its_server_and_shown_nowhere(serve, monkeypatch, caplog, capfd, hf_token):
    server = serve("--token", "sk-right")
    monkeypatch.setenv("SERVER_TOKEN", " sk-right\n")
    with caplog.at_level(logging.DEBUG):
        assert_all_right(ask(captioner(server, api_key_env="SERVER_TOKEN"), questions(3)), 3)
    assert server.stats()["authorization"] == ["Bearer sk-right"]
    monkeypatch.setenv("SERVER_TOKEN", "sk-wrong")
    asked = captioner(server, api_key_env="SERVER_TOKEN")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(
            CaptionerError, match=r"wrong token: Bearer \*\*\*.*environment variable SERVER_TOKEN"
        ) as raised,
    ):
        ask(asked, questions(3))
    told = f"{raised.value!r} {raised.value.__cause__!r} {asked!r} {vars(asked)} {asked.servers()}" + caplog.text
    told += "".join(capfd.readouterr())
    assert "sk-" not in told and "canary" not in told


@pytest.mark.parametrize(
    "options, says",
    [
        ({"api_key_env": "NO_SUCH_TOKEN"}, "environment variable is not set"),
        ({"api_key_env": "ODD_TOKEN"}, "holds no token"),
        ({"base_url": "localhost:8000"}, "must look like http"),
        ({"base_url": " , "}, "not given"),
        ({"base_url": "https://me:secret@host/v1"}, "user or password for host"),
        ({"base_url": "https://router.huggingface.co/v1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(options, says, monkeypatch):
    monkeypatch.setenv("ODD_TOKEN", "sk-canary two")
    with pytest.raises(ValueError, match=says) as raised:
        captioner(**{"base_url": "http://127.0.0.1:1/v1"} | options)
    assert "canary" not in str(raised.value) and "secret" not in str(raised.value)


def test_a_redirect_is_not_followed(serve):
    """Images go to the host that the user named, and to no other."""
    other = serve()
    server = serve("--always", 307)
    with pytest.raises(CaptionerError, match="redirects"):
        ask(captioner(server), questions(1))
    assert other.stats()["requests"] == 0


def test_offline_mode_is_about_hugging_face_alone(serve):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert_all_right(ask(captioner(serve()), questions(2)), 2)


# --- Throughput -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("faults", [(), ("--fault_rate", 0.1, "--faults", "500", "cut")], ids=["none", "a tenth"])
def test_faults_do_not_slow_the_other_requests(serve, faults):
    """
    With the latency and the waits of real life. A client that halves the number under way at a failure has a handful
    of them here; how fast it is, benchmarks/captioner_under_faults.py measures.
    """
    server = serve("--latency", 0.5, "--capacity", 64, *faults)
    assert_all_right(ask(captioner(server, request_timeout=60), questions(1500)), 1500)
    stats = server.stats()
    assert (stats["whole"], stats["asked_again"]) == (1500, 0)
    assert stats["mean_in_flight"] > 2 * 64, "the server always has more than it can work on"


@pytest.mark.slow
def test_a_server_that_stalls_ends_the_run_within_minutes(serve):
    server = serve("--fault_rate", 1, "--faults", "slow", "--slow_seconds", 600)
    start = time.monotonic()
    with pytest.raises(CaptionerError, match="has answered nothing.*no answer within 5 s"):
        ask(captioner(server, request_timeout=5.0), questions(1000))
    assert time.monotonic() - start < 240
