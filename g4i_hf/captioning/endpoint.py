"""Captions from OpenAI-compatible servers (vLLM, TGI, `transformers serve`, or a hosted provider)."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from ..data.images import UndecodableImage, data_uri
from ..names import folder_digest
from ..options import Decoding, EndpointArguments
from . import vision_check
from .answers import OK, TRANSIENT, Answer, AnswerStore, Captioner, CaptionerError, Deliver, Question
from .servers import IN_A_ROW, Server, UselessReply, addresses_of, token_for, wait_asked_for

logger = logging.getLogger(__name__)

FIRST_REQUESTS = 8  # in flight until one is answered: enough to see a wrong token
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0  # seconds; the bound doubles with every attempt
LONGEST_WAIT = 15 * 60.0  # seconds; a server that asks for more is given up
MAX_ATTEMPTS = 8  # of a question while its server works
PROBES = 0.02  # share of the requests that try a server that is down, while another one works
WARN_SECONDS = 5.0  # without an answer
PROBE_SECONDS = 10.0  # for the test images at the other servers, once one has answered them
STOP_SECONDS, DRAIN_SECONDS = 5.0, 30.0  # for requests in flight: at an interrupt, and when no server works any more
PREPARING = min(8, os.cpu_count() or 1)  # threads that decode and encode images

FATAL = {401, 402, 403, 404, 405, 407, 410}  # every request would meet these
RETRIED = {408, 409, 425, 429}  # tried again, as 500 and above are; all others concern this question alone


class EndpointCaptioner(Captioner):
    """
    Asks servers over HTTP, with `openai.AsyncOpenAI`. Several in `base_url`, separated by commas, share the questions;
    `revision` is not sent, but part of every key. ValueError for an invalid address or a missing token.
    """

    needs_no_check = False  # for no server is asked
    in_a_row = IN_A_ROW

    def __init__(
        self,
        model: str,
        base_url: str,
        decoding: Decoding | None = None,
        *,
        revision: str | None = None,
        endpoint: EndpointArguments | None = None,
    ):
        self.model, self.decoding = model, decoding or Decoding()
        self.endpoint = endpoint or EndpointArguments()
        self.addresses = addresses_of(base_url)
        self.hosts = [urlsplit(address).netloc for address in self.addresses]
        self.servers()  # raises for a missing token
        is_folder = Path(model).is_dir()
        self.provenance = {
            "captioner": "endpoint",
            # `transformers serve` names a model by its folder, which differs between machines
            "model": Path(model).resolve().name if is_folder else Path(model).name if os.path.isabs(model) else model,
            "revision": revision or (folder_digest(model) if is_folder else None),
            **self.decoding.provenance,
        }
        sampling = {name: self.provenance[name] for name in ("temperature", "top_p", "seed")}
        self.options = {"model": model} | {name: value for name, value in sampling.items() if value is not None}

    def body_of(self, question: Question, uri: str, with_choices: bool = False) -> dict[str, Any]:
        """The body of a request to `/chat/completions`; `with_choices` with a JSON schema of the possible answers."""
        body = self.options | {"max_tokens": self.decoding.tokens_for(question.choices)}
        content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": question.prompt}]
        if question.choices:  # which come first: servers keep what they computed for the same beginning of a request
            content.reverse()
        if question.choices and with_choices:
            answer = {"type": "string", "enum": list(question.choices)}
            schema: dict[str, Any] = {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}
            form = {"name": "answer", "strict": True, "schema": schema | {"additionalProperties": False}}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body | {"messages": [{"role": "user", "content": content}]}

    def servers(self) -> list[Server]:
        """One for each address, in its initial state."""
        options = self.endpoint
        return [
            Server(address, token_for(address, options.api_key_env), options.request_timeout, self.in_a_row)
            for address in self.addresses
        ]

    def check(self, store: AnswerStore, deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]. Whether servers that answer show their models the images."""
        if self.needs_no_check or not self.endpoint.check_vision:
            return
        probes = [Probe(self, address, deliver, allow) for address in self.addresses]
        probes = [probe for probe in probes if not all(store.find(question.key) for question in probe.asked)]
        has_passed = len(probes) < len(self.addresses)
        errors = in_other_thread(probes, probe_all(probes, has_passed))
        for probe in probes:
            if probe.is_answered and not probe.fault:
                store.put(probe.pairs)
        for probe in probes:
            if probe.fault:
                raise CaptionerError(f"{probe.servers[0].name}, {self.model}: {probe.fault}")
        for probe, error in zip(probes, errors, strict=True):
            if error and (not isinstance(error, CaptionerError) or all(errors) and not has_passed):
                raise error
            if error:  # `run` does without this server, or waits for it
                words = "%s has not answered four test images: whether images reach its model is not checked."
                logger.warning(words, probe.servers[0].name)

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]."""
        run = EndpointRun(self, iter(questions), deliver, allow)
        in_other_thread([run], run.run())


def in_other_thread(runs: "Sequence[EndpointRun]", work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine with these runs, in an event loop of another thread, for notebooks."""
    gc.freeze()  # a full collection of all that torch and datasets hold stops the loop for 0.4 s
    try:
        with ThreadPoolExecutor(1) as thread:
            ending = thread.submit(asyncio.run, work)
            try:
                return ending.result()
            except KeyboardInterrupt:
                for run in runs:
                    run.interrupt()
                raise
    finally:
        gc.unfreeze()


