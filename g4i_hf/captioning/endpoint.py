"""Captions from OpenAI-compatible servers: vLLM, TGI, `transformers serve`, or a hosted provider."""

import asyncio
import contextlib
import gc
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from ..names import folder_digest
from ..options import EndpointArguments
from .answers import TRANSIENT, Answer, Captioner, CaptionerError, Decoding, Deliver, Question
from .images import UndecodableImage, data_uri
from .servers import Server, UselessReply, addresses_of, backoff, chat_body, is_unreachable, token_for, wait_asked_for

logger = logging.getLogger(__name__)

LONGEST_WAIT = 15 * 60.0  # seconds; a server that asks for more is given up
# Seconds without an answer until a server is given up; longer for one that is loading a model or has worked before
GIVE_UP_SECONDS, WAIT_SECONDS = 30.0, 300.0
MAX_ATTEMPTS = 8  # of a question, by failures of its own
DRAIN_SECONDS = 30.0  # to wait for requests under way when no server works any more
PREPARING = min(8, os.cpu_count() or 1)  # threads that decode and encode images
STOP_SECONDS = 5.0  # to wait for requests under way when a run is interrupted

FATAL = {401, 402, 403, 404, 405, 407, 410}  # every request would meet these
RETRIED = {408, 409, 425, 429}  # tried again, as 500 and above are; all others concern this question alone


class EndpointCaptioner(Captioner):
    """
    Asks servers over HTTP, with `openai.AsyncOpenAI`. ValueError for an invalid address or a missing token.

    Args:
        model: the server's name for it.
        base_url: address up to `/v1`; several, separated by commas, share the questions.
        revision: of the model; it is not sent, but part of every key.
    """

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
        """The request; see [`~g4i_hf.captioning.servers.chat_body`]."""
        options = self.options | {"max_tokens": self.decoding.tokens_for(question.choices)}
        return chat_body(question, uri, options, with_choices)

    def servers(self) -> list[Server]:
        """One for each address, in its initial state."""
        key, timeout = self.endpoint.api_key_env, self.endpoint.request_timeout
        return [Server(address, token_for(address, key), timeout) for address in self.addresses]

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """
        See [`~g4i_hf.captioning.answers.Captioner`]. The event loop runs in a thread of its own, so that this works in
        a notebook. `deliver` is called from this thread, `questions` and `allow` from others.
        """
        results: queue.SimpleQueue = queue.SimpleQueue()
        asking = EndpointRun(self, iter(questions), allow, results)
        thread = threading.Thread(target=asking.run, name="captions", daemon=True)
        thread.start()
        waiting: list[tuple[Question, Answer] | None] = []  # None is the end
        try:
            is_last = False
            while not is_last:
                waiting.append(results.get())
                while not results.empty():
                    waiting.append(results.get())
                pairs, is_last, waiting = [pair for pair in waiting if pair is not None], None in waiting, []
                deliver(pairs)
        except KeyboardInterrupt:
            asking.stop()
            thread.join(STOP_SECONDS)  # requests under way are paid for
            asking.break_off()
            while not results.empty():
                waiting.append(results.get())
            deliver([pair for pair in waiting if pair is not None])
            raise
        except BaseException:
            asking.break_off()
            raise
        thread.join()
        if asking.error is not None:
            raise asking.error


