"""Connections to one server, as many as there are requests at the same time."""

from collections.abc import AsyncIterator
from urllib.request import getproxies, proxy_bypass

import httpx2


class Connections(httpx2.AsyncBaseTransport):
    """
    A stack of transports with one connection each; the one that was used last is used next.

    One transport with many connections looks at all of them, twice a request, and asks the system about each idle one:
    with some hundreds that takes longer than the request itself.

    Args:
        address: of the server. A proxy that the environment names for it is used.
        keep_alive: seconds after which an idle connection is not used any more.
    """

    def __init__(self, address: str, keep_alive: float):
        url = httpx2.URL(address)
        self._proxy = None if proxy_bypass(url.host) else getproxies().get(url.scheme)
        # Reading the certificates takes longer than many requests
        self._certificates = httpx2.create_ssl_context()
        self._limits = httpx2.Limits(max_connections=1, keepalive_expiry=keep_alive)
        self._idle: list[httpx2.AsyncHTTPTransport] = []
        self._all: list[httpx2.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        transport = self._idle.pop() if self._idle else self._another()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            self._idle.append(transport)
            raise
        response.stream = _Stream(response.stream, transport, self._idle)
        return response

    async def aclose(self) -> None:
        for transport in self._all:
            await transport.aclose()

    def _another(self) -> httpx2.AsyncHTTPTransport:
        transport = httpx2.AsyncHTTPTransport(verify=self._certificates, limits=self._limits, proxy=self._proxy)
        self._all.append(transport)
        return transport


class _Stream(httpx2.AsyncByteStream):
    """A body, after which its transport is idle."""

    def __init__(self, body: httpx2.AsyncByteStream, transport: httpx2.AsyncHTTPTransport, idle: list):
        self._body, self._transport, self._idle = body, transport, idle

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            try:
                await self._body.aclose()
            finally:
                self._idle.append(transport)
