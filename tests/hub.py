"""
A Hub on loopback, in a thread of this process: it answers what unmodified clients ask of huggingface.co.

    with hub.serving() as served, served.here():
        push_folder(...)

Repositories with one branch, files within commits, or Parquet through LFS, tokens, private repositories, a
validation of cards, faults on demand. Not here: Xet (clients need HF_HUB_DISABLE_XET=1), pull requests, tags, git.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from unittest import mock
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import yaml

ROOT = Path(__file__).parent.parent
ME_WRITE = "hf_me_write"
KINDS = ("models", "datasets", "spaces")
# Variables of the test process that would reach into a client
FOREIGN = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE")

# --- Cards -----------------------------------------------------------------------------------------------------------

HEADER = re.compile(r"^\s*---\n(.*?)\n?---[ \t]*(\n|$)", re.DOTALL)
ID = r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?(?<![-.])"
# As far as the Hub's rules are public and our cards touch them; where one is not, the stricter reading
FIELDS = {
    "license": r"[a-z0-9][a-z0-9.+-]*",
    "datasets": ID,
    "base_model": ID,
    "base_model_relation": "finetune|adapter|merge|quantized",
} | dict.fromkeys(("tags", "library_name", "pipeline_tag", "metrics", "source_datasets"), r"(?s).+")


def check_card(content: str) -> list[str]:
    """Errors for which the Hub refuses the README of a model or dataset."""
    header = HEADER.search(content)
    try:
        metadata = yaml.safe_load(header[1]) or {} if header else {}
    except yaml.YAMLError:
        return ["Invalid YAML in the metadata"]
    errors = [f'"{name}" must not be null or empty' for name, value in metadata.items() if value in (None, "", [], {})]
    for name in FIELDS.keys() & metadata.keys():
        values = metadata[name] if isinstance(metadata[name], list) else [metadata[name]]
        wrong = [value for value in values if not isinstance(value, str) or not re.fullmatch(FIELDS[name], value)]
        errors += [f'"{name}" with value {value!r} is not valid' for value in wrong]
    return errors


# --- Repositories ----------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """A request that is answered with an error; clients choose their exception by the `code`."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict | None = None, **body):
        super().__init__(message)
        self.status, self.body = status, {"error": message} | body
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})


@dataclass(frozen=True)
class File:
    content: bytes = field(repr=False)

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    date: str
    files: dict[str, File]

    def folders(self) -> set[str]:
        return {str(folder) for path in self.files for folder in PurePosixPath(path).parents[:-1]}

    def listed(self, path: str) -> dict | None:
        """A file or a folder, as the Hub lists it."""
        if path not in self.files:
            folder = {"type": "directory", "oid": self.oid, "size": 0, "path": path}
            return folder if path in self.folders() else None
        file = self.files[path]
        return {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}