class EndpointRun:
    """One run, in an event loop with a task for each question in flight."""

    def __init__(
        self,
        captioner: EndpointCaptioner,
        questions: Iterator[Question],
        deliver: Deliver,
        allow: Callable[[], bool],
    ):
        self.captioner, self.questions, self.deliver, self.allow = captioner, questions, deliver, allow
        self.servers = captioner.servers()
        self.most = captioner.endpoint.max_concurrency * len(self.servers)  # requests in flight
        self.is_stopped = False  # nothing more is sent
        self.error: BaseException | None = None  # that ended the run

    def interrupt(self) -> None:
        """From another thread: sends nothing more, and ends the run soon; requests in flight are paid for."""
        self.is_stopped = True
        with contextlib.suppress(AttributeError, RuntimeError):  # the loop has not begun, or has ended
            self.loop.call_soon_threadsafe(self._end, None, STOP_SECONDS)

    def _end(self, error: BaseException | None, seconds: float = DRAIN_SECONDS) -> None:
        """Sends nothing more, and ends the run once requests in flight have come back, or after so many seconds."""
        self.error, self.is_stopped = self.error or error, True
        self.stopping.set()
        self.loop.call_later(seconds, self.asking.cancel)

    async def run(self) -> None:
        """Raises the error that ended the run."""
        self.loop, self.stopping = asyncio.get_running_loop(), asyncio.Event()
        self.results: asyncio.Queue[tuple[Question, Answer] | None] = asyncio.Queue()
        self.slots = asyncio.Semaphore(min(FIRST_REQUESTS, self.most))
        for server in self.servers:
            server.open()
        with ThreadPoolExecutor(2) as self.helpers, ThreadPoolExecutor(PREPARING) as self.preparers:
            delivering = self.loop.create_task(self._deliver_all())
            self.asking = self.loop.create_task(self._ask_all())
            await asyncio.wait([self.asking])
            self.results.put_nowait(None)
            await delivering
            for server in self.servers:
                await server.client.close()
        if self.error is not None:
            raise self.error
        self.asking.result()

    async def _ask_all(self) -> None:
        async with asyncio.TaskGroup() as self.tasks:
            while question := await self._next_question():
                task = self.tasks.create_task(self._answer(question))
                task.add_done_callback(lambda _: self.slots.release())
        for server in self.servers:
            if self.error is None:
                self._release(server)

    async def _next_question(self) -> Question | None:
        """Once there is a slot for it; None after the last, and when nothing more may be sent."""
        await self.slots.acquire()
        try:
            question = await self.loop.run_in_executor(self.helpers, next, self.questions, None)
        except Exception as error:  # of the data
            self._end(error)
        return None if self.is_stopped else question

    async def _deliver_all(self) -> None:
        """Delivers answers as they come, until the None at the end."""
        is_last = False
        while not is_last:
            pairs = [await self.results.get()]
            pairs += [self.results.get_nowait() for _ in range(self.results.qsize())]
            is_last = pairs[-1] is None
            try:
                await self.loop.run_in_executor(self.helpers, self.deliver, pairs[:-1] if is_last else pairs)
            except Exception as error:
                self._end(error, 0)
                return

    async def _answer(self, question: Question) -> None:
        max_side = self.captioner.decoding.image_max_side
        try:
            uri = await self.loop.run_in_executor(self.preparers, data_uri, question.image, max_side)
        except UndecodableImage as error:
            self._put(question, Answer("undecodable", reason=str(error), attempts=0))
            return
        began, attempts, failures = time.monotonic(), 0, 0
        while (server := self._next_server()) is not None:
            attempts += 1
            answer, wait = await self._attempt(server, question, uri)
            answer.seconds, answer.attempts = time.monotonic() - began, attempts
            has_failed = answer.status in TRANSIENT
            # A server that fails at everything, or is busy, says nothing about the question
            failures += has_failed and not server.is_down and server.last_status != 429
            is_last = not has_failed or failures >= MAX_ATTEMPTS
            if is_last:
                server.held.append((question, answer))
            if server.answers and not has_failed:
                self._release(server)
            else:
                self._watch(server)
            if is_last:
                return
            bound = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(attempts - 1, 16))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait + random.uniform(0, bound)):
                    await self.stopping.wait()

    def _next_server(self) -> Server | None:
        """The least busy one that works; None when nothing more may be sent."""
        try:
            if not self.is_stopped and not self.allow():
                self.is_stopped = True
                self.stopping.set()
        except Exception as error:
            self._end(error)
        if self.is_stopped:
            return None
        alive = [server for server in self.servers if server.alive]
        probes = random.random() < PROBES
        return min(alive, key=lambda server: (server.is_down and not probes, server.in_flight))

    async def _attempt(self, server: Server, question: Question, uri: str) -> tuple[Answer, float]:
        """One request. Returns the answer or failure, and the seconds that the server asks to wait."""
        with_choices = bool(question.choices) and server.takes_choices is not False
        try:
            answer = await server.ask(self.captioner.body_of(question, uri, with_choices))
        except openai.APIStatusError as error:
            return await self._failed(server, question, error, with_choices)
        except (openai.APIConnectionError, UselessReply, TimeoutError) as error:
            server.fail(question.key, error)
            is_late = isinstance(error, (TimeoutError, openai.APITimeoutError))
            return Answer("timeout" if is_late else "failed", reason=server.last_error), 0.0
        if not any(server.answers for server in self.servers):
            for _ in range(FIRST_REQUESTS, self.most):
                self.slots.release()
        server.takes_choices = with_choices or server.takes_choices
        server.answered()
        return answer, 0.0

    async def _failed(
        self, server: Server, question: Question, error: openai.APIStatusError, with_choices: bool
    ) -> tuple[Answer, float]:
        status, wait = error.status_code, wait_asked_for(error.response.headers)
        if with_choices and status in (400, 422) and not server.takes_choices:
            # Perhaps it supports no schemas, or none of this size: OpenAI's hold 1,000 names, or 15,000 letters of
            # more than 250 names
            server.takes_choices = False
            return Answer("failed"), wait
        if 400 <= status < 500 and status not in FATAL | RETRIED:
            server.reject(error)
            return Answer("rejected", reason=server.last_error), wait
        server.fail(question.key, error)
        if status < 400 or status in FATAL:
            why = server.why_refused(error, self.captioner.model, self.captioner.endpoint.api_key_env)
            self._give_up(server, await why)
        elif wait > LONGEST_WAIT:
            self._give_up(server, server.why_lost(f"; it asks to be left alone for {wait / 3600:.1f} hours"))
        return Answer("failed", reason=server.last_error), wait

    def _put(self, question: Question, answer: Answer) -> None:
        self.results.put_nowait((replace(question, image={}), answer))  # the image is large and no longer needed

    def _release(self, server: Server) -> None:
        """The server works, so questions that failed or were rejected did so by themselves."""
        while server.held:
            self._put(*server.held.pop())

    def _watch(self, server: Server) -> None:
        """Gives up a server that has answered nothing for long."""
        if server.is_lost:
            self._give_up(server, server.why_lost())
        elif server.is_down and not server.has_warned and server.seconds_of_failures > WARN_SECONDS:
            server.has_warned = True
            words = "%s does not answer (%s). Retrying for %.0f s."
            logger.warning(words, server.name, server.last_error, server.patience)

    def _give_up(self, server: Server, why: str) -> None:
        """Its questions go to the other servers. Without any the run ends, and they stay unanswered."""
        was_alive, server.alive = server.alive, False
        if not any(other.alive for other in self.servers):
            self._end(CaptionerError(why))
        elif was_alive:
            logger.warning("%s The other servers continue.", why)
        while server.held:
            question, _ = server.held.pop()
            self.tasks.create_task(self._answer(question))


