"""
A Hub on loopback, in a thread of this process: it answers what unmodified clients ask of huggingface.co.

    with hub.serving() as served, served.here():
        push_folder(...)

Models and data sets with one branch, files within commits, or Parquet through LFS, a token, private repositories,
faults on demand. Not here: Xet (clients need HF_HUB_DISABLE_XET=1), checks of cards, Spaces, pull requests, tags, git.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from unittest import mock
from urllib.parse import parse_qs, unquote

ROOT = Path(__file__).parent.parent
ME_WRITE = "hf_me_write"  # the token of `me`, the only user
DATE = "2026-01-01T00:00:00.000Z"  # of everything
# Variables of the test process that would reach into a client
FOREIGN = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE")


class Refusal(Exception):
    """A request that is answered with an error; clients choose their exception by the `code`."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code} if code else {}


def oid_of(content: bytes) -> str:
    """As git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, bytes]

    def listing(self) -> list[dict]:
        """All files and folders, as the Hub lists them."""
        folders = {str(folder) for path in self.files for folder in PurePosixPath(path).parents[:-1]}
        listed = [{"type": "directory", "oid": self.oid, "size": 0, "path": path} for path in sorted(folders)]
        for path, content in sorted(self.files.items()):
            listed.append({"type": "file", "oid": oid_of(content), "size": len(content), "path": path})
        return listed


class Repository:
    """The first commit is made by the Hub. `place` is `models/` or `datasets/` and the id."""

    def __init__(self, place: str, private: bool):
        self.place, self.private, self.history = place, private, []
        self.commit({".gitattributes": b""}, "initial commit")

    def commit(self, files: dict[str, bytes], title: str) -> Commit:
        self.history.append(Commit(secrets.token_hex(20), title, files))
        return self.history[-1]

    def at(self, revision: str) -> Commit:
        for commit in reversed(self.history):
            if revision in ("main", commit.oid):
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def info(self, revision: str) -> dict:
        commit = self.at(revision)
        about = {"id": self.place.partition("/")[2], "sha": commit.oid, "private": self.private, "tags": []}
        about |= {"lastModified": DATE, "downloads": 0, "likes": 0}
        return about | {"siblings": [{"rfilename": path} for path in sorted(commit.files)]}


class Hub(ThreadingHTTPServer):
    """
    Attributes:
        faults: those that are switched on, see [`fault`].
        log: "METHOD /path" of each request.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.faults: list[tuple[str, int | Callable, str]] = []
        self.log: list[str] = []
        self.uploaded: dict[str, bytes] = {}  # what LFS has received, by its SHA-256
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def create(self, id: str, kind: str = "model", private: bool = False) -> Repository:
        place = f"{kind}s/{id}"
        self.repositories[place] = Repository(place, private)
        return self.repositories[place]

    def commit(self, id: str, files: dict[str, str]) -> None:
        """Behind the clients' backs, as by somebody else."""
        repository = self.repositories[f"models/{id}"]
        changed = {path: text.encode() for path, text in files.items()}
        repository.commit(repository.at("main").files | changed, "A commit of somebody else")

    def fault(self, match: str, kind: int | Callable, code: str = "") -> None:
        """
        For requests of which "METHOD /path" has the regular expression: an HTTP status, by the `code` of which clients
        tell what is wrong, or what is done with the Hub just before it answers.
        """
        self.faults.append((match, kind, code))

    def state(self) -> dict[str, dict]:
        """Of each repository its visibility, the number of commits, and the newest one with the sizes of its files."""
        found = {}
        for place, each in self.repositories.items():
            last = each.history[-1]
            found[place] = {
                "private": each.private,
                "commits": len(each.history),
                "sha": last.oid,
                "title": last.title,
            }
            found[place]["files"] = {path: len(content) for path, content in sorted(last.files.items())}
        return found

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Of a client process with its caches in `home`, a fresh folder for each, and no proxy to loopback."""
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
        own = {"HF_ENDPOINT": self.url, "HF_TOKEN": ME_WRITE, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        own |= {f"HF_HUB_DISABLE_{what}": "1" for what in ("TELEMETRY", "PROGRESS_BARS", "UPDATE_CHECK")}
        own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
        own["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "contract")))
        return kept | own | more

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """For clients in this process, which read the address when they are imported."""
        files = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        own = {"ENDPOINT": self.url, "HUGGINGFACE_CO_URL_TEMPLATE": files, "HF_HUB_DISABLE_XET": True}
        with (
            mock.patch.multiple("huggingface_hub.constants", **own, HF_HUB_OFFLINE=False),
            mock.patch.multiple("datasets.config", HF_ENDPOINT=self.url, HF_HUB_OFFLINE=False),
            mock.patch.dict(os.environ, HF_TOKEN=ME_WRITE),
        ):
            yield


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class Handler(BaseHTTPRequestHandler):
    """One connection, which may bring several requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # without it every reply waits 40 ms for the client's acknowledgement
    server: Hub

    def log_message(self, *args):
        pass

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        line = f"{self.command} {path}"
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.log.append(line)
            try:
                for match, kind, code in self.server.faults:
                    if re.search(match, line) and isinstance(kind, int):
                        raise Refusal(kind, "Injected fault", code)
                    if re.search(match, line):
                        kind(self.server)
                reply = self.reply([unquote(segment) for segment in path.strip("/").split("/")])
            except Refusal as refusal:
                reply = refusal.status, {"error": str(refusal)}, refusal.headers
            except Exception:  # clients would ask again for 23 seconds after a 500
                reply = 501, {"error": f"A fault of the test server:\n{traceback.format_exc()}"}
        self.send(*reply)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        """`content` is bytes, or a JSON value."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if status == 200 and (part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            status, data = 206, data[int(part[1]) : int(part[2]) + 1]
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # --- What is asked -----------------------------------------------------------------------------------------------

    def reply(self, segments: list[str]) -> tuple:
        """Status, content and perhaps headers; 501 for what this server does not know."""
        if self.headers.get("Authorization") != f"Bearer {ME_WRITE}" and segments[0] != "lfs":
            raise Refusal(401, "Invalid credentials in Authorization header")
        match self.command, segments:
            case "GET", ["api", "whoami-v2"]:
                return 200, {"type": "user", "name": "me", "orgs": []}
            case "POST", ["api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}
            case "POST", ["api", "repos", "create"]:
                return self.create(**json.loads(self.body))
            case _, ["api", "models" | "datasets" as kind, namespace, name, *rest]:
                return self.of_repository(self.repository(kind, namespace, name), rest)
            case "GET" | "HEAD", ["datasets", namespace, name, "resolve", revision, *path]:
                return self.resolve(self.repository("datasets", namespace, name).at(revision), "/".join(path))
            case "GET" | "HEAD", [namespace, name, "resolve", revision, *path]:
                return self.resolve(self.repository("models", namespace, name).at(revision), "/".join(path))
            case "POST", [*_, "info", "lfs", "objects", "batch"]:
                objects = json.loads(self.body)["objects"]
                for wanted in objects:
                    wanted["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}", "header": {}}}
                return 200, {"transfer": "basic", "objects": objects}
            case "PUT", ["lfs", oid]:
                self.server.uploaded[oid] = self.body
                return 200, b""
        return 501, {"error": f"This server does not know {self.command} {self.path}: set HF_HUB_DISABLE_XET=1"}

    def repository(self, kind: str, namespace: str, name: str) -> Repository:
        found = self.server.repositories.get(f"{kind}/{namespace}/{name}")
        if found is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return found

    def url_of(self, repository: Repository) -> str:
        return f"{self.server.url}/{repository.place.removeprefix('models/')}"

    def create(self, name: str, type: str = "model", private: bool = False, visibility: str = "", **_) -> tuple:
        place, id = f"{type}s/me/{name}", f"me/{name}"
        exists = place in self.server.repositories
        if not exists:
            self.server.create(id, type, private or visibility == "private")
        return 409 if exists else 200, {"url": self.url_of(self.server.repositories[place]), "name": id, "id": id}

    def of_repository(self, repository: Repository, rest: list[str]) -> tuple:
        match self.command, rest:
            case "GET", []:
                return 200, repository.info("main")
            case "GET", ["revision", revision]:
                return 200, repository.info(revision)
            case "GET", ["tree", revision, *path]:
                under = "/".join([*path, ""])
                found = [each for each in repository.at(revision).listing() if each["path"].startswith(under)]
                if not found:
                    raise Refusal(404, "Entry not found", "EntryNotFound")
                return 200, found
            case "GET", ["commits", _]:
                fields = {"message": "", "authors": [], "date": DATE}
                return 200, [fields | {"id": each.oid, "title": each.title} for each in reversed(repository.history)]
            case "POST", ["paths-info", revision]:
                paths = [path.strip("/") for path in parse_qs(self.body.decode())["paths"]]
                return 200, [each for each in repository.at(revision).listing() if each["path"] in paths]
            case "POST", ["preupload", "main"]:
                return self.preupload(repository.at("main"))
            case "POST", ["commit", "main"]:
                return self.add_commit(repository)
        raise Refusal(501, "This test server does not know it")

    def resolve(self, commit: Commit, path: str) -> tuple:
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        content = commit.files[path]
        return 200, content, {"X-Repo-Commit": commit.oid, "ETag": f'"{oid_of(content)}"'}

    def preupload(self, head: Commit) -> tuple:
        """What is stored under the path of each file, and whether it goes into the commit."""
        answers = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            known = {"oid": oid_of(head.files[path])} if path in head.files else {}
            mode = "lfs" if path.endswith(".parquet") else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | known)
        return 200, {"files": answers, "commitOid": head.oid}

    def add_commit(self, repository: Repository) -> tuple:
        """One commit; where any of it is refused, nothing has changed."""
        head = repository.at("main")
        header, *lines = (json.loads(line) for line in self.body.splitlines())
        if header["value"].get("parentCommit") not in (None, head.oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.server.uploaded[value["oid"]]
            else:
                del files[path]
        made = repository.commit(files, header["value"]["summary"])
        return 200, {"commitOid": made.oid, "commitUrl": f"{self.url_of(repository)}/commit/{made.oid}"}


if __name__ == "__main__":
    with serving() as hub:
        print(hub.url, flush=True)
        signal.pause()
