"""The socket's side: one thread a connection, each request logged, faults brought in where a test wants them."""

import contextlib
import sys
import tempfile
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import administration, routes
from .exchange import Body, Reply, Request
from .faults import Fault, Faults, hang_up, wrong_reply
from .refusals import Refusal
from .store import Store

ADMINISTRATION = ("_admin", "_faults", "_log")


class Hub(ThreadingHTTPServer):
    """
    Listens on loopback only.

    Args:
        port (`int`): 0 for a free one.
        folder (`Path`, *optional*): where repositories are kept; a temporary folder by default.
        page (`int`, *optional*): lines of a listing at once.
        visitor (`str`, *optional*): token of requests that bring none; anonymous by default.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0, folder: Path | None = None, page: int = 1000, visitor: str | None = None):
        self.temporary = None if folder else tempfile.TemporaryDirectory(prefix="hub-")
        self.store = Store(Path(folder or self.temporary.name))
        self.faults = Faults()
        self.log: list[dict] = []
        self.page = page
        self.visitor = visitor
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextlib.contextmanager
    def running(self):
        """Serves in a thread of this process until left."""
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()

    def server_close(self):
        super().server_close()
        if self.temporary:
            self.temporary.cleanup()

    def handle_error(self, request, client_address):
        """Clients may go at any time, and some faults make them."""
        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection, which may bring several requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # without it every reply waits 40 ms for the client's acknowledgement
    server: Hub

    def log_message(self, *args):
        pass  # the log is asked for over HTTP

    def answer_one(self) -> None:
        host = self.headers.get("Host") or self.server.url.removeprefix("http://")
        body = Body(self.rfile, self.headers)
        request = Request(self.command, self.path, self.headers, body, f"http://{host}")
        if request.segments[0] in ADMINISTRATION:
            self.send(self.reply_to(request, None), request)
            return
        record = {"method": request.method, "path": request.path, "status": None, "bytes": 0}
        self.server.log.append(record)
        fault = self.server.faults.of(request)
        try:
            self.answer_with(fault, request, record)
        finally:
            record["bytes"] = body.count

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer_one

    def answer_with(self, fault: Fault | None, request: Request, record: dict) -> None:
        """Status None in the log is a request that got no answer."""
        if fault and fault.cuts and (request.body.length or request.body.chunked):
            self.cut_request(fault, request)
            return
        reply = self.reply_to(request, fault)
        if fault and fault.kind == "lost":
            hang_up(self, hard=True)
            return
        if fault and fault.cuts:
            self.send(reply, request, reply.length // 2 if fault.after is None else fault.after)
            hang_up(self, hard=fault.kind == "cut")
            return
        record["status"] = reply.status
        self.send(reply, request)

    def cut_request(self, fault: Fault, request: Request) -> None:
        limit = request.body.length // 2 if fault.after is None else fault.after
        request.body.stop_at(limit)
        for _ in request.pieces():
            pass
        hang_up(self, hard=fault.kind == "cut")

    def reply_to(self, request: Request, fault: Fault | None) -> Reply:
        """The reply with all of the request read, whatever is wrong with it: the connection goes on."""
        try:
            if not (request.method == "PUT" and request.segments[0] == "lfs"):
                request.load()
            if fault and fault.kind.isdigit():
                return wrong_reply(fault)
            if fault and fault.kind == "slow":
                time.sleep(fault.seconds)
            return self.routed(request, fault)
        except Refusal as refusal:
            return Reply(refusal.status, refusal.body, refusal.headers)
        except ConnectionError:
            raise
        except Exception:  # clients would ask again for 23 seconds after a 500
            traceback.print_exc()
            return Reply(501, {"error": f"A fault of the test server:\n{traceback.format_exc()}"})
        finally:
            for _ in request.pieces():
                pass

    def routed(self, request: Request, fault: Fault | None) -> Reply:
        store = self.server.store
        if request.segments[0] in ADMINISTRATION:
            with store.lock:
                return administration.answer(self.server, request)
        if fault and not fault.kind.isdigit() and fault.kind not in ("cut", "close", "lost", "slow"):
            with store.lock:
                administration.act(store, fault.kind, fault.arguments or {})
        request.token = store.accounts.token(self.headers.get("Authorization") or self.server.visitor)
        if request.method == "PUT" and request.segments[0] == "lfs":
            return routes.answer(
                store, request, self.server.page
            )  # bytes may come slowly, and do not change the state
        with store.lock:
            return routes.answer(store, request, self.server.page)

    def send(self, reply: Reply, request: Request, limit: int | None = None) -> None:
        """
        Args:
            limit: bytes of the content, however long it is said to be; all by default.
        """
        self.send_response(reply.status)
        json = not isinstance(reply.content, bytes | Path)
        headers = {"Content-Type": "application/json" if json else "application/octet-stream"} | reply.headers
        for name, value in headers.items():
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1"))
        self.send_header("Content-Length", str(reply.length))
        self.end_headers()
        if request.method == "HEAD":
            return
        left = reply.length if limit is None else limit
        for piece in reply.pieces():
            self.wfile.write(piece[:left])
            left = max(0, left - len(piece))
