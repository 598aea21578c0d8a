"""One request and its reply, apart from the socket."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from .accounts import Token
from .refusals import Refusal

PIECE = 1 << 16  # bytes read at once


class Body:
    """
    What a request carries, with a length or in chunks.

    Args:
        stream: where it is read from.
        headers: of the request.
    """

    def __init__(self, stream, headers):
        self.stream = stream
        self.length = int(headers.get("Content-Length") or 0)
        self.chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self.count = 0  # bytes read so far
        self._limit: int | None = None
        self._pieces = self._by_chunk() if self.chunked else self._by_length()

    def stop_at(self, limit: int) -> None:
        """Of a body that is to be cut: nothing is read after so many bytes."""
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        while self._limit is None or self.count < self._limit:
            piece = next(self._pieces, None)
            if piece is None:
                return
            self.count += len(piece)
            yield piece

    def _by_length(self) -> Iterator[bytes]:
        left = self.length
        while left:
            piece = self.stream.read1(min(left, PIECE, self._limit or PIECE))
            if not piece:
                raise ConnectionError("the client has gone in the middle of its request")
            left -= len(piece)
            yield piece

    def _by_chunk(self) -> Iterator[bytes]:
        while size := int(self.stream.readline().split(b";")[0], 16):
            piece = self.stream.read(size)
            if len(piece) < size:
                raise ConnectionError("the client has gone in the middle of its request")
            self.stream.readline()
            yield piece
        while self.stream.readline().strip():
            pass  # trailers


class Request:
    """
    Args:
        method, target: of the request line.
        headers: of the request.
        body: unread.
        origin: of the server as this client calls it, as http://127.0.0.1:1234.
    """

    def __init__(self, method: str, target: str, headers, body: Body, origin: str):
        parts = urlsplit(target)
        self.method, self.path, self.headers, self.body, self.origin = method, parts.path, headers, body, origin
        self.segments = [unquote(segment) for segment in parts.path.strip("/").split("/")]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.token: Token | None = None  # set once it is known to be valid
        self.loaded = b""

    def pieces(self) -> Iterator[bytes]:
        return iter(self.body)

    def load(self) -> None:
        """Reads all of the body, which is then at hand."""
        self.loaded = b"".join(self.body)

    def json(self) -> dict:
        """
        Raises:
            Refusal: 400 where the body is no JSON object.
        """
        try:
            value = json.loads(self.loaded or b"{}")
        except ValueError:
            raise Refusal(400, "The body is not JSON") from None
        if not isinstance(value, dict):
            raise Refusal(400, "The body is not a JSON object")
        return value

    def form(self) -> dict[str, list[str]]:
        """Values by name; a name may come several times."""
        values: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.loaded.decode(), keep_blank_values=True):
            values.setdefault(name, []).append(value)
        return values


@dataclass
class Reply:
    """
    Attributes:
        content: JSON value, bytes, or the file that they are in.
        span: first and last byte of the file that are sent; None for all.
    """

    status: int
    content: object = b""
    headers: dict[str, str] = field(default_factory=dict)
    span: tuple[int, int] | None = None

    @property
    def length(self) -> int:
        if self.span:
            return self.span[1] - self.span[0] + 1
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.data)

    @property
    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()

    def pieces(self) -> Iterator[bytes]:
        if not isinstance(self.content, Path):
            yield self.data
            return
        left = self.length
        with self.content.open("rb") as file:
            file.seek(self.span[0] if self.span else 0)
            while left and (piece := file.read(min(left, PIECE))):
                left -= len(piece)
                yield piece