class Probe(EndpointRun):
    """Four questions about generated images, to one server at once."""

    def __init__(self, captioner: EndpointCaptioner, address: str, deliver: Deliver, allow: Callable[[], bool]):
        self.asked = vision_check.questions_to(address, captioner.provenance)
        self.pairs = list[tuple[Question, Answer]]()
        alone = copy(captioner)
        alone.addresses, alone.in_a_row, alone.decoding = [address], len(self.asked), copy(captioner.decoding)
        alone.decoding.max_new_tokens = max(captioner.decoding.max_new_tokens, Decoding.max_new_tokens)

        def collect(some: list[tuple[Question, Answer]]) -> None:
            self.pairs.extend(some)
            deliver(some)

        super().__init__(alone, iter(self.asked), collect, allow)

    @property
    def is_answered(self) -> bool:
        return len(self.pairs) == len(self.asked)

    @property
    def fault(self) -> str | None:
        return vision_check.fault_in(
            {each.image_id: answer.text or "" for each, answer in self.pairs if answer.status == OK}
        )


async def probe_all(probes: Sequence[Probe], has_passed: bool) -> list[BaseException | None]:
    """
    At once. Returns the error of each, or None. `has_passed`: whether another server did before. Those that work do
    not wait for one that is down or loading.
    """
    tasks = {asyncio.create_task(probe.run()): probe for probe in probes}
    waiting = set(tasks)
    while waiting and not has_passed:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        has_passed = any(tasks[task].is_answered for task in done)
    if any(not tasks[task].servers[0].is_down for task in waiting):
        _, waiting = await asyncio.wait(waiting, timeout=PROBE_SECONDS)
    for task in waiting:
        tasks[task]._end(CaptionerError("too late"), 0)
    return await asyncio.gather(*tasks, return_exceptions=True)
