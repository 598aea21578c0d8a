"""Answers on their way from the loop that asks to the thread that writes them down."""

import asyncio
import contextlib
import queue
from collections.abc import Iterator

from ..answers import Answer, Question


class Handover:
    """
    `put` and `put_until_taken` are for the loop, iterating is for the other thread. An answer counts as taken when the
    next one is asked for.
    """

    def __init__(self):
        self._queue: queue.SimpleQueue[tuple[Question, Answer, asyncio.Event | None] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, question: Question, answer: Answer) -> None:
        self._queue.put((question, answer, None))

    async def put_until_taken(self, question: Question, answer: Answer) -> None:
        """Returns when it was taken: what is not written down yet keeps its place among what is in flight."""
        self._loop, taken = asyncio.get_running_loop(), asyncio.Event()
        self._queue.put((question, answer, taken))
        await taken.wait()

    def close(self) -> None:
        """There will be no more."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[tuple[Question, Answer]]:
        """Until it is closed."""
        while (found := self._queue.get()) is not None:
            yield found[:2]
            if found[2] is not None:
                with contextlib.suppress(RuntimeError):  # the loop is over
                    self._loop.call_soon_threadsafe(found[2].set)

    def rest(self) -> Iterator[tuple[Question, Answer]]:
        """What is there already; waits for nothing."""
        with contextlib.suppress(queue.Empty):
            while (found := self._queue.get_nowait()) is not None:
                yield found[:2]
