"""What can go wrong on the way, on demand: tests switch faults on over HTTP, and read what was asked of the server."""

import re
import socket
import struct
import threading
from dataclasses import dataclass

from .exchange import Reply, Request
from .refusals import Refusal

CODES = {404: "RepoNotFound"}
WORDS = {
    401: "Invalid username or password.",
    403: "Forbidden",
    409: "Conflict: another operation on this repository is in progress",
    412: "A commit has happened since. Please refresh and try again.",
    413: "Payload too large",
    429: "We had to rate limit you",
}


@dataclass
class Fault:
    """
    Attributes:
        match: regular expression, found in "METHOD /path".
        kind: an HTTP status; cut: the connection is reset after some bytes of the request's body, or of the reply's
            where the request has none; close: the same with an end of file; lost: all is done, but no reply comes;
            slow: it takes longer; or an action of the administrator (make_private, make_public, expire_token, delete,
            commit), done just before.
        times: how often it happens; None for ever.
        skip: how many matching requests go well before.
        after: bytes before cut or close; half by default. For other kinds the same as skip.
        seconds: of slow; of a 429 the wait that it asks for.
        arguments: of the action.
    """

    match: str
    kind: str
    times: int | None = 1
    skip: int = 0
    after: int | None = None
    seconds: float = 1.0
    arguments: dict | None = None

    def __post_init__(self):
        self.kind = str(self.kind)
        if not self.cuts:
            self.skip += self.after or 0

    @property
    def cuts(self) -> bool:
        return self.kind in ("cut", "close")

    def happens(self, line: str) -> bool:
        """Whether it is the turn of this request; counts it."""
        if self.times == 0 or not re.search(self.match, line):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """All faults, in the order in which they were added; the first that fits happens."""

    def __init__(self):
        self.lock = threading.Lock()
        self.active: list[Fault] = []

    def add(self, description: dict) -> Fault:
        """
        Raises:
            Refusal: 400 for an unknown field.
        """
        known = {field: description.pop(field) for field in Fault.__annotations__ if field in description}
        if known.keys() >= {"match", "kind"}:
            fault = Fault(**known)
            if description:
                fault.arguments = (fault.arguments or {}) | description
            with self.lock:
                self.active.append(fault)
            return fault
        raise Refusal(400, "A fault needs match and kind")

    def of(self, request: Request) -> Fault | None:
        with self.lock:
            line = f"{request.method} {request.path}"
            return next((fault for fault in self.active if fault.happens(line)), None)


def wrong_reply(fault: Fault) -> Reply:
    """The answer of a fault that is an HTTP status."""
    status = int(fault.kind)
    refusal = Refusal(status, WORDS.get(status, "Injected fault"), CODES.get(status))
    if status == 429:
        refusal.headers["Retry-After"] = str(int(fault.seconds))
    return Reply(status, refusal.body, refusal.headers)


def hang_up(handler, *, hard: bool) -> None:
    """Ends a connection; the hard way the client gets a reset, not an end of file."""
    handler.close_connection = True
    if hard:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        handler.connection.shutdown(socket.SHUT_WR)
    handler.rfile.close()  # the socket closes once nobody holds it
    handler.wfile.close()
    handler.connection.close()
