"""What is asked of the Hub, and what it answers."""

import base64
import fnmatch
import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from .accounts import Token, first_tokens
from .cards import check_card, metadata_of
from .store import Commit, File, Refusal, Repository

KINDS = {"models": "model", "datasets": "dataset"}
REGULAR_LIMIT = 10 * 1024 * 1024  # bytes; larger files have to be in LFS


class Request:
    """A request whose body has been read; `origin` is the server as this client calls it."""

    def __init__(self, method: str, target: str, headers, body: bytes, origin: str):
        parts = urlsplit(target)
        self.method, self.path, self.headers, self.body, self.origin = method, parts.path, headers, body, origin
        self.segments = [unquote(segment) for segment in parts.path.strip("/").split("/")]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.token: Token | None = None

    def json(self) -> dict:
        return json.loads(self.body or b"{}")


@dataclass
class Reply:
    """`content` is bytes, or a JSON value."""

    status: int
    content: object = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


class Api:
    """All repositories and tokens."""

    def __init__(self):
        self.tokens = first_tokens()
        self.repositories: dict[tuple[str, str], Repository] = {}

    def answer(self, request: Request) -> Reply:
        """
        Raises:
            Refusal: for what cannot be answered; 501 for what this server does not know.
        """
        given = (request.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        request.token = self.tokens.get(given)
        if given and request.token is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        match request.method, request.segments:
            case "GET", ["api", "whoami-v2"]:
                if request.token is None:
                    raise Refusal(401, "Invalid username or password.")
                auth = {"accessToken": {"displayName": "a token", "role": request.token.role}}
                return Reply(200, {"type": "user", "name": request.token.user, "orgs": [], "auth": auth})
            case "POST", ["api", "validate-yaml"]:
                body = request.json()
                errors = [{"message": text} for text in check_card(body.get("content", ""))]
                return Reply(400 if errors else 200, {"errors": errors, "warnings": []})
            case "POST", ["api", "repos", "create"]:
                return self.create(request)
            case method, ["api", kind, namespace, name, *rest] if kind in KINDS:
                return self.of_repository(request, self.visible(KINDS[kind], namespace, name, request), method, rest)
            case "GET", ["api", kind, _] if kind in KINDS:
                raise Refusal(404, "Repository not found", "RepoNotFound")
            case method, ["lfs", kind, namespace, name, oid, *rest] if kind in KINDS:
                return of_lfs(request, self.repositories[KINDS[kind], f"{namespace}/{name}"], method, oid, rest)
            case method, ["datasets", *segments]:
                return self.of_files(request, "dataset", method, segments)
            case method, segments:
                return self.of_files(request, "model", method, segments)

    def visible(self, kind: str, namespace: str, name: str, request: Request) -> Repository:
        repository, token = self.repositories.get((kind, f"{namespace}/{name}")), request.token
        if repository is None or (repository.private and not (token and token.user == namespace)):
            raise Refusal(404 if token else 401, "Repository not found", "RepoNotFound")
        return repository

    def check_writer(self, request: Request, namespace: str) -> None:
        if request.token is None:
            raise Refusal(401, "Invalid username or password.")
        if request.token.role != "write" or request.token.user != namespace:
            raise Refusal(403, "Forbidden: you must use a write token of the namespace.", body={"url": None})

    def create(self, request: Request) -> Reply:
        body = request.json()
        namespace = body.get("organization") or (request.token.user if request.token else "")
        self.check_writer(request, namespace)
        made = Repository(body.get("type") or "model", f"{namespace}/{body['name']}", False)
        about = {"url": f"{request.origin}/{made.place}", "name": made.id, "id": made.id}
        if (made.kind, made.id) in self.repositories:
            raise Refusal(409, f"You already created this {made.kind} repo", body=about)
        made.private = body.get("visibility") == "private" or bool(body.get("private"))
        made.begin()
        self.repositories[made.kind, made.id] = made
        return Reply(200, about)

    def of_repository(self, request: Request, repository: Repository, method: str, rest: list[str]) -> Reply:
        match method, rest:
            case "GET", []:
                return Reply(200, info(repository, repository.at("main")))
            case "GET", ["revision", revision]:
                return Reply(200, info(repository, repository.at(revision)))
            case "GET", ["tree", revision, *path]:
                return tree(request, repository.at(revision), "/".join(path))
            case "GET", ["commits", revision]:
                history = repository.history(revision)
                return Reply(200, [each.described(repository.id.split("/")[0]) for each in history])
            case "POST", ["paths-info", revision]:
                paths = parse_qs(request.body.decode()).get("paths", [])
                lines = [listed(repository.at(revision), path.strip("/")) for path in paths]
                return Reply(200, [line for line in lines if line])
        self.check_writer(request, repository.id.split("/")[0])
        match method, rest:
            case "POST", ["preupload", branch]:
                return preupload(request, repository.at(branch))
            case "POST", ["commit", branch]:
                return add_commit(request, repository, branch)
        raise unknown(request)

    def of_files(self, request: Request, kind: str, method: str, segments: list[str]) -> Reply:
        match method, segments:
            case "POST", [namespace, name, "info", "lfs", "objects", "batch"]:
                repository = self.visible(kind, namespace, name.removesuffix(".git"), request)
                self.check_writer(request, namespace)
                return batch(request, repository)
            case "GET" | "HEAD", [namespace, name, "resolve", revision, *path] if path:
                return resolve(request, self.visible(kind, namespace, name, request), revision, "/".join(path))
            case "GET" | "HEAD", [_, "resolve", *_]:  # a name without namespace
                raise Refusal(404, "Repository not found", "RepoNotFound")
        raise unknown(request)


def unknown(request: Request) -> Refusal:
    remedy = ": set HF_HUB_DISABLE_XET=1" if "/xet-" in request.path else ""
    return Refusal(501, f"This test server does not know {request.method} {request.path}{remedy}")


# --- Reading ---------------------------------------------------------------------------------------------------------


def info(repository: Repository, commit: Commit) -> dict:
    card = metadata_of(commit.text("README.md")) or {}
    library = card.get("library_name") or ("transformers" if "model_type" in commit.text("config.json") else None)
    of_model = {"library_name": library, "pipeline_tag": card.get("pipeline_tag")} if library else {}
    switches = {"private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
    return switches | of_model | {
        "_id": commit.oid[:24],
        "id": repository.id,
        "sha": commit.oid,
        "createdAt": commit.date,
        "lastModified": commit.date,
        "tags": [str(tag) for tag in card.get("tags") or []],
        "cardData": json.loads(json.dumps(card, default=str)),
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
    }  # fmt: skip


def listed(commit: Commit, path: str) -> dict | None:
    if path in commit.files:
        return commit.files[path].listed(path)
    folder = {"type": "directory", "oid": commit.oid, "size": 0, "path": path}
    return folder if path in commit.folders() else None


def tree(request: Request, commit: Commit, path: str) -> Reply:
    under = f"{path}/" if path else ""
    inside = sorted(name for name in {*commit.files, *commit.folders()} if name.startswith(under))
    if path and not inside:
        raise Refusal(404, f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    if request.query.get("recursive", "").lower() != "true":
        inside = [name for name in inside if "/" not in name[len(under) :]]
    return Reply(200, [listed(commit, name) for name in inside])


def resolve(request: Request, repository: Repository, revision: str, path: str) -> Reply:
    """The bytes of a file; those of LFS are elsewhere, behind a redirect, as on the Hub."""
    commit = repository.at(revision)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    file = commit.files[path]
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if not file.in_lfs:
        return ranged(request, file.content, headers)
    elsewhere = request.origin.replace("//127.0.0.1:", "//localhost:")  # of its own origin the client would follow
    headers["Location"] = f"{elsewhere}/lfs/{repository.kind}s/{repository.id}/{file.sha256}/content"
    return Reply(302, b"", headers | {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))})


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "").strip())
    if not asked:
        return Reply(200, content, headers)
    first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if first > last:
        raise Refusal(416, "Range not satisfiable")
    return Reply(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


# --- Writing ---------------------------------------------------------------------------------------------------------


def preupload(request: Request, head: Commit) -> Reply:
    """Says for each file whether it goes into the commit or to LFS, and what is stored under its path."""
    rules = [line.split()[0] for line in head.text(".gitattributes").splitlines() if "filter=lfs" in line]
    answers = []
    for file in request.json()["files"]:
        path, sample = file["path"], base64.b64decode(file.get("sample") or "")
        in_lfs = file["size"] > REGULAR_LIMIT or b"\0" in sample
        in_lfs |= any(fnmatch.fnmatchcase(path.split("/")[-1], rule) for rule in rules)
        answer = {"path": path, "uploadMode": "lfs" if in_lfs and file["size"] else "regular", "shouldIgnore": False}
        stored = head.files.get(path)
        answers.append(answer | ({"oid": stored.sha256 if stored.in_lfs else stored.oid} if stored else {}))
    return Reply(200, {"files": answers, "commitOid": head.oid})


def batch(request: Request, repository: Repository) -> Reply:
    """The LFS batch of an upload; what this repository has already needs no action."""
    objects = []
    for wanted in request.json()["objects"]:
        link = f"{request.origin}/lfs/{repository.kind}s/{repository.id}/{wanted['oid']}"
        actions = {"upload": {"href": link, "header": {}}}
        objects.append(wanted | ({} if wanted["oid"] in repository.uploaded else {"actions": actions}))
    return Reply(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})


