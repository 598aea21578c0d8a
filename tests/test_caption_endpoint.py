"""The endpoint captioner against a server on loopback, with whatever can go wrong on the way."""

import asyncio
import contextlib
import gzip
import itertools
import json
import logging
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import caption_doors
import make
import pytest
from caption_doors import Worker
from caption_server import FAULTS, picture_of

from g4i_hf.captioning.answers import Answer, CaptionerError, Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.captioning.servers import answer_in, error_message, token_for, wait_asked_for
from g4i_hf.options import Decoding, EndpointArguments

MB = 1 << 20


@pytest.fixture
def quick(monkeypatch):
    """Waits are a fiftieth, so that tests take seconds."""
    waits = {"endpoint.FIRST_BACKOFF": 0.01, "endpoint.LONGEST_BACKOFF": 0.2}
    for name, seconds in (waits | {"servers.GIVE_UP_SECONDS": 0.5, "servers.WAIT_SECONDS": 3.0}).items():
        monkeypatch.setattr(f"g4i_hf.captioning.{name}", seconds)


def question(number: int, data: bytes | None = None) -> Question:
    image = {"bytes": make.content(picture_of(number)) if data is None else data, "path": None}
    return Question(str(number), image, "What is it?", f"key {number}")


def questions(count: int) -> Iterator[Question]:
    return map(question, range(count))


def captioner(*servers: Worker, **options) -> EndpointCaptioner:
    of_the_model = {"model": "tiny", "base_url": ",".join(f"{server.url}/v1" for server in servers)}
    of_the_model |= {name: options.pop(name) for name in ("model", "base_url", "revision") if name in options}
    decoding = Decoding(**{each.name: options.pop(each.name) for each in fields(Decoding) if each.name in options})
    endpoint = EndpointArguments(**{"request_timeout": 5.0} | options)
    return EndpointCaptioner(**of_the_model, decoding=decoding, endpoint=endpoint)


def ask(asked: EndpointCaptioner, rows) -> list[tuple[Question, Answer]]:
    found: list[tuple[Question, Answer]] = []
    asked.run(rows, found.extend, lambda: True)
    return found


def assert_all_right(found: list[tuple[Question, Answer]], count: int) -> None:
    """Each question once, each with the text of its own image."""
    assert sorted(int(question.image_id) for question, _ in found) == list(range(count))
    for question_, answer in found:
        assert (answer.status, answer.text) == ("ok", f"number {question_.image_id}"), answer