@dataclass
class Repository:
    """The first commit is made by the Hub."""

    kind: str
    id: str
    private: bool
    history: list[Commit] = field(default_factory=list)

    def __post_init__(self):
        self.commit({".gitattributes": File(b"")}, "initial commit")

    def commit(self, files: dict[str, File], title: str) -> Commit:
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        text = f"{self.id} {len(self.history)} {title} {date} {sorted(files)}"
        self.history.append(Commit(hashlib.sha1(text.encode()).hexdigest(), title, date, files))
        return self.history[-1]

    def at(self, revision: str) -> Commit:
        if revision == "main":
            return self.history[-1]
        found = [commit for commit in self.history if commit.oid == revision]
        if not found:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    @property
    def place(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"


# --- The server ------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """
    Attributes:
        faults: those that are switched on, see [`fault`].
        log: "METHOD /path" of each request.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        self.lock, self.tokens = threading.RLock(), {ME_WRITE}  # those of `me`, the only user
        self.repositories: dict[str, Repository] = {}
        self.faults: list[tuple[str, int | Callable, str]] = []
        self.log: list[str] = []
        self.uploaded: dict[str, bytes] = {}  # what LFS has received, by its SHA-256
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients may go at any time, and some faults make them."""

    def create(self, id: str, kind: str = "model", private: bool = False) -> Repository:
        self.repositories[f"{kind}s/{id}"] = made = Repository(kind, id, private)
        return made

    def commit(self, id: str, files: dict[str, str]) -> None:
        """Behind the clients' backs, as by somebody else."""
        repository = self.repositories[f"models/{id}"]
        changed = {path: File(text.encode()) for path, text in files.items()}
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
        for name, each in self.repositories.items():
            last = each.history[-1]
            found[name] = {"private": each.private, "commits": len(each.history), "sha": last.oid, "title": last.title}
            found[name]["files"] = {path: len(file.content) for path, file in sorted(last.files.items())}
        return found

    def requests(self, match: str) -> list[str]:
        return [line for line in self.log if match in line]

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
        hub, parts = self.server, urlsplit(self.path)
        line = f"{self.command} {parts.path}"
        with hub.lock:
            hub.log.append(line)
            kind, code = next(((kind, code) for match, kind, code in hub.faults if re.search(match, line)), (None, ""))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.segments = [unquote(segment) for segment in parts.path.strip("/").split("/")]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.origin = f"http://{self.headers.get('Host') or hub.url}"
        try:
            with hub.lock:
                if isinstance(kind, int):
                    raise Refusal(kind, "Injected fault", code, {"Retry-After": "1"})
                if kind:
                    kind(hub)
                reply = self.reply()
        except Refusal as refusal:
            reply = refusal.status, refusal.body, refusal.headers
        except Exception:  # clients would ask again for 23 seconds after a 500
            traceback.print_exc()
            reply = 501, {"error": f"A fault of the test server:\n{traceback.format_exc()}"}
        return self.send(*reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def send(self, status: int, content: object = b"", headers: dict[str, str] | None = None) -> None:
        """`content` is bytes, or a JSON value."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in ({"Content-Type": kind} | (headers or {})).items():
            self.send_header(name, " ".join(value.encode("latin-1", "replace").decode("latin-1").split()))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # --- What is asked -----------------------------------------------------------------------------------------------

    def reply(self) -> tuple:
        """Status, content and headers; 501 for what this server does not know."""
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if given not in self.server.tokens and self.segments[0] != "lfs":
            raise Refusal(401, "Invalid credentials in Authorization header")
        match self.command, self.segments:
            case "GET", ["api", "whoami-v2"]:
                auth = {"accessToken": {"displayName": "a token", "role": "write"}}
                return 200, {"type": "user", "name": "me", "orgs": [], "auth": auth}
            case "POST", ["api", "validate-yaml"]:
                errors = [{"message": text} for text in check_card(json.loads(self.body).get("content", ""))]
                return 400 if errors else 200, {"errors": errors, "warnings": []}
            case "POST", ["api", "repos", "create"]:
                return self.create()
            case method, ["api", kind, namespace, name, *rest] if kind in KINDS:
                return self.of_repository(self.repository(kind, namespace, name), method, rest)
            case "PUT", ["lfs", oid]:
                self.server.uploaded[oid] = self.body
                return 200, b""
            case method, ["datasets" | "spaces" as kind, *segments]:
                return self.of_files(kind, method, segments)
            case method, segments:
                return self.of_files("models", method, segments)

    def unknown(self) -> Refusal:
        return Refusal(501, f"This test server does not know {self.command} {self.path}: set HF_HUB_DISABLE_XET=1")

    def repository(self, kind: str, namespace: str, name: str) -> Repository:
        found = self.server.repositories.get(f"{kind}/{namespace}/{name}")
        if found is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return found

    def create(self) -> tuple:
        body = json.loads(self.body)
        kind, id = body.get("type") or "model", f"me/{body['name']}"
        exists = f"{kind}s/{id}" in self.server.repositories
        private = body.get("visibility") == "private" or bool(body.get("private"))
        repository = Repository(kind, id, private) if exists else self.server.create(id, kind, private)
        about = {"url": f"{self.origin}/{repository.place}", "name": id, "id": id}
        if exists:
            raise Refusal(409, f"You already created this {kind} repo", **about)
        return 200, about

    def of_repository(self, repository: Repository, method: str, rest: list[str]) -> tuple:
        match method, rest:
            case "GET", []:
                return 200, info(repository, repository.at("main"))
            case "GET", ["revision", revision]:
                return 200, info(repository, repository.at(revision))
            case "GET", ["tree", revision, *path]:
                return self.tree(repository.at(revision), "/".join(path))
            case "GET", ["commits", _]:
                fields = {"message": "", "authors": [{"user": "me"}]}
                history = reversed(repository.history)
                return 200, [fields | {"id": each.oid, "title": each.title, "date": each.date} for each in history]
            case "POST", ["paths-info", revision]:
                paths = parse_qs(self.body.decode()).get("paths", [])
                return 200, list(filter(None, (repository.at(revision).listed(path.strip("/")) for path in paths)))
            case "POST", ["preupload", "main"]:
                return self.preupload(repository.at("main"))
            case "POST", ["commit", "main"]:
                return self.add_commit(repository)
        raise self.unknown()

    def tree(self, commit: Commit, path: str) -> tuple:
        under = f"{path}/" if path else ""
        inside = sorted(name for name in {*commit.files, *commit.folders()} if name.startswith(under))
        if path and not inside:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        if self.query.get("recursive", "").lower() != "true":
            inside = [name for name in inside if "/" not in name[len(under) :]]
        return 200, list(map(commit.listed, inside))

    def of_files(self, kind: str, method: str, segments: list[str]) -> tuple:
        match method, segments:
            case "POST", [_, _, "info", "lfs", "objects", "batch"]:
                return self.batch()
            case "GET" | "HEAD", [namespace, name, "resolve", revision, *path] if path:
                return self.resolve(self.repository(kind, namespace, name), revision, "/".join(path))
        raise self.unknown()

    def resolve(self, repository: Repository, revision: str, path: str) -> tuple:
        commit = repository.at(revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        return self.ranged(file.content, headers)

    def ranged(self, content: bytes, headers: dict[str, str]) -> tuple:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "").strip())
        if not asked:
            return 200, content, headers
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        return 206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}

    def preupload(self, head: Commit) -> tuple:
        """What is stored under the path of each file, and whether it goes into the commit."""
        answers = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            file, in_lfs = head.files.get(path), path.endswith(".parquet")
            known = {"oid": hashlib.sha256(file.content).hexdigest() if in_lfs else file.oid} if file else {}
            mode = "lfs" if in_lfs else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | known)
        return 200, {"files": answers, "commitOid": head.oid}

    def batch(self) -> tuple:
        """The LFS batch of an upload."""
        objects = json.loads(self.body)["objects"]
        links = [{"upload": {"href": f"{self.origin}/lfs/{wanted['oid']}", "header": {}}} for wanted in objects]
        objects = [wanted | {"actions": link} for wanted, link in zip(objects, links, strict=True)]
        return 200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def add_commit(self, repository: Repository) -> tuple:
        """One commit; where any of it is refused, nothing has changed."""
        head = repository.at("main")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header, files = lines[0]["value"], dict(head.files)
        if header.get("parentCommit") not in (None, head.oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            key, value, path = line["key"], line["value"], line["value"]["path"]
            if key == "file":
                files[path] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[path] = File(self.server.uploaded[value["oid"]])
            else:
                del files[path]
        made = repository.commit(files, header["summary"])
        url = f"{self.origin}/{repository.place}/commit/{made.oid}"
        return 200, {"success": True, "commitOid": made.oid, "commitUrl": url}


def info(repository: Repository, commit: Commit) -> dict:
    about = {"_id": commit.oid[:24], "id": repository.id, "sha": commit.oid, "private": repository.private}
    about |= {"createdAt": commit.date, "lastModified": commit.date, "gated": False, "disabled": False}
    about |= {"downloads": 0, "likes": 0, "tags": []}
    return about | {"siblings": [{"rfilename": path} for path in sorted(commit.files)]}


if __name__ == "__main__":
    with serving() as hub:
        print(hub.url, flush=True)
        signal.pause()