def of_lfs(request: Request, repository: Repository, method: str, oid: str, rest: list[str]) -> Reply:
    """The storage of large files, which asks for no token."""
    match method, rest:
        case "PUT", []:
            if File(request.body).sha256 != oid:
                raise Refusal(400, "These bytes are not those that were announced")
            repository.uploaded[oid] = request.body
            return Reply(200)
        case "GET" | "HEAD", ["content"]:
            return ranged(request, repository.uploaded[oid], {"ETag": f'"{oid}"'})
    raise unknown(request)


def add_commit(request: Request, repository: Repository, branch: str) -> Reply:
    """One commit; where any of it is refused, nothing has changed."""
    head = repository.at(branch)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header, files = lines[0]["value"], dict(head.files)
    if header.get("parentCommit") not in (None, head.oid):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    for line in lines[1:]:
        key, value, path = line["key"], line["value"], line["value"]["path"]
        if key == "file":
            files[path] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in repository.uploaded:
                raise Refusal(400, f"An LFS pointer pointed to a file that does not exist. Offending file: {path}")
            files[path] = File(repository.uploaded[value["oid"]], in_lfs=True)
        elif path not in files:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        else:
            del files[path]
    if "README.md" in files and (errors := check_card(files["README.md"].content.decode())):
        raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
    made = repository.commit(branch, files, header["summary"])
    url = f"{request.origin}/{repository.place}/commit/{made.oid}"
    return Reply(200, {"success": True, "commitOid": made.oid, "commitUrl": url})
