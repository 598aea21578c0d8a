"""HTTP on loopback, with faults on demand: what caption_server.py and fault_proxy.py share."""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

KINDS = ("429", "429-wait", "503", "500", "slow", "cut", "cut-body", "garbage", "no-choices")


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Disconnected(Exception):
    """The client is gone."""


class Connection:
    """One client; `reply` and `pause` notice when it leaves."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    async def request(self) -> Request | None:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            method, path, _ = first.split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Request(method, path, headers, body)

    async def wait(self, work: Awaitable) -> object:
        """Result of some work; HTTP clients say nothing more until they have their reply, so what comes is the end."""
        gone, working = asyncio.ensure_future(self.reader.read(1)), asyncio.ensure_future(work)
        try:
            await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise Disconnected
            return working.result()
        finally:
            for task in (gone, working):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await gone

    async def reply(self, reply: Reply, cut: bool = False) -> None:
        """
        Raises:
            Disconnected: also after a cut, in the middle of the body.
        """
        headers = {"content-type": "application/json", "content-length": str(len(reply.body)), **reply.headers}
        head = f"HTTP/1.1 {reply.status} {'OK' if reply.status == 200 else 'No'}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        body = reply.body[: len(reply.body) // 2] if cut else reply.body
        try:
            self.writer.write(head.encode("latin-1") + body)
            await self.writer.drain()
        except ConnectionError:
            raise Disconnected from None
        if cut or self.writer.is_closing() or self.reader.at_eof():
            raise Disconnected


class Faults:
    """
    Which requests meet a fault, by a seed and in the order of their arrival, and what was delivered.

    A reply counts as whole once all of it has left for a client that is still there. `asked_again` counts requests
    whose body equals that of a request with a whole reply: it must stay 0. Bodies of different questions must differ,
    so images must.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.random = args, random.Random(args.seed)
        self.counts: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()  # digest of a body -> whole replies
        self.asked_again = self.in_flight = self.peak_in_flight = self.sum_in_flight = 0
        self.authorization: set[str] = set()

    def pick(self) -> str | None:
        return self.random.choice(self.args.faults) if self.random.random() < self.args.fault_rate else None

    def stats(self) -> dict:
        return {
            "requests": self.counts["requests"],
            "whole": sum(self.replies.values()),
            "distinct": len(self.replies),
            "asked_again": self.asked_again,
            "connections": self.counts["connections"],
            "peak_in_flight": self.peak_in_flight,
            "mean_in_flight": self.sum_in_flight / max(self.counts["requests"], 1),  # as each request arrives
            "faults": {kind: self.counts[kind] for kind in KINDS if self.counts[kind]},
            "authorization": sorted(self.authorization),
        }

    async def serve(self, connection: Connection, request: Request, answer: Callable[[], Awaitable[Reply]]) -> None:
        """
        One request, with or without a fault.

        Args:
            answer: of the real server; not called where the fault comes before it.
        """
        digest = hashlib.blake2b(request.body, digest_size=16).hexdigest()
        self.asked_again += self.replies[digest] > 0
        self.counts["requests"] += 1
        if "authorization" in request.headers:
            self.authorization.add(request.headers["authorization"])
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.sum_in_flight += self.in_flight
        try:
            kind = self.pick()
            self.counts[kind or "none"] += 1
            reply = self.instead(kind)
            if kind == "cut":
                raise Disconnected
            if kind == "slow":
                await connection.wait(asyncio.sleep(self.args.slow_seconds))
            if reply is None:
                reply = await connection.wait(answer())
            await connection.reply(reply, cut=kind == "cut-body")
            if kind in (None, "slow") and reply.status == 200:
                self.replies[digest] += 1
        finally:
            self.in_flight -= 1

    def instead(self, kind: str | None) -> Reply | None:
        """What is sent instead of an answer."""
        status = {"429": 429, "429-wait": 429, "503": 503, "500": 500}.get(kind)
        if status is not None:
            headers = {"retry-after": str(self.args.retry_after)} if kind == "429-wait" else {}
            return Reply(status, json.dumps({"error": {"message": f"fault {kind}"}}).encode(), headers)
        if kind == "garbage":
            return Reply(200, b'{"choices": [{"mess\xff')
        if kind == "no-choices":
            return Reply(200, b'{"id": "1", "object": "chat.completion", "choices": []}')
        return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--fault_rate", type=float, default=0.0, help="share of the requests that meet a fault")
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--retry_after", default="1", help="value of the header of 429-wait")
    parser.add_argument("--slow_seconds", type=float, default=1.0)


async def listen(port: int, faults: Faults, handle: Callable[[Connection, Request], Awaitable[None]]) -> None:
    """Serves until it is killed; first prints `{"port": ...}` in a line. GET /stats gives [`Faults.stats`]."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        faults.counts["connections"] += 1
        try:
            while (request := await connection.request()) is not None:
                if request.path == "/stats":
                    await connection.reply(Reply(200, json.dumps(faults.stats()).encode()))
                else:
                    await handle(connection, request)
        except (Disconnected, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 22, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    async with server:
        await server.serve_forever()
