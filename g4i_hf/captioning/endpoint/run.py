"""One run of the endpoint captioner: questions in, answers out, and what happens in between."""

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from ...options import EndpointArguments
from ..answers import Answer, CaptionerError, Question
from .giving_up import nothing_works, refused_for_all, wait_too_long
from .handover import Handover
from .payload import UndecodableImage, data_uri
from .retries import FATAL, REJECTED, RETRY, Refusal, UselessReply, backoff, failure
from .server_pool import ServerPool
from .servers import LONG_PAUSE, Server, UnreasonableWait, is_unreachable

logger = logging.getLogger(__name__)

AHEAD = 8  # questions that are read and prepared before there is room for them
WAITING = 32  # questions that may wait for another attempt beside those in flight
GRACE_SECONDS = 10.0  # for answers that are under way when the run has to end
PAUSE_STEP = 0.25  # seconds that each failure in a row adds to the pause of one server among several


class EndpointRun:
    """
    Everything but `run`, `results`, `error` and `break_off` belongs to the thread of `run`.

    A question whose attempts are used up is not settled yet: either it fails, or the server does. It is settled by
    the next answer to another one, or left without one when the run is given up.

    Args:
        servers: that share the questions.
        questions: read in a thread of their own, as they may be slow.
        allow: see [`~g4i_hf.captioning.answers.Captioner`].
        options: of every request.
        max_side: of images, in pixels.
        endpoint: concurrency, attempts, quality.

    Attributes:
        results: the answers, for another thread.
        error: why the run ended early.
    """

    def __init__(
        self,
        servers: list[Server],
        questions: Iterable[Question],
        allow: Callable[[], bool],
        *,
        options: dict[str, Any],
        max_side: int,
        endpoint: EndpointArguments,
    ):
        self.results = Handover()
        self.error: BaseException | None = None
        self._servers, self._questions, self._allow = servers, iter(questions), allow
        self._options, self._max_side, self._endpoint = options, max_side, endpoint
        self._generator = random.Random()
        self._permits = threading.Semaphore(0)  # to read another question
        self._tasks: set[asyncio.Task] = set()
        self._unsettled: list[tuple[Question, Answer]] = []
        self._reading = self._ahead = 0  # questions asked for; read, but not sent yet
        self._exhausted = self._stopped = self._at_once = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- From outside ---

    def run(self) -> None:
        """Until all is answered, or `error` is set."""
        try:
            asyncio.run(self._main())
        except BaseException as error:  # for the thread that waits
            self.error = self.error or error
        finally:
            self._stopped = True
            self._permits.release()
            self.results.close()

    def break_off(self) -> None:
        """From another thread: cancels what is in flight."""
        self._at_once = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is over
                self._loop.call_soon_threadsafe(self._finish)

    # --- Beginning and end ---

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        self._pool = ServerPool(self._servers, self._endpoint.max_concurrency)
        self._preparing = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "captions-image")
        try:
            async with contextlib.AsyncExitStack() as stack:
                for server in self._servers:
                    await stack.enter_async_context(server)
                threading.Thread(target=self._read, name="captions-questions", daemon=True).start()
                self._refill()
                if self._at_once:
                    self._finish()
                await self._finished.wait()
                if self._tasks and not self._at_once:
                    await asyncio.wait(self._tasks, timeout=GRACE_SECONDS)
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            self._preparing.shutdown(wait=False, cancel_futures=True)

    def _stop(self) -> None:
        """Sends nothing more; what is in flight may still come."""
        self._stopped = True
        self._pool.close()

    def _finish(self) -> None:
        self._stop()
        self._finished.set()

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self._finish()

    def _give_up(self, server: Server, message: str, at_once: bool = True) -> None:
        """Goes on without this server; with no other left, the run ends."""
        server.alive = False
        if self._pool.alive:
            logger.warning("%s The other servers go on.", message)
            self._pool.wake()
        else:
            self._at_once = at_once
            self._fail(CaptionerError(message))

    # --- Questions ---

    def _refill(self) -> None:
        """Has as many questions read as keep the servers busy."""
        room = self._endpoint.max_concurrency + WAITING - len(self._tasks) - len(self._unsettled) - self._reading
        wanted = min(AHEAD - self._ahead - self._reading, room)
        if not self._stopped and not self._exhausted and wanted > 0:
            self._reading += wanted
            self._permits.release(wanted)

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants it any more
            while True:
                self._permits.acquire()
                if self._stopped:
                    return
                try:
                    question = next(self._questions, None)
                except BaseException as error:  # for the thread that waits
                    self._loop.call_soon_threadsafe(self._fail, error)
                    return
                self._loop.call_soon_threadsafe(self._take, question)
                if question is None:
                    return

    def _take(self, question: Question | None) -> None:
        self._reading -= 1
        if question is not None and not self._stopped:
            self._ahead += 1
            task = asyncio.create_task(self._prepare_and_ask(question))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            return
        self._exhausted = self._exhausted or question is None
        self._end_if_done()

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())
        self._end_if_done()

    def _end_if_done(self) -> None:
        no_more = self._stopped or self._exhausted
        is_working = self.error is None and not self._at_once
        if is_working and not self._tasks and self._unsettled and (no_more or not self._reading):
            # Nobody is left who could tell whether it is them or the servers
            alive = self._pool.alive
            if all(server.breaker.hopeless for server in alive):
                for server in alive:
                    self._give_up(server, nothing_works(server))
                return
            self._settle()
        if not self._tasks and no_more:
            self._finish()
        else:
            self._refill()

    def _settle(self) -> None:
        for question, answer in self._unsettled:
            self.results.put(question, answer)
        self._unsettled.clear()

    # --- One question ---

    async def _prepare_and_ask(self, question: Question) -> None:
        arguments = question.image, self._max_side, self._endpoint.jpeg_quality
        try:
            uri = await self._loop.run_in_executor(self._preparing, data_uri, *arguments)
        except UndecodableImage as error:
            self._ahead -= 1
            answer = Answer("undecodable", reason=str(error), attempts=0)
            self.results.put(question, answer)
            return
        await self._ask(question, uri)

    async def _ask(self, question: Question, uri: str) -> None:
        """Until there is an answer, or no attempt is left."""
        began, verdict = 0.0, None
        for attempt in range(1, self._endpoint.max_attempts + 1):
            server = await self._pool.take()
            if server is None:
                return
            if not self._may_send():
                self._pool.release(server.limit.dropped)
                return
            sent = time.monotonic()
            if attempt == 1:
                began = sent
                self._ahead -= 1
                self._refill()
            try:
                answer = await server.ask(question.prompt, uri, self._options)
            except (Refusal, UselessReply, TimeoutError, httpx2.TransportError) as error:
                treatment = error.treatment if isinstance(error, Refusal) else RETRY
                wait = self._failed(server, question, sent, error, treatment)
                if treatment == FATAL:
                    return await self._end_with(server, error)
                verdict = failure(error, treatment, server.describe(error), time.monotonic() - began, attempt)
                if treatment == REJECTED:
                    break
                if attempt < self._endpoint.max_attempts:
                    await self._pool.sleep(max(wait, backoff(attempt, self._generator)))
            else:
                now = time.monotonic()
                server.breaker.answered()
                answer.seconds, answer.attempts = now - began, attempt
                try:
                    self._settle()
                    await self.results.put_until_taken(question, answer)
                finally:
                    self._pool.release(server.limit.answered, sent, now)
                return
        self._unsettled.append((question, verdict))
        # A server that refuses one question works, if it has ever answered another
        if verdict.status == "rejected" and self._pool.answers:
            self._settle()

    def _may_send(self) -> bool:
        if not self._stopped and not self._allow():
            self._stop()
        return not self._stopped

    def _failed(self, server: Server, question: Question, sent: float, error: Exception, treatment: str) -> float:
        """
        Tells limiter and breaker.

        Returns:
            Seconds that the server wants to be left alone.
        """
        now, was_paused, wait = time.monotonic(), server.is_paused, 0.0
        overload = isinstance(error, Refusal) and error.overload
        # Neither a refusal nor a reply that makes no sense is a matter of load
        load = treatment == RETRY and not isinstance(error, UselessReply)
        if isinstance(error, Refusal) and treatment == RETRY:
            wait = self._pause(server, error)
        if treatment == RETRY and server.breaker.in_a_row > 1 and len(self._pool.alive) > 1:
            # It may fail faster than others answer: with all that room, it would use up all attempts of all questions
            server.pause(min(LONG_PAUSE, PAUSE_STEP * server.breaker.in_a_row))
        self._pool.release(server.limit.failed, sent, now, overload, load)
        if treatment == REJECTED:
            server.breaker.rejected(server.describe(error))
        # While it has asked for a pause, the rest of the same burst says nothing new
        elif treatment == RETRY and not (was_paused and overload):
            server.breaker.failed(question.key, server.describe(error), now, is_unreachable(error))
        if server.alive and server.breaker.open(now):
            self._give_up(server, nothing_works(server))
        return wait

    def _pause(self, server: Server, refusal: Refusal) -> float:
        try:
            wait = server.wait_asked_for(refusal)
        except UnreasonableWait as wish:
            if server.alive:
                self._give_up(server, wait_too_long(server, wish, refusal), at_once=False)
            return 0.0
        if refusal.overload:
            server.rest(wait, self._generator.uniform(0, min(1.0, wait / 10)), refusal)
        return wait

    async def _end_with(self, server: Server, refusal: Refusal) -> None:
        """The run, with an error that every question would meet."""
        if self.error is None:
            self.error = CaptionerError(f"{server.name} refuses to answer ({refusal}).")
            self._stop()
            message = await refused_for_all(server, refusal, self._options["model"], self._endpoint.api_key_env)
            self.error = CaptionerError(message)
            self._finish()
