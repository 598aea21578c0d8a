"""The socket's side: one thread a connection, each request logged, faults and administration for tests."""

import contextlib
import re
import socket
import struct
import sys
import threading
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .accounts import Token
from .api import Api, Reply, Request
from .store import File, Refusal

ACTIONS = ("expire_token", "add_token", "commit")


@dataclass
class Fault:
    """
    Attributes:
        match: regular expression, found in "METHOD /path".
        kind: an HTTP status; cut: the connection is reset after half of the request's body; or an action (see `act`),
            done just before.
        times: how often it happens; None for ever.
        seconds: of a 429 the wait that it asks for.
        arguments: of the action.
        code: of an error, by which clients tell what is wrong, such as GatedRepo.
    """

    match: str
    kind: str
    times: int | None = 1
    seconds: float = 1.0
    arguments: dict = field(default_factory=dict)
    code: str = ""

    def happens(self, line: str) -> bool:
        """Whether it is the turn of this request; counts it."""
        if self.times == 0 or not re.search(self.match, line):
            return False
        self.times = self.times if self.times is None else self.times - 1
        return True


class Hub(ThreadingHTTPServer):
    """Listens on loopback only; port 0 for a free one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0):
        self.api, self.lock = Api(), threading.RLock()
        self.faults: list[Fault] = []
        self.log: list[dict] = []
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request, client_address):
        """Clients may go at any time, and some faults make them."""
        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, client_address)

    def administer(self, request: Request) -> Reply:
        """What tests do behind the back of the clients."""
        match request.method, request.segments:
            case "GET", ["_log"]:
                return Reply(200, list(self.log))
            case "DELETE", ["_log"]:
                self.log.clear()
            case "DELETE", ["_faults"]:
                self.faults.clear()
            case "POST", ["_faults"]:
                given = request.json()
                known = {name: given.pop(name) for name in Fault.__annotations__ if name in given}
                self.faults.append(Fault(**known | {"arguments": known.get("arguments", {}) | given}))
            case "GET", ["_admin", "state"]:
                return Reply(200, {f"{each.kind}s/{each.id}": each.state() for each in self.api.repositories.values()})
            case "POST", ["_admin", action]:
                self.act(action, **request.json())
        return Reply(200, {})

    def act(self, action: str, repo: str = "", type: str = "model", files: dict | None = None, **more) -> None:
        """Files of a commit, as if by somebody else, are text by path."""
        if action == "expire_token":
            self.api.tokens.pop(more["token"], None)
        elif action == "add_token":
            self.api.tokens[more["token"]] = Token(more["user"], more.get("role", "write"))
        elif action == "commit":
            repository = self.api.repositories[type, repo]
            changed = {path: File(text.encode()) for path, text in files.items()}
            repository.commit("main", repository.at("main").files | changed, "A commit of somebody else")
        else:
            raise Refusal(404, f"Unknown action {action!r}")


class Handler(BaseHTTPRequestHandler):
    """One connection, which may bring several requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # without it every reply waits 40 ms for the client's acknowledgement
    server: Hub

    def log_message(self, *args):
        pass  # the log is asked for over HTTP

    def answer_one(self) -> None:
        hub, path = self.server, self.path.split("?")[0]
        is_client = not path.startswith(("/_admin", "/_faults", "/_log"))
        record, fault = {"method": self.command, "path": path, "status": None, "bytes": 0}, None
        if is_client:
            with hub.lock:
                hub.log.append(record)
                fault = next((each for each in hub.faults if each.happens(f"{self.command} {path}")), None)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "cut":
            record["bytes"] = len(self.rfile.read(length // 2))
            return self.hang_up()
        body = self.rfile.read(length) if length else b"".join(self.chunks())
        record["bytes"] = len(body)
        origin = f"http://{self.headers.get('Host') or f'127.0.0.1:{hub.server_port}'}"
        reply = self.reply_to(Request(self.command, self.path, self.headers, body, origin), fault, is_client)
        record["status"] = reply.status
        return self.send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer_one

    def chunks(self):
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

    def reply_to(self, request: Request, fault: Fault | None, is_client: bool) -> Reply:
        try:
            with self.server.lock:
                if fault and fault.kind.isdigit():
                    code = fault.code or ("RepoNotFound" if fault.kind == "404" else "")
                    raise Refusal(int(fault.kind), "Injected fault", code, {"Retry-After": str(int(fault.seconds))})
                if fault and fault.kind in ACTIONS:
                    self.server.act(fault.kind, **fault.arguments)
                return self.server.api.answer(request) if is_client else self.server.administer(request)
        except Refusal as refusal:
            return Reply(refusal.status, refusal.body, refusal.headers)
        except Exception:  # clients would ask again for 23 seconds after a 500
            traceback.print_exc()
            return Reply(501, {"error": f"A fault of the test server:\n{traceback.format_exc()}"})

    def send(self, reply: Reply) -> None:
        data = reply.data
        self.send_response(reply.status)
        kind = "application/octet-stream" if isinstance(reply.content, bytes) else "application/json"
        for name, value in ({"Content-Type": kind} | reply.headers).items():
            self.send_header(name, " ".join(value.encode("latin-1", "replace").decode("latin-1").split()))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def hang_up(self) -> None:
        """Ends the connection with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.rfile.close()  # the socket closes once nobody holds it
            self.wfile.close()
        self.connection.close()
