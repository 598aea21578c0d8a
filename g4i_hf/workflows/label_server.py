"""The server of the page of `g4i label`, for this machine alone, which writes each answer before it replies."""

import contextlib
import json
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .. import columns
from ..data.images import UndecodableImage, clean_jpeg
from ..data.labels import GOLD
from .label import Labelling, NotSaved

SIDE = 640  # pixels of an image
LARGEST = 10_000  # bytes of a request
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class LabelServer(ThreadingHTTPServer):
    """
    Serves the page at `address`, which holds a random token. Requests without it, for another host or from another
    origin get 403. `append` writes a line of `labels.jsonl`.
    """

    daemon_threads = True

    def __init__(self, labelling: Labelling, append: Callable[[str], None]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.labelling, self.append = labelling, append
        self.token, self.nonce = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.host, self.lock = f"127.0.0.1:{self.server_port}", threading.Lock()
        self.address = f"http://{self.host}/{self.token}/"

    def answer(
        self,
        row: int,
        label: int | str | None = None,
        none: bool = False,
        undo: bool = False,
        description: str = "",
    ) -> dict[str, Any]:
        """
        Writes an answer; `label` is a class, or the name of a new one, perhaps with a description. To that the reply
        is all classes. A ValueError for what no page sends.
        """
        labelling = self.labelling
        is_row = type(row) is int and 0 <= row < len(labelling.names)
        is_label = label is None or (type(label) is int and 0 <= label < len(labelling.classes))
        is_label |= type(label) is str and label.isprintable() and bool(label.strip())
        is_label &= type(description) is str and description.isprintable() and (not description or type(label) is str)
        if not is_row or not is_label or (label is not None) + (none is True) + (undo is True) != 1:
            raise ValueError("no answer")
        with self.lock:
            description = " ".join(description.split())
            named = labelling.class_of(label, description) if isinstance(label, str) else label
            labelling.answer(self.append, row, named, none, undo, description)
            return {"label": named} | (labelling.named() if isinstance(label, str) else {})

    def take_back(self) -> dict[str, Any]:
        with self.lock:
            return self.labelling.take_back(self.append) | self.labelling.named()

    def handle_error(self, *request: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # of a browser that no longer waits for an image
            super().handle_error(*request)

    def more(self) -> dict[str, Any]:
        with self.lock:
            items = self.labelling.items()
            return {"items": items, "waiting": self.labelling.waiting()} | self.labelling.named()


class Handler(BaseHTTPRequestHandler):
    server: LabelServer

    def do_GET(self) -> None:
        place = self._place()
        if place == "":
            with self.server.lock:
                self.server.labelling.reopen()
            self._reply(200, self.server.labelling.page(nonce=self.server.nonce).encode(), "text/html; charset=utf-8")
        elif place is not None and place.removeprefix("image/").isdecimal():
            self._image(int(place.removeprefix("image/")))
        else:
            self._reply(403 if place is None else 404)

    def do_POST(self) -> None:
        place, length = self._place(), self.headers.get("Content-Length", "")
        calls: dict[str, Callable[..., dict]] = {
            "answer": self.server.answer,
            "more": self.server.more,
            "take_back": self.server.take_back,
        }
        called = calls.get(place or "")
        is_json = self.headers.get("Content-Type") == "application/json"
        if called is None or not is_json or not length.isdecimal() or int(length) > LARGEST:
            return self._reply(403)
        try:
            reply = called(**json.loads(self.rfile.read(int(length))))
        except (TypeError, ValueError, RecursionError):
            return self._reply(400)
        except NotSaved as error:
            return self._reply_json(409, {"error": str(error)} | self.server.labelling.named())
        self._reply_json(200, reply)

    def _reply_json(self, status: int, content: dict[str, Any]) -> None:
        self._reply(status, json.dumps(content).encode(), "application/json")

    def _place(self) -> str | None:
        """The path below the token; None for a request that is not from the page or the browser's address bar."""
        _, token, *rest = [*self.path.split("/", 2), "", ""]
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        is_own = self.headers.get("Origin") in (None, f"http://{self.server.host}")
        return rest[0] if known and is_own and self.headers.get("Host") == self.server.host else None

    def _image(self, row: int) -> None:
        images = self.server.labelling.images
        try:
            self._reply(200, clean_jpeg(images[row][columns.IMAGE], SIDE), "image/jpeg")
        except (IndexError, UndecodableImage):
            self._reply(404)

    def _reply(self, status: int, content: bytes = b"", kind: str = "text/plain") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value.format(nonce=self.server.nonce))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is for answers."""


def serve(
    labelling: Labelling, append: Callable[[str], None], say: Callable[[str], object], opens_browser: bool
) -> None:
    """Until Ctrl+C."""
    labelling.compute()
    picked = labelling.picked(labelling.left)
    if not picked.size:
        say(labelling.nothing())
        return
    if labelling.args.pick == GOLD and (labelled := int((labelling.given[picked] >= 0).sum())):
        say(f"{labelled:,} of these {len(picked):,} images have a label. They will judge, and no longer train.")
    with LabelServer(labelling, append) as server:
        say(f"Answers: {labelling.file}")
        say(f"Page:    {server.address} (for this machine alone; end with Ctrl+C)")
        if opens_browser:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    number = int(labelling.answered.sum())
    saved = {0: "No image was answered.", 1: f"1 answer is in {labelling.file}."}
    following = f" {labelling.following}" if number else ""
    say(saved.get(number, f"{number:,} answers are in {labelling.file}.") + following)