class EndpointRun:
    """One run, with a task for each question under way. `results` takes question and answer, and None at the end."""

    def __init__(
        self,
        captioner: EndpointCaptioner,
        questions: Iterator[Question],
        allow: Callable[[], bool],
        results: queue.SimpleQueue,
    ):
        self.captioner, self.questions, self.allow, self.results = captioner, questions, allow, results
        self.servers = captioner.servers()
        self.is_stopped = False  # nothing more is sent
        self.error: BaseException | None = None  # what ended the run

    def run(self) -> None:
        gc.freeze()  # a full collection of all that torch and datasets hold stops the loop for 0.4 s
        try:
            asyncio.run(self._ask_all())
        except BaseExceptionGroup as errors:
            self.error = self.error or errors.exceptions[0]
        except BaseException as error:
            self.error = self.error or error
        gc.unfreeze()
        self.results.put(None)

    def stop(self) -> None:
        """From another thread: sends nothing more; requests under way go on."""
        self.is_stopped = True
        with contextlib.suppress(AttributeError, RuntimeError):  # the loop has not begun, or has ended
            self.loop.call_soon_threadsafe(self.stopping.set)

    def break_off(self) -> None:
        """From another thread: ends at once."""
        self.stop()
        with contextlib.suppress(AttributeError, RuntimeError):
            self.loop.call_soon_threadsafe(self.main.cancel)

    def _fail(self, error: BaseException) -> None:
        """Ends the run with this error, once requests under way have come back or DRAIN_SECONDS have passed."""
        self.error, self.is_stopped = self.error or error, True
        self.stopping.set()
        self.loop.call_later(DRAIN_SECONDS, self.main.cancel)

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, until `stop` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()

    async def _ask_all(self) -> None:
        self.loop, self.main, self.stopping = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
        self.slots = asyncio.Semaphore(self.captioner.endpoint.max_concurrency * len(self.servers))
        for server in self.servers:
            server.open()
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(PREPARING) as self.preparers:
            try:
                async with asyncio.TaskGroup() as self.tasks:
                    while True:
                        await self.slots.acquire()
                        question = None
                        try:
                            question = await self.loop.run_in_executor(reader, next, self.questions, None)
                        except Exception as error:  # of the data
                            self._fail(error)
                        if question is None or self.is_stopped:
                            break
                        task = self.tasks.create_task(self._answer(question))
                        task.add_done_callback(lambda _: self.slots.release())
                if self.error is None:
                    for server in self.servers:
                        if server.alive:
                            self._release(server)
            finally:
                for server in self.servers:
                    await server.client.close()

    async def _answer(self, question: Question) -> None:
        """Asks until there is an answer or no attempt is left."""
        max_side = self.captioner.decoding.max_side
        try:
            uri = await self.loop.run_in_executor(self.preparers, data_uri, question.image, max_side)
        except UndecodableImage as error:
            self._put(question, Answer("undecodable", reason=str(error), attempts=0))
            return
        began, attempts, failures = time.monotonic(), 0, 0
        while (server := await self._server_with_room()) is not None:
            attempts += 1
            request = object()
            server.under_way[request] = time.monotonic()
            try:
                answer, wait = await self._attempt(server, question, uri)
            finally:
                server.under_way.pop(request)
            has_failed = answer.status in TRANSIENT
            # A server that fails on everything, or is busy, says nothing about the question
            failures += has_failed and not server.fails and server.last_status != 429
            self._watch(server)
            answer = replace(answer, seconds=time.monotonic() - began, attempts=attempts)
            if not has_failed and (answer.status != "rejected" or server.answers):
                self._put(question, answer)
                return
            if server.alive and (not has_failed or failures >= MAX_ATTEMPTS):
                server.held.append((question, answer))
                return
            if has_failed:
                await self._sleep(wait + backoff(attempts))

    async def _attempt(self, server: Server, question: Question, uri: str) -> tuple[Answer, float]:
        """One request. Returns the answer or failure, and the seconds that the server asks to wait."""
        with_choices = bool(question.choices) and server.takes_choices is not False
        try:
            answer = await server.ask(self.captioner.body_of(question, uri, with_choices))
            server.answered()
            server.takes_choices = with_choices or server.takes_choices
            self._release(server)
            return answer, 0.0
        except openai.APIStatusError as error:
            reason, wait = server.describe(error), wait_asked_for(error.response.headers)
            if error.status_code < 400 or error.status_code in FATAL:
                why = server.why_refused(error, self.captioner.model, self.captioner.endpoint.api_key_env)
                self._give_up(server, await why)
            elif wait > LONGEST_WAIT:
                self._give_up(server, server.why_left_alone(wait, reason))
            elif with_choices and error.status_code in (400, 422) and not server.takes_choices:
                # Perhaps it knows no schemas, or none of this size: OpenAI's hold 1,000 names, or 15,000 letters of
                # more than 250 names
                server.takes_choices = False
                return Answer("failed", reason=reason), wait
            elif error.status_code < 500 and error.status_code not in RETRIED:
                server.reject(reason, error.status_code)
                return Answer("rejected", reason=reason), wait
            server.fail(question.key, reason, error.status_code)
            if not server.answers:
                server.pause(wait)  # for all questions
            return Answer("failed", reason=reason), wait
        except (openai.APIConnectionError, UselessReply, TimeoutError) as error:
            reason = server.describe(error)
            status = 200 if isinstance(error, UselessReply) else 0
            server.fail(question.key, reason, status, is_unreachable(error))
            is_late = isinstance(error, (TimeoutError, openai.APITimeoutError))
            return Answer("timeout" if is_late else "failed", reason=reason), 0.0

    def _put(self, question: Question, answer: Answer) -> None:
        self.results.put((replace(question, image={}), answer))  # the image is large and no longer needed

    def _release(self, server: Server) -> None:
        """The server works, so the questions held back are failures of their own."""
        while server.held:
            self._put(*server.held.pop())

    def _watch(self, server: Server) -> None:
        """Gives up a server that has answered nothing for long."""
        if server.fails:
            server.rest()
        patience = WAIT_SECONDS if server.answers or server.last_status == 503 else GIVE_UP_SECONDS
        if server.last_status == 200 and not server.answers:  # it runs, but it is no captioning server
            patience = 0.0
        if server.alive and (server.rejects_all or (server.fails and server.fails_for() >= patience)):
            self._give_up(server, server.why_given_up())
        elif server.fails and not server.has_warned:
            server.has_warned = True
            logger.warning("%s does not answer (%s). Trying for %.0f s.", server.name, server.last_error, patience)

    def _give_up(self, server: Server, why: str) -> None:
        """Its questions go to the other servers. Without any the run ends, and they stay unanswered."""
        was_alive, server.alive = server.alive, False
        if not any(other.alive for other in self.servers):
            self._fail(CaptionerError(why))
        elif was_alive:
            logger.warning("%s The other servers go on.", why)
            for question, _ in server.held:
                self.tasks.create_task(self._answer(question))

    async def _server_with_room(self) -> Server | None:
        """The least busy server with room; None when nothing more may be sent."""
        while not self.is_stopped:
            if free := [server for server in self.servers if server.alive and server.has_room]:
                try:
                    if self.allow():
                        return min(free, key=lambda server: len(server.under_way))
                    self.is_stopped = True
                    self.stopping.set()
                except Exception as error:
                    self._fail(error)
                return None
            # At first there is room soon; later a server is failing or asked for a pause
            await self._sleep(0.25 if any(server.answers for server in self.servers) else 0.05)
        return None
