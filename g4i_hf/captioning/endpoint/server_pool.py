"""Room at the servers: which one takes the next request, and who waits for it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .servers import Server


class ServerPool:
    """
    To be made and used within one event loop.

    Args:
        servers: that share the requests.
        most: requests at the same time, at all of them together.

    Attributes:
        servers: all of them.
        is_closed: whether requests are no longer handed out.
    """

    def __init__(self, servers: list[Server], most: int):
        self.servers, self.is_closed = servers, False
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        self._waiters: deque[asyncio.Future[Server | None]] = deque()

    @property
    def alive(self) -> list[Server]:
        """Those that are not given up."""
        return [server for server in self.servers if server.alive]

    @property
    def answers(self) -> int:
        """Good replies so far."""
        return sum(server.breaker.answers for server in self.servers)

    async def take(self) -> Server | None:
        """The server with the most room, in which a request is counted now; None once the pool is closed."""
        if self.is_closed:
            return None
        server = None if self._waiters else self._roomiest()
        if server is None:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            self._wake_after_pause()
            return await waiter
        server.limit.sent(time.monotonic())
        return server

    def release(self, tell: Callable[..., None], *arguments: Any) -> None:
        """
        Args:
            tell: `answered`, `failed` or `dropped` of the limit of a server that was taken.
            arguments: its arguments.
        """
        tell(*arguments)
        self.wake()

    def wake(self) -> None:
        """Hands out what room there is."""
        while self._waiters:
            server = None if self.is_closed else self._roomiest()
            if server is None and not self.is_closed:
                self._wake_after_pause()
                return
            waiter = self._waiters.popleft()
            if waiter.done():
                continue
            if server is not None:
                server.limit.sent(time.monotonic())
            waiter.set_result(server)

    def close(self) -> None:
        """Hands out nothing more."""
        self.is_closed = True
        self._closed.set()
        self.wake()

    async def sleep(self, seconds: float) -> None:
        """Shorter if the pool is closed by then."""
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            return

    def _roomiest(self) -> Server | None:
        if sum(server.limit.in_flight for server in self.servers) >= self._most:
            return None
        open_ones = [server for server in self.alive if not server.is_paused and server.limit.free]
        return max(open_ones, key=lambda server: server.limit.free, default=None)

    def _wake_after_pause(self) -> None:
        now = time.monotonic()
        pauses = [server.paused_until for server in self.alive if server.paused_until > now]
        if pauses:
            self._loop.call_later(min(pauses) - now + 0.001, self.wake)