class Odd(BaseHTTPRequestHandler):
    """A server whose replies no server of tests/workers would give: those of a function of this and their number."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        with contextlib.suppress(OSError):
            self.server.reply(self, next(self.server.numbers))

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def odd_server():
    with contextlib.ExitStack() as stack:

        def start(reply: Callable[[Odd, int], None]) -> ThreadingHTTPServer:
            server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
            server.reply, server.asked, server.numbers, server.sent = reply, [], itertools.count(), 0
            server.url = f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return server

        yield start


def test_prompt_and_decoding_are_sent_and_are_part_of_the_provenance(serve):
    server = serve("--echo")
    asked = captioner(server, max_new_tokens=9, temperature=0.5, top_p=0.9, revision="v2", image_max_side=99)
    [(_, answer)] = ask(asked, questions(1))
    sent = {"max_tokens": 9, "model": "tiny", "seed": 0, "temperature": 0.5, "top_p": 0.9}
    assert answer.text == f"number 0 What is it? {sent}"
    about = {"captioner": "endpoint", "model": "tiny", "revision": "v2", "max_new_tokens": 9, "image_max_side": 99}
    assert asked.provenance == about | {"temperature": 0.5, "top_p": 0.9, "seed": 0}
    greedy = captioner(server, top_p=0.9)
    [(_, answer)] = ask(greedy, questions(1))
    assert "seed" not in answer.text and "top_p" not in answer.text and "'temperature': 0.0" in answer.text
    assert greedy.provenance == captioner(server).provenance, "what does not matter is not part of the key"
    assert captioner(server, model="/home/me/tiny").provenance["model"] == "tiny"
    assert captioner(base_url=server.url).addresses == asked.addresses, "/v1 is added"


def test_questions_are_read_only_as_fast_as_they_are_asked_also_in_a_running_loop(serve):
    """As in a notebook."""
    server, read, found = serve("--latency", 0.05, "--capacity", 4), [], []

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        assert len(read) - len(found) <= 6 + 8, "in flight, and a few that are on their way here"
        found.extend(pairs)

    async def notebook() -> None:
        rows = (read.append(row) or row for row in questions(60))
        captioner(server, max_concurrency=6).run(rows, deliver, lambda: True)

    asyncio.run(notebook())
    assert_all_right(found, 60)
    stats, answer = server.stats(), found[0][1]
    assert stats["peak_in_flight"] <= 6 and stats["connections"] < 50, "connections are used again"
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens, answer.attempts) == ("stop", 7, 3, 1)


# --- Faults ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_fault_is_survived_and_nothing_is_lost_or_asked_twice(serve, quick, monkeypatch):
    monkeypatch.setattr("g4i_hf.captioning.endpoint.MAX_ATTEMPTS", 12)
    options = ("--latency", 0.005, "--fault_rate", 0.4, "--slow_seconds", 9, "--retry_after", 0.2)
    server = serve(*options)
    found = ask(captioner(server, request_timeout=3.0), questions(120))
    assert_all_right(found, 120)
    stats = server.stats()
    assert set(stats["faults"]) == set(FAULTS) and stats["requests"] == 120 + sum(stats["faults"].values())
    assert (stats["whole"], stats["asked_again"]) == (120, 0)
    assert max(answer.attempts for _, answer in found) > 1


def test_a_server_that_asks_for_hours_ends_the_run(serve):
    with pytest.raises(CaptionerError, match=r"left alone for 24\.0 hours.*start the same command"):
        ask(captioner(serve("--always", 429, "--retry_after", 86400)), questions(50))


def test_an_image_that_always_fails_is_told_apart_from_a_server_that_does(serve, quick):
    server = serve("--crash", 3, 5, "--reject", 7)
    rows = [question(9, b"no image") if number == 9 else question(number) for number in range(30)]
    found = {asked.image_id: answer for asked, answer in ask(captioner(server), rows)}
    statuses = {name: answer.status for name, answer in found.items() if answer.status != "ok"}
    assert statuses == {"3": "failed", "5": "failed", "7": "rejected", "9": "undecodable"} and len(found) == 30
    assert "breaks the model" in found["3"].reason and found["3"].attempts == 8
    assert "not allowed: (image)" in found["7"].reason and found["7"].attempts == 1
    assert "format" in found["9"].reason
    assert server.stats()["requests"] == 27 + 2 * 8


COMPLETION = json.dumps({"choices": [{"message": {"content": "a cat"}}]}).encode()
WAITS = {"1": 1, "0.5": 0.5, "Fri, 31 Dec 2027 23:59:59 GMT": 0, "-3": 0, "inf": 0, "1e9": 0, "soon": 0}


@pytest.mark.parametrize("said", WAITS)
def test_a_busy_server_is_asked_again_when_it_says_so_and_nonsense_delays_nothing(odd_server, quick, said):
    """Nor does a date, by a clock that may be another."""
    moments = []

    def busy_at_first(to: Odd, number: int) -> None:
        moments.append(time.monotonic())
        if number:
            to.answer(COMPLETION)
        else:
            to.wfile.write(f"HTTP/1.1 429 Busy\r\nRetry-After: {said}\r\nContent-Length: 0\r\n\r\n".encode())

    [(_, answer)] = ask(captioner(odd_server(busy_at_first)), questions(1))
    assert answer.text == "a cat" and moments[1] - moments[0] >= WAITS[said]
    assert wait_asked_for({"retry-after": said}) == WAITS[said]


BOMB = gzip.compress(gzip.compress(bytes(64 * MB), 1))
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


def endless(to: Odd) -> None:
    """For as long as the client reads, but no more than 64 MB."""
    to.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while to.server.sent < 64 * MB:
        to.wfile.write(CHUNK)
        to.server.sent += len(CHUNK)


def bomb(to: Odd) -> None:
    """Compressed in spite of `Accept-Encoding: identity`."""
    to.answer(BOMB, Content_Encoding="gzip, gzip")


@pytest.mark.parametrize("first", [endless, bomb])
def test_an_endless_reply_is_cut_off_and_nothing_else_is_lost(odd_server, quick, first):
    server = odd_server(lambda to, number: to.answer(COMPLETION) if number else first(to))
    tracemalloc.start()
    found = ask(captioner(server), questions(9))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [answer.text for _, answer in found] == ["a cat"] * 9
    assert len(server.asked) == 10 and server.sent < 32 * MB and peak < 32 * MB


# --- The end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        (None, "has answered nothing.*no connection.*Is it running"),
        (("--always", 500, "--retry_after", 0.05), "has answered nothing.*will be asked again"),
        (("--fault_rate", 1, "--faults", "slow", "--slow_seconds", 30), "nothing.*no answer within 0.2 s"),
        (("--always", 400, "--say", '"at most 0 images"'), "at most 0 images.*does captioner_model take images"),
    ],
    ids=["is not there", "errors", "stalls", "takes no images"],
)
def test_a_server_that_answers_nothing_ends_the_run_and_marks_no_row(serve, quick, options, says, monkeypatch):
    monkeypatch.setattr("g4i_hf.captioning.endpoint.MAX_ATTEMPTS", 2)
    server, found = serve(*(options or ())), []
    if options is None:
        server.stop()
    with pytest.raises(CaptionerError, match=says):
        captioner(server, request_timeout=0.2, max_concurrency=2).run(questions(1000), found.extend, lambda: True)
    assert not found


PAGE = b'<style>a{}</style><h1 class="error">Welcome</h1>'


@pytest.mark.parametrize("reply", [PAGE, b'{"choices": []}', b"[" * 100_000], ids=["page", "empty", "nested"])
def test_a_server_whose_replies_are_no_completions_ends_the_run_at_once(odd_server, reply):
    """Not after the 30 seconds of a server that may still be starting."""
    server = odd_server(lambda to, _: to.answer(reply))
    says = f"no chat completion.*{'Welcome' if reply == PAGE else 'Error'}.*that of an OpenAI-compatible server"
    with pytest.raises(CaptionerError, match=says):
        ask(captioner(server), questions(1000))
    assert len(server.asked) <= 16, "those of the beginning"


def test_one_of_two_servers_dies_and_the_other_answers_everything(serve, quick):
    """It fails faster than the other one answers, and must not use up the attempts of all questions."""
    servers, found = [serve("--latency", 0.1, "--capacity", 16) for _ in range(2)], []

    def deliver(pairs: list[tuple[Question, Answer]]) -> None:
        found.extend(pairs)
        if len(found) >= 50:
            servers[0].stop()

    captioner(*servers, max_concurrency=32).run(questions(250), deliver, lambda: True)
    assert_all_right(found, 250)
    assert sum(answer.attempts for _, answer in found) < 350


@pytest.mark.parametrize(
    "options, asked, says",
    [
        (("--always", 401, "--latency", 0.2), {}, "needs a token.*api_key_env"),
        (("--always", 403), {}, "See to the account, and to its access to tiny"),
        (("--always", 307), {}, "redirects.*Give that address as base_url"),
        ((), {"model": "large"}, "There is no model large.*It has tiny, another"),
        ((), {"base_url": "{url}/v2"}, "/v2/chat/completions"),
    ],
)
def test_errors_that_all_questions_would_meet_end_the_run_at_once(serve, options, asked, says):
    server = serve(*options)
    asked = {name: value.format(url=server.url) for name, value in asked.items()}
    with pytest.raises(CaptionerError, match=says):
        ask(captioner(server, **asked), questions(1000))
    assert server.stats()["requests"] <= 8, "those that were in flight at the beginning"


def test_an_error_of_the_store_ends_the_run(serve):
    with pytest.raises(ZeroDivisionError):
        captioner(serve()).run(questions(50), lambda pairs: 1 / 0, lambda: True)


# --- The check of four images, of which test_caption_vision.py tells more --------------------------------------------

ASK = ("--dataset_name", "pictures", "--captions_dir", "captions", "--captioner_model", "tiny", "--base_url")
CONTENT = '{"choices": [{"message": {"content": "%s"}}]}'


def test_requests_of_the_check_are_retried_and_a_token_in_the_answers_is_shown_nowhere(
    tmp_path, odd_server, quick, monkeypatch
):
    key = "sk-canary/0123456789"

    def busy_at_first(to: Odd, number: int) -> None:
        if number < 4:
            to.wfile.write(b"HTTP/1.1 429 Busy\r\nRetry-After: 0.1\r\nContent-Length: 0\r\n\r\n")
        else:
            to.answer((CONTENT % f"a cat, {key}").encode())

    server = odd_server(busy_at_first)
    caption_doors.draw_numbers(tmp_path / "pictures", 2)
    monkeypatch.setenv("SERVER_TOKEN", key)
    said = caption_doors.caption(tmp_path, *ASK, server.url, "--api_key_env", "SERVER_TOKEN", fails=True)
    assert "the answer 'a cat, ***'" in said and "canary" not in said and len(server.asked) == 8
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_answers_no_question_of_the_check_ends_the_run(tmp_path, odd_server, quick, status):
    """Though four questions are fewer than those after which a server is given up later on."""
    server = odd_server(lambda to, _: to.wfile.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()))
    caption_doors.draw_numbers(tmp_path / "pictures", 2)
    said = caption_doors.caption(tmp_path, *ASK, server.url, fails=True)
    assert f"has answered nothing. Its last error: {status}" in said


def test_each_of_several_servers_is_checked_and_one_that_is_gone_is_left_out(tmp_path, serve, odd_server, quick):
    good, blind = serve(), odd_server(lambda to, _: to.answer(COMPLETION))
    caption_doors.draw_numbers(tmp_path / "pictures", 3)
    said = caption_doors.caption(tmp_path, *ASK, f"{good.url},{blind.url}", fails=True)
    assert f"error: {blind.url.removeprefix('http://')}, tiny: images do not reach the model" in said
    caption_doors.caption(tmp_path, *ASK, f"http://127.0.0.1:9,{good.url}")
    assert caption_doors.captions_of_numbers(tmp_path / "captions") == caption_doors.all_right(3)
    assert good.stats()["colours"] == 4


# --- Secrets --------------------------------------------------------------------------------------------------------


def test_the_token_of_hugging_face_goes_to_its_own_hosts_alone(serve, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")  # goes nowhere either
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    for own in ("huggingface.co", "router.huggingface.co/v1", "x.endpoints.huggingface.cloud/v1"):
        assert token_for(f"https://{own}", None) == "hf_canary" and token_for(f"http://{own}", None) is None
    others = ("huggingface.co.evil.com/v1", "evilhuggingface.co/v1", "evil.com/huggingface.co", "api.openai.com/v1")
    others += ("huggingface.co@evil.com/v1", "evil.com?.huggingface.co", "evil.com#.huggingface.co", "127.0.0.1:8000")
    assert {token_for(f"https://{other}", None) for other in others} == {None}
    server = serve()
    ask(captioner(server), questions(3))
    assert server.stats()["authorization"] == []


def test_a_token_is_sent_to_its_server_and_shown_nowhere(serve, monkeypatch, caplog, capfd):
    server = serve("--token", "sk-right")
    monkeypatch.setenv("SERVER_TOKEN", " sk-right\n")
    caplog.set_level(logging.DEBUG)
    assert_all_right(ask(captioner(server, api_key_env="SERVER_TOKEN"), questions(3)), 3)
    assert server.stats()["authorization"] == ["Bearer sk-right"]
    monkeypatch.setenv("SERVER_TOKEN", "sk-wrong")
    asked = captioner(server, api_key_env="SERVER_TOKEN")
    with pytest.raises(CaptionerError, match=r"wrong token: Bearer \*\*\*.*variable SERVER_TOKEN") as raised:
        ask(asked, questions(3))
    told = f"{raised.value!r} {raised.value.__cause__!r} {asked!r} {vars(asked)} {asked.servers()}" + caplog.text
    assert "sk-" not in told + "".join(capfd.readouterr())


def test_a_token_that_a_server_repeats_in_its_answers_is_in_no_file(tmp_path, odd_server, quick, monkeypatch):
    """In the caption, escaped, in the reason of a refusal, and in an error."""
    key = "sk-canary/0123456789"
    escaped = key.replace("/", r"\/").replace("c", r"\u0063")
    parts = [f'"content": "a cat, {escaped}"', f'"refusal": "no, {key}"', f'"content": "{key}']

    def repeating(to: Odd, number: int) -> None:
        if number % 4:  # the first four are the check
            part = parts[number % 3]
            reply = f'{{"choices": [{{"message": {{{part}}}, "finish_reason": "stop {escaped}"}}]}}'
            to.answer(reply.encode(), model=key)
        else:
            to.wfile.write(f"HTTP/1.1 422 {key}\r\nContent-Length: {len(key)}\r\n\r\n{key}".encode())

    server = odd_server(repeating)
    caption_doors.draw_numbers(tmp_path / "pictures", 6)
    monkeypatch.setenv("SERVER_TOKEN", key)
    options = ["--dataset_name", "pictures", "--captions_dir", "captions", "--captioner_model", "m"]
    said = caption_doors.caption(tmp_path, *options, "--base_url", server.url, "--api_key_env", "SERVER_TOKEN")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".sqlite", ".parquet", ".json", ".html"}
    assert not [path for path in files if b"canary" in path.read_bytes()] and "canary" not in said
    told = {(*row["caption_raw"], *row["caption_reason"]) for row in caption_doors.rows_of(tmp_path / "captions")}
    assert {("a cat, ***", None), (None, "no, ***"), (None, "422: ***")} <= told


# --- Replies ---------------------------------------------------------------------------------------------------------

PARTS = [{"type": "text", "text": part} for part in ("a \ud83d", "\ude00")]


@pytest.mark.parametrize(
    "message, finish_reason, status, said",
    [
        ({"content": None}, "stop", "empty", "without text"),
        ({"content": None, "reasoning": "hm"}, "length", "empty", "max_new_tokens"),
        ({"content": None, "refusal": "I must \ud83d"}, "stop", "refused", "I must \ufffd"),
        ({"content": ""}, "content_filter", "refused", "filter"),
        ({"content": PARTS}, "stop", "ok", "a 😀"),
    ],
)
def test_kinds_of_messages(message, finish_reason, status, said):
    choice = {"message": message, "finish_reason": finish_reason}
    answer = answer_in(json.dumps({"choices": [choice], "usage": {"prompt_tokens": "7"}}).encode())
    assert (answer.status, answer.finish_reason, answer.prompt_tokens) == (status, finish_reason, None)
    assert answer.text == said if status == "ok" else said in answer.reason


@pytest.mark.parametrize(
    "body, message",
    [
        (b'{"error": "wrong key sk-secret"}', "wrong key ***"),
        (b'{"detail": {"input": "data:image/jpeg;base64,' + b"A" * 5000 + b'"}}', '{"input": "(image)"}'),
        (b"sk-secret" + b"x" * 1000, "***" + "x" * 294 + "..."),
    ],
    ids=["a secret", "an image", "long"],
)
def test_messages_of_servers_are_cut_off_and_hold_no_secrets_and_images(body, message):
    assert error_message(body, "sk-secret") == message
